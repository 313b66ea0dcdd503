"""Shapes in masks, worked out in the box about what is there, beside the same over everything."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from models.contract import Mask
from models.masks import box_around, closed, dilated, filled, largest

SPACING = (5.0, 2.0, 1.5)  # mm (z, y, x)
SHAPE = (14, 40, 46)


@pytest.fixture(params=["middle", "corner", "whole", "nothing"])
def mask(request: pytest.FixtureRequest) -> Mask:
    """Smooth random blobs in the middle, at a corner of the images, everywhere, or none."""
    rough = ndimage.gaussian_filter(np.random.default_rng(11).normal(size=SHAPE), (0.6, 1.6, 1.6))
    room = np.zeros(SHAPE, dtype=bool)
    box = {"middle": np.s_[4:9, 12:27, 10:31], "corner": np.s_[9:, :17, 29:], "whole": np.s_[:], "nothing": np.s_[:0]}
    room[box[request.param]] = True
    return np.asarray((rough > 0.05) & room)


def test_the_box_holds_all_and_a_margin_as_far_as_there_is_one() -> None:
    """Cut at the borders; of nothing it is empty."""
    mask = np.zeros((6, 7, 8), dtype=bool)
    assert mask[box_around(mask, 2)].size == 0
    mask[0:2, 3, 5:8] = True
    assert box_around(mask, (1, 2, 3)) == (slice(0, 3), slice(1, 6), slice(2, 8))


@pytest.mark.parametrize("radius", [2.0, 5.0, 6.0])
def test_a_mask_grows_as_it_would_in_the_whole_volume(mask: Mask, radius: float) -> None:
    """Each voxel within *radius* of it, none beyond."""
    whole = ndimage.distance_transform_edt(~mask, sampling=SPACING) <= radius if mask.any() else mask
    assert np.array_equal(dilated(mask, radius, SPACING), whole)


def test_gaps_are_closed_as_in_a_volume_without_borders(mask: Mask) -> None:
    """Grown and shrunk again with room all around."""
    room = np.pad(mask, 9)
    if mask.any():
        grown = ndimage.distance_transform_edt(~room, sampling=SPACING) <= 5.0
        room = (ndimage.distance_transform_edt(grown, sampling=SPACING) > 5.0) | room
    assert np.array_equal(closed(mask, 5.0, SPACING), room[9:-9, 9:-9, 9:-9])


def test_small_holes_of_slices_are_filled_and_large_ones_stay() -> None:
    """30 mm2 is a vessel, 784 mm2 is not; what is open to the border is no hole."""
    mask = np.ones((2, 60, 60), dtype=bool)
    mask[0, 5:10, 5:11] = mask[0, 20:48, 20:48] = mask[1, 30:, 20:25] = False
    found = filled(mask, 1.0)
    assert found[0, 5:10, 5:11].all() and not found[0, 20:48, 20:48].any() and not found[1, 30:, 20:25].any()
    assert not mask[0, 5:10, 5:11].any()  # what was given is as it was


def test_crumbs_beside_the_largest_part_are_left_out() -> None:
    """A fiftieth of it stays, less does not."""
    mask = np.zeros((3, 30, 40), dtype=bool)
    mask[:, 5:15, 5:15], mask[0, 20, 2:8], mask[2, 25, 30:35] = True, True, True
    kept = mask.copy()
    kept[2, 25, 30:35] = False
    assert np.array_equal(largest(mask), kept)
    assert not largest(np.zeros_like(mask)).any()
