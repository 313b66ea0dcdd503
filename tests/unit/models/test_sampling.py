"""Grids: nothing is moved, nothing aliases, and what goes there comes back."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract import Volume
from models.sampling import Grid, neighbours, normalised

SHAPE, SPACING = (19, 46, 33), (2.4, 0.9, 1.3)


def volume(shape: tuple[int, ...] = SHAPE, spacing: tuple[float, ...] = SPACING) -> Volume:
    """Return a slope: each voxel's value is a sum of its own (L, P, S) in mm, weighted asymmetrically."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3], affine[3, 3] = (-11.0, 7.0, 31.0), 1.0
    return Volume(voxels=slope(affine, shape), affine=affine)


def slope(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return 2 L + 3 P - 5 S at each voxel centre."""
    places = np.einsum("ij,jzyx->izyx", affine[:3, :3], np.indices(shape)) + affine[:3, 3, None, None, None]
    return np.asarray(2.0 * places[0] + 3.0 * places[1] - 5.0 * places[2], dtype=np.float32)


def middle(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Return (L, P, S) of the middle of a grid."""
    return np.asarray((affine @ [*((n - 1) / 2 for n in values.shape), 1.0])[:3])


def inner(values: np.ndarray, margin: int = 3) -> np.ndarray:
    """Return what is away from the ends, where a mean has all its neighbours."""
    return values[(..., *(slice(margin, -margin),) * 3)]


@pytest.mark.parametrize("to", [(3.0, 3.0, 3.0), (1.1, 0.4, 0.7), (2.4, 1.35, 0.65), (1.0, 4.0, 1.3)])
def test_every_sample_lies_where_its_affine_says(to: tuple[float, float, float]) -> None:
    """A slope stays that slope in millimetres, finer or coarser: half a voxel's shift would be 1 to 6 units off."""
    seen = volume()
    grid = Grid.over(seen, to)
    sampled = grid.sample(seen.voxels)
    margin = 2 if min(grid.shape) > 6 else 1
    assert np.abs(inner(sampled - slope(grid.affine, grid.shape), margin)).max() < 1e-3
    assert Volume(voxels=sampled, affine=grid.affine).spacing == pytest.approx(to)
    assert middle(sampled, grid.affine) == pytest.approx(middle(seen.voxels, seen.affine))


def test_the_own_grid_is_the_volume_itself() -> None:
    """No blur where nothing changes."""
    seen = volume()
    assert np.array_equal(Grid.over(seen, SPACING).sample(seen.voxels), seen.voxels)


@pytest.mark.parametrize("to", [(3.0, 3.0, 3.0), (1.2, 0.5, 0.8)])
def test_what_comes_back_is_where_it_was(to: tuple[float, float, float]) -> None:
    """Slices come in order, on the volume's own shape, and the slope is as steep and as high."""
    seen = volume((22, 60, 48))
    grid = Grid.over(seen, to)
    there = grid.sample(seen.voxels)
    back = np.stack([picture for (picture,) in grid.restored(there[None])])
    assert back.shape == seen.voxels.shape
    assert np.abs(inner(back - seen.voxels, 7)).max() < 1e-2


def test_labels_come_back_to_the_voxel() -> None:
    """An off-centre box of two labels whose borders lie between samples has the same borders afterwards."""
    seen = volume((42, 81, 60), (1.0, 1.0, 1.0))
    labels = np.zeros(seen.voxels.shape, np.uint8)
    labels[6:21, 12:48, 9:33], labels[21:30, 12:48, 9:33] = 1, 2
    grid = Grid.over(seen, (3.0, 3.0, 3.0))
    coarse = grid.sample_labels(labels)
    assert np.array_equal(coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2), labels)
    back = grid.restored_labels(np.stack([(coarse == n).astype(np.float32) for n in range(3)]))
    assert (back != labels).mean() < 0.003  # linear interpolation rounds the edges off
    assert np.array_equal(back[:, 30, 20], labels[:, 30, 20])
    assert np.array_equal(back[10, :, 20], labels[10, :, 20])
    assert np.array_equal(back[10, 30], labels[10, 30])


def test_a_coarse_grid_does_not_alias() -> None:
    """Stripes finer than a sample become their mean, not stripes of another width."""
    seen = volume((12, 40, 40), (1.0, 1.0, 1.0))
    stripes = np.where(np.indices(seen.voxels.shape).sum(axis=0) % 2, 100.0, -100.0).astype(np.float32)
    assert np.abs(inner(Grid.over(seen, (3.0, 3.0, 3.0)).sample(stripes), 1)).max() < 5.0


def test_a_plane_is_continued_with_air_and_padding_is_air() -> None:
    """A network's canvas is square whatever the scan; -3024 outside the scanner's circle must not spread."""
    seen = volume()
    voxels = np.full(SHAPE, 40.0, np.float32)
    voxels[:, :20] = -3024.0
    grid = Grid.over(seen, (3.0, 3.0, 3.0), (24, 40))
    sampled = grid.sample(voxels)
    assert sampled.shape[1:] == (24, 40)
    assert sampled.min() == -1024.0
    assert (sampled[:, :, :10] == -1024.0).all()
    assert sampled[:, 14, 20] == pytest.approx(40.0)


def test_a_box_lies_around_its_place() -> None:
    """The middle of an odd box is the asked place, and its values are those of the place."""
    seen = volume()
    place = seen.to_patient((9.3, 20.7, 15.2))
    grid = Grid.around(seen, place, (1.0, 1.0, 1.0), (7, 9, 11))
    assert grid.sample(seen.voxels)[3, 4, 5] == pytest.approx(float(np.dot((2.0, 3.0, -5.0), place)), abs=1e-3)
    far = Grid.around(seen, (900.0, 900.0, 900.0), (1.0, 1.0, 1.0), (3, 3, 3))
    assert (far.sample(seen.voxels) == -1024.0).all()


def test_an_oblique_volume_stays_oblique() -> None:
    """Only spacing and extent change; the axes are the volume's own."""
    angle = np.deg2rad(20.0)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    seen = volume()
    affine = seen.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    oblique = Volume(voxels=slope(affine, SHAPE), affine=affine)
    grid = Grid.over(oblique, (3.0, 2.0, 2.0))
    assert np.abs(inner(grid.sample(oblique.voxels) - slope(grid.affine, grid.shape), 2)).max() < 1e-3


def test_values_are_clipped_and_scaled() -> None:
    """-1024 HU and below is -1, 400 and above is 1, and the middle is nought."""
    assert normalised(np.array([-3024.0, -1024.0, -312.0, 400.0, 3071.0])).tolist() == [-1.0, -1.0, 0.0, 1.0, 1.0]


def test_neighbours_are_in_order_and_the_ends_go_on() -> None:
    """The middle slice is the asked one, at both ends too."""
    slices = np.arange(4)[:, None, None]
    assert neighbours(slices, 2, 3).ravel().tolist() == [1, 2, 3]
    assert neighbours(slices, 0, 5).ravel().tolist() == [0, 0, 0, 1, 2]
    assert neighbours(slices, 3, 5).ravel().tolist() == [1, 2, 3, 3, 3]
