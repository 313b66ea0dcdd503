"""Images of nothing but a piece of lung: cut out about a finding, so small that no body shows about it."""

from __future__ import annotations

import numpy as np

from models.contract import Mask, Volume
from models.masks import filled
from models.sampling import Grid

_WIDEST = 150.0  # mm in the plane: wider images would show the body
_MOSTLY = 0.5  # share of the images that is as thin as lung
_LUNG = (-960.0, -550.0)  # HU
_AERATED = -400.0  # HU
_COARSE = (3.0, 3.0, 3.0)  # mm: means over so much have little noise


def piece_of_lung(volume: Volume) -> Mask | None:
    """Return the lung (z, y, x) in images that show a piece of one and hardly anything else; None where they do not.

    Of which side it is nobody can tell.
    """
    _, height, width = (n * mm for n, mm in zip(volume.voxels.shape, volume.spacing, strict=True))
    if volume.modality != "CT" or max(height, width) > _WIDEST:
        return None
    means = Grid.over(volume, _COARSE).sample(volume.voxels)
    if float(((means > _LUNG[0]) & (means < _LUNG[1])).mean()) < _MOSTLY:
        return None
    return filled(np.asarray(volume.voxels < _AERATED), volume.spacing[1] * volume.spacing[2])
