"""What the gate's network is shown of a scan: at most 24 slices, evenly spaced, on the grid of its training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume
from models.sampling import Grid, Triple, Values, normalised

_MOST = 24  # slices; the network was trained on rows of no more
_TOGETHER = 5  # slices at most of which one look is the mean
_LEAST_MM = 30.0  # of a slice's sides: less of a patient says nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Looks:
    """Slices of a volume as the network sees them."""

    places: NDArray[np.int64]  # (slices,): indices along z of the volume, towards the head
    pictures: Values  # (slices, y, x), from -1 to 1


def tells_nothing(volume: Volume) -> bool:
    """Whether slices of *volume* are too narrow to tell what they show, as those of one coronal image are."""
    return any(n * mm < _LEAST_MM for n, mm in zip(volume.voxels.shape[1:], volume.spacing[1:], strict=True))


def looks_at(volume: Volume, spacing: Triple, canvas: int) -> Looks:
    """Return looks at *volume* of *canvas* x *canvas* samples about the middle of its slices.

    Each is the mean of the slices within half of *spacing*[0] mm, five at most, so that thin slices are no noisier than
    those of the training.
    """
    count, dz = volume.voxels.shape[0], volume.spacing[0]
    many = min(_MOST, max(1, int(np.ceil(count * dz / spacing[0]))))
    places = np.unique(np.rint((np.arange(many) + 0.5) * count / many - 0.5).astype(np.int64))
    reach = int(spacing[0] / 2.0 / dz)
    around = np.unique(np.linspace(-reach, reach, min(_TOGETHER, 2 * reach + 1)).round().astype(np.int64))
    near = np.clip(places[:, None] + around, 0, count - 1)
    means = np.stack([np.maximum(volume.voxels[one], -1024.0).mean(axis=0) for one in near]).astype(np.float32)
    affine = volume.affine.copy()
    affine[:3, 0] *= spacing[0] / dz  # the looks in place of slices: z is as sampled already
    grid = Grid.over(Volume(voxels=means, affine=affine, modality=volume.modality), spacing, (canvas, canvas))
    return Looks(places=places, pictures=normalised(grid.sample(means)))
