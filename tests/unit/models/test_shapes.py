"""Which shapes are a nodule's, on balls and tubes in a block of lung."""

from __future__ import annotations

import numpy as np
import pytest

from models.ct_lung_nodule.filters import Blob, blobs
from models.ct_lung_nodule.shapes import Region, region_of, score

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


def rated(values: np.ndarray, voxels: np.ndarray) -> tuple[Region | None, float]:
    """Return the region and the score of the blob nearest to the middle."""
    found = blobs(values, SPACING, SIGMAS, 140.0, "cpu")
    blob = min(found, key=lambda one: float(np.linalg.norm(np.subtract(one.index, MIDDLE))))
    region = region_of(blob, values, voxels, SPACING)
    return region, 0.0 if region is None else score(region, blob)


@pytest.mark.parametrize("radius", [4.0, 6.0, 9.0])
def test_a_ball_is_a_blob_of_its_own_size_in_its_own_place(radius: float) -> None:
    """The scale with the strongest answer is the radius divided by the root of 3, as near as the scales allow."""
    strongest: Blob = blobs(lung_with(ball(radius)), SPACING, SIGMAS, 140.0, "cpu")[0]
    assert np.abs(np.subtract(strongest.index, MIDDLE)).max() <= 1
    assert strongest.sigma == pytest.approx(min(SIGMAS, key=lambda sigma: abs(np.log(sigma * 3**0.5 / radius))))


@pytest.mark.parametrize("radius", [4.0, 6.0, 9.0])
def test_a_ball_is_a_nodule_of_its_own_size(radius: float) -> None:
    """Within half a voxel of its diameter, and near the top of the scores."""
    values = lung_with(ball(radius))
    region, rating = rated(values, values)
    assert region is not None
    assert region.diameter == pytest.approx(2 * radius, abs=0.5)
    assert rating > 0.85


def test_a_vessel_is_no_nodule() -> None:
    """A tube is round in two directions only."""
    _, y, x = coordinates()
    values = lung_with(y**2 + x**2 <= 3.0**2)
    assert rated(values, values)[1] == 0.0


def test_a_vessel_that_ends_in_a_nodule_is_cut_off() -> None:
    """The nodule keeps its own size."""
    _, y, x = coordinates()
    values = lung_with(ball(8.0) | ((y**2 + x**2 <= 1.5**2) & (np.arange(SHAPE[0])[:, None, None] > 20)))
    region, rating = rated(values, values)
    assert region is not None
    assert region.diameter == pytest.approx(16.0, abs=1.0)
    assert rating > 0.75


def test_a_lump_at_the_border_of_larger_tissue_is_no_nodule() -> None:
    """The search sees lung alone; what stands free there may be the edge of a consolidation or the mediastinum."""
    _, _, x = coordinates()
    values = lung_with(ball(6.0))
    buried = lung_with(ball(6.0) | (x > -2.0))
    assert rated(values, values)[1] > 0.75
    assert rated(values, buried)[1] == 0.0


def test_bone_is_no_nodule() -> None:
    """Denser through and through than a nodule is without calcium."""
    values = np.where(ball(6.0), np.float32(600.0), np.float32(-850.0))
    assert rated(values, values)[1] == 0.0
