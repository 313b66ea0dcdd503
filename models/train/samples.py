"""What each task makes of a body or a real case: the voxels and labels that its network is taught, on its own grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume
from models.generator import Wish, draw_body
from models.sampling import Grid
from models.train.recipe import Data
from models.train.sources import Sample

_HIGHEST = 3071.0  # HU that are kept, as 12 bits hold them


def draw_lungs(data: Data, seed: int) -> Sample:
    """Return the generated body of *seed* with its lungs and airways labelled."""
    body = draw_body(seed, _wish(data, seed))
    return lung_sample(f"{body.region}-{seed}", body.volume, body.labels, data)


def lung_sample(name: str, volume: Volume, labels: NDArray[np.uint8], data: Data) -> Sample:
    """Return *volume* and its *labels* on the training grid, each slice a square canvas about the middle."""
    grid = Grid.over(volume, data.spacing, (data.canvas, data.canvas))
    return Sample(name=name, voxels=_kept(grid.sample(volume.voxels)), labels=grid.sample_labels(labels))


def _wish(data: Data, seed: int) -> Wish:
    """Return what is asked of the generator: how the scan is sampled, and whether it is tidy; the seed decides."""
    rng = np.random.default_rng((seed, 1))
    pixel, between = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (data.pixel, data.between))
    return Wish(spacing=(between, pixel, pixel), tidy=bool(rng.random() < data.tidy))


def _kept(hounsfield: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.rint(np.clip(hounsfield, -1024.0, _HIGHEST)).astype(np.int16)
