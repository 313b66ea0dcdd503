"""What makes a classifier a gate: its features remembered, the lines drawn, rows of slices that go on or are boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from models.contract import Volume
from models.gate.judge import Limits
from models.generator import PHASES, REGIONS
from models.network import SliceClassifier, SliceClassifierSettings, build, load_network, read_facts, read_tensors, save
from models.sampling import UNKNOWN
from models.train import density
from models.train.certainty import certainty
from models.train.recipe import Augmentation, Data, Recipe, Training
from models.train.region import RegionTask
from models.train.rows import boxed, prone
from models.train.sources import Case, Sample, SampleError, save_case
from models.train.tasks import _cases

SETTINGS = SliceClassifierSettings(
    regions=REGIONS, kinds=REGIONS, phases=PHASES, channels=4, hidden=6, whole_channels=2, whole_hidden=4
)


def series(region: int, slices: int = 8) -> Sample:
    """Return a series whose slices are as bright as their region's number is high, and a little rough."""
    rough = np.random.default_rng(region).integers(-20, 20, (slices, 24, 24))
    voxels = (rough - 900 + 200 * region).astype(np.int16)
    labels = np.full(slices + 2, region, np.uint8)
    labels[-2] = region if region < len(PHASES) else UNKNOWN
    return Sample(name=f"series-{region}", voxels=voxels, labels=labels)


def task(**how: float) -> RegionTask:
    """Return the task with one series of each region."""
    asked = Recipe(
        task="region", seed=1, network=SETTINGS, data=Data(bodies=4, validation_bodies=2, canvas=24, size=24),
        training=Training(batch=4, steps=1, epochs=1), augmentation=Augmentation(**how),
    )  # fmt: skip
    rows = [series(n) for n in range(len(REGIONS))]
    return RegionTask(recipe=asked, series=rows, real=[], held=rows, regions=REGIONS)


def network() -> SliceClassifier:
    """Return a classifier that has learnt nothing."""
    torch.manual_seed(1)
    built = build(SETTINGS).eval()
    assert isinstance(built, SliceClassifier)
    return built


def test_what_was_remembered_is_not_strange_and_what_lies_elsewhere_is() -> None:
    """About 1 whatever the spread of each feature and the correlation of two; many times that ten deviations off."""
    rng, one = np.random.default_rng(3), network()
    spread = np.diag(np.geomspace(0.3, 3.0, 32)) + 0.2 * np.eye(32, k=1)
    regions = np.arange(7000) % 7
    features = rng.normal(size=(7000, 32)) @ spread + regions[:, None] * 5.0
    seen = torch.from_numpy(features.astype(np.float32))
    assert (one.strangeness(seen) == 0).all()
    one.remember(seen, torch.from_numpy(regions))
    strange = one.strangeness(seen)
    assert strange.shape == (7000,)
    assert float(strange.median()) == pytest.approx(1.0, abs=0.2)
    far = seen[:10] + 10.0 * torch.from_numpy(spread.sum(axis=0).astype(np.float32)) * torch.tensor([1.0, -1.0] * 16)
    assert float(one.strangeness(far).min()) > 3.0
    with pytest.raises(ValueError, match="needs a slice"):
        one.remember(seen[:3], torch.from_numpy(regions[:3]))


