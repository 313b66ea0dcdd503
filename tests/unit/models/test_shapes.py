"""Which places are candidates and what they fill, on balls and tubes in a block of lung."""

from __future__ import annotations

import numpy as np
import pytest

from models.contract import Volume
from models.ct_lung_nodule.candidates import candidates, roundness
from models.ct_lung_nodule.filters import Blob, blobs
from models.ct_lung_nodule.shapes import Region, region_of

SPACING = (1.5, 1.0, 1.0)  # mm
SHAPE = (40, 60, 60)
MIDDLE = (20, 30, 30)
SIGMAS = (1.6, 3.0, 5.4)


def coordinates() -> tuple[np.ndarray, ...]:
    """Return mm from the middle, for z, y and x."""
    axes = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return tuple((axis - at) * mm for axis, at, mm in zip(axes, MIDDLE, SPACING, strict=True))


def lung_with(solid: np.ndarray) -> np.ndarray:
    """Return lung in which *solid* is soft tissue."""
    return np.where(np.broadcast_to(solid, SHAPE), 40.0, -850.0).astype(np.float32)


def ball(radius: float) -> np.ndarray:
    """Return a ball in the middle."""
    z, y, x = coordinates()
    return np.asarray(z**2 + y**2 + x**2 <= radius**2)


def nearest(values: np.ndarray) -> Blob:
    """Return the blob nearest to the middle."""
    found = blobs(values, SPACING, SIGMAS, 100.0, "cpu")
    return min(found, key=lambda one: float(np.linalg.norm(np.subtract(one.index, MIDDLE))))


def filled(values: np.ndarray) -> Region:
    """Return what that blob fills."""
    region = region_of(nearest(values), values, values, SPACING)
    assert region is not None
    return region


@pytest.mark.parametrize("radius", [4.0, 6.0, 9.0])
def test_a_ball_is_a_blob_of_its_own_size_in_its_own_place(radius: float) -> None:
    """The scale with the strongest answer is the radius divided by the root of 3, as near as the scales allow."""
    strongest: Blob = blobs(lung_with(ball(radius)), SPACING, SIGMAS, 140.0, "cpu")[0]
    assert np.abs(np.subtract(strongest.index, MIDDLE)).max() <= 1
    assert strongest.sigma == pytest.approx(min(SIGMAS, key=lambda sigma: abs(np.log(sigma * 3**0.5 / radius))))


@pytest.mark.parametrize("hounsfield", [40.0, -500.0])
@pytest.mark.parametrize("radius", [4.0, 6.0, 9.0])
def test_a_ball_is_outlined_in_its_own_size(radius: float, hounsfield: float) -> None:
    """Within half a voxel of its diameter, whether it is solid or ground glass."""
    values = np.where(ball(radius), np.float32(hounsfield), np.float32(-850.0))
    assert filled(values).diameter == pytest.approx(2 * radius, abs=0.5)


def test_the_grain_of_ground_glass_does_not_eat_into_it() -> None:
    """Noise of 60 HU on a contrast of 350: the outline has a mean's size, not that of its holes."""
    noise = np.random.default_rng(1).normal(0.0, 60.0, SHAPE)
    values = (np.where(ball(7.0), -500.0, -850.0) + noise).astype(np.float32)
    assert filled(values).diameter == pytest.approx(14.0, abs=1.5)


def test_a_vessel_that_ends_in_a_nodule_is_cut_off() -> None:
    """The nodule keeps its own size."""
    _, y, x = coordinates()
    values = lung_with(ball(8.0) | ((y**2 + x**2 <= 1.5**2) & (np.arange(SHAPE[0])[:, None, None] > 20)))
    assert filled(values).diameter == pytest.approx(16.0, abs=1.0)


def test_what_is_too_large_for_a_nodule_has_no_outline() -> None:
    """A mass, or a border of the lung that bulges."""
    values = lung_with(ball(22.0))
    assert region_of(Blob(index=MIDDLE, sigma=9.4, strength=500.0), values, values, SPACING) is None


def test_a_ball_is_round_in_every_direction_and_a_vessel_is_not() -> None:
    """Curvature at the blob's own scale: near 1 of a ball, near 0 along a vessel, a sheet below either."""
    _, y, x = coordinates()
    vessel, sheet = lung_with(y**2 + x**2 <= 3.0**2), lung_with(np.abs(x) <= 2.0)
    assert roundness(lung_with(ball(6.0)), SPACING, Blob(index=MIDDLE, sigma=3.0, strength=0.0)) > 0.8
    assert abs(roundness(vessel, SPACING, Blob(index=MIDDLE, sigma=2.0, strength=0.0))) < 0.1
    assert abs(roundness(sheet, SPACING, Blob(index=MIDDLE, sigma=2.0, strength=0.0))) < 0.1


@pytest.mark.parametrize("hounsfield", [40.0, -550.0])
def test_solid_nodules_and_ground_glass_are_candidates_and_a_vessel_is_none(hounsfield: float) -> None:
    """Beside a vessel that answers the filter more strongly than ground glass."""
    _, y, x = coordinates()
    voxels = np.where(ball(5.0), np.float32(hounsfield), np.float32(-850.0))
    voxels[np.broadcast_to((y + 18.0) ** 2 + (x + 18.0) ** 2 <= 2.5**2, SHAPE)] = 40.0
    affine = np.array([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.5, 0, 0, 0], [0, 0, 0, 1.0]])
    found = candidates(Volume(voxels=voxels, affine=affine), np.ones(SHAPE, bool), "cpu")
    (inner,) = [one for one in found if 6 < one.blob.index[0] < SHAPE[0] - 6]  # a vessel's ends are round
    assert np.abs(np.subtract(inner.blob.index, MIDDLE)).max() <= 1
    assert inner.centre_mm == pytest.approx((30.0, 30.0, 30.0), abs=1.6)
