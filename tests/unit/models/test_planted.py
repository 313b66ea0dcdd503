"""Planted nodules lie in the lung, are what they say, and come again with their seed."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract import Volume
from models.evaluate.metrics import objects_of
from models.evaluate.planted import KINDS, Garden, plant
from models.evaluate.results import ball_diameter
from models.phantom import Phantom


@pytest.fixture(scope="module")
def garden(phantom: Phantom, thorax: Volume) -> Garden:
    """Six nodules in the phantom's lungs."""
    return plant(thorax, phantom.left_lung | phantom.right_lung, seed=3, count=6)


def test_nodules_lie_whole_in_the_lung_and_apart(garden: Garden, phantom: Phantom, thorax: Volume) -> None:
    """Each is one object, round its middle, of about its diameter; nothing beyond the lung is touched."""
    lungs = phantom.left_lung | phantom.right_lung
    assert len(garden.nodules) == 6
    assert objects_of(garden.objects > 0).max() == 6
    assert not (garden.objects.astype(bool) & ~lungs).any()
    assert np.array_equal(garden.volume.voxels[~lungs], thorax.voxels[~lungs])
    for number, nodule in enumerate(garden.nodules, start=1):
        body = garden.objects == number
        middle = thorax.to_patient(tuple(np.argwhere(body).mean(axis=0)))
        assert np.linalg.norm(np.subtract(middle, nodule.centre_mm)) < 3.0
        assert ball_diameter(body.sum() * thorax.voxel_ml) == pytest.approx(nodule.diameter_mm, rel=0.3)


def test_nodules_keep_clear_of_each_other_in_a_crowded_lung(phantom: Phantom, thorax: Volume) -> None:
    """Six millimetres from one ball to the next, however many there are."""
    nodules = plant(thorax, phantom.left_lung, seed=3, count=40).nodules
    assert len(nodules) > 20
    for number, one in enumerate(nodules):
        for other in nodules[:number]:
            apart = np.linalg.norm(np.subtract(one.centre_mm, other.centre_mm))
            assert apart >= (one.diameter_mm + other.diameter_mm) / 2 + 5.9


def test_kinds_have_their_density(garden: Garden) -> None:
    """Solid is tissue in its middle, ground glass lies between lung and tissue, part-solid has both."""
    seen = {}
    for number, nodule in enumerate(garden.nodules, start=1):
        values = garden.volume.voxels[garden.objects == number]
        seen.setdefault(nodule.kind, []).append((values.max(), np.median(values)))
    assert set(seen) == set(KINDS)
    assert all(most > 0 for most, _ in seen["solid"])
    assert all(-650 < middle < -350 and most < -200 for most, middle in seen["ground-glass"])
    assert all(most > -200 and middle < -200 for most, middle in seen["part-solid"])


def test_a_seed_gives_the_same_nodules_and_another_gives_others(
    garden: Garden, phantom: Phantom, thorax: Volume
) -> None:
    """Figures can be repeated; the volume that was given stays as it was."""
    before = thorax.voxels.copy()
    again = plant(thorax, phantom.left_lung | phantom.right_lung, seed=3, count=6)
    other = plant(thorax, phantom.left_lung | phantom.right_lung, seed=4, count=6)
    assert again.nodules == garden.nodules
    assert np.array_equal(again.volume.voxels, garden.volume.voxels)
    assert other.nodules != garden.nodules
    assert np.array_equal(thorax.voxels, before)


def test_nothing_is_planted_on_vessels_or_where_there_is_no_room(phantom: Phantom, thorax: Volume) -> None:
    """A lung full of tissue, and one that is too thin, take no nodule."""
    lungs = phantom.left_lung | phantom.right_lung
    dense = Volume(voxels=np.where(lungs, np.float32(-100), thorax.voxels), affine=thorax.affine)
    assert plant(dense, lungs, seed=3, count=2).nodules == ()
    thin = np.zeros_like(lungs)
    thin[30] = lungs[30]
    assert plant(thorax, thin, seed=3, count=2).nodules == ()
