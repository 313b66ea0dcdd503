"""The loop: it learns, it is the same twice, it goes on as if it had never stopped, and it says what it did."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from models.network import UNet, UNetSettings, build, load_network, read_facts, save
from models.train.checkpoint import CheckpointError
from models.train.lung import LungTask
from models.train.recipe import Augmentation, Data, Recipe, Training
from models.train.report import save_report
from models.train.sources import Sample
from models.train.trainer import Trainer, rate_at, since_gain, transfer

MILD = Augmentation(turn=5.0, scale=0.05, shift=3.0, noise=10.0, blur=0.0, circle=0.0, cut=0.0, dropped=0.0)


def body(seed: int) -> Sample:
    """Return a chest of blocks: a right lung, a larger left one, airways between them."""
    rng = np.random.default_rng(seed)
    voxels, labels = np.full((9, 32, 32), 40, np.int16), np.zeros((9, 32, 32), np.uint8)
    y = int(rng.integers(4, 9))
    for label, box, value in (
        (2, np.s_[2:7, y : y + 16, 4:13], -850), (1, np.s_[3:8, y : y + 18, 18:29], -840),
        (3, np.s_[:, y:y + 4, 14:17], -999),
    ):  # fmt: skip
        voxels[box], labels[box] = value, label
    return Sample(name=f"block-{seed}", voxels=voxels + rng.normal(0, 20, voxels.shape).astype(np.int16), labels=labels)


def recipe(**training: object) -> Recipe:
    """Return a training of seconds."""
    asked = Training(**{"batch": 4, "steps": 12, "epochs": 4, "rate": 1e-2, "warm_up": 4, **training})  # type: ignore[arg-type]
    return Recipe(
        task="lung", seed=3, network=UNetSettings(in_channels=3, channels=8, levels=3), training=asked,
        augmentation=MILD, data=Data(bodies=4, validation_bodies=2, canvas=32, size=32),
    )  # fmt: skip


def trainer(folder: Path, asked: Recipe) -> Trainer:
    """Return a training of *asked* in *folder*, nothing done yet."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(asked.seed)
    bodies = [body(n) for n in range(6)]
    task = LungTask(recipe=asked, bodies=bodies[:4], real=[], held=bodies[4:])
    return Trainer(
        network=build(asked.network), task=task, recipe=asked, out=folder, device="cpu",
        console=Console(file=StringIO()),
        facts={"command": "python -m models.train mine.toml", "seed": asked.seed},
    )  # fmt: skip


def curve(done: Trainer) -> list[dict[str, float]]:
    """Return the curve but for the seconds."""
    return [{name: value for name, value in row.items() if name != "seconds"} for row in done.curve]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> object:
    """Sums in another order are other sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A training from the first epoch to the last."""
    done = trainer(tmp_path_factory.mktemp("whole"), recipe())
    assert done.run() == "all 4 epochs are done"
    return done


def test_it_learns(whole: Trainer) -> None:
    """In some dozen steps both lungs of bodies that it never saw are mostly found, each on its side."""
    assert whole.curve[-1]["loss"] < 0.75 * whole.curve[0]["loss"]
    assert min(whole.best["dice_left"], whole.best["dice_right"]) > 0.65


def test_the_same_recipe_gives_the_same_curve(whole: Trainer, tmp_path: Path) -> None:
    """To the last digit, on the CPU; another seed gives another."""
    again = trainer(tmp_path / "again", recipe())
    again.run()
    assert curve(again) == curve(whole)
    other = trainer(tmp_path / "other", replace(recipe(epochs=1), seed=4))
    other.run()
    assert curve(other)[0]["loss"] != curve(whole)[0]["loss"]


def test_an_interrupted_training_goes_on_as_if_it_had_not_been(whole: Trainer, tmp_path: Path) -> None:
    """Stopped by its time limit after an epoch, then resumed in a new process's place: the same curve and weights."""
    first = trainer(tmp_path / "run", recipe(minutes=1e-9))
    first.run()
    assert first.curve == []  # no new epoch begins after the limit
    for epoch in range(2):
        first._record(first._epoch(epoch))
    torch.manual_seed(99)
    second = trainer(tmp_path / "run", recipe())
    second.resume()
    assert len(second.curve) == 2
    second.run()
    assert curve(second) == curve(whole)
    for one, other in zip(second.network.parameters(), whole.network.parameters(), strict=True):
        assert torch.equal(one, other)
    best, same = (load_network(done.out / "weights.safetensors", "cpu") for done in (second, whole))
    assert all(torch.equal(a, b) for a, b in zip(best.parameters(), same.parameters(), strict=True))


