"""The gate: a chest passes, what is none does not, and a person can see why."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from models import gate
from models.catalogue import card_names
from models.contract import Volume
from models.gate.judge import WEIGHTS
from models.gate.looks import looks_at
from models.gate.whole import DECLINED
from models.generator import REGIONS, Wish, draw_body
from models.network import TURNS, SliceClassifier, load_network, read_facts
from models.phantom import Phantom
from models.train.recipe import read_recipe

CHEST = frozenset({"chest"})
SPACING = (6.0, 4.0, 4.0)  # mm
RECIPE = Path(__file__).parents[3] / "models" / "train" / "recipes" / "ct-region.toml"


def quiet(_done: float, _stage: str) -> None:
    """Take progress and keep silent."""


def judged(volume: Volume, regions: frozenset[str] = CHEST) -> gate.Judgement:
    """Return what the gate says."""
    return gate.load("cpu").judge(volume, regions, quiet)


def drawn(region: str, seed: int) -> Volume:
    """Return the scan of a region, coarse; of a seed that nothing was trained on."""
    return draw_body(seed, Wish(region=region, spacing=SPACING)).volume


@pytest.fixture(scope="module")
def chest() -> Volume:
    """A generated chest."""
    return draw_body(7_000_001, Wish(tidy=True, spacing=SPACING)).volume


@pytest.fixture(scope="module")
def head() -> Volume:
    """A generated head."""
    return drawn("head", 7_000_002)


def test_a_chest_passes(chest: Volume) -> None:
    """There is no reason, and most of it is called a chest."""
    found = judged(chest)
    assert found.fits
    assert found.reason == ""
    assert found.share > 0.5
    assert found.score <= found.limit
    assert found.regions.count("chest") > len(found.slices) / 2


@pytest.mark.parametrize(
    ("first", "step"), [(0, 2), (25, 1)], ids=["every other slice", "without its lower part"]
)
def test_a_part_of_a_chest_passes(chest: Volume, first: int, step: int) -> None:
    """Fewer slices, or those of one end: the gate asks for some lung, not for all."""
    affine = chest.affine.copy()
    affine[:3, 3] += first * affine[:3, 0]
    affine[:3, 0] *= step
    assert judged(Volume(voxels=chest.voxels[first::step], affine=affine)).fits


def test_padding_and_a_cut_field_change_nothing(chest: Volume) -> None:
    """Scanners pad with -2000 outside a circle; a model may be given that."""
    _, rows, columns = chest.voxels.shape
    y, x = np.ogrid[:rows, :columns]
    inside = np.hypot(y - rows / 2, x - columns / 2) < min(rows, columns) / 2
    assert judged(Volume(voxels=np.where(inside, chest.voxels, np.float32(-2000)), affine=chest.affine)).fits


def test_the_thorax_phantom_passes(phantom: Phantom) -> None:
    """The demo shows it to models that ask for a chest."""
    assert judged(Volume(voxels=phantom.voxels, affine=phantom.affine)).fits


@pytest.mark.parametrize(("region", "word"), [("head", "a head"), ("legs", "legs")])
def test_another_region_is_refused_by_its_name(region: str, word: str) -> None:
    """The sentence counts the slices that speak for it."""
    found = judged(drawn(region, 7_000_002))
    assert not found.fits
    assert found.reason.startswith(f"this looks like {word} (")
    assert found.reason.endswith(f"of {len(found.slices)} slices looked at), not a chest")


def test_noise_is_unlike_anything() -> None:
    """A score beyond its limit is told with both."""
    noise = np.random.default_rng(1).uniform(-1000, 3000, (12, 100, 100)).astype(np.float32)
    found = judged(Volume(voxels=noise, affine=np.diag([4.0, 4.0, 4.0, 1.0])))
    assert not found.fits
    assert found.score > found.limit
    assert found.reason == (
        f"unlike anything that the model was made for (score {found.score:.1f}, limit {found.limit:.1f})"
    )


def test_another_modality_is_told_and_shown(head: Volume) -> None:
    """Its values mean nothing to the network, so there is no heat map."""
    found = judged(Volume(voxels=head.voxels, affine=head.affine, modality="MR"))
    assert (found.fits, found.reason, found.slices) == (False, "this is MR, not CT", ())
    picture = found.picture()
    assert picture.shape == (240, 720, 3)
    assert (picture[..., 0] == picture[..., 2]).all()


def test_a_scan_of_another_phase_is_refused_where_that_is_sure(
    chest: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence; what is not known passes, and so does everything where a card asks for no phase."""
    asked, none = gate.load("cpu"), frozenset({"none"})
    line = asked._limits.phase
    for logits, names, reason in (
        ((0.0, 99.0, 0.0), none, "with contrast in the arteries, and the model is made for scans without contrast"),
        ((0.0, 99.0, 99.0), none, "with contrast, and the model is made for scans without contrast"),
        ((99.0, 0.0, 0.0), frozenset({"arterial", "venous"}), "without contrast, and the model is made for scans with "
         "contrast"),
        ((0.0, 99.0, 0.0), frozenset({"arterial"}), ""), ((0.0, 99.0, 0.0), frozenset[str](), ""),
        ((0.0, line - 0.1, -99.0), none, ""),
    ):  # fmt: skip
        monkeypatch.setattr(asked._network.whole, "forward", lambda _row, given=logits: answers(given, (-9.0,) * 3))
        found = asked.judge(chest, CHEST, quiet, names)
        assert found.reason == (f"this looks like a scan {reason}" if reason else "")
    with pytest.raises(ValueError, match="the gate knows none, arterial, venous"):
        asked.judge(chest, CHEST, quiet, frozenset({"late"}))