def test_the_lines_are_drawn_beyond_validation_and_kept_with_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room beyond the strangest row, half of the least evidence of a series; the same again from the same weights."""
    monkeypatch.setattr(density, "_BATCHES", 3)
    monkeypatch.setattr(density, "_CHECKED", 2)
    files = [tmp_path / f"{n}.safetensors" for n in range(2)]
    for file in files:
        save(network(), file, {"seed": 1})
    told, again = (density.complete(file, task(), "cpu") for file in files)
    assert told == again
    first, second = (read_tensors(file) for file in files)
    assert all(torch.equal(one, second[name]) for name, one in first.items())
    assert told["limits"]["strangeness"] == pytest.approx(1.25 * told["gate"]["strangest"], abs=0.01)
    assert told["limits"]["evidence"] == pytest.approx(0.5 * told["gate"]["least_evidence"], abs=0.001)
    assert told["gate"]["series_with_chest"] == 1
    assert read_facts(files[0])["limits"] == told["limits"]
    assert read_facts(files[0])["seed"] == 1
    assert Limits.of(read_facts(files[0])).turns == tuple(told["limits"]["turns"])
    assert float(load_network(files[0], "cpu", SliceClassifier).whitening.abs().sum()) > 0


def test_a_line_lies_beyond_the_surest_wrong_answer() -> None:
    """Half as far again, and never where nobody would be sure; what was right moves no line."""
    given = iter([(0, (9.0, 0.0, 0.0), (3.0, -1.0, -9.0)), (0, (0.0, 3.0, 0.0), (-8.0, -9.0, 0.2))] * 3)

    class Told(torch.nn.Module):
        """Says what was given, always of a chest."""

        settings = SETTINGS

        def forward(self, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Return that every slice is of the first region, or of the last where it is bright."""
            bright = row.mean(dim=(2, 3)) > 0.0
            regions = torch.where(bright, len(REGIONS) - 1, 0)
            return torch.nn.functional.one_hot(regions, len(REGIONS)).float(), torch.zeros(1, len(REGIONS))

        def whole(self, _row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            """Return the next logits."""
            _, phase, turns = next(given)
            return torch.tensor([phase]), torch.tensor([turns])

    lines, told = certainty(Told(), [series(0), series(6), series(0)], 24, "cpu")  # type: ignore[arg-type]
    wrong = 3.0 - np.log(2.0)  # log-odds of arterial against two others
    assert lines["phase"] == pytest.approx(1.5 * wrong, abs=0.01)
    assert lines["turns"] == [4.5, 2.2, 2.2]
    assert (told["rows"], told["phase_wrong"], told["phase_known"]) == (6, 3, 3)
    assert told["turn_wrong"] == {"left-right": 3, "front-back": 0, "head-feet": 3}
    assert told["turn_known"] == {"left-right": 3, "front-back": 3, "head-feet": 3}
    never, told = certainty(Told(), [series(6)], 24, "cpu")  # type: ignore[arg-type]
    assert min(never["phase"], *never["turns"]) > 1000 and told == {"rows": 0}


def test_long_rows_show_much_of_a_series_and_its_phase() -> None:
    """From the feet to the head; what goes on into another patient has no phase of its own."""
    one = task(joined=0.0)
    *_, wide, phases = one.batch(np.random.default_rng(1), 16)
    assert wide.shape[:2] == (16, 12)
    regions = ((wide.float().mean(dim=(1, 2, 3)) + 900.0) / 200.0).round().long()
    assert phases.tolist() == [n if n < len(PHASES) else UNKNOWN for n in regions.tolist()]
    assert int((regions < len(PHASES)).sum()) > 8
    *_, phases = task(joined=1.0).batch(np.random.default_rng(1), 16)
    assert UNKNOWN in phases.tolist()


def test_a_patient_who_lies_prone_has_his_table_in_front() -> None:
    """What lay behind him is air, he himself is as he was."""
    voxels = np.full((3, 60, 60), -1024, np.int16)
    voxels[:, 20:40, 10:50] = 40
    voxels[:, 45:47, 5:55] = -300  # his table
    changed = prone(voxels, np.random.default_rng(3))
    assert np.array_equal(changed[:, 20:40, 10:50], voxels[:, 20:40, 10:50])
    assert (changed[:, 41:] == -1024).all()
    table = np.flatnonzero((changed[0, :20] > -1024).any(axis=1))
    assert 1 <= len(table) <= 3 and table.min() > 10
    nothing = np.full((2, 9, 9), -1024, np.int16)
    assert np.array_equal(prone(nothing, np.random.default_rng(3)), nothing)


def test_a_row_goes_on_into_the_region_above_it() -> None:
    """As in a scan of the whole body; a head is the end, and a thing is no part of anybody."""
    joined = task(joined=1.0)
    order = [REGIONS.index(one) for one in ("legs", "pelvis", "abdomen", "chest", "neck", "head")]
    several = 0
    for seed in range(12):
        _, regions, kinds, *_ = joined.batch(np.random.default_rng(seed), 8)
        for row, kind in zip(regions.tolist(), kinds.tolist(), strict=True):
            assert kind in (UNKNOWN, row[0])
            if REGIONS.index("object") in row:
                assert len(set(row)) == 1
                continue
            places = [order.index(one) for one in row]
            assert places == sorted(places)
            several += len(set(row)) > 1
    assert several > 10


def test_a_box_is_moved_to_the_middle_and_a_chest_without_lung_in_it_is_not_settled() -> None:
    """All else is air, and what is in the box is as it was."""
    rng = np.random.default_rng(5)
    voxels = np.full((3, 60, 60), 40, np.int16)
    moved, labels = boxed(voxels, np.zeros(3, np.uint8), 5.0, rng)
    there = np.argwhere(moved[0] == 40)
    assert set(np.unique(moved)) == {-1024, 40}
    assert np.abs(there.mean(axis=0) - 30).max() < 1.5
    assert labels.tolist() == [UNKNOWN] * 3
    legs = REGIONS.index("legs")
    assert boxed(voxels, np.full(3, legs, np.uint8), 5.0, rng)[1].tolist() == [legs] * 3
    lung = np.where(np.indices(voxels.shape).sum(axis=0) % 2, -800, 40).astype(np.int16)
    assert boxed(lung, np.zeros(3, np.uint8), 5.0, rng)[1].tolist() == [0] * 3


def test_cases_are_left_out_by_name(tmp_path: Path) -> None:
    """A name that is not there is a mistake: it would be learnt from unnoticed under another."""
    volume = Volume(voxels=np.zeros((2, 3, 4), np.float32), affine=np.eye(4))
    for name in ("one", "two"):
        labels = np.zeros((2, 3, 4), np.uint8)
        save_case(Case(name=name, volume=volume, labels=labels, facts={}), tmp_path / f"{name}.npz")
    assert [one.name for one in _cases(tmp_path, ("one",))] == ["two"]
    with pytest.raises(SampleError, match="three"):
        _cases(tmp_path, ("one", "three"))
