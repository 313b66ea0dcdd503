"""What the nodule task is taught: cubes about the very candidates that the model will see, and whether each is one.

Generated boxes give lesions and whatever else the candidate stage stumbles over; into the lungs of prepared cases the
generator's lesions are painted, and what it stumbles over there is real.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, Volume
from models.ct_lung_nodule.candidates import THICKEST, Candidate, candidates, cube_grid
from models.generator import AIRWAYS, LEFT_LUNG, RIGHT_LUNG, Wish, draw_crop
from models.generator.frame import Frame, Points
from models.generator.lesions import Ground, Growth, paint_lesion, place_lesions
from models.sampling import UNKNOWN
from models.train.recipe import Data
from models.train.samples import kept
from models.train.sources import Case, Sample

Place = tuple[float, float, float]  # (L, P, S) in mm
N = TypeVar("N", int, float)
Lesions = Sequence[tuple[Place, float]]  # middle, and diameter in mm

_BOX = 80.0  # mm: a generated box
_SEEN = 24.0  # mm from its middle, along each axis: a candidate farther out would be told by the border of the box
_FAINT = ("part-solid", "ground-glass")  # every other lesion is one of these, of which the generator draws few
_EACH = 5  # cubes without a lesion of one generated box, at most
_INSIDE = 0.6  # of the radius: a candidate as near to a lesion's middle is on it
_NEAREST = 2.0  # mm: so near it always is
_CLEAR = 4.0  # mm beyond its border: a candidate between is neither on it nor off it
_BY_EYE = 16.0  # mm, taken for the diameter of a nodule of which the middle alone is known, to some mm
_AROUND = 34.0  # mm of the patient about a painted lesion: what a cube may reach
_GRAIN = 25.0  # HU of noise at most in what is painted
_SIDES = {"left-lung": LEFT_LUNG, "right-lung": RIGHT_LUNG}


def draw_cubes(data: Data, seed: int) -> Sample:
    """Return the cubes of one generated box, every other with a lesion in its middle."""
    rng = np.random.default_rng((seed, 3))
    pixel, between = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (data.pixel, data.between))
    body = draw_crop(
        seed, size_mm=_BOX, spacing=(between, pixel, pixel), lesion=seed % 2 == 0, wish=_wish(seed // 2)
    )  # fmt: skip
    lesions = [(one.centre_mm, one.diameter_mm) for one in body.lesions]
    told = _told(body.volume, body.labels, lesions)
    middle = body.volume.to_patient(_middle(body.volume))
    none = [one for one, there in told if not there and np.abs(np.subtract(one.centre_mm, middle)).max() <= _SEEN]
    chosen = [(none[n], 0) for n in rng.permutation(len(none))[:_EACH]]
    return _sample(f"box-{seed}", body.volume, [*((one, 1) for one, there in told if there), *chosen], data)


def cubes_of(case: Case, data: Data) -> list[Sample]:
    """Return the cubes of a real case as one sample: its own candidates, and those on lesions painted into its lungs.

    Where its lungs are unknown only its nodules are learnt from; nothing of slices farther apart than the model takes.
    """
    if case.volume.modality != "CT" or case.volume.spacing[0] > THICKEST:
        return []
    nodules = [(_triple(one["centre_mm"]), one["diameter_mm"] or _BY_EYE) for one in case.facts["nodules"]]
    unknown = bool((case.labels == UNKNOWN).all())
    labels = np.full_like(case.labels, LEFT_LUNG) if unknown else case.labels
    told = [one for one in _told(case.volume, labels, nodules) if one[1] or not unknown]
    samples = [_sample(case.name, case.volume, told, data), *([] if unknown else _painted(case, data))]
    voxels, truth = np.concatenate([one.voxels for one in samples]), np.concatenate([one.labels for one in samples])
    return [Sample(name=case.name, voxels=voxels, labels=truth)] if len(truth) else []


def single(samples: Sequence[Sample]) -> list[Sample]:
    """Return each cube of *samples* as a sample of its own, with one label."""
    return [
        Sample(name=f"{one.name}-{n}", voxels=one.voxels[n], labels=one.labels[n : n + 1])
        for one in samples for n in range(len(one.labels))
    ]  # fmt: skip


def _wish(number: int) -> Wish:
    """Return what is asked for as lesion *number*."""
    return Wish(lesions=1, kinds=_FAINT if number % 2 else None)


def _middle(volume: Volume) -> tuple[float, float, float]:
    z, y, x = ((n - 1) / 2.0 for n in volume.voxels.shape)
    return z, y, x


def _told(volume: Volume, labels: NDArray[np.uint8], lesions: Lesions) -> list[tuple[Candidate, int]]:
    """Return the candidates of both lungs, each with 1 on a lesion and 0 clear of all; those between are left out."""
    told: list[tuple[Candidate, int]] = []
    for side in (LEFT_LUNG, RIGHT_LUNG):
        for one in candidates(volume, _lung(labels, side), "cpu"):
            there = _truth(one.centre_mm, lesions)
            told += [] if there is None else [(one, there)]
    return told


def _truth(place: Place, lesions: Lesions) -> int | None:
    """Return 1 for a place on one of *lesions*, 0 for one clear of them all, None for one between."""
    away = [(float(np.linalg.norm(np.subtract(place, centre))), diameter / 2.0) for centre, diameter in lesions]
    if any(mm <= max(_NEAREST, _INSIDE * radius) for mm, radius in away):
        return 1
    return None if any(mm <= radius + _CLEAR for mm, radius in away) else 0


def _lung(labels: NDArray[np.uint8], side: int) -> Mask:
    lung: Mask = labels == side
    return lung


def _sample(name: str, volume: Volume, told: Sequence[tuple[Candidate, int]], data: Data) -> Sample:
    """Return a cube about each candidate as one sample (n, z, y, x) with as many labels."""
    grids = [cube_grid(volume, one.centre_mm, data.spacing[0], data.canvas) for one, _ in told]
    cubes = [kept(grid.sample(volume.voxels)) for grid in grids]
    voxels = np.stack(cubes) if cubes else np.zeros((0,) + (data.canvas,) * 3, np.int16)
    return Sample(name=name, voxels=voxels, labels=np.array([there for _, there in told], np.uint8))


def _painted(case: Case, data: Data) -> list[Sample]:
    """Return the cubes on `data.painted` lesions of the generator, each painted alone into the case's own lungs."""
    volume, sides = case.volume, [side for side, label in _SIDES.items() if (case.labels == label).any()]
    if not sides:
        return []
    inside = {side: np.argwhere(case.labels == _SIDES[side]) for side in sides}
    depths = {
        side: ndimage.distance_transform_edt(case.labels == _SIDES[side], sampling=volume.spacing) for side in sides
    }

    def places(side: str, count: int, rng: np.random.Generator) -> Points:
        index = inside[side][rng.integers(len(inside[side]), size=count)]
        return np.asarray(index @ volume.affine[:3, :3].T + volume.affine[:3, 3])

    def depth(side: str, points: Points) -> NDArray[np.float64]:
        index = np.rint(np.linalg.solve(volume.affine[:3, :3], (points - volume.affine[:3, 3]).T)).astype(int)
        return np.asarray(depths[side][tuple(index)])

    ground = Ground(sides=tuple(sides), places=places, depth=depth)
    samples: list[Sample] = []
    for seed in range(data.painted):
        for growth in place_lesions(seed, _wish(seed), {}, ground):
            part, labels = _with_lesion(case, growth, np.random.default_rng((seed, 4)))
            told = _told(part, labels, [(growth.lesion.centre_mm, growth.lesion.diameter_mm)])
            samples.append(_sample(case.name, part, [one for one in told if one[1]], data))
    return samples


def _with_lesion(case: Case, growth: Growth, rng: np.random.Generator) -> tuple[Volume, NDArray[np.uint8]]:
    """Return the part of *case* about a lesion that was painted there, and its labels."""
    frame = Frame(shape=_triple(case.volume.voxels.shape), affine=case.volume.affine)
    centre, reach = np.array(growth.lesion.centre_mm), growth.lesion.diameter_mm / 2.0 + _AROUND
    box = frame.box(centre - reach, centre + reach, lattice=False)
    affine = frame.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([one.start for one in box], dtype=np.float64)
    before, labels = case.volume.voxels[box], case.labels[box]
    after = before.copy()
    small = Frame(shape=_triple(after.shape), affine=affine)
    paint_lesion(after, np.zeros(after.shape, np.uint16), small, growth, labels, _SIDES[growth.lesion.side])
    grain = rng.normal(0.0, rng.uniform(0.0, _GRAIN), after.shape)
    noisy = np.where(after != before, after + grain, after).astype(np.float32)
    return replace(case.volume, voxels=noisy, affine=affine), np.where(labels == AIRWAYS, 0, labels).astype(np.uint8)


def _triple(values: Sequence[N]) -> tuple[N, N, N]:
    first, second, third = values
    return first, second, third
