"""The tasks of nodules and regions: balanced batches, honest figures, and what a real case gives each of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.contract import Volume
from models.generator import PHASES, REGIONS, Wish, draw_body
from models.network import NoduleCNNSettings, Settings, SliceClassifierSettings, build
from models.sampling import UNKNOWN
from models.train import samples
from models.train.cubes import cubes_of, draw_cubes, single
from models.train.nodule import NoduleTask
from models.train.recipe import Data, Recipe, Training
from models.train.region import RegionTask
from models.train.samples import lungs_of, series_of
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


def test_generated_cubes_lie_about_what_the_candidate_stage_finds() -> None:
    """In the middle of a box of an even seed lies a lesion; beside it, and in odd ones, is whatever else is a blob."""
    data = replace(DATA, pixel=(1.5, 1.5), between=(2.0, 2.0))
    some, none = (draw_cubes(data, seed) for seed in (2, 3))
    assert some.voxels.shape == (len(some.labels), 24, 24, 24)
    assert some.labels.tolist()[0] == 1 and set(some.labels[1:].tolist()) == {0}
    assert set(none.labels.tolist()) == {0}
    middles, about = (some.voxels[:, n:-n, n:-n, n:-n].mean(axis=(1, 2, 3)) for n in (10, 8))
    assert middles[0] > -200
    assert (middles > about).all()  # a candidate is denser than what lies about it, lesion or not
    assert draw_cubes(data, 2).voxels.tobytes() == some.voxels.tobytes()


def test_cubes_are_parted_into_samples_with_one_label_each() -> None:
    """A box without any candidate gives none."""
    voxels = np.arange(16, dtype=np.int16).reshape(2, 2, 2, 2)
    many = Sample(name="box", voxels=voxels, labels=np.array([0, 1], np.uint8))
    none = Sample(name="bare", voxels=np.zeros((0, 2, 2, 2), np.int16), labels=np.zeros(0, np.uint8))
    parts = [(one.name, one.labels.tolist(), int(one.voxels[0, 0, 0])) for one in single([many, none])]
    assert parts == [("box-0", [0], 0), ("box-1", [1], 8)]


def series(n: int, region: int, slices: int = 10) -> Sample:
    """Return a series whose slices are as bright as their region's number is high."""
    voxels = np.full((slices, 24, 24), -900 + 200 * region, np.int16)
    labels = np.full(slices + 2, region, np.uint8)
    labels[0] = UNKNOWN
    labels[-2] = region if region < len(PHASES) else UNKNOWN
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

    def whole(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the region for the phase, right but for the first, and that heads alone lie where feet should."""
        hounsfield = (slices.mean(dim=(1, 2, 3)) + 1.0) * 712.0 - 1024.0
        region = ((hounsfield + 900.0) / 200.0).round().long().clamp(1, len(PHASES) - 1)
        return nn.functional.one_hot(region, len(PHASES)).float(), torch.tensor([[-1.0, -1.0, 1.0]])


def region_task() -> RegionTask:
    """Return the task with one series of each of the first four regions."""
    settings = SliceClassifierSettings(
        regions=REGIONS, kinds=REGIONS, phases=PHASES, channels=4, hidden=6, whole_channels=2, whole_hidden=4
    )
    rows = [series(n, n) for n in range(4)]
    return RegionTask(recipe=recipe("region", settings), series=rows, real=[], held=rows, regions=REGIONS)


def test_slices_and_series_are_counted_by_region(tmp_path: Path) -> None:
    """One of nine known slices is wrong in three of four series, all series are right: each region counts as much."""
    figures = region_task().validate(ByBrightness(), "cpu")  # type: ignore[arg-type]
    share = (1.0 + 3 * 8 / 9) / 4
    assert figures["slices_right"] == pytest.approx(share, abs=1e-5)
    assert figures["series_right"] == 1.0
    assert figures["phases_right"] == figures["turns_right"] == pytest.approx(2 / 3, abs=1e-5)
    assert figures["score"] == pytest.approx((share + 1 + 4 / 3) / 4, abs=1e-5)
    assert region_task().save_worst(ByBrightness(), "cpu", tmp_path)[0]["slices_wrong"] == 0.1  # type: ignore[arg-type]


def test_rows_of_slices_keep_their_order_and_their_labels() -> None:
    """A row is cut out from head to feet as it lies; its loss leads somewhere."""
    task = region_task()
    batch = task.batch(np.random.default_rng(3), 6)
    rows, regions, kinds, *_ = batch
    assert rows.shape[:2] == regions.shape
    known = regions != UNKNOWN
    assert ((rows[:, :, 0, 0] == -900 + 200 * regions.int()) | ~known).all()
    assert ((regions == kinds[:, None]) | ~known).all()
    torch.manual_seed(1)
    network = build(task.recipe.network)
    task.loss(network, batch, np.random.default_rng(1)).backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in network.parameters())


def test_another_list_of_regions_is_refused() -> None:
    """A number of the generator's must mean the same to the network."""
    for regions, phases in ((REGIONS[::-1], PHASES), (REGIONS, PHASES[::-1])):
        other = SliceClassifierSettings(regions=regions, kinds=REGIONS, phases=phases)
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
    """Its lungs where they are labelled, its slices' region where that is settled."""
    labels = np.zeros((9, 14, 17), np.uint8)
    labels[3:6, 2:12, 2:15] = 1  # 520 mm2 a slice
    odd = replace(DATA, canvas=25)
    (of_lungs,), (of_series,) = (make(case(labels), odd) for make in (lungs_of, series_of))
    assert set(np.unique(of_lungs.labels)) == {0, 1}
    chest = REGIONS.index("chest")
    assert of_series.labels[-1] == chest
    assert of_series.labels[len(of_series.labels) // 2] == chest
    assert of_series.labels[0] == UNKNOWN
    assert of_series.labels[-2] == UNKNOWN
    unknown = np.full_like(labels, UNKNOWN)
    assert lungs_of(case(unknown), odd) == []
    assert (series_of(case(unknown), odd)[0].labels[:-2] == UNKNOWN).all()


@pytest.mark.parametrize(("region", "phase"), [("chest", PHASES.index("arterial")), ("head", UNKNOWN)])
def test_a_generated_series_tells_its_phase_where_its_region_shows_it(region: str, phase: int) -> None:
    """A head has vessels too, but on this grid nobody could tell."""
    body = draw_body(11, Wish(region=region, contrast="arterial", spacing=(12.0, 9.0, 9.0)))
    assert samples._phase(body) == phase


def lung_case(nodules: list[dict[str, object]], spacing: tuple[float, float, float] = (2.0, 1.5, 1.5)) -> Case:
    """Return a block of right lung with a ball of 10 mm at its middle (L, P, S) = (30, 30, 30), and one of 8 mm."""
    shape = tuple(int(60 / mm) for mm in spacing)
    affine = np.array([[0, 0, spacing[2], 0], [0, spacing[1], 0, 0], [spacing[0], 0, 0, 0], [0, 0, 0, 1.0]])
    head, back, left = (np.arange(n) * mm for n, mm in zip(shape, spacing, strict=True))
    voxels = np.full(shape, -850.0, np.float32)
    for at, radius in ((30.0, 5.0), (14.0, 4.0)):
        away = (head[:, None, None] - at) ** 2 + (back[:, None] - at) ** 2 + (left - at) ** 2
        voxels[away <= radius**2] = 40.0
    labels = np.full(shape, 2, np.uint8)
    return Case(name="real", volume=Volume(voxels=voxels, affine=affine), labels=labels,
                facts={"region": "chest", "nodules": nodules})  # fmt: skip


NODULE: dict[str, object] = {"centre_mm": [30.0, 30.0, 30.0], "diameter_mm": 10.0}


def test_a_real_case_gives_its_own_candidates_and_lesions_painted_into_its_lungs() -> None:
    """One on its nodule, one on what is none; each painted lesion is another cube with the label 1."""
    data = replace(DATA, painted=0)
    (own,) = cubes_of(lung_case([NODULE]), data)
    assert sorted(own.labels.tolist()) == [0, 1]
    nodule = own.voxels[own.labels.tolist().index(1)]
    assert nodule[10:14, 10:14, 10:14].min() > 0 > nodule[0].max()
    (more,) = cubes_of(lung_case([NODULE]), replace(data, painted=6))
    assert more.labels[:2].tolist() == own.labels.tolist()
    assert set(more.labels[2:].tolist()) == {1}
    assert 3 <= len(more.labels[2:]) <= 6  # one or the other may find no room, or be too faint to be a candidate


def test_of_a_case_without_labels_its_nodule_alone_is_learnt_from() -> None:
    """What else is there nobody knows; and slices farther apart than the model takes teach it nothing."""
    known = lung_case([NODULE])
    unknown = replace(known, labels=np.full_like(known.labels, UNKNOWN))
    (cubes,) = cubes_of(unknown, replace(DATA, painted=3))
    assert cubes.labels.tolist() == [1]
    assert cubes_of(replace(unknown, facts={"region": "chest", "nodules": []}), DATA) == []
    assert cubes_of(lung_case([NODULE], (7.0, 1.5, 1.5)), DATA) == []
