"""What a volume promises to a model."""

from __future__ import annotations

import numpy as np
import pytest

from models import catalogue
from models.contract import Volume


def oblique() -> Volume:
    """A grid of 2 x 1.5 x 1 mm, turned by 30 degrees about the patient's long axis."""
    turn = np.deg2rad(30.0)
    affine = np.eye(4)
    affine[:3, 0] = (0.0, 0.0, 2.0)
    affine[:3, 1] = (-1.5 * np.sin(turn), 1.5 * np.cos(turn), 0.0)
    affine[:3, 2] = (np.cos(turn), np.sin(turn), 0.0)
    affine[:3, 3] = (10.0, -20.0, 300.0)
    return Volume(voxels=np.zeros((3, 4, 5), np.float32), affine=affine)


def test_spacing_and_volume_of_an_oblique_grid_are_those_of_its_axes() -> None:
    """A turned grid has the same voxels as a straight one."""
    volume = oblique()
    assert volume.spacing == pytest.approx((2.0, 1.5, 1.0))
    assert volume.voxel_ml == pytest.approx(0.003)


def test_an_index_goes_to_its_patient_position() -> None:
    """(z, y, x) in, (L, P, S) out: the order is exchanged exactly here."""
    volume = oblique()
    assert volume.to_patient((0, 0, 0)) == pytest.approx((10.0, -20.0, 300.0))
    assert volume.to_patient((2, 0, 0)) == pytest.approx((10.0, -20.0, 304.0))
    assert volume.to_patient((0, 0, 2)) == pytest.approx((10.0 + 3**0.5, -19.0, 300.0))


@pytest.mark.parametrize(
    ("voxels", "affine", "word"),
    [
        (np.zeros((3, 4), np.float32), np.eye(4), "3-D"),
        (np.zeros((3, 4, 5), np.float64), np.eye(4), "float64"),
        (np.zeros((3, 4, 5), np.float32), np.eye(3), "4 x 4"),
    ],
)
def test_what_is_no_volume_is_refused(voxels: np.ndarray, affine: np.ndarray, word: str) -> None:
    """The message names what is wrong with it."""
    with pytest.raises(ValueError, match=word):
        Volume(voxels=voxels, affine=affine)


def test_a_card_knows_its_segments_and_sites_by_key() -> None:
    """A site is looked up like a segment; what the card does not have is a KeyError that names it."""
    card = catalogue.card("ct-lung-nodule")
    assert card.kind_of("nodule").type.value == "27925004"
    assert card.kind_of("left-lung").label == "Left lung"
    with pytest.raises(KeyError, match="spleen"):
        card.kind_of("spleen")
