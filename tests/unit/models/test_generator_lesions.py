"""Lesions of generated chests, and the small boxes about them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from models.generator import LEFT_LUNG, RIGHT_LUNG, Body, Wish, draw_body, draw_crop
from models.generator.body import KINDS
from models.generator.crop import DECOYS

FINE = (1.5, 1.5, 1.5)


def index_of(body: Body, place: tuple[float, float, float]) -> tuple[int, int, int]:
    """Return the voxel (z, y, x) nearest to a place (L, P, S)."""
    z, y, x = np.rint(np.linalg.solve(body.volume.affine, np.array([*place, 1.0]))[:3]).astype(int)
    return int(z), int(y), int(x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lesion_is_where_it_says(kind: str) -> None:
    """Its middle lies in its own one piece, in its own lung; its volume is that of its diameter."""
    size = (30.0, 36.0) if kind == "mass" else (14.0, 18.0)
    wish = Wish(region="chest", spacing=(3.0, 2.0, 2.0), lesions=1, kinds=(kind,), diameters_mm=size, cut="whole",
                disease="none", oblique_degrees=0.0, padding=0.0)  # fmt: skip
    body = draw_body(17, wish)
    assert len(body.lesions) == 1
    lesion = body.lesions[0]
    theirs = body.lesion_map == lesion.number
    assert theirs[index_of(body, lesion.centre_mm)]
    assert ndimage.label(theirs)[1] == 1
    assert set(np.unique(body.labels[theirs])) == {LEFT_LUNG if lesion.side == "left-lung" else RIGHT_LUNG}
    diameter = (theirs.sum() * body.volume.voxel_ml * 1000 * 6 / np.pi) ** (1 / 3)
    if kind == "juxtapleural":  # the pleura cuts it
        assert 0.5 * lesion.diameter_mm < diameter < lesion.diameter_mm + 2.0
    else:
        assert diameter == pytest.approx(lesion.diameter_mm, abs=2.0)


def test_lesions_look_like_their_kind() -> None:
    """Lime is bright, ground glass is thin, a cavity has air inside."""
    means = {}
    for kind in ("calcified", "solid", "ground-glass", "cavity"):
        wish = Wish(region="chest", spacing=(2.5, 2.0, 2.0), lesions=1, kinds=(kind,), diameters_mm=(16.0, 18.0),
                    disease="none", cut="whole", noise=3.0, padding=0.0)  # fmt: skip
        body = draw_body(19, wish)
        inside = body.volume.voxels[ndimage.binary_erosion(body.lesion_map == 1)]
        means[kind] = float(np.median(inside)) if kind != "cavity" else float(np.percentile(inside, 10))
    assert means["calcified"] > 120 > means["solid"] > -40
    assert -780 < means["ground-glass"] < -350
    assert means["cavity"] < -600


def test_no_lesions_where_none_are_wished() -> None:
    """The wish for none is kept, whatever the seed would draw."""
    for seed in range(3):
        body = draw_body(seed, Wish(region="chest", spacing=(7.0, 5.0, 5.0), lesions=0))
        assert not body.lesions and not body.lesion_map.any()


@pytest.mark.parametrize("seed", range(40, 46))
def test_a_box_has_its_lesion_in_the_middle(seed: int) -> None:
    """The middle voxel is the lesion's, at the place that it names."""
    body = draw_crop(seed, size_mm=33.0, spacing=FINE, lesion=True)
    assert body.volume.voxels.shape == (22, 22, 22)
    assert len(body.lesions) == 1
    middle = index_of(body, body.lesions[0].centre_mm)
    assert middle == (11, 11, 11)
    assert body.lesion_map[middle] == body.lesions[0].number


def test_a_box_without_lesion_has_none() -> None:
    """Every kind of decoy comes up, each in or beside a lung, none with a lesion."""
    seen = set()
    for seed in range(24):
        body = draw_crop(seed, size_mm=32.0, spacing=(2.0, 2.0, 2.0), lesion=False)
        seen.add(body.facts["decoy"])
        assert not body.lesions and not body.lesion_map.any()
        assert np.isin(body.labels, (LEFT_LUNG, RIGHT_LUNG)).mean() > 0.02
    assert len(seen) >= 5 and seen <= set(DECOYS)


def test_a_box_shows_the_same_patient_as_the_whole() -> None:
    """What is evaluated small is what would have been evaluated large: the same labels at the same places."""
    box = draw_crop(51, size_mm=36.0, spacing=(3.0, 3.0, 3.0), lesion=True)
    lesion = box.lesions[0]
    again = draw_crop(51, size_mm=60.0, spacing=(3.0, 3.0, 3.0), lesion=True)
    inner = tuple(slice(4, 16) for _ in range(3))
    assert again.lesions[0].centre_mm == lesion.centre_mm
    assert np.array_equal(again.labels[inner], box.labels)
    assert np.array_equal(again.lesion_map[inner], box.lesion_map)
