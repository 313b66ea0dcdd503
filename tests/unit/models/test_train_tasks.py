"""The tasks of nodules and regions: balanced batches, honest figures, and what a real case gives each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.contract import Volume
from models.generator import REGIONS
from models.network import NoduleCNNSettings, Settings, SliceClassifierSettings, build
from models.sampling import UNKNOWN
from models.train.nodule import NoduleTask
from models.train.recipe import Data, Recipe, Training
from models.train.region import RegionTask
from models.train.samples import cubes_of, draw_cube, lungs_of, series_of
from models.train.sources import Case, Sample

DATA = Data(bodies=4, validation_bodies=2, spacing=(1.0, 1.0, 1.0), canvas=24, size=16)


def recipe(task: str, network: Settings, data: Data = DATA) -> Recipe:
    """Return a recipe of *task*."""
    return Recipe(task=task, seed=1, network=network, data=data, training=Training(batch=4, steps=1, epochs=1))


def cube(n: int) -> Sample:
    """Return a cube with a ball in its middle for every other *n*."""
    place = np.arange(24) - 11.5
    ball = place[:, None, None] ** 2 + place[:, None] ** 2 + place**2 < 25.0
    voxels = np.where(ball & (n % 2 == 0), 40, -850).astype(np.int16)
    return Sample(name=f"cube-{n}", voxels=voxels, labels=np.array([n % 2 == 0], np.uint8))


class Brightest(nn.Module):
    """A judge that always sees the brightest voxel, or, turned round, is always wrong."""

    def __init__(self, sign: float = 1.0) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, cubes: Tensor) -> Tensor:
        """Return a logit for each cube."""
        return self.sign * cubes.amax(dim=(1, 2, 3, 4))


def nodule_task(count: int = 9) -> NoduleTask:
    """Return the task with few cubes."""
    cubes = [cube(n) for n in range(count)]
    asked = recipe("nodule", NoduleCNNSettings(channels=4, levels=3))
    return NoduleTask(recipe=asked, cubes=cubes, real=[], held=cubes)


def test_a_batch_of_cubes_is_half_and_half() -> None:
    """Whatever there is more of."""
    voxels, truth = nodule_task().batch(np.random.default_rng(0), 8)
    assert voxels.shape == (8, 24, 24, 24)
    assert truth.tolist() == [0, 1] * 4 or truth.tolist() == [1, 0] * 4
    assert ((voxels.amax(dim=(1, 2, 3)) > 0) == (truth == 1)).all()


def test_figures_of_a_perfect_and_of_a_wrong_judge(tmp_path: Path) -> None:
    """The area under the curve is 1, 0, and a half where all cubes look alike; the worst cubes are drawn first."""
    task = nodule_task()
    right = task.validate(Brightest(), "cpu")  # type: ignore[arg-type]
    assert right == {"score": 1.0, "sensitivity": 1.0, "accuracy": 1.0}
    wrong = task.validate(Brightest(-1.0), "cpu")  # type: ignore[arg-type]
    assert (wrong["score"], wrong["accuracy"]) == (0.0, 0.0)
    assert task.validate(Brightest(0.0), "cpu")["score"] == 0.5  # type: ignore[arg-type]
    worst = task.save_worst(Brightest(-1.0), "cpu", tmp_path)  # type: ignore[arg-type]
    assert len(list(tmp_path.glob("*.png"))) == len(worst) == 9


def test_cubes_of_one_kind_alone_are_refused() -> None:
    """There would be nothing to tell apart."""
    with pytest.raises(ValueError, match="of both kinds"):
        replace(nodule_task(), held=[cube(0)])


def test_generated_cubes_hold_what_their_label_says() -> None:
    """A lesion in the middle for even seeds: denser than lung; none for odd ones."""
    some, none = (draw_cube(DATA, seed) for seed in (2, 3))
    assert (some.voxels.shape, some.labels.tolist(), none.labels.tolist()) == ((24, 24, 24), [1], [0])
    assert some.voxels[10:14, 10:14, 10:14].mean() > -700


def series(n: int, region: int, slices: int = 10) -> Sample:
    """Return a series whose slices are as bright as their region's number is high."""
    voxels = np.full((slices, 24, 24), -900 + 200 * region, np.int16)
    labels = np.full(slices + 1, region, np.uint8)
    labels[0] = UNKNOWN
    return Sample(name=f"series-{n}", voxels=voxels, labels=labels)


