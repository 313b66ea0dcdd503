"""Sizes against shapes whose sizes are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from node.dicom.geometry import Stack, make_stack
from node.dicom.measure import measure

AXIAL = (1, 0, 0, 0, 1, 0)


def stack(slices: int, rows: int, columns: int, spacing: tuple[float, float, float]) -> Stack:
    """An upright stack with *spacing* between slices, rows and columns."""
    return make_stack(AXIAL, np.outer(np.arange(slices), (0, 0, spacing[0])), spacing[1:], rows, columns)


def ellipse(long: float, short: float, degrees: float, spacing: tuple[float, float]) -> NDArray[np.bool_]:
    """A slice (rows, columns) with an ellipse of those diameters (mm), turned."""
    rows, columns = np.mgrid[0:160, 0:140]
    y, x = (rows - 79.5) * spacing[0], (columns - 69.5) * spacing[1]
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    inside: NDArray[np.bool_] = ((c * x + s * y) / (long / 2)) ** 2 + ((c * y - s * x) / (short / 2)) ** 2 <= 1
    return inside


@pytest.mark.parametrize("degrees", [0, 27, 45, 90, 152])
def test_an_ellipse_has_its_diameters(degrees: float) -> None:
    """In any direction, on pixels that are no squares."""
    spacing = (0.5, 0.8)
    mask = np.zeros((3, 160, 140), np.bool_)
    mask[1] = ellipse(60, 34, degrees, spacing)
    found = measure(mask, None, stack(3, 160, 140, (2.0, *spacing)))
    assert found.long_mm == pytest.approx(60, abs=0.9)
    assert found.short_mm == pytest.approx(34, abs=0.9)
    assert found.volume_ml == pytest.approx(np.pi * 30 * 17 * 2 / 1000, rel=0.01)
    assert found.slice == 1
    way = (np.array(found.long_ends[1]) - np.array(found.long_ends[0])) * (0.8, 0.5)
    aside = (np.array(found.short_ends[1]) - np.array(found.short_ends[0])) * (0.8, 0.5)
    assert abs(way @ aside) < 1e-6 * np.linalg.norm(way) * np.linalg.norm(aside) + 1e-6
    assert found.mean is found.deviation is None


def test_one_voxel_is_as_large_as_its_pixel() -> None:
    """From edge to edge; coordinates of an SCOORD: the third column reaches from 2 to 3."""
    mask = np.zeros((3, 4, 5), np.bool_)
    mask[2, 1, 2] = True
    found = measure(mask, np.full(mask.shape, 7, np.float32), stack(3, 4, 5, (2.0, 3.0, 4.0)))
    assert (found.long_mm, found.volume_ml) == (4.0, pytest.approx(0.024))
    assert {found.long_ends[0], found.long_ends[1]} == {(2.0, 1.5), (3.0, 1.5)}
    assert (found.mean, found.deviation, found.least, found.greatest) == (7, 0, 7, 7)
    assert found.short_mm == pytest.approx(3.0)


def test_values_are_those_inside() -> None:
    """Mean, standard deviation, least and greatest."""
    mask = np.zeros((3, 6, 6), np.bool_)
    mask[0, 1, 1:3] = mask[1, 4, 4] = True
    values = np.full(mask.shape, -1000, np.float32)
    values[mask] = (10, 20, 60)
    found = measure(mask, values, stack(3, 6, 6, (1, 1, 1)))
    assert (found.mean, found.least, found.greatest) == (30, 10, 60)
    assert found.deviation == pytest.approx(np.std([10, 20, 60]))


def test_each_slice_stands_for_half_the_way_to_its_neighbours() -> None:
    """Unevenly spaced: 2, 2, 6, 2 mm; the slices beside the gap stand for 4 mm each."""
    heights = np.outer([0, 2, 4, 10, 12, 14, 16, 18, 20], (0, 0, 1.0))
    uneven = make_stack(AXIAL, heights, (1, 1), 4, 4)
    assert uneven.extents.tolist() == [2, 2, 4, 4, 2, 2, 2, 2, 2]
    assert measure(np.ones((9, 4, 4), np.bool_), None, uneven).volume_ml == pytest.approx(22 * 16 / 1000)


def test_an_empty_mask_has_no_size() -> None:
    """Nothing is measured of nothing."""
    with pytest.raises(ValueError, match="empty mask"):
        measure(np.zeros((3, 4, 4), np.bool_), None, stack(3, 4, 4, (1, 1, 1)))
