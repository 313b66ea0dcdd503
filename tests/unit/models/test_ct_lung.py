"""What the lung model makes of the network's word: pieces of air, sides, surfaces; and the network's word itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from models import catalogue
from models.contract import Mask, NotApplicable, Volume
from models.ct_lung.surface import AIRWAYS, LEFT, RIGHT, Classes, lung_field, on_the_scan, sides
from models.evaluate.labels import read_label
from models.evaluate.metrics import dice
from models.evaluate.perturb import PERTURBATIONS, Scene
from models.generator import LEFT_LUNG, RIGHT_LUNG, Wish, draw_body
from models.masks import closed, dilated, filled, largest
from models.network import read_facts
from models.phantom import thorax_phantom
from models.sampling import Grid, Values, padding
from node.dicom.reader import read_series

from .conftest import quiet

SPACING = (5.0, 2.8, 2.8)  # mm: as wide as the network's own, so the phantom's grid may stand for it
AFFINE = np.array([[0.0, 0.0, 1.4, 0.0], [0.0, 1.4, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
WEIGHTS = Path(catalogue.__file__).parent / "ct_lung" / "weights.safetensors"


@pytest.fixture(scope="module")
def seen() -> tuple[Classes, Values]:
    """The phantom as a network would tell it that makes no fault, and its values."""
    phantom = thorax_phantom((60, 128, 128), SPACING)
    classes = np.where(phantom.left_lung, LEFT, 0) + np.where(phantom.right_lung, RIGHT, 0)
    return classes.astype(np.uint8), phantom.voxels.copy()


def everything(classes: Classes) -> Mask:
    """Return all that the network takes for lung."""
    return np.isin(classes, (LEFT, RIGHT))


def test_what_the_network_sees_is_kept_and_its_gaps_are_closed_by_the_air_itself(seen: tuple[Classes, Values]) -> None:
    """A hole in the network's word, in the middle of a lung, is lung: the air there hangs together with the rest."""
    classes, values = seen
    holed = classes.copy()
    holed[28:34, 50:70, 30:44] = 0
    assert everything(classes)[28:34, 50:70, 30:44].any()
    assert dice(lung_field(holed, values, SPACING), everything(classes)) > 0.97


@pytest.mark.parametrize(("value", "place"), [(-1000.0, (1, 60, 44)), (-920.0, (20, 112, 60))], ids=["gas", "foam"])
def test_neither_gas_in_the_body_nor_foam_beside_it_is_lung_whatever_the_network_says(
    value: float, place: tuple[int, int, int], seen: tuple[Classes, Values]
) -> None:
    """A bubble in the liver is too thin for lung, a cushion behind the back is not in the body."""
    classes, values = seen[0].copy(), seen[1].copy()
    z, y, x = place
    there = np.s_[z : z + 8, y : y + 12, x : x + 12]
    before = lung_field(classes, values, SPACING)
    assert not before[there].any()
    values[there], classes[there] = value, RIGHT
    assert not lung_field(classes, values, SPACING)[there].any()


def test_two_lungs_are_named_by_where_they_lie_whatever_the_network_says(seen: tuple[Classes, Values]) -> None:
    """The left lung lies on the left in any patient: neither an apex nor all of both called wrongly changes it."""
    classes, values = seen
    field = lung_field(classes, values, SPACING)
    wavering = classes.copy()
    wavering[40:][classes[40:] == LEFT] = RIGHT
    crossed = np.choose(classes, [0, RIGHT, LEFT]).astype(np.uint8)
    for said in (wavering, crossed):
        left, right = sides(field, said, SPACING)
        assert dice(left, classes == LEFT) > 0.95 and dice(right, classes == RIGHT) > 0.95


def left_alone(seen: tuple[Classes, Values]) -> tuple[Mask, Classes]:
    """Return the phantom's left half: its lung, and all of it called left by the network, without airways."""
    classes, values = (np.ascontiguousarray(one[:, :, 69:]) for one in seen)
    field = lung_field(classes, values, SPACING)
    return field, np.where(field, LEFT, 0).astype(np.uint8)


