"""The lung model on volumes whose truth is known, and on volumes without lungs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from models import catalogue
from models.contract import Findings, Mask, NotApplicable, Segment, Volume
from models.evaluate.metrics import dice
from models.phantom import Phantom

from .conftest import quiet


def by_key(findings: Findings) -> dict[str, Segment]:
    """Return the segments by their keys."""
    return {segment.key: segment for segment in findings.segments}


def found_in(volume: Volume) -> Findings:
    """Run the model."""
    return catalogue.load("ct-lung", "cpu").run(volume, quiet)


def cut(volume: Volume, z: slice = slice(None), y: slice = slice(None), x: slice = slice(None)) -> Volume:
    """Return a part of *volume*, at the place where it was."""
    affine = volume.affine.copy()
    affine[:3, 3] = volume.to_patient((z.start or 0, y.start or 0, x.start or 0))
    return Volume(voxels=np.ascontiguousarray(volume.voxels[z, y, x]), affine=affine, modality=volume.modality)


def test_each_lung_is_found_where_it_is(lungs: Findings, phantom: Phantom) -> None:
    """Dice of 0.98 and a volume within 3 %: the phantom is easier than any patient."""
    found = by_key(lungs)
    assert set(found) == {"left-lung", "right-lung", "airways"}
    for key, truth in (("left-lung", phantom.left_lung), ("right-lung", phantom.right_lung)):
        assert dice(found[key].mask, truth) > 0.98
        truth_ml = float(truth.sum()) * 5.0 * 2.8 * 2.8 / 1000.0
        assert found[key].volume_ml == pytest.approx(truth_ml, rel=0.03)


def test_left_is_left_in_a_mirrored_patient(mirrored: Volume, phantom: Phantom) -> None:
    """Sides come from the grid's x, not from which lung is the smaller."""
    found = by_key(found_in(mirrored))
    assert dice(found["left-lung"].mask, phantom.right_lung[:, :, ::-1]) > 0.97
    assert dice(found["right-lung"].mask, phantom.left_lung[:, :, ::-1]) > 0.97


def test_the_same_volume_gives_the_same_bytes(lungs: Findings, thorax: Volume) -> None:
    """A rerun of the same work is the same object, to the last voxel."""
    again = by_key(found_in(thorax))
    assert all(again[one.key].mask.tobytes() == one.mask.tobytes() for one in lungs.segments)