class ByBrightness(nn.Module):
    """Tells regions by their mean; slices at the front are always called the first region."""

    def forward(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Return sure logits."""
        hounsfield = (slices.mean(dim=(2, 3)) + 1.0) * 712.0 - 1024.0
        region = ((hounsfield + 900.0) / 200.0).round().long().clamp(0, len(REGIONS) - 1)
        region[:, 1] = 0
        one_hot = nn.functional.one_hot(region, len(REGIONS)).float()
        return one_hot, one_hot[:, -1]


def region_task() -> RegionTask:
    """Return the task with one series of each of the first four regions."""
    settings = SliceClassifierSettings(regions=REGIONS, kinds=REGIONS, channels=4, hidden=6)
    rows = [series(n, n) for n in range(4)]
    return RegionTask(recipe=recipe("region", settings), series=rows, real=[], held=rows, regions=REGIONS)


def test_slices_and_series_are_counted_by_region(tmp_path: Path) -> None:
    """One of nine known slices is wrong in three of four series, all series are right: each region counts as much."""
    figures = region_task().validate(ByBrightness(), "cpu")  # type: ignore[arg-type]
    share = (1.0 + 3 * 8 / 9) / 4
    assert figures["slices_right"] == pytest.approx(share, abs=1e-5)
    assert figures["series_right"] == 1.0
    assert figures["score"] == pytest.approx((share + 1) / 2, abs=1e-5)
    assert region_task().save_worst(ByBrightness(), "cpu", tmp_path)[0]["slices_wrong"] == 0.1  # type: ignore[arg-type]


def test_rows_of_slices_keep_their_order_and_their_labels() -> None:
    """A row is cut out from head to feet as it lies; its loss leads somewhere."""
    task = region_task()
    rows, regions, kinds = task.batch(np.random.default_rng(3), 6)
    assert rows.shape[:2] == regions.shape
    known = regions != UNKNOWN
    assert ((rows[:, :, 0, 0] == -900 + 200 * regions.int()) | ~known).all()
    assert ((regions == kinds[:, None]) | ~known).all()
    torch.manual_seed(1)
    network = build(task.recipe.network)
    task.loss(network, (rows, regions, kinds), np.random.default_rng(1)).backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in network.parameters())


def test_another_list_of_regions_is_refused() -> None:
    """A number of the generator's must mean the same to the network."""
    other = SliceClassifierSettings(regions=REGIONS[::-1], kinds=REGIONS)
    with pytest.raises(ValueError, match="must be those of the generator"):
        replace(region_task(), recipe=recipe("region", other))


def case(labels: np.ndarray, region: str = "chest") -> Case:
    """Return a real case with a bright dot at index (4, 6, 8)."""
    affine = np.array([[0, 0, 2.0, -5], [0, 2.0, 0, 7], [3.0, 0, 0, 11], [0, 0, 0, 1.0]])
    voxels = np.full(labels.shape, -850.0, np.float32)
    voxels[4, 6, 8] = 400.0
    nodules = [{"centre_mm": [-5 + 16.0, 7 + 12.0, 11 + 12.0], "diameter_mm": 5.0}]
    return Case(name="real", volume=Volume(voxels=voxels, affine=affine), labels=labels,
                facts={"region": region, "nodules": nodules})  # fmt: skip


def test_a_real_case_gives_each_task_what_is_known_of_it() -> None:
    """Its lungs where they are labelled, a cube about its nodule, its slices' region where that is settled."""
    labels = np.zeros((9, 14, 17), np.uint8)
    labels[3:6, 2:12, 2:15] = 1  # 520 mm2 a slice
    odd = replace(DATA, canvas=25)
    (of_lungs,), (of_nodule,), (of_series,) = (make(case(labels), odd) for make in (lungs_of, cubes_of, series_of))
    assert set(np.unique(of_lungs.labels)) == {0, 1}
    assert np.unravel_index(of_nodule.voxels.argmax(), (25, 25, 25)) == (12, 12, 12)
    chest = REGIONS.index("chest")
    assert of_series.labels[-1] == chest
    assert of_series.labels[len(of_series.labels) // 2] == chest
    assert of_series.labels[0] == UNKNOWN
    unknown = np.full_like(labels, UNKNOWN)
    assert lungs_of(case(unknown), odd) == []
    assert (series_of(case(unknown), odd)[0].labels[:-1] == UNKNOWN).all()
