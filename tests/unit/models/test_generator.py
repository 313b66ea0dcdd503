"""Generated bodies: the same bits from the same seed, and labels that are true."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from scipy import ndimage

from models.generator import AIRWAYS, LEFT_LUNG, REGIONS, RIGHT_LUNG, Body, Wish, draw_body

COARSE = (5.0, 4.0, 4.0)


def fingerprint(body: Body) -> str:
    """Return a hash of all voxels and labels."""
    parts = (body.volume.voxels, body.volume.affine, body.labels, body.lesion_map)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()


def centre(body: Body, label: int) -> np.ndarray:
    """Return the centroid (L, P, S) of a label in mm."""
    return (body.volume.affine @ np.array([*ndimage.center_of_mass(body.labels == label), 1.0]))[:3]


@pytest.fixture(scope="module")
def tidy() -> Body:
    """A healthy chest."""
    return draw_body(11, Wish(tidy=True, spacing=(3.0, 2.5, 2.5)))


def test_a_seed_gives_the_same_bits_in_any_process() -> None:
    """A body is named by its seed: in a table, in a card, years later."""
    wish = Wish(spacing=COARSE, region="chest")
    here = fingerprint(draw_body(3, wish))
    assert fingerprint(draw_body(3, wish)) == here
    assert fingerprint(draw_body(4, wish)) != here
    program = (
        "from models.generator import Wish, draw_body; from tests.unit.models.test_generator import fingerprint;"
        f"print(fingerprint(draw_body(3, {wish!r})))"
    )
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == here


def test_the_grid_leaves_the_patient_as_he_is() -> None:
    """Other spacing, other noise: the same lungs, the same lesions."""
    one, other = (
        draw_body(5, Wish(region="chest", spacing=s, noise=n, disease="none", cut="whole", oblique_degrees=0.0, lesions=3))
        for s, n in (((4.0, 3.0, 3.0), 5.0), ((6.0, 4.0, 4.0), 40.0))
    )
    for label in (LEFT_LUNG, RIGHT_LUNG):
        volumes = [(body.labels == label).sum() * body.volume.voxel_ml for body in (one, other)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.03)
        assert np.abs(centre(one, label) - centre(other, label)).max() < 2.0
    assert {g.centre_mm for g in other.lesions} <= {g.centre_mm for g in one.lesions}


def test_a_tidy_chest_is_a_healthy_one(tidy: Body) -> None:
    """Two lungs of litres with the density of lung, no lesion, an airway in one piece."""
    for label in (LEFT_LUNG, RIGHT_LUNG):
        lung = tidy.labels == label
        assert 700 < lung.sum() * tidy.volume.voxel_ml < 4500
        assert -900 < float(np.median(tidy.volume.voxels[lung])) < -760
        assert ndimage.label(lung)[1] <= 3  # a voxel behind a vessel or two may be cut off
    airways = tidy.labels == AIRWAYS
    parts, _ = ndimage.label(airways, np.ones((3, 3, 3)))
    assert np.bincount(parts.ravel())[1:].max() > 0.97 * airways.sum()
    assert 15 < airways.sum() * tidy.volume.voxel_ml < 120
    assert float(np.median(tidy.volume.voxels[airways])) < -850
    assert not tidy.lesions and not tidy.lesion_map.any()


def test_left_is_left(tidy: Body) -> None:
    """A mirror image would be noticed: the sides, the heart, the stomach's place."""
    assert centre(tidy, LEFT_LUNG)[0] > 40 and centre(tidy, RIGHT_LUNG)[0] < -40
    volume = tidy.volume
    index = np.argwhere((tidy.labels == 0) & (volume.voxels > 0))
    places = index @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    between = (np.abs(places[:, 0]) < 80) & (np.abs(places[:, 2] + 75) < 15) & (np.abs(places[:, 1] + 28) < 25)
    assert places[between, 0].mean() > 5  # the heart lies to the left


