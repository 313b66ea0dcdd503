"""Sizes and values of a region, measured on the slices that it was found on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contract import Mask, Measures
from node.dicom.geometry import Stack

Ends = tuple[tuple[float, float], tuple[float, float]]
_UPRIGHT = 1e-9


def measure(mask: Mask, values: NDArray[np.float32] | None, stack: Stack) -> Measures:
    """Return what is measured of *mask* (slices, rows, columns) on the grid of *stack*.

    The volume counts voxels, each as deep as its slice reaches half the way to its neighbours. The long axis is the
    longest straight line between points of the outline as the report draws it, on any slice; the short axis is the
    longest at right angles to it on the same slice. *values* (slices, rows, columns) are the sources' own; None where
    they have no unit.
    Raises ValueError where the mask is empty.
    """
    counts = np.count_nonzero(mask, axis=(1, 2))
    if not counts.any():
        raise ValueError("an empty mask has no size")
    between_rows, between_columns = stack.pixel_spacing
    volume_mm3 = float(counts @ stack.extents) * between_rows * between_columns
    place, long, short = _axes(mask, counts, stack)
    scale = np.array([between_columns, between_rows])
    numbers = (None, None, None, None) if values is None else _statistics(values, mask, counts)
    return Measures(
        volume_ml=volume_mm3 / 1000.0, long_mm=_length(long, scale), short_mm=_length(short, scale), long_ends=long,
        short_ends=short, slice=place, mean=numbers[0], deviation=numbers[1], least=numbers[2], greatest=numbers[3],
    )  # fmt: skip


def _statistics(values: NDArray[np.float32], mask: Mask, counts: NDArray[np.intp]) -> tuple[float, float, float, float]:
    inside = np.concatenate([values[place][mask[place]] for place in np.flatnonzero(counts)]).astype(np.float64)
    return float(inside.mean()), float(inside.std()), float(inside.min()), float(inside.max())


def _length(ends: Ends, scale: NDArray[np.float64]) -> float:
    return float(np.linalg.norm((np.array(ends[1]) - np.array(ends[0])) * scale))


def _axes(mask: Mask, counts: NDArray[np.intp], stack: Stack) -> tuple[int, Ends, Ends]:
    """The slice with the longest line, that line, and the longest at right angles to it, as (column, row) each."""
    scale = np.array([stack.pixel_spacing[1], stack.pixel_spacing[0]])
    best: tuple[float, int, Ends, NDArray[np.float64]] | None = None
    for place in np.flatnonzero(counts):
        corners = _hull(_edges(mask[place]))  # (points, 2): column, row
        first, second, length = _farthest(corners * scale)
        if best is None or length > best[0] + _UPRIGHT:
            ends = _ends(corners[first], corners[second])
            best = (length, int(place), ends, corners)
    assert best is not None  # noqa: S101  # the mask holds a voxel
    return best[1], best[2], _across(best[3], best[2], scale)


def _ends(first: NDArray[np.float64], second: NDArray[np.float64]) -> Ends:
    return (float(first[0]), float(first[1])), (float(second[0]), float(second[1]))


def _edges(plane: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The middles (column, row) of the outermost pixel edges of each row and column: what the drawn outline touches."""
    points = []
    for mask, order in ((plane, (1, 0)), (plane.T, (0, 1))):
        lines = np.flatnonzero(mask.any(axis=1))
        first = np.argmax(mask[lines], axis=1)
        last = mask.shape[1] - np.argmax(mask[lines, ::-1], axis=1)
        for across in (first, last):
            pairs = np.stack([lines + 0.5, across.astype(np.float64)], axis=1)  # (along the lines, across them)
            points.append(pairs[:, order])
    return np.unique(np.concatenate(points), axis=0)


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The convex hull of sorted *points* (Andrew's monotone chain), counter-clockwise, (points, 2)."""

    def half(ordered: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        chain: list[NDArray[np.float64]] = []
        for point in ordered:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        return chain[:-1]

    return np.array(half(points) + half(points[::-1]))


def _turn(first: NDArray[np.float64], second: NDArray[np.float64], third: NDArray[np.float64]) -> float:
    ahead, aside = second - first, third - first
    return float(ahead[0] * aside[1] - ahead[1] * aside[0])


def _farthest(points: NDArray[np.float64]) -> tuple[int, int, float]:
    """The two of *points* (mm) that are farthest apart, and how far."""
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    first, second = np.unravel_index(int(np.argmax(between)), between.shape)
    return int(first), int(second), float(between[first, second])


def _across(hull: NDArray[np.float64], long: Ends, scale: NDArray[np.float64]) -> Ends:
    """The longest line through the hull at right angles (in mm) to *long*: it begins at one of the hull's corners."""
    points = hull * scale
    along = (np.array(long[1]) - np.array(long[0])) * scale
    along /= np.linalg.norm(along)
    aside = np.array([-along[1], along[0]])
    best = (-1.0, points[0], points[0])
    for point in points:
        reach = [t for t in _crossings(points, point, aside) if np.isfinite(t)]
        low, high = min(reach, default=0.0), max(reach, default=0.0)
        for t in (low, high):
            if abs(t) > best[0] + _UPRIGHT:
                best = (abs(t), point, point + t * aside)
    return _ends(best[1] / scale, best[2] / scale)


def _crossings(
    points: NDArray[np.float64], start: NDArray[np.float64], aside: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far (mm) along *aside* from *start* the line crosses each edge of the hull *points*; NaN where not."""
    ends = np.roll(points, -1, axis=0)
    edges = ends - points
    away = points - start
    across = aside[0] * edges[:, 1] - aside[1] * edges[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (away[:, 0] * edges[:, 1] - away[:, 1] * edges[:, 0]) / across
        u = (away[:, 0] * aside[1] - away[:, 1] * aside[0]) / across
    found: NDArray[np.float64] = np.where(
        (np.abs(across) > _UPRIGHT) & (u >= -_UPRIGHT) & (u <= 1 + _UPRIGHT), t, np.nan
    )
    return found
