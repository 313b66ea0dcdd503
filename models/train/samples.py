"""What the tasks of lungs and regions make of a body or a real case: the voxels and labels that they are taught."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume
from models.generator import REGIONS, Body, Wish, draw_body
from models.sampling import LOWEST, UNKNOWN, Grid
from models.train.recipe import Data
from models.train.sources import Case, Sample

_HIGHEST = 3071.0  # HU that are kept, as 12 bits hold them


def draw_lungs(data: Data, seed: int) -> Sample:
    """Return the generated body of *seed* with its lungs and airways labelled."""
    body = draw_body(seed, _wish(data, seed))
    return lung_sample(f"{body.region}-{seed}", body.volume, body.labels, data)


def lung_sample(name: str, volume: Volume, labels: NDArray[np.uint8], data: Data) -> Sample:
    """Return *volume* and its *labels* on the training grid, each slice a square canvas about the middle.

    What is behind the padding of a circular field is seen by nobody: whatever lies there, its label is 0.
    """
    grid = Grid.over(volume, data.spacing, (data.canvas, data.canvas))
    voxels, placed = grid.sample(volume.voxels), grid.sample_labels(labels)
    placed[voxels <= LOWEST + 1.0] = 0  # a mean over 3 mm is never as low, but of padding
    return Sample(name=name, voxels=kept(voxels), labels=placed)


def lungs_of(case: Case, data: Data) -> list[Sample]:
    """Return the case with its lungs; nothing where its labels are unknown throughout."""
    if (case.labels == UNKNOWN).all():
        return []
    return [lung_sample(case.name, case.volume, case.labels, data)]


def series_of(case: Case, data: Data) -> list[Sample]:
    """Return the case as a series of the region that its facts name; its slices are settled as those of a body."""
    region = case.facts["region"]
    lung = ((case.labels > 0) & (case.labels != UNKNOWN)).any(axis=(1, 2))
    settled = ~lung if region != "chest" else lung
    if (case.labels == UNKNOWN).all():
        settled = np.zeros_like(lung)
    regions = np.where(settled, REGIONS.index(region), UNKNOWN).astype(np.uint8)
    return [series_sample(case.name, case.volume, regions, region, data)]


def draw_series(data: Data, seed: int) -> Sample:
    """Return a generated body as a row of slices with the region of each, and at the end what the whole series is."""
    body = draw_body(seed, _wish(data, seed))
    return series_sample(f"{body.region}-{seed}", body.volume, _regions(body), body.region, data)


def series_sample(
    name: str, volume: Volume, regions: NDArray[np.uint8], kind: str, data: Data
) -> Sample:
    """Return *volume* as a row of slices on the training grid.

    The labels are the place in REGIONS of each slice's region (255 where that is not settled) and, last, of the
    series' own. *regions* has one for each slice of the volume.
    """
    grid = Grid.over(volume, data.spacing, (data.canvas, data.canvas))
    nearest = np.clip(np.rint(grid.start[0] + np.arange(grid.shape[0]) * grid.step[0]), 0, len(regions) - 1).astype(int)
    labels = np.append(regions[nearest], REGIONS.index(kind)).astype(np.uint8)
    return Sample(name=name, voxels=kept(grid.sample(volume.voxels)), labels=labels)


def _regions(body: Body) -> NDArray[np.uint8]:
    """Return the region of each slice of *body*.

    A slice with lung shows chest; a slice without lung in a chest scan may show neck or belly, and one with lung in
    another region's scan shows both: those are not settled.
    """
    lung = (body.labels > 0).any(axis=(1, 2))
    settled = lung == (body.region == "chest")
    return np.where(settled, REGIONS.index(body.region), UNKNOWN).astype(np.uint8)


def _wish(data: Data, seed: int) -> Wish:
    """Return what is asked of the generator: how the scan is sampled, and whether it is tidy; the seed decides."""
    rng = np.random.default_rng((seed, 1))
    pixel, between = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (data.pixel, data.between))
    return Wish(spacing=(between, pixel, pixel), tidy=bool(rng.random() < data.tidy))


def kept(hounsfield: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return HU as they are kept in samples: whole numbers of 12 bits."""
    return np.rint(np.clip(hounsfield, -1024.0, _HIGHEST)).astype(np.int16)
