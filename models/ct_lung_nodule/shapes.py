"""From a blob to a nodule: the region that it fills, and whether its shape is a nodule's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask
from models.ct_lung_nodule.filters import Blob

Grid = NDArray[np.float32]  # (z, y, x)

_LUNG = -850.0  # HU of the lung around a nodule
_SMALLEST, _LARGEST = 4.0, 36.0  # mm, equivalent diameter
_LONGEST = 2.0  # longest over shortest axis
_FULLEST = 0.62  # least share of its own ellipsoid that a nodule fills
_FREEST = 0.45  # least share of its surface that lies in lung
_FEWEST_VOXELS = 12  # fewer have no shape to judge
_WIDEST_VESSEL = 3.5  # mm, radius: opening by more would take the corners off a large nodule
_DENSEST = 250.0  # HU: denser than this is bone or calcium through and through


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """A region of the volume with the measures that a nodule is judged by."""

    mask: Mask  # (z, y, x) within *box*
    box: tuple[slice, ...]
    diameter: float  # mm, of the ball of the same volume
    elongation: float
    fullness: float
    freedom: float
    contrast: float  # HU over the lung


def region_of(blob: Blob, values: Grid, voxels: Grid, spacing: tuple[float, ...]) -> Region | None:
    """Return what *blob* fills, its vessels cut off; None where nothing of a nodule's size stays.

    The blob is looked for in *values*, which hold lung alone; how free it stands is judged by *voxels*, where
    the tissue around the lung is still there: else each lump at its border would seem to stand free.
    """
    radius = blob.sigma * np.sqrt(3.0)
    box = _box(blob.index, 2.2 * radius + 4.0, spacing, values.shape)
    local = values[box]
    centre = tuple(i - s.start for i, s in zip(blob.index, box, strict=True))
    core = float(np.median(local[_ball_at(centre, local.shape, max(1.2, 0.45 * radius), spacing)]))
    solid = local > max(_LUNG + 0.5 * (core - _LUNG), -600.0)
    near = _ball_at(centre, local.shape, 1.8 * radius + 2.0, spacing)
    mask = _cut_free(solid & near, centre, radius, spacing)
    if mask is None:
        return None
    return _measured(mask, box, voxels[box], core, spacing)


def _box(index: tuple[int, ...], reach: float, spacing: tuple[float, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(max(0, i - int(reach / mm) - 1), min(n, i + int(reach / mm) + 2))
        for i, mm, n in zip(index, spacing, shape, strict=True)
    )


def _ball_at(centre: tuple[int, ...], shape: tuple[int, ...], radius: float, spacing: tuple[float, ...]) -> Mask:
    grids = np.ogrid[tuple(slice(0, n) for n in shape)]
    axes = zip(grids, centre, spacing, strict=True)
    distance = sum((((grid - at) * mm) ** 2 for grid, at, mm in axes), np.float64(0))
    return np.asarray(distance <= radius**2)


def _cut_free(solid: Mask, centre: tuple[int, ...], radius: float, spacing: tuple[float, ...]) -> Mask | None:
    """Open *solid* to cut vessels off, as far as they are thinner than the blob; keep the part at its centre."""
    depth = ndimage.distance_transform_edt(np.pad(solid, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    least = min(0.45 * radius, _WIDEST_VESSEL, 0.7 * float(depth.max()))
    labels, count = ndimage.label(depth > least)
    if count == 0:
        return None
    core = labels == _label_near(labels, centre, spacing)
    grown: Mask = solid & (ndimage.distance_transform_edt(~core, sampling=spacing) <= least + 0.3 * min(spacing))
    return grown if grown.any() else None


def _label_near(labels: NDArray[np.int32], centre: tuple[int, ...], spacing: tuple[float, ...]) -> int:
    if labels[centre]:
        return int(labels[centre])
    nearest = ndimage.distance_transform_edt(labels == 0, sampling=spacing, return_distances=False, return_indices=True)
    return int(labels[tuple(nearest[(slice(None), *centre)])])


def _measured(
    mask: Mask, box: tuple[slice, ...], local: Grid, core: float, spacing: tuple[float, ...]
) -> Region | None:
    voxel = float(np.prod(spacing))
    volume = float(mask.sum()) * voxel
    diameter = float(np.cbrt(6.0 * volume / np.pi))
    if not _SMALLEST <= diameter <= _LARGEST or int(mask.sum()) < _FEWEST_VOXELS:
        return None
    points = np.argwhere(mask) * np.array(spacing)
    spread = np.cov(points.T) + np.diag([mm**2 / 12.0 for mm in spacing])  # a voxel has a width of its own
    axes = np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 1e-6)) * np.sqrt(5.0)  # half axes of the ellipsoid, mm
    ellipsoid = 4.0 / 3.0 * np.pi * float(np.prod(axes))
    shell = ndimage.binary_dilation(mask) & ~mask
    return Region(
        mask=mask, box=box, diameter=diameter, elongation=float(axes[2] / axes[0]), fullness=volume / ellipsoid,
        freedom=float((local[shell] < _LUNG + 0.5 * (core - _LUNG)).mean()) if shell.any() else 0.0,
        contrast=core - _LUNG,
    )  # fmt: skip


def score(region: Region, blob: Blob) -> float:
    """Return 0 where the shape is no nodule's, else 0 to 1: round, full, free-standing and dense count."""
    if region.elongation > _LONGEST or region.fullness < _FULLEST or region.freedom < _FREEST:
        return 0.0
    if region.contrast > _DENSEST - _LUNG:
        return 0.0
    roundness = 1.0 - (region.elongation - 1.0) / (_LONGEST - 1.0)
    free = (region.freedom - _FREEST) / (1.0 - _FREEST)
    clear = min(1.0, blob.strength / 500.0)
    sized = min(1.0, region.diameter / 8.0)
    return float(np.clip(0.3 * roundness + 0.25 * free + 0.25 * clear + 0.2 * sized, 0.0, 1.0))