@pytest.mark.parametrize("region", REGIONS)
def test_every_region_draws(region: str) -> None:
    """Whole HU of a scanner, one label per voxel, air somewhere; no lung where there is none."""
    body = draw_body(21, Wish(region=region, spacing=COARSE))
    voxels = body.volume.voxels
    assert voxels.dtype == np.float32 and np.array_equal(voxels, np.rint(voxels))
    assert voxels.shape == body.labels.shape == body.lesion_map.shape
    assert voxels.max() <= 3071 and voxels.min() >= -3024
    assert body.labels.max() <= AIRWAYS
    assert body.region == region
    if region in {"head", "legs", "object", "pelvis"}:
        assert not body.labels.any()


def test_an_unknown_region_is_refused() -> None:
    """A slip of the pen is told, with what there is."""
    with pytest.raises(ValueError, match="there is no region 'thorax'"):
        draw_body(1, Wish(region="thorax"))


@pytest.mark.parametrize("seed", [31, 32, 33])
def test_an_oblique_grid_keeps_to_the_contract(seed: int) -> None:
    """Axes stay nearest to head, back and left, and the labels turn with the voxels."""
    wish = Wish(region="chest", spacing=COARSE, oblique_degrees=25.0, disease="none", cut="whole", padding=0.0)
    body = draw_body(seed, wish)
    unit = body.volume.affine[:3, :3] / np.linalg.norm(body.volume.affine[:3, :3], axis=0)
    assert [int(np.argmax(unit[:, axis])) for axis in range(3)] == [2, 1, 0]
    assert body.volume.spacing == pytest.approx(COARSE)
    assert np.degrees(np.arccos((unit[2, 0] + unit[1, 1] + unit[0, 2] - 1) / 2)) == pytest.approx(25.0, abs=0.01)
    lung = np.isin(body.labels, (LEFT_LUNG, RIGHT_LUNG))
    assert float(np.median(body.volume.voxels[ndimage.binary_erosion(lung)])) < -700


def test_padding_lies_outside_the_field_only() -> None:
    """What no ray reached holds the padding value, and nothing else does."""
    body = draw_body(8, Wish(region="chest", spacing=COARSE, padding=-2000.0, cut="whole"))
    padded = body.volume.voxels == -2000
    assert padded[:, 0, 0].all() and not padded[:, padded.shape[1] // 2, padded.shape[2] // 2].any()
    assert body.volume.voxels[~padded].min() >= -1024
    assert not (draw_body(8, Wish(region="chest", spacing=COARSE, padding=0.0)).volume.voxels < -1024).any()


@pytest.mark.parametrize(("disease", "low", "high"), [("effusion", -20, 60), ("pneumothorax", -1024, -940)])
def test_what_fills_the_pleura_is_no_lung(disease: str, low: float, high: float) -> None:
    """Fluid and free air take a lung's room and lose its label."""
    sick, well = (
        draw_body(14, Wish(region="chest", spacing=COARSE, disease=d, cut="whole", noise=4.0, padding=0.0, lesions=0,
                           oblique_degrees=0.0))
        for d in (disease, "none")
    )  # fmt: skip
    side = LEFT_LUNG if sick.facts["disease_side"] == "left-lung" else RIGHT_LUNG
    lost = ndimage.binary_erosion((well.labels == side) & (sick.labels == 0))
    assert lost.sum() * sick.volume.voxel_ml > 30
    assert low < float(np.median(sick.volume.voxels[lost])) < high


def test_a_collapsed_lung_is_still_that_lung() -> None:
    """It is solid, it is labelled, and the other side is not touched."""
    body = draw_body(14, Wish(region="chest", spacing=COARSE, disease="collapse", cut="whole", padding=0.0))
    side, other = (
        (LEFT_LUNG, RIGHT_LUNG) if body.facts["disease_side"] == "left-lung" else (RIGHT_LUNG, LEFT_LUNG)
    )
    assert float(np.median(body.volume.voxels[body.labels == side])) > -150
    assert float(np.median(body.volume.voxels[body.labels == other])) < -700