@pytest.mark.parametrize(
    ("wavering", "airways", "side"),
    [(False, 0, LEFT), (False, 8, LEFT), (True, 8, LEFT), (True, 0, None), (True, 1, None)],
    ids=["votes", "both", "airways", "neither", "a stray sample"],
)
def test_a_lone_lung_has_the_side_that_votes_or_airways_tell_or_is_declined(
    wavering: bool, airways: int, side: int | None, seen: tuple[Classes, Values]
) -> None:
    """Airways lie to the right of a left lung; a sample or two of them tell nothing."""
    field, said = left_alone(seen)
    if wavering:
        said[:22][field[:22]] = RIGHT
    said[30 : 30 + airways, 60 : 60 + airways, :airways] = AIRWAYS
    if side is None:
        with pytest.raises(NotApplicable, match="cannot be told"):
            sides(field, said, SPACING)
    else:
        left, right = sides(field, said, SPACING)
        assert left.sum() == field.sum() and not right.any()


def test_a_lone_lung_is_declined_where_votes_and_airways_disagree(seen: tuple[Classes, Values]) -> None:
    """All votes for the right lung, and airways to the right of it: a mark on the wrong side is worse than none."""
    field, said = left_alone(seen)
    said[field] = RIGHT
    said[30:38, 60:68, :8] = AIRWAYS
    with pytest.raises(NotApplicable, match="cannot be told"):
        sides(field, said, SPACING)


def test_the_surface_lies_where_the_voxels_say(seen: tuple[Classes, Values]) -> None:
    """On a scan of finer voxels the coarse outline moves to the lung's own; airways stay out."""
    phantom = thorax_phantom((60, 192, 192), (5.0, 1.8667, 1.8667))
    volume = Volume(voxels=phantom.voxels, affine=phantom.affine)
    grid = Grid.over(volume, (5.0, 2.8, 2.8))
    truth = np.where(phantom.left_lung, LEFT, np.where(phantom.right_lung, RIGHT, 0)).astype(np.uint8)
    classes = grid.sample_labels(truth)
    left, right = (classes == side for side in (LEFT, RIGHT))
    nothing = np.zeros_like(left)
    found = on_the_scan(left, right, classes == AIRWAYS, nothing, grid, volume)
    assert dice(found, phantom.left_lung) > 0.985
    assert not (found & phantom.right_lung).any()
    # Where a turned plane cuts the lung, there is padding, which is as thin as air.
    z, y, _ = np.indices(phantom.voxels.shape)
    shown = y < 90 + z
    cut = replace(volume, voxels=np.where(shown, volume.voxels, np.float32(-1024.0)))
    unseen = padding(grid.sample(cut.voxels))
    with_padding = on_the_scan(left, right, classes == AIRWAYS, nothing, grid, cut)
    found = on_the_scan(left, right, classes == AIRWAYS, unseen, grid, cut)
    assert not (found & ~shown).any() and (with_padding & ~shown).sum() > 500
    assert dice(found, phantom.left_lung & shown) > 0.985


def over_all(lung: Mask, other: Mask, tubes: Mask, unseen: Mask, grid: Grid, volume: Volume) -> Mask:
    """Return what `on_the_scan` promises, worked out over the whole volume."""
    core = filled(closed(lung, 5.0, SPACING), SPACING[1] * SPACING[2])
    inside = ndimage.binary_erosion(core, border_value=1) & ~tubes & ~other
    near = dilated(lung, 6.0, SPACING) & ~ndimage.binary_dilation(tubes) & ~other
    ends = zip(grid.source, grid.shape, grid.start, grid.step, strict=True)
    places = np.ix_(*(np.clip(np.rint((np.arange(n) - a) / s), 0, m - 1).astype(int) for n, m, a, s in ends))
    padded = ndimage.binary_dilation(unseen)[places] & (volume.voxels <= -1024.0)
    drawn = (inside[places] | (near[places] & (volume.voxels < -300.0))) & ~padded
    return largest(filled(drawn, volume.spacing[1] * volume.spacing[2]))


