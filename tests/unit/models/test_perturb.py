"""Changed volumes show the same patient in the same place, and their reference with them."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract import Mask, Volume
from models.evaluate.perturb import PERTURBATIONS, NothingToChange, Scene

MIDDLE, RADIUS = np.array((12.0, -20.0, 33.0)), 21.0  # mm, of a ball off the middle of the images


def scene(shape: tuple[int, int, int] = (36, 130, 100), spacing: tuple[float, float, float] = (2.0, 0.9, 1.2)) -> Scene:
    """A ball of 0 HU in -800, on a grid that does not start at 0."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3], affine[3, 3] = (-45.0, -70.0, 0.0), 1.0
    volume = Volume(voxels=np.zeros(shape, np.float32), affine=affine)
    ball = distances(volume) <= RADIUS
    voxels = np.where(ball, 0.0, -800.0).astype(np.float32)
    return Scene(volume=Volume(voxels=voxels, affine=affine), reference={"ball": ball})


def distances(volume: Volume) -> np.ndarray:
    """Each voxel's distance in mm from the ball's middle."""
    places = np.indices(volume.voxels.shape).reshape(3, -1).T @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    return np.linalg.norm(places - MIDDLE, axis=1).reshape(volume.voxels.shape)


def centre(mask: Mask, volume: Volume) -> np.ndarray:
    """The middle of *mask* in patient coordinates."""
    return np.array(volume.to_patient(tuple(np.argwhere(mask).mean(axis=0))))


@pytest.mark.parametrize("name", ["64x64", "7mm", "noise-50", "padding-2000", "double-oblique"])
def test_the_ball_stays_where_it_is_in_the_patient(name: str) -> None:
    """Middle and volume of the reference are the ball's own, and the values under it are too."""
    before = scene()
    after = PERTURBATIONS[name](before)
    ball = after.reference["ball"]
    assert np.abs(centre(ball, after.volume) - MIDDLE).max() < 0.35
    assert ball.sum() * after.volume.voxel_ml == pytest.approx(4 / 3 * np.pi * RADIUS**3 / 1000, rel=0.03)
    away = distances(after.volume)
    margin = 1.2 * max(after.volume.spacing)
    assert after.volume.voxels[away < RADIUS - margin].mean() == pytest.approx(0.0, abs=2.0)
    assert np.median(after.volume.voxels[(away > RADIUS + margin) & (away < RADIUS + 2 * margin)]) == pytest.approx(
        -800.0, abs=10.0
    )
    assert after.volume.voxels.dtype == np.float32
    assert not np.array_equal(after.volume.voxels, before.volume.voxels)


def test_each_does_what_its_name_says() -> None:
    """Size, spacing, noise, padding and axes."""
    before = scene()
    after = {name: change(before).volume for name, change in PERTURBATIONS.items()}
    assert after["64x64"].voxels.shape == (36, 64, 64)
    assert after["7mm"].spacing == pytest.approx((7.0, 0.9, 1.2))
    assert (after["noise-50"].voxels - before.volume.voxels).std() == pytest.approx(50.0, rel=0.02)
    assert set(after["padding-2000"].voxels[:, 0, 0]) == {-2000.0}
    assert after["padding-2000"].voxels[0, 65, 50] != -2000.0
    axes = after["double-oblique"].affine[:3, :3] / after["double-oblique"].spacing
    assert axes.T @ axes == pytest.approx(np.eye(3))
    tilt = np.degrees(np.arccos(axes[2, 0]))
    assert tilt == pytest.approx(np.degrees(np.arccos(np.cos(np.radians(12)) * np.cos(np.radians(8)))))


def test_the_halves_make_the_whole() -> None:
    """Upper above lower, each in its place."""
    before = scene()
    upper, lower = PERTURBATIONS["upper-half"](before), PERTURBATIONS["lower-half"](before)
    assert np.array_equal(np.concatenate([lower.volume.voxels, upper.volume.voxels]), before.volume.voxels)
    assert np.array_equal(np.concatenate([lower.reference["ball"], upper.reference["ball"]]), before.reference["ball"])
    assert upper.volume.to_patient((0, 0, 0)) == pytest.approx(before.volume.to_patient((18, 0, 0)))
    assert lower.volume.to_patient((0, 0, 0)) == pytest.approx(before.volume.to_patient((0, 0, 0)))


def test_the_reference_is_cut_with_the_images() -> None:
    """What the padding hides is not asked for."""
    before = scene()
    whole = Scene(volume=before.volume, reference={"all": np.ones(before.volume.voxels.shape, bool)})
    after = PERTURBATIONS["padding-2000"](whole)
    assert np.array_equal(after.reference["all"], after.volume.voxels != -2000.0)
    turned = PERTURBATIONS["double-oblique"](whole)
    assert np.array_equal(turned.reference["all"], turned.volume.voxels > -1000.0)
    assert not turned.reference["all"].all()


@pytest.mark.parametrize(
    ("name", "shape", "spacing"),
    [("64x64", (9, 60, 64), (3, 1, 1)), ("7mm", (9, 70, 70), (7, 1, 1)), ("upper-half", (4, 70, 70), (3, 1, 1))],
)
def test_what_is_so_already_or_too_small_is_left_alone(
    name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    """A variant that changes nothing would count one result twice."""
    with pytest.raises(NothingToChange):
        PERTURBATIONS[name](scene(shape, spacing))
