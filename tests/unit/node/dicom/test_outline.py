"""Outlines: simple, closed, and exactly around the pixels."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from node.dicom.outline import largest_slice, outline

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 11))).filter(lambda mask: bool(mask.any()))


def filled(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres (column + 0.5, row + 0.5) lie inside a polygon (even-odd rule)."""
    rows, columns = np.indices(shape) + 0.5
    inside = np.zeros(shape, np.bool_)
    for (x0, y0), (x1, y1) in pairwise(points):
        if y0 != y1:
            crosses = (y0 > rows) != (y1 > rows)
            inside ^= crosses & (columns < (x1 - x0) * (rows - y0) / (y1 - y0) + x0)
    return inside


def grown(mask: NDArray[np.bool_], seed: tuple[int, int], diagonal: bool) -> NDArray[np.bool_]:
    """Return the part of *mask* connected to *seed*."""
    part = np.zeros_like(mask)
    waiting = [seed]
    while waiting:
        r, c = waiting.pop()
        if 0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c] and not part[r, c]:
            part[r, c] = True
            waiting += [(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)]
            if diagonal:
                waiting += [(r + 1, c + 1), (r - 1, c - 1), (r - 1, c + 1), (r + 1, c - 1)]
    return part


def without_holes(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return *part* with all that it encloses; the outside is 8-connected where the part is 4-connected."""
    padded = np.pad(part, 1)
    return ~grown(~padded, (0, 0), diagonal=True)[1:-1, 1:-1]


@given(MASKS)
def test_an_outline_encloses_the_largest_part_and_nothing_else(mask: NDArray[np.bool_]) -> None:
    """Its inside is one 4-connected part with its holes, and no other part has more area."""
    inside = filled(outline(mask), mask.shape)
    parts = [without_holes(grown(mask, (int(r), int(c)), diagonal=False)) for r, c in np.argwhere(mask)]
    assert any(np.array_equal(inside, part) for part in parts)
    assert inside.sum() == max(part.sum() for part in parts)


@given(MASKS)
def test_an_outline_is_closed_and_meets_itself_nowhere(mask: NDArray[np.bool_]) -> None:
    """The first point is the last, no other point comes twice, and no two edges touch."""
    points = outline(mask)
    assert np.array_equal(points[0], points[-1]) and len(points) >= 4
    assert len(np.unique(points[:-1], axis=0)) == len(points) - 1
    edges = list(pairwise(points))
    for i, one in enumerate(edges):
        for j in range(i + 2, len(edges) - (i == 0)):
            assert not _meet(*one, *edges[j])


def _meet(a: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], d: NDArray[np.float64]) -> bool:
    """Whether two line pieces have a point in common."""
    def side(p: NDArray[np.float64], q: NDArray[np.float64], r: NDArray[np.float64]) -> float:
        return float(np.sign((q[0] - p[0]) * (r[1] - p[1]) - (q[1] - p[1]) * (r[0] - p[0])))

    apart = bool(np.any(np.maximum(a, b) < np.minimum(c, d)) or np.any(np.maximum(c, d) < np.minimum(a, b)))
    return not apart and side(a, b, c) * side(a, b, d) <= 0 and side(c, d, a) * side(c, d, b) <= 0


def test_the_top_left_pixel_has_its_centre_at_one_half() -> None:
    """PS3.3 C.18.6.1.1: a pixel's centre is half a pixel from its corner, in (column, row) order."""
    mask = np.zeros((4, 6), np.bool_)
    mask[0, 0] = True
    assert outline(mask)[:-1].mean(axis=0) == pytest.approx((0.5, 0.5))
    mask[0, 0], mask[3, 1] = False, True
    assert outline(mask)[:-1].mean(axis=0) == pytest.approx((1.5, 3.5))


def test_the_largest_slice_is_the_first_of_equals() -> None:
    """Voxels are counted per slice; a tie does not depend on chance."""
    mask = np.zeros((5, 3, 4), np.bool_)
    mask[1, 0, :2] = mask[3, 2, 1:4] = mask[4, 0, 1:4] = True
    assert largest_slice(mask) == 3


def test_an_empty_mask_has_no_outline() -> None:
    """It is refused, not drawn as nothing."""
    with pytest.raises(ValueError, match="empty"):
        outline(np.zeros((3, 3), np.bool_))
