"""What the tasks of lungs and regions make of a body or a real case: the voxels and labels that they are taught."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.contract import Mask, Volume
from models.generator import PHASES, REGIONS, Body, Wish, draw_body
from models.sampling import UNKNOWN, Grid, padding
from models.train.recipe import Data
from models.train.sources import Case, Sample

_HIGHEST = 3071.0  # HU that are kept, as 12 bits hold them
_SHOWING_PHASE = ("chest", "abdomen")  # of generated bodies: heart, aorta, liver and kidneys tell
_LUNG_MM2 = 500.0  # of lung in a slice that is to be called chest
#: Regions of generated series in turn: none is rare, as most are among the bodies that the generator draws at will.
_TURNS = ("chest", "abdomen", "head", "chest", "neck", "legs", "pelvis", "object", "chest", "abdomen")


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
    placed[padding(voxels)] = 0
    return Sample(name=name, voxels=kept(voxels), labels=placed)


def lungs_of(case: Case, data: Data) -> list[Sample]:
    """Return the case with its lungs; nothing where its labels are unknown throughout."""
    if (case.labels == UNKNOWN).all():
        return []
    return [lung_sample(case.name, case.volume, case.labels, data)]


def series_of(case: Case, data: Data) -> list[Sample]:
    """Return the case as a series of the region that its facts name; its slices are told as those of a body.

    The phase of its contrast is not: of those with any, none says which.
    """
    region, unknown = case.facts["region"], bool((case.labels == UNKNOWN).all())
    lung = (case.labels > 0) & (case.labels != UNKNOWN)
    regions = np.full(len(lung), UNKNOWN, np.uint8) if unknown else _regions(lung, region, case.volume)
    return [series_sample(case.name, case.volume, regions, (UNKNOWN, REGIONS.index(region)), data)]


def draw_series(data: Data, seed: int) -> Sample:
    """Return a generated body as a row of slices with the region of each; at the end, phase and region of the whole."""
    body = draw_body(seed, replace(_wish(data, seed), region=_TURNS[seed % len(_TURNS)]))
    regions = _regions(body.labels > 0, body.region, body.volume)
    whole = (_phase(body), REGIONS.index(body.region))
    return series_sample(f"{body.region}-{seed}", body.volume, regions, whole, data)


def series_sample(
    name: str, volume: Volume, regions: NDArray[np.uint8], whole: tuple[int, int], data: Data
) -> Sample:
    """Return *volume* as a row of slices on the training grid.

    The labels are the place in REGIONS of each slice's region (255 where that is not settled) and, last, what is true
    of the *whole*: the places of its phase in PHASES (or 255) and of its region. *regions* has one for each slice of
    the volume.
    """
    grid = Grid.over(volume, data.spacing, (data.canvas, data.canvas))
    nearest = np.clip(np.rint(grid.start[0] + np.arange(grid.shape[0]) * grid.step[0]), 0, len(regions) - 1).astype(int)
    labels = np.append(regions[nearest], whole).astype(np.uint8)
    return Sample(name=name, voxels=kept(grid.sample(volume.voxels)), labels=labels)


def _phase(body: Body) -> int:
    """Return the place in PHASES of the body's phase; 255 where a region shows too little of its vessels."""
    return PHASES.index(str(body.facts["contrast"])) if body.region in _SHOWING_PHASE else UNKNOWN


def _regions(lung: Mask, region: str, volume: Volume) -> NDArray[np.uint8]:
    """Return the region of each slice of a scan of *region*, whose lungs are known.

    A slice with lung shows chest, whatever was to be scanned; one with next to none is not settled, nor is one without
    lung in a scan of the chest: it may show neck or belly.
    """
    _, dy, dx = volume.spacing
    area = lung.sum(axis=(1, 2)) * dy * dx
    without = UNKNOWN if region == "chest" else REGIONS.index(region)
    regions = np.where(area >= _LUNG_MM2, REGIONS.index("chest"), np.where(area == 0, without, UNKNOWN))
    return regions.astype(np.uint8)


def _wish(data: Data, seed: int) -> Wish:
    """Return what is asked of the generator: how the scan is sampled, and whether it is tidy; the seed decides."""
    rng = np.random.default_rng((seed, 1))
    pixel, between = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (data.pixel, data.between))
    return Wish(spacing=(between, pixel, pixel), tidy=bool(rng.random() < data.tidy))


def kept(hounsfield: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return HU as they are kept in samples: whole numbers of 12 bits."""
    return np.rint(np.clip(hounsfield, -1024.0, _HIGHEST)).astype(np.int16)
