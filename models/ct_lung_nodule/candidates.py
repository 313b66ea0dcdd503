"""Candidates: bright blobs of the lung field that curve away in every direction, and the cube about each of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, Volume
from models.ct_lung_nodule.filters import Blob, blobs
from models.masks import closed
from models.sampling import Grid, Values

THICKEST = 5.01  # mm between slices: beyond, vessels that run across look like nodules

_SIGMAS = (1.6, 2.2, 3.0, 4.0, 5.4, 7.2, 9.4)  # mm: diameters of about 5 to 33 mm
_WEAKEST = 100.0  # HU: least answer of the filter; ground glass of 6 mm gives about 150
_ROUNDEST = 0.25  # least roundness: a vessel has about 0, a branching of vessels mostly less than this
_MOST = 200  # candidates of one lung, the likeliest first
_CLOSING = 9.0  # mm: a nodule at the pleura is closed into the lung
_THINNEST, _LUNG, _DENSEST = -1000.0, -850.0, 150.0  # HU
_FEWEST = 0.8  # voxels: a narrower Gaussian sees the grid rather than what lies on it


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One place that may be a nodule."""

    blob: Blob  # its index counts on the volume's grid
    roundness: float
    centre_mm: tuple[float, float, float]  # (L, P, S)


def candidates(volume: Volume, lung: Mask, device: str) -> list[Candidate]:
    """Return the candidates of one *lung* (z, y, x), the likeliest first; none where it is empty."""
    if not lung.any():
        return []
    box = _box_around(lung, 3)
    values = values_in(volume.voxels[box], lung[box], volume.spacing)
    found: list[Candidate] = []
    for blob in blobs(values, volume.spacing, _SIGMAS, _WEAKEST, device):
        round_by = roundness(values, volume.spacing, blob)
        if round_by < _ROUNDEST:
            continue
        z, y, x = (i + s.start for i, s in zip(blob.index, box, strict=True))
        moved = Blob(index=(z, y, x), sigma=blob.sigma, strength=blob.strength)
        found.append(Candidate(blob=moved, roundness=round_by, centre_mm=volume.to_patient((z, y, x))))
    return sorted(found, key=lambda one: (-one.blob.strength * one.roundness, one.blob.index))[:_MOST]


def values_in(voxels: Values, lung: Mask, spacing: tuple[float, float, float]) -> Values:
    """Return HU within the lung, nodules at its border closed in, and thin lung everywhere else."""
    field = _field(lung, spacing)
    return np.where(field, np.clip(voxels, _THINNEST, _DENSEST), np.float32(_LUNG)).astype(np.float32)


def roundness(values: Values, spacing: tuple[float, float, float], blob: Blob) -> float:
    """Return the least over the greatest curvature at *blob*, at its own scale: 1 a ball, 0 a tube or a sheet."""
    ways: list[NDArray[np.float32]] = []
    box: list[slice] = []
    for n, mm, at in zip(values.shape, spacing, blob.index, strict=True):
        width = max(blob.sigma / mm, _FEWEST)
        reach = int(np.ceil(3.0 * width))
        box.append(slice(max(0, at - reach), min(n, at + reach + 1)))
        away = (np.arange(box[-1].start, box[-1].stop) - at) / width
        bell = np.exp(-0.5 * away**2)
        bell /= bell.sum()
        ways.append(np.stack([bell, away * bell, (away**2 - 1.0) * bell]).astype(np.float32))
    patch = values[tuple(box)] - np.float32(_LUNG)
    # (i, j, k): how often the Gaussian is derived along z, y and x, each in units of its own width
    bent = np.einsum("zyk,iz,jy->ijk", patch @ ways[2].T, ways[0], ways[1], optimize=True)
    hessian = np.array([
        [bent[2, 0, 0], bent[1, 1, 0], bent[1, 0, 1]],
        [bent[1, 1, 0], bent[0, 2, 0], bent[0, 1, 1]],
        [bent[1, 0, 1], bent[0, 1, 1], bent[0, 0, 2]],
    ])  # fmt: skip
    most, _, least = np.linalg.eigvalsh(hessian).tolist()  # a bright blob bends downwards: the steepest is the lowest
    return float(least / most) if most < 0 else -1.0


def cube_grid(volume: Volume, centre_mm: tuple[float, float, float], mm: float, size: int) -> Grid:
    """Return the grid of a cube of *size* samples a side, *mm* apart, about a place (L, P, S)."""
    return Grid.around(volume, centre_mm, (mm, mm, mm), (size, size, size))


def _field(lung: Mask, spacing: tuple[float, float, float]) -> Mask:
    """Return the lung with nodules at the pleura and in it closed over."""
    steps = tuple(max(1, int(2.0 / mm)) for mm in spacing)
    coarse = lung[:: steps[0], :: steps[1], :: steps[2]]
    wide = closed(coarse, _CLOSING, tuple(mm * step for mm, step in zip(spacing, steps, strict=True)))
    for axis, step in enumerate(steps):
        wide = np.repeat(wide, step, axis=axis)
    field: Mask = wide[: lung.shape[0], : lung.shape[1], : lung.shape[2]] | lung
    return field


def _box_around(mask: Mask, margin: int) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, mask.shape, strict=True))