@pytest.mark.parametrize("at", [(slice(8, 17), slice(9, 25), slice(10, 22)), (slice(12, 20), slice(18, 30), slice(12))])
def test_the_box_about_a_lung_changes_no_voxel(at: tuple[slice, ...]) -> None:
    """In the middle of the images and cut by three borders: as over the whole volume."""
    rng = np.random.default_rng(5)
    volume = Volume(
        voxels=rng.normal(-400.0, 300.0, (50, 61, 62)).astype(np.float32), affine=AFFINE
    )
    grid = Grid.over(volume, SPACING)
    lung, other = np.zeros((2, *grid.shape), dtype=bool)
    lung[at] = rng.random(lung[at].shape) < 0.9
    other[at[0], :, at[2].stop + 1 :] = True
    tubes = (rng.random(grid.shape) < 0.02) & ~lung & ~other
    unseen = (rng.random(grid.shape) < 0.02) & ~lung & ~other & ~tubes
    volume.voxels[rng.random(volume.voxels.shape) < 0.1] = -1024.0
    found = on_the_scan(lung, other, tubes, unseen, grid, volume)
    assert found.any() and np.array_equal(found, over_all(lung, other, tubes, unseen, grid, volume))


def test_a_small_field_of_view_is_no_obstacle() -> None:
    """Half a chest of 80 samples a side, drawn by the generator with a seed that no training had."""
    body = draw_body(970_001, Wish(region="chest", spacing=(5.0, 3.0, 3.0), tidy=True, disease="none", cut="half"))
    found = {one.key: one.mask for one in catalogue.load("ct-lung", "cpu").run(body.volume, quiet).segments}
    whole = {"left-lung": body.labels == LEFT_LUNG, "right-lung": body.labels == RIGHT_LUNG}
    key = max(whole, key=lambda one: int(whole[one].sum()))
    assert dice(found[key], whole[key]) > 0.93


@pytest.mark.parametrize("region", ["head", "pelvis", "legs"])
def test_other_parts_of_the_body_are_declined(region: str) -> None:
    """Sinuses and bowel hold gas, and no lung."""
    body = draw_body(970_002, Wish(region=region, spacing=(5.0, 3.0, 3.0)))
    with pytest.raises(NotApplicable, match="no air-filled lung"):
        catalogue.load("ct-lung", "cpu").run(body.volume, quiet)


@pytest.mark.slow
@pytest.mark.parametrize(("change", "least"), [("7mm", 0.97), ("padding-2000", 0.85), ("double-oblique", 0.97)])
def test_the_right_lung_alone_stays_the_right_lung(change: str, least: float, data_dir: Path) -> None:
    """What version 1 took for the left lung where the scan was coarser, cut by a circle, or turned."""
    case = data_dir / "ct-chest-elastix-small"
    volume = read_series(sorted((case / "dicom").iterdir())).volume
    scene = Scene(volume=volume, reference={"right-lung": read_label(case / "label-right-lung.nrrd", volume) > 0})
    changed = PERTURBATIONS[change](scene)
    found = {one.key: one.mask for one in catalogue.load("ct-lung", "cpu").run(changed.volume, quiet).segments}
    assert "left-lung" not in found
    assert dice(found["right-lung"], changed.reference["right-lung"]) > least


def test_the_weights_tell_how_they_were_made() -> None:
    """Command, seed, recipe, the generator's digest and how many of which samples."""
    facts = read_facts(WEIGHTS)
    assert facts["seed"] == 1 and "models/train/recipes/ct-lung.toml" in facts["command"]
    assert len(facts["generator"]) == 64 and facts["samples"]["generated"] == 200
    assert facts["recipe"]["task"] == "lung" and facts["validation"]["score"] > 0.85
