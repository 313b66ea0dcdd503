"""The phantom: a truth that is exact, and asymmetric in every direction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from models.contract import Mask
from models.phantom import Phantom, thorax_phantom

from .conftest import SMALL, SMALL_SPACING


def centre(mask: Mask, phantom: Phantom) -> np.ndarray:
    """Return the centroid (L, P, S) in mm."""
    return (phantom.affine @ np.array([*ndimage.center_of_mass(mask), 1.0]))[:3]


def test_the_same_seed_gives_the_same_voxels(phantom: Phantom) -> None:
    """A test that fails today fails tomorrow; another seed changes the noise and not the truth."""
    again, other = thorax_phantom(SMALL, SMALL_SPACING, seed=0), thorax_phantom(SMALL, SMALL_SPACING, seed=1)
    assert np.array_equal(again.voxels, phantom.voxels)
    assert not np.array_equal(other.voxels, phantom.voxels)
    assert np.array_equal(other.left_lung, phantom.left_lung)


def test_voxels_are_hounsfield_units_that_a_scanner_could_store(phantom: Phantom) -> None:
    """Whole numbers of 12 bits; the lung is lung, the air is air."""
    assert phantom.voxels.dtype == np.float32
    assert np.array_equal(phantom.voxels, np.rint(phantom.voxels))
    assert phantom.voxels.min() >= -1024 and phantom.voxels.max() <= 3071
    lung = phantom.left_lung | phantom.right_lung
    assert -900 < float(np.median(phantom.voxels[lung])) < -780
    assert float(np.median(phantom.voxels[:, 0, :])) == pytest.approx(-1000, abs=15)


def test_the_left_lung_is_on_the_left_and_the_smaller(phantom: Phantom) -> None:
    """x grows towards the patient's left, and the heart takes its room there."""
    assert centre(phantom.left_lung, phantom)[0] > 40 and centre(phantom.right_lung, phantom)[0] < -40
    assert phantom.left_lung.sum() < phantom.right_lung.sum()
    assert not (phantom.left_lung & phantom.right_lung).any()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_no_flip_leaves_the_thorax_as_it_is(phantom: Phantom, axis: int) -> None:
    """A mistake of any direction shows: head for foot, front for back, left for right."""
    lung = phantom.left_lung | phantom.right_lung
    unlike = float((lung ^ np.flip(lung, axis)).sum()) / float(lung.sum())
    assert unlike > 0.04


def test_each_nodule_is_solid_and_in_the_lung_it_names(phantom: Phantom) -> None:
    """The truth agrees with the voxels at its own coordinates."""
    assert {ball.side for ball in phantom.nodules} == {"left-lung", "right-lung"}
    for ball in phantom.nodules:
        index = np.linalg.solve(phantom.affine, np.array([*ball.centre_mm, 1.0]))[:3]
        z, y, x = (round(float(one)) for one in index)
        lung = phantom.left_lung if ball.side == "left-lung" else phantom.right_lung
        assert lung[z, y, x]
        assert phantom.voxels[z, y, x] > -250  # 5 mm voxels dilute the smaller one
