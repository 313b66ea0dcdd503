"""From a blob to a region: what it fills, vessels cut off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask
from models.ct_lung_nodule.filters import Blob

Values = NDArray[np.float32]  # (z, y, x)

_SMALLEST, _LARGEST = 5.0, 36.0  # mm, equivalent diameter: what the filter is made for
_LONGEST = 1.75  # longest over shortest axis; of the real part-solid nodule 1.74, of vessels in bodies 1.6 and more
_FULLEST = 0.6  # least share of its own ellipsoid that a nodule fills
_FREEST = 0.45  # least share of its surface that lies in lung
_FEWEST_VOXELS = 12  # fewer have no shape to judge
_WIDEST_VESSEL = 3.5  # mm, radius: opening by more would take the corners off a large nodule
_LUNG = (-950.0, -650.0)  # HU: what lies about a nodule is lung, whatever it measures
_FAINT = 500.0  # HU over the lung: less is ground glass, whose grain is smoothed before it is outlined
_GRAIN = 0.8  # mm, sigma
_GLASS = 200.0  # HU over the lung: the border of what surrounds a part-solid nodule's core
_HALO = 3.0  # times as much as the core: less is a solid nodule's blurred border


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """A region of the volume with the measures of its shape."""

    mask: Mask  # (z, y, x) within *box*
    box: tuple[slice, ...]
    diameter: float  # mm, of the ball of the same volume
    elongation: float  # longest over shortest axis
    fullness: float  # share of its own ellipsoid that it fills
    freedom: float  # share of its surface that lies in lung


def radius_of(blob: Blob) -> float:
    """Return the radius of the ball that answers strongest at the blob's scale, in mm."""
    return blob.sigma * float(np.sqrt(3.0))


def region_of(blob: Blob, values: Values, voxels: Values, spacing: tuple[float, ...]) -> Region | None:
    """Return what *blob* fills, its vessels cut off; None where nothing of a nodule's size stays.

    *values* (HU) hold lung alone; how free it stands is judged by *voxels*, where the tissue around the lung is still
    there: else each lump at its border would seem to stand free. The border lies half-way between the blob's middle
    and the lung about it; where much more is denser than lung, the blob is the core of a part-solid nodule.
    """
    radius = radius_of(blob)
    box = _box(blob.index, 2.2 * radius + 4.0, spacing, values.shape)
    local = values[box]
    centre = tuple(i - s.start for i, s in zip(blob.index, box, strict=True))
    core = float(np.median(local[_ball_at(centre, local.shape, max(1.2, 0.45 * radius), spacing)]))
    about = ~_ball_at(centre, local.shape, 1.5 * radius, spacing)
    lung = float(np.clip(np.percentile(local[about], 30), *_LUNG)) if about.any() else _LUNG[0]
    near = _ball_at(centre, local.shape, 1.8 * radius + 2.0, spacing)
    smooth = ndimage.gaussian_filter(local, [_GRAIN / mm for mm in spacing])
    bars = (0.5 * (core + lung), lung + _GLASS)
    dense, whole = (
        _cut_free(((smooth if bar < lung + 0.5 * _FAINT else local) > bar) & near, centre, radius, spacing)
        for bar in bars
    )
    part_solid = core - lung >= _FAINT and whole is not None and (dense is None or whole.sum() > _HALO * dense.sum())
    mask, bar = (whole, bars[1]) if part_solid else (dense, bars[0])
    return None if mask is None else _measured(mask, box, voxels[box] < bar, spacing)


def is_nodular(region: Region) -> bool:
    """Return whether a region has a nodule's shape: no long one, full, and mostly free in the lung."""
    return region.elongation <= _LONGEST and region.fullness >= _FULLEST and region.freedom >= _FREEST


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


def _measured(mask: Mask, box: tuple[slice, ...], lung: Mask, spacing: tuple[float, ...]) -> Region | None:
    volume = float(mask.sum()) * float(np.prod(spacing))
    diameter = float(np.cbrt(6.0 * volume / np.pi))
    if not _SMALLEST <= diameter <= _LARGEST or int(mask.sum()) < _FEWEST_VOXELS:
        return None
    points = np.argwhere(mask) * np.array(spacing)
    spread = np.cov(points.T) + np.diag([mm**2 / 12.0 for mm in spacing])  # a voxel has a width of its own
    axes = np.sqrt(np.maximum(np.linalg.eigvalsh(spread), 1e-6)) * np.sqrt(5.0)  # half axes of the ellipsoid, mm
    shell = ndimage.binary_dilation(mask) & ~mask
    return Region(
        mask=mask, box=box, diameter=diameter, elongation=float(axes[2] / axes[0]),
        fullness=volume / (4.0 / 3.0 * np.pi * float(np.prod(axes))),
        freedom=float(lung[shell].mean()) if shell.any() else 0.0,
    )  # fmt: skip
