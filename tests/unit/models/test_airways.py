"""The airways of the lung model: followed through the voxels, kept apart from the lungs, not drawn where they leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models import catalogue
from models.contract import Findings, Mask, Volume
from models.ct_lung.airways import Leak, airways_on_the_scan
from models.ct_lung.model import load_lungs
from models.evaluate.airways import Row, figures
from models.evaluate.metrics import dice
from models.generator import AIRWAYS, LEFT_LUNG, RIGHT_LUNG, Wish, draw_body
from models.phantom import Phantom, thorax_phantom
from models.sampling import Grid

from .conftest import quiet


@pytest.fixture(scope="module")
def scan() -> tuple[Phantom, Volume, Grid]:
    """A phantom of fine voxels, and the network's grid over it."""
    phantom = thorax_phantom((60, 192, 192), (5.0, 1.8667, 1.8667))
    volume = Volume(voxels=phantom.voxels, affine=phantom.affine)
    return phantom, volume, Grid.over(volume, (3.0, 3.0, 3.0))


def seen(phantom: Phantom, grid: Grid, *, upper_part: bool = False) -> Mask:
    """Return the lumen on the network's grid, or only what of it lies above the middle of the chest."""
    told = grid.sample_labels(phantom.airways.astype(np.uint8)) > 0
    if upper_part:
        told[: len(told) // 2 + 5] = False
    return told


def by_key(findings: Findings) -> dict[str, Mask]:
    """Return the masks by the keys of their segments."""
    return {one.key: one.mask for one in findings.segments}


def test_the_lumen_is_followed_beyond_what_the_network_saw(scan: tuple[Phantom, Volume, Grid]) -> None:
    """Of the trachea's upper part alone trachea and both main bronchi come, and of all of them no more."""
    phantom, volume, grid = scan
    lungs = phantom.left_lung, phantom.right_lung
    whole = airways_on_the_scan(seen(phantom, grid), lungs, grid, volume)
    part = airways_on_the_scan(seen(phantom, grid, upper_part=True), lungs, grid, volume)
    assert dice(whole, phantom.airways) > 0.9
    assert dice(part, whole) > 0.95


def test_a_bronchus_that_the_lung_encloses_is_airway(scan: tuple[Phantom, Volume, Grid]) -> None:
    """Where the drawn lungs take the main bronchi in, these are told apart by the wall between."""
    phantom, volume, grid = scan
    bronchi = phantom.airways.copy()
    bronchi[len(bronchi) // 2 + 5 :] = False
    swollen = phantom.left_lung | bronchi, phantom.right_lung
    found = airways_on_the_scan(seen(phantom, grid, upper_part=True), swollen, grid, volume)
    assert dice(found, phantom.airways) > 0.85


def test_a_hole_in_the_wall_does_not_let_lung_in(scan: tuple[Phantom, Volume, Grid]) -> None:
    """Lung as thin as the lumen's gas, and open to it: the airways are those that the network saw, without the lung."""
    phantom, volume, grid = scan
    voxels = volume.voxels.copy()
    lung = phantom.left_lung | phantom.right_lung
    voxels[lung] = -990.0
    z, y, x = (n // 2 for n in voxels.shape)
    voxels[z + 6 : z + 9, y, x - 40 : x + 40] = -1000.0  # from lung to lung, through the trachea
    found = airways_on_the_scan(
        seen(phantom, grid), (phantom.left_lung, phantom.right_lung), grid, replace(volume, voxels=voxels)
    )
    assert dice(found, phantom.airways) > 0.8
    assert not (found & lung).any()


def test_what_is_too_large_for_airways_is_not_drawn(scan: tuple[Phantom, Volume, Grid]) -> None:
    """A network that took a lung's worth of thin gas for airways is told so, in words for the report."""
    phantom, volume, grid = scan
    voxels = volume.voxels.copy()
    voxels[phantom.right_lung] = -990.0
    empty = np.zeros_like(phantom.airways)
    told = grid.sample_labels(phantom.right_lung.astype(np.uint8)) > 0
    with pytest.raises(Leak, match=r"not drawn: \d{3,4} mL"):
        airways_on_the_scan(told, (phantom.left_lung, empty), grid, replace(volume, voxels=voxels))


@pytest.mark.parametrize("millilitres", [0.0, 1.0], ids=["none", "a stray bronchus"])
def test_little_is_not_drawn(millilitres: float, scan: tuple[Phantom, Volume, Grid]) -> None:
    """A bubble of gas in the mediastinum is no airway, whatever the network takes it for."""
    phantom, volume, grid = scan
    voxels = np.where(volume.voxels < -900.0, np.float32(40.0), volume.voxels)
    bubble = np.zeros_like(phantom.airways)
    z, y, x = (n // 2 for n in voxels.shape)
    count = round(millilitres / volume.voxel_ml / 9)
    bubble[z : z + count, y : y + 3, x : x + 3] = millilitres > 0
    voxels[bubble] = -1000.0
    told = grid.sample_labels(bubble.astype(np.uint8)) > 0
    told[: len(told) // 2, 20:22, 20:22] = True  # and no gas there at all
    lungs = phantom.left_lung, phantom.right_lung
    assert not airways_on_the_scan(told, lungs, grid, replace(volume, voxels=voxels)).any()


def test_a_mirrored_patient_has_the_mirrored_airways(lungs: Findings, mirrored: Volume, phantom: Phantom) -> None:
    """The network is a little surer on one side than on the other; the voxels are not."""
    upright, turned = by_key(lungs)["airways"], by_key(catalogue.load("ct-lung", "cpu").run(mirrored, quiet))["airways"]
    assert dice(upright, phantom.airways) > 0.85
    assert dice(turned[:, :, ::-1], upright) > 0.95


def test_a_generated_chest_has_its_airways_beside_its_lungs() -> None:
    """Nearly all of the labelled lumen, next to nothing else, and no voxel twice."""
    body = draw_body(970_003, Wish(region="chest", spacing=(5.0, 2.5, 2.5), tidy=True, disease="none"))
    labels = body.labels
    found = by_key(catalogue.load("ct-lung", "cpu").run(body.volume, quiet))
    assert set(found) == {"left-lung", "right-lung", "airways"}
    assert dice(found["airways"], labels == AIRWAYS) > 0.85
    assert not (found["airways"] & (found["left-lung"] | found["right-lung"])).any()
    assert not (found["airways"] & np.isin(labels, (LEFT_LUNG, RIGHT_LUNG))).any()


def test_the_lungs_that_nodules_are_sought_in_keep_their_bronchi(lungs: Findings, thorax: Volume) -> None:
    """`lungs` draws no airways, and what `run` takes from them is gas of large bronchi alone."""
    found = by_key(lungs)
    for key, lung in zip(("left-lung", "right-lung"), load_lungs("cpu").lungs(thorax, quiet), strict=True):
        assert np.array_equal(lung & ~found["airways"], found[key])


def test_the_figures_leave_out_what_shows_no_lumen() -> None:
    """A chest that was missed counts with Dice 0; one without lumen in view counts only where something was drawn."""
    good = Row(
        body="a", variant="", spacing=(1.0, 1.0, 1.0), reference_ml=50.0, found_ml=48.0, dice=0.96, precision=0.99,
        volume_error=-0.04, lung_dice=0.98, lung_dice_with_bronchi=0.97,
    )  # fmt: skip
    missed = replace(good, body="b", found_ml=0.0, dice=0.0, precision=None, volume_error=-1.0)
    without = replace(good, body="c", reference_ml=0.0, found_ml=3.0, dice=0.0, precision=0.0, volume_error=None)
    told = figures([good, missed, without, replace(good, variant="7mm", dice=0.9)])
    assert (told["bodies"], told["judged"], told["drawn"], told["drawn_without"]) == (3, 2, 1, 1)
    assert (told["dice_median"], told["dice_least"], told["precision_least"]) == (0.48, 0.0, 0.99)
    assert (told["volume_error_median"], told["harder_dice_median"], told["lungs_better"]) == (0.04, 0.9, 3)
