"""Nodules made of formulas, planted into a patient's own lungs: lesions enough for a curve, with an exact truth.

They are easier than real ones in that they have no vessel of their own and no pleura; figures of planted and of real
nodules are never mixed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, Volume
from models.evaluate.metrics import Objects

KINDS = ("solid", "part-solid", "ground-glass")

_SMALLEST, _LARGEST = 6.0, 25.0  # mm
_TISSUE = 40.0  # HU
_GLASS = 0.4  # share of tissue in ground glass: about -500 HU in lung of -860
_CORE = 0.5  # diameter of a part-solid nodule's core, of the whole
_UNEVEN = 0.10  # standard deviation of the radius over directions, of the radius
_BLUR = 1.0  # mm: over which the border runs, as a scanner's
_NOISE = 15.0  # HU in solid parts
_VESSEL = -500.0  # HU: thicker than this inside lung is vessel, or worse
_GAP = 6.0  # mm between two nodules, and to the lung's border
_TRIES = 400  # places looked at for a nodule
_FINE = 3  # points along each axis of a voxel


@dataclass(frozen=True, kw_only=True, slots=True)
class Planted:
    """One nodule of the truth."""

    kind: str  # of KINDS
    diameter_mm: float  # of the ball that it is a dented copy of
    centre_mm: tuple[float, float, float]  # (L, P, S)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Garden:
    """A volume with nodules planted in it."""

    volume: Volume
    objects: Objects  # (z, y, x): 0, or the number of a nodule from 1
    nodules: tuple[Planted, ...]  # in the order of their numbers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Bed:
    """What is drawn into, nodule by nodule."""

    volume: Volume  # as it was
    voxels: NDArray[np.float32]  # (z, y, x)
    objects: Objects


def plant(volume: Volume, lungs: Mask, seed: int, count: int) -> Garden:
    """Return *volume* with up to *count* nodules inside *lungs*, the same for the same *seed*.

    Kinds take turns, diameters are spread evenly in their logarithm. Each lies whole in the lung, not on a vessel
    (at most 5 % of its ball, nothing of its middle, thicker than -500 HU) and clear of the others; where no such place
    is found, it is left out.
    """
    rng = np.random.default_rng(seed)
    steps = tuple(max(1, int(2.0 / mm)) for mm in volume.spacing)
    coarse = np.pad(lungs[:: steps[0], :: steps[1], :: steps[2]], 1)  # beyond the images is no lung
    sampling = [mm * step for mm, step in zip(volume.spacing, steps, strict=True)]
    depth = ndimage.distance_transform_edt(coarse, sampling=sampling)[1:-1, 1:-1, 1:-1]
    bed = _Bed(volume=volume, voxels=volume.voxels.copy(), objects=np.zeros(volume.voxels.shape, np.int32))
    nodules: list[Planted] = []
    for turn in range(count):
        diameter = float(_SMALLEST * (_LARGEST / _SMALLEST) ** rng.random())
        place = _place(volume, depth, steps, diameter / 2, nodules, rng)
        if place is None:
            continue
        planted = Planted(kind=KINDS[turn % 3], diameter_mm=round(diameter, 2), centre_mm=volume.to_patient(place))
        nodules.append(planted)
        _draw(bed, place, planted, len(nodules), rng)
    return Garden(volume=replace(volume, voxels=bed.voxels), objects=bed.objects, nodules=tuple(nodules))


def _place(
    volume: Volume, depth: NDArray[np.float64], steps: tuple[int, ...], radius: float, taken: list[Planted],
    rng: np.random.Generator,
) -> tuple[float, float, float] | None:  # fmt: skip
    """Return an index (z, y, x) for the middle of a nodule, or None."""
    places = np.argwhere(depth >= radius * (1 + 2 * _UNEVEN) + _GAP / 3)
    for number in rng.permutation(len(places))[:_TRIES]:
        z, y, x = (float(n * step) for n, step in zip(places[number], steps, strict=True))
        centre = np.array(volume.to_patient((z, y, x)))
        if any(np.linalg.norm(centre - one.centre_mm) < radius + one.diameter_mm / 2 + _GAP for one in taken):
            continue
        box, distance = _around(volume, (z, y, x), radius)
        ball = volume.voxels[box][distance <= radius]
        middle = volume.voxels[box][distance <= max(0.4 * radius, min(volume.spacing))]
        if float((ball > _VESSEL).mean()) <= 0.05 and not (middle > _VESSEL).any():
            return z, y, x
    return None


def _around(
    volume: Volume, index: tuple[float, float, float], reach: float
) -> tuple[tuple[slice, ...], NDArray[np.float64]]:
    """Return the box of voxels within *reach* mm of *index*, and the distance of each from it."""
    box = tuple(
        slice(max(0, int(np.floor(one - reach / mm))), min(n, int(np.ceil(one + reach / mm)) + 1))
        for one, mm, n in zip(index, volume.spacing, volume.voxels.shape, strict=True)
    )
    away = [
        (np.arange(s.start, s.stop) - one).reshape([-1 if axis == other else 1 for other in range(3)])
        for axis, (s, one) in enumerate(zip(box, index, strict=True))
    ]
    offset = sum(volume.affine[:3, axis].reshape(3, 1, 1, 1) * away[axis] for axis in range(3))
    return box, np.asarray(np.linalg.norm(offset, axis=0))


def _draw(
    bed: _Bed, index: tuple[float, float, float], planted: Planted, number: int, rng: np.random.Generator
) -> None:
    """Draw one nodule and its number into *bed*."""
    volume, voxels = bed.volume, bed.voxels
    radius = planted.diameter_mm / 2
    box, _ = _around(volume, index, radius * (1 + 4 * _UNEVEN) + 2 * _BLUR)
    waves = rng.normal(0.0, 2.0, (6, 3)), rng.uniform(0.0, 2 * np.pi, 6)
    whole, core = np.zeros(voxels[box].shape), np.zeros(voxels[box].shape)
    for offset in _offsets(volume, box, index):
        distance, uneven = _polar(offset, waves)
        whole += np.clip(0.5 + (radius * uneven - distance) / _BLUR, 0.0, 1.0) / _FINE**3
        core += np.clip(0.5 + (_CORE * radius * uneven - distance) / _BLUR, 0.0, 1.0) / _FINE**3
    opacity = {"solid": whole, "part-solid": np.maximum(_GLASS * whole, core), "ground-glass": _GLASS * whole}
    share = opacity[planted.kind]
    tissue = _TISSUE + rng.normal(0.0, _NOISE, share.shape)
    lung = voxels[box]
    voxels[box] = np.where(lung < tissue, (1 - share) * lung + share * tissue, lung)  # a vessel inside stays
    body = whole >= 0.5
    if not body.any():
        body = whole == whole.max()
    bed.objects[box][body] = number


def _offsets(
    volume: Volume, box: tuple[slice, ...], index: tuple[float, float, float]
) -> Iterator[NDArray[np.float64]]:
    """Yield, for each of _FINE^3 points in every voxel of *box*, its way (3, z, y, x) in mm from *index*."""
    grid = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij")).astype(float)
    inside = (np.arange(_FINE) - (_FINE - 1) / 2) / _FINE
    for point in np.stack(np.meshgrid(inside, inside, inside)).reshape(3, -1).T:
        away = grid + (point - index).reshape(3, 1, 1, 1)
        yield np.tensordot(volume.affine[:3, :3], away, axes=1)


def _polar(
    offset: NDArray[np.float64], waves: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the length of each *offset* (3, z, y, x) and the factor of the radius in its direction."""
    distance = np.linalg.norm(offset, axis=0)
    direction = offset / np.maximum(distance, 1e-6)
    turned = np.tensordot(waves[0], direction, axes=1) + waves[1].reshape(-1, 1, 1, 1)
    uneven = 1.0 + _UNEVEN * np.sqrt(2.0 / len(waves[1])) * np.cos(turned).sum(axis=0)
    return distance, np.clip(uneven, 0.6, 1.4)
