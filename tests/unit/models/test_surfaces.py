"""Distances of surfaces, beside an implementation that looks at every pair of surface voxels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from models.contract import Mask
from models.evaluate.metrics import dice, iou
from models.evaluate.surfaces import surface_distances

SPACING = (3.0, 0.7, 1.1)


def edge_points(mask: Mask) -> np.ndarray:
    """Every voxel of *mask* with a face neighbour outside it, one by one, in mm."""
    points = []
    for index in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                other = index.copy()
                other[axis] += step
                if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                    points.append(tuple(index))
    return np.array(sorted(set(points))) * SPACING


def by_pairs(first: Mask, second: Mask) -> tuple[float, float]:
    """The 95th percentile and the mean by all pairs."""
    pairs = cdist(edge_points(first), edge_points(second))
    there, back = pairs.min(axis=1), pairs.min(axis=0)
    return max(np.percentile(there, 95), np.percentile(back, 95)), float(np.concatenate([there, back]).mean())


def blob(seed: int) -> Mask:
    """A ragged body, in parts, that may touch the border of the grid."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((7, 14, 11))
    middle, radii = rng.uniform((1, 3, 3), (6, 11, 8)), rng.uniform(2.0, 5.0, 3)
    inside = ((z - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 + ((x - middle[2]) / radii[2]) ** 2
    mask: Mask = (inside < 1) & (rng.random(inside.shape) < 0.9)
    return mask


@pytest.mark.parametrize("seed", range(8))
def test_distances_are_those_of_all_pairs(seed: int) -> None:
    """Uneven spacing, ragged bodies: the same as without any distance transform, whichever comes first."""
    first, second = blob(seed), blob(seed + 100)
    apart = surface_distances(first, second, SPACING)
    assert apart is not None
    assert (apart.hd95_mm, apart.mean_mm) == pytest.approx(by_pairs(first, second))
    assert surface_distances(second, first, SPACING) == apart


def test_a_box_moved_along_an_axis_is_apart_by_its_spacing() -> None:
    """Two slices of one voxel's thickness lie one spacing apart everywhere; a mask lies nowhere from itself."""
    first, second = np.zeros((4, 9, 9), bool), np.zeros((4, 9, 9), bool)
    first[1, 2:7, 2:7] = second[2, 2:7, 2:7] = True
    apart = surface_distances(first, second, SPACING)
    same = surface_distances(first, first, SPACING)
    assert apart is not None
    assert same is not None
    assert (apart.hd95_mm, apart.mean_mm) == pytest.approx((3.0, 3.0))
    assert (same.hd95_mm, same.mean_mm) == (0.0, 0.0)


def test_nothing_has_no_surface() -> None:
    """A distance to nothing would be a made-up number."""
    assert surface_distances(blob(1), np.zeros_like(blob(1)), SPACING) is None


def test_iou_and_dice_tell_the_same() -> None:
    """iou = dice / (2 - dice), and both count what a plain loop counts."""
    first, second = blob(3), blob(103)
    both = sum(bool(a) and bool(b) for a, b in zip(first.flat, second.flat, strict=True))
    either = sum(bool(a) or bool(b) for a, b in zip(first.flat, second.flat, strict=True))
    assert iou(first, second) == pytest.approx(both / either)
    assert iou(first, second) == pytest.approx(dice(first, second) / (2 - dice(first, second)))
    assert iou(first & False, second & False) == 1.0