def test_trachea_and_main_bronchi_stay_outside(lungs: Findings, thorax: Volume) -> None:
    """The gas in the middle above the carina is airway, not lung."""
    found = by_key(lungs)
    both = found["left-lung"].mask | found["right-lung"].mask
    _, _, x = (n // 2 for n in both.shape)
    assert thorax.voxels[45, 60:66, x].min() < -900  # the trachea is there
    assert not both[40:, :, x - 3 : x + 4].any()


def test_lungs_that_touch_in_front_are_parted(thorax: Volume, phantom: Phantom) -> None:
    """A bridge of lung across the anterior junction, as in emphysema, does not make them one."""
    voxels = thorax.voxels.copy()
    lung = phantom.left_lung | phantom.right_lung
    for z in range(34, 42):
        row = int(np.flatnonzero(lung[z].any(axis=1))[8])
        inside = np.flatnonzero(lung[z, row])
        voxels[z, row : row + 2, inside[0] : inside[-1]] = -850.0
    found = by_key(found_in(Volume(voxels=voxels, affine=thorax.affine)))
    assert dice(found["left-lung"].mask, phantom.left_lung) > 0.96
    assert dice(found["right-lung"].mask, phantom.right_lung) > 0.96


def test_one_lung_in_view_is_named_by_its_side_or_declined(thorax: Volume, phantom: Phantom) -> None:
    """Of the right half the network is sure, of the left one it is not: that is declined rather than guessed."""
    half = thorax.voxels.shape[2] // 2
    x = slice(0, half - 5)
    findings = found_in(cut(thorax, x=x))
    (right,) = findings.segments
    assert right.key == "right-lung" and dice(right.mask, phantom.right_lung[:, :, x]) > 0.96
    assert any("in view" in remark for remark in findings.remarks)
    with pytest.raises(NotApplicable, match="cannot be told"):
        found_in(cut(thorax, x=slice(half + 5, None)))


def test_a_slab_gives_what_is_there_and_says_where_it_is_cut(thorax: Volume, phantom: Phantom) -> None:
    """A partial volume must not be read as a whole one."""
    z = slice(26, 36)
    findings = found_in(cut(thorax, z=z))
    found = by_key(findings)
    for key, truth in (("left-lung", phantom.left_lung), ("right-lung", phantom.right_lung)):
        assert dice(found[key].mask, truth[z]) > 0.95
    assert all(any(f"{side} lung is cut" in remark for remark in findings.remarks) for side in ("left", "right"))
    assert all("upper" in remark and "lower" in remark for remark in findings.remarks)


def test_a_body_cut_at_every_side_of_the_image_still_has_its_lungs(thorax: Volume, phantom: Phantom) -> None:
    """A narrow field of view has no air around the body to start from."""
    y, x = slice(36, 96), slice(14, 114)
    found = by_key(found_in(cut(thorax, y=y, x=x)))
    assert dice(found["left-lung"].mask, phantom.left_lung[:, y, x]) > 0.95
    assert dice(found["right-lung"].mask, phantom.right_lung[:, y, x]) > 0.95


def water(radius: float = 100.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a water cylinder in air (z, y, x) at 4 mm with its coordinates in mm."""
    z, y, x = ((np.arange(n) - (n - 1) / 2) * 4.0 for n in (40, 70, 70))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    inside = np.broadcast_to(x**2 + y**2 < radius**2, (40, 70, 70))
    return np.where(inside, 0.0, -1000.0).astype(np.float32), z, y, x


def ellipsoid(z: np.ndarray, y: np.ndarray, x: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    """Return an ellipsoid; centre and radii in mm, (z, y, x)."""
    parts = zip((z, y, x), centre, radii, strict=True)
    return np.asarray(sum(((axis - at) / radius) ** 2 for axis, at, radius in parts) < 1.0)


def head() -> np.ndarray:
    """A skull with brain, nasal cavity, sinuses and mastoid cells."""
    voxels, z, y, x = water(85.0)
    ring = (x**2 + y**2 > 76.0**2) & (x**2 + y**2 < 85.0**2)
    voxels[np.broadcast_to(ring, voxels.shape)] = 900.0
    sinuses = (((-40, -55, 0), (30, 25, 14)), ((-35, -50, 30), (22, 20, 18)), ((-35, -50, -30), (22, 20, 18)))
    for centre, radii in sinuses:
        voxels[ellipsoid(z, y, x, centre, radii)] = -1000.0
    voxels[ellipsoid(z, y, x, (-40, 20, 65), (12, 10, 8))] = -700.0
    return voxels


def bowel() -> np.ndarray:
    """An abdomen with gas in stomach and colon, and stool with gas in it."""
    voxels, z, y, x = water(130.0)
    voxels[ellipsoid(z, y, x, (30, -60, 40), (30, 40, 45))] = -1000.0
    voxels[ellipsoid(z, y, x, (-40, -40, -75), (35, 35, 30))] = -980.0
    speckle = np.random.default_rng(3).normal(-350.0, 180.0, voxels.shape).astype(np.float32)
    stool = ellipsoid(z, y, x, (-20, 10, 85), (45, 25, 25))
    voxels[stool] = speckle[stool]
    return voxels


def on_foam() -> np.ndarray:
    """A leg on a foam pad, on a table that is hollow."""
    voxels, _, y, x = water(60.0)
    shape = voxels.shape
    voxels[np.broadcast_to((y > 62) & (y < 100) & (np.abs(x) < 110), shape)] = -960.0
    voxels[np.broadcast_to((y > 100) & (y < 130) & (np.abs(x) < 130), shape)] = -850.0
    voxels[np.broadcast_to((np.abs(y - 102) < 3) & (np.abs(x) < 130), shape)] = 100.0
    return voxels


def air_in_water() -> np.ndarray:
    """A quality phantom: a bottle of air in water."""
    voxels, z, y, x = water(100.0)
    voxels[ellipsoid(z, y, x, (0, 0, 0), (60, 50, 50))] = -1000.0
    return voxels


@pytest.mark.parametrize("make", [head, bowel, on_foam, air_in_water, lambda: np.full((20, 40, 40), -1000, np.float32)])
def test_what_has_no_lungs_is_declined_by_both_models(make: Callable[[], np.ndarray]) -> None:
    """Gas is not lung: sinuses, bowel, foam, bottles and plain air lead to a reason, not to a segment."""
    affine = np.zeros((4, 4))
    affine[2, 0] = affine[1, 1] = affine[0, 2] = 4.0
    affine[3, 3] = 1.0
    volume = Volume(voxels=make(), affine=affine)
    for name in catalogue.card_names():
        with pytest.raises(NotApplicable, match="lung"):
            catalogue.load(name, "cpu").run(volume, quiet)


def test_another_modality_is_declined(thorax: Volume) -> None:
    """MR values are no Hounsfield units, whatever they look like."""
    with pytest.raises(NotApplicable, match="MR"):
        found_in(Volume(voxels=thorax.voxels, affine=thorax.affine, modality="MR"))


def test_progress_grows_and_ends_below_one(thorax: Volume) -> None:
    """A person watching sees it move forward only."""
    seen: list[float] = []
    catalogue.load("ct-lung", "cpu").run(thorax, lambda done, _stage: seen.append(done))
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert all(0.0 <= done <= 1.0 for done in seen)