def test_no_phase_is_told_of_a_scan_that_cannot_show_it(head: Volume) -> None:
    """The network answers always; of a head its answer means nothing."""
    found = judged(head, frozenset({"head"}))
    assert found.whole is not None
    assert (found.whole.phase, found.whole.phases) == ("", {})
    assert "contrast" not in found.seen  # what is not known is not told


def answers(phase: tuple[float, ...], turns: tuple[float, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits as the network gives them."""
    return torch.tensor([phase]), torch.tensor([turns])


@pytest.mark.parametrize("turn", TURNS)
def test_a_scan_that_surely_lies_otherwise_than_its_header_says(
    turn: str, chest: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is refused, or where it may be situs inversus passed with a remark; below its line nothing is said."""
    asked = gate.load("cpu")
    number = TURNS.index(turn)
    for beyond, known in ((0.1, False), (-0.1, None)):
        turns = [-99.0] * 3
        turns[number] = asked._limits.turns[number] + beyond
        given = answers((0.0,) * 3, tuple(turns))
        monkeypatch.setattr(asked._network.whole, "forward", lambda _row, given=given: given)
        found = asked.judge(chest, CHEST, quiet)
        assert found.whole is not None
        assert found.whole.lies == {one: known if one == turn else True for one in TURNS}
        assert found.fits == (known is None or turn not in DECLINED)
        assert bool(found.remarks) == (known is False and turn not in DECLINED)
        assert ("check Image Orientation (Patient)" in found.reason) == (not found.fits)


def test_a_chest_lies_as_it_lies_and_a_turned_one_otherwise(chest: Volume) -> None:
    """The whole way, from voxels: front and back, head and feet; never is a scan as it is said to be turned."""
    found = judged(chest)
    assert found.whole is not None
    assert False not in found.whole.lies.values()
    assert found.whole.lies["front-back"] is True
    turned = judged(Volume(voxels=np.ascontiguousarray(chest.voxels[:, ::-1]), affine=chest.affine))
    assert turned.reason.startswith("front and back seem exchanged: check ")


def test_what_is_too_narrow_to_be_told_passes() -> None:
    """A handful of rows says nothing; the models' own checks come after."""
    narrow = Volume(voxels=np.zeros((40, 3, 200), np.float32), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    assert judged(narrow).fits


def test_the_picture_shows_three_slices_and_what_spoke_for_the_region(head: Volume) -> None:
    """Grey above, the same with warm colours over it below."""
    found = judged(head)
    picture = found.picture()
    assert (picture.shape, picture.dtype) == ((480, 720, 3), np.uint8)
    upper, lower = picture[:240].astype(int), picture[240:].astype(int)
    assert (upper[..., 0] == upper[..., 2]).all()
    assert len(np.unique(upper)) > 50
    warm = lower[..., 0] - lower[..., 2]
    assert warm.max() > 60
    assert (warm >= -1).all()


def test_the_same_scan_gets_the_same_judgement(head: Volume) -> None:
    """Twice, to the last digit."""
    first, second = judged(head), judged(head)
    assert (first.reason, first.score, first.evidence) == (second.reason, second.score, second.evidence)


def test_who_asks_for_a_head_gets_one(head: Volume) -> None:
    """The gate knows no chest but by what a card asks for; what it does not know is an error."""
    assert judged(head, frozenset({"head", "neck"})).fits
    for asked in (frozenset({"tail"}), frozenset[str]()):
        with pytest.raises(ValueError, match=r"the gate (knows|must be asked for one of) chest, abdomen"):
            judged(head, asked)


def test_no_more_than_24_slices_are_looked_at_from_end_to_end() -> None:
    """However thin they are; each look is the mean of its neighbours, so that noise is less."""
    noise = np.random.default_rng(2).normal(-400, 100, (300, 60, 60)).astype(np.float32)
    affine = np.diag([1.0, 8.0, 8.0, 1.0])
    looks = looks_at(Volume(voxels=noise, affine=affine), (5.0, 8.0, 8.0), 60)
    assert len(looks.places) == 24
    assert looks.places[0] < 12
    assert looks.places[-1] > 287
    assert looks.pictures.std() < 0.6 * 100 / 712


def test_the_weights_tell_how_they_were_made() -> None:
    """Command, seed and digest; by the recipe that is here; nothing that may not be learnt from was."""
    facts = read_facts(WEIGHTS)
    assert facts["command"].startswith("python -m models.train models/train/recipes/ct-region.toml")
    assert len(facts["generator"]) == 64
    assert WEIGHTS.stat().st_size < 3_000_000
    asked = read_recipe(RECIPE)
    assert facts["seed"] == asked.seed
    assert facts["recipe"]["data"]["left_out"] == list(asked.data.left_out)
    assert not {"ct-chest-lung1-001", "ct-chest-ibsi-pat1", *asked.data.left_out} & set(facts["real_cases"])
    assert load_network(WEIGHTS, "cpu", SliceClassifier).settings.regions == REGIONS


def test_the_gate_is_no_model() -> None:
    """Its folder has no card."""
    assert "gate" not in card_names()


def test_a_scan_that_looks_like_nothing_in_particular_is_refused_with_a_reason(
    chest: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chest is the likeliest of each slice, and likely in none: there is no other region to name."""
    asked = gate.load("cpu")
    row = np.full((24, len(REGIONS)), 0.8 / (len(REGIONS) - 1), np.float32)
    row[:, REGIONS.index("chest")] = 0.2
    limits = dataclasses.replace(asked._limits, evidence=0.21)
    monkeypatch.setattr(asked, "_limits", limits)
    monkeypatch.setattr(asked, "seen", lambda pictures: (row[: len(pictures)], 0.5))
    found = judged(chest)
    assert not found.fits
    assert found.reason == "no slice of this looks enough like a chest"