def test_a_checkpoint_of_another_recipe_is_refused(whole: Trainer) -> None:
    """Its curve would be neither the one nor the other."""
    other = trainer(whole.out, recipe(rate=1e-4))
    with pytest.raises(CheckpointError, match="training differ"):
        other.resume()
    with pytest.raises(CheckpointError, match="no training to go on with"):
        trainer(whole.out / "nowhere", recipe()).resume()


def test_the_best_epoch_is_kept_and_told(whole: Trainer) -> None:
    """The weights' file is that of the best score, says so, and its own figures stand in the report."""
    report = save_report(whole, "all epochs are done")
    weights = whole.out / "weights.safetensors"
    facts = read_facts(weights)
    assert facts["epoch"] == whole.best["epoch"]
    assert facts["recipe"]["seed"] == 3
    assert report["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert report["validation_of_file"]["score"] == pytest.approx(whole.best["score"], abs=0.01)  # float16
    assert json.loads((whole.out / "report.json").read_text())["command"] == "python -m models.train mine.toml"
    pictures = sorted((whole.out / "worst").glob("*.png"))
    assert len(pictures) == len(report["worst"]) > 0
    assert report["worst"][0]["wrong_voxels"] >= report["worst"][-1]["wrong_voxels"]
    with (whole.out / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["score"]) for row in rows] == [row["score"] for row in whole.curve]


def test_a_worse_epoch_does_not_take_the_place_of_the_best(tmp_path: Path) -> None:
    """The file stays that of the second of three epochs, to the last bit."""
    run, hashes = trainer(tmp_path / "run", recipe()), []
    for epoch, score in enumerate((0.5, 0.9, 0.4), 1):
        with torch.no_grad():
            run.network.head.bias += 1.0  # type: ignore[operator,union-attr]
        run._record({"epoch": epoch, "score": score, "seconds": 0.1})
        hashes.append(hashlib.sha256((run.out / "weights.safetensors").read_bytes()).hexdigest())
    assert hashes[0] != hashes[1] == hashes[2]
    assert read_facts(run.out / "weights.safetensors")["epoch"] == run.best["epoch"] == 2


def test_weights_are_transferred_as_far_as_they_fit(whole: Trainer, tmp_path: Path) -> None:
    """A head for other classes is left out by name; a network with which nothing is shared is refused."""
    torch.manual_seed(1)
    other = build(UNetSettings(in_channels=3, channels=8, levels=3, classes=6))
    fresh = other.state_dict()["head.weight"].clone()
    assert transfer(other, whole.out / "weights.safetensors") == ["head.bias", "head.weight"]
    assert torch.equal(other.state_dict()["head.weight"], fresh)
    given = load_network(whole.out / "weights.safetensors", "cpu", UNet).state_dict()
    assert torch.equal(other.state_dict()["down.0.0.weight"], given["down.0.0.weight"])
    save(build(UNetSettings(dims=3, in_channels=2, classes=2, channels=4, levels=2)), tmp_path / "w.safetensors", {})
    with pytest.raises(ValueError, match="not one tensor fits"):
        transfer(build(UNetSettings(in_channels=3, channels=16, levels=3)), tmp_path / "w.safetensors")


def rows(*scores: float) -> list[dict[str, float]]:
    """Return a curve of these scores."""
    return [{"score": score} for score in scores]


def test_the_rate_warms_up_and_falls() -> None:
    """A straight rise, then half a cosine to nought."""
    training = Training(batch=1, steps=10, epochs=10, rate=1.0, warm_up=4)
    assert [round(rate_at(training, step, []), 2) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert rate_at(training, 50, []) == pytest.approx(0.5)
    assert rate_at(training, 99, []) < 0.001


def test_a_plateau_halves_the_rate_each_time_anew() -> None:
    """Two epochs without gain halve it, two more once more; a gain starts the count again."""
    training = Training(batch=1, steps=1, epochs=99, rate=1.0, warm_up=1, schedule="plateau", patience=2)
    scores = (0.5, 0.6, 0.6, 0.6, 0.6, 0.7, 0.7, 0.6, 0.6, 0.6)
    rates = [rate_at(training, 9, rows(*scores[:n])) for n in range(len(scores) + 1)]
    assert rates == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.125]


def test_patience_ends_a_training(tmp_path: Path) -> None:
    """Without gain for as many epochs as asked, no more begin."""
    training = Training(batch=1, steps=1, epochs=9, early_stop=2)
    assert since_gain(training, rows(0.3, 0.5, 0.5, 0.4)) == 2
    stuck = trainer(tmp_path / "stuck", recipe(steps=1, epochs=9, early_stop=2, least_gain=1.0))
    assert stuck.run() == "no gain for 2 epochs"
    assert len(stuck.curve) == 3
