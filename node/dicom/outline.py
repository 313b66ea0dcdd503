"""The outline of a mask on one slice, as an SR draws it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))  # (column, row): right, down, left, up; +1 is a turn to the right
_Crack = tuple[int, int, int]  # column and row of the corner where it starts, and its direction


def largest_slice(mask: NDArray[np.bool_]) -> int:
    """Return the slice of *mask* (slices, rows, columns) with the most voxels; of equals the first."""
    return int(np.argmax([np.count_nonzero(plane) for plane in mask]))  # by planes: counting along axes is slow


def outline(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the closed outer boundary, (points, 2) as (column, row), of the largest 4-connected part of *mask*.

    *mask* is one slice (rows, columns). Coordinates are those of an SCOORD: the centre of the top left pixel is
    (0.5, 0.5) (PS3.3 C.18.6.1.1). The line runs through the middles of the edges between a pixel inside and one
    outside, so it crosses and touches itself nowhere, leaves all pixel centres of the part inside and all others
    outside. Holes are not drawn. Largest means by the area inside the line.
    """
    cracks = _cracks(mask)
    loops = [_walk(start, cracks) for start in sorted(cracks) if start in cracks]
    if not loops:
        raise ValueError("an empty mask has no outline")
    corners = max(loops, key=_area)  # holes run the other way round and count below zero
    middles = [(c + 0.5 * _STEPS[d][0], r + 0.5 * _STEPS[d][1]) for c, r, d in corners]
    return _without_needless_points(np.array(middles))


def _cracks(mask: NDArray[np.bool_]) -> set[_Crack]:
    """All edges between a pixel inside and one outside, each directed so that the inside is on its right."""
    padded = np.pad(mask, 1)
    inside = padded[1:-1, 1:-1]
    outside = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])  # above, right, below, left
    starts = ((0, 0), (1, 0), (1, 1), (0, 1))  # corner of the pixel, as (column, row)
    found: set[_Crack] = set()
    for direction, (neighbour, (column, row)) in enumerate(zip(outside, starts, strict=True)):
        rows, columns = np.nonzero(inside & ~neighbour)
        found.update((int(c) + column, int(r) + row, direction) for r, c in zip(rows, columns, strict=True))
    return found


def _walk(first: _Crack, cracks: set[_Crack]) -> list[_Crack]:
    """Take the loop of *first* out of *cracks*; where two pixels touch at a corner, stay with the one (4-connected)."""
    loop, here = [first], first
    cracks.remove(first)
    while True:
        column, row, direction = here
        corner = (column + _STEPS[direction][0], row + _STEPS[direction][1])
        turns = ((*corner, (direction + turn) % 4) for turn in (1, 0, 3))
        onward = next(crack for crack in turns if crack in cracks or crack == first)
        if onward == first:
            return loop
        cracks.remove(onward)
        loop.append(onward)
        here = onward


def _area(loop: list[_Crack]) -> int:
    """Twice the signed area inside a loop: positive around pixels, negative around a hole."""
    return sum(c * _STEPS[d][1] - r * _STEPS[d][0] for c, r, d in loop)


def _without_needless_points(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop points on a straight line between their neighbours, and close the line."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    kept = points[turns]
    return np.concatenate([kept, kept[:1]])
