"""The region task: a row of slices in; region of each out, and of the series region, phase and how it lies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.gate.whole import SHOWING
from models.generator import PHASES
from models.network import Network, SliceClassifier, SliceClassifierSettings
from models.sampling import UNKNOWN
from models.train.augment import augmented_slices, middle
from models.train.losses import binary_loss, cross_entropy
from models.train.pictures import coloured, save_strip
from models.train.recipe import Augmentation, Recipe
from models.train.rows import boxed, prone
from models.train.sources import Sample
from models.train.task import Batch

_FEWEST, _MOST = 2, 24  # slices of a series that one step sees
_SHORT = 6.0  # most rows are short: many bodies teach more than many slices of one
_LONG, _LEAST_SPAN = 12, 0.3  # slices of a long row, and the least share of a series that it reaches over
_SHOWING = 0.8  # of the long rows show chest or abdomen, which tell phases and sides
_PICTURES = 10
_UPWARDS = ("legs", "pelvis", "abdomen", "chest", "neck", "head")
_ON = 0.5  # share of joined rows that go on once more

Row = tuple[NDArray[np.int16], NDArray[np.uint8], tuple[int, int]]  # slices (slices, y, x), regions, phase and kind


#: A series with the regions found (slices,) and its own, and the logits of phases (phases,) and turns (3,).
Judged = tuple[Sample, tuple[NDArray[np.int64], int], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RegionTask:
    """Series of all regions; each step sees a row of slices cut out of each, all of one length."""

    recipe: Recipe
    series: Sequence[Sample]
    real: Sequence[Sample]
    held: Sequence[Sample]  # for validation
    regions: tuple[str, ...]

    def __post_init__(self) -> None:
        settings = self.recipe.network
        if not isinstance(settings, SliceClassifierSettings):
            raise ValueError(f"the region task needs a slice classifier, not {settings}")
        if settings.regions != self.regions or settings.kinds != self.regions:
            raise ValueError(f"regions and kinds of the network must be those of the generator: {self.regions}")
        if settings.phases != PHASES:
            raise ValueError(f"phases of the network must be those of the generator: {PHASES}")

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """Return rows of slices and longer ones, to learn slices and wholes from, with what is true of them.

        Rows (count, slices, y, x), their regions (count, slices) and kinds (count,); long rows and phases (count,).
        """
        how, length = self.recipe.augmentation, int(_FEWEST + (_MOST + 1 - _FEWEST) * rng.random() ** _SHORT)
        rows: list[NDArray[np.int16]] = []
        regions: list[NDArray[np.uint8]] = []
        kinds: list[int] = []
        for _ in range(count):
            voxels, labels, (_, kind) = self._row(length, rng)
            if how.boxed and rng.random() < how.boxed:
                voxels, labels = boxed(voxels, labels, self.recipe.data.spacing[2], rng)
            rows.append(voxels)
            regions.append(labels)
            kinds.append(kind if (labels != UNKNOWN).any() else UNKNOWN)
        wide, phases = zip(*(self._wide(rng) for _ in range(count)), strict=True)
        return (
            torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(regions)), torch.tensor(kinds),
            torch.from_numpy(np.stack(wide)), torch.tensor(phases),
        )  # fmt: skip

    def loss(self, network: Network, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Return the cross-entropies of regions, kinds, phases and turns, each counting as much.

        The network turns the long rows itself, so all are to be told that they lie as they are.
        """
        rows, regions, kinds, wide, phases = batch
        how, classifier = self.recipe.augmentation, cast(SliceClassifier, network)
        of_slices, of_series = classifier(self._changed(rows, how, rng))
        of_phase, of_turns = classifier.whole(self._changed(wide, replace(how, flip_x=0.0, flip_z=0.0), rng))
        return (
            cross_entropy(of_slices.movedim(-1, 1), regions) + cross_entropy(of_series, kinds)
            + cross_entropy(of_phase, phases) + binary_loss(of_turns, torch.zeros_like(of_turns))
        )  # fmt: skip

    def _changed(self, rows: Tensor, how: Augmentation, rng: np.random.Generator) -> Tensor:
        no_labels, data = torch.zeros_like(rows[:, 0], dtype=torch.uint8), self.recipe.data
        return augmented_slices(rows, no_labels, data.size, data.spacing[2], how, rng)[0]

    def validate(self, network: Network, device: str) -> dict[str, float]:
        """Return the shares of slices, series, phases (each class counting as much) and turns that are right.

        Turns are of series with a known phase: those that show which side is which. The score is the mean of the four.
        """
        slices, series, phases, turns = [], [], [], []
        for sample, (of_slices, of_series), (of_phase, of_turns) in self._judged(network, device):
            truth, phase = sample.labels[:-2], int(sample.labels[-2])
            slices += [(int(t), int(f)) for t, f in zip(truth, of_slices, strict=True) if t != UNKNOWN]
            series.append((int(sample.labels[-1]), of_series))
            if phase != UNKNOWN:
                phases.append((phase, int(of_phase.argmax())))
                turns.append(float((of_turns < 0.0).mean()))  # none was turned
        figures = {
            "slices_right": _balanced(slices), "series_right": _balanced(series), "phases_right": _balanced(phases),
            "turns_right": float(np.mean(turns)),
        }  # fmt: skip
        score = float(np.mean(list(figures.values())))
        return {name: round(value, 5) for name, value in {"score": score, **figures}.items()}

    def save_worst(self, network: Network, device: str, folder: Path) -> list[dict[str, Any]]:
        """Write the middle slice and its neighbours of the series with the most slices wrong."""
        judged = []
        for sample, (of_slices, of_series), _ in self._judged(network, device):
            truth = sample.labels[:-2]
            wrong = (of_slices != truth) & (truth != UNKNOWN)
            judged.append((float(wrong.mean()), sample, wrong, of_series))
        worst = sorted(judged, key=lambda one: (-one[0], one[1].name))[:_PICTURES]
        for rank, (_, sample, wrong, of_series) in enumerate(worst, 1):
            of = np.flatnonzero(wrong) if wrong.any() else np.arange(len(wrong))
            shown = [sample.voxels[z] for z in of[np.linspace(0, len(of) - 1, 3).round().astype(int)]]
            name = f"{rank:02d}-{sample.name}-as-{self.regions[of_series]}.png"
            save_strip(folder / name, [coloured(one, np.zeros(one.shape, np.uint8)) for one in shown])
        return [
            {"name": sample.name, "slices_wrong": round(share, 3), "series_as": self.regions[of_series]}
            for share, sample, _, of_series in worst
        ]  # fmt: skip

    def _judged(self, network: Network, device: str) -> Iterator[Judged]:
        """Give each series of validation with what is found of it."""
        classifier = cast(SliceClassifier, network)
        for sample in self.held:
            row = middle(torch.from_numpy(sample.voxels[None]).to(device), self.recipe.data.canvas)
            with torch.inference_mode():
                (of_slices, of_series), (phase, turns) = classifier(row), classifier.whole(row)
            regions = (of_slices[0].argmax(dim=-1).cpu().numpy(), int(of_series[0].argmax()))
            yield sample, regions, (phase[0].cpu().numpy(), turns[0].cpu().numpy())

    def _wide(self, rng: np.random.Generator) -> tuple[NDArray[np.int16], int]:
        """Return a row that shows much of a series, mostly of chest or abdomen, and its phase."""
        how = self.recipe.augmentation
        showing = [one for one in self.series if one.labels[-2] != UNKNOWN]
        there = [one for one in self.real if self.regions[one.labels[-1]] in SHOWING]
        source: Sequence[Sample] = self.series
        if showing and rng.random() < _SHOWING:
            source = there if there and rng.random() < self.recipe.data.real_share else showing
        parts = self._parts(source, rng)
        voxels, _, (phase, _) = _cut_out(parts, _spread(sum(len(one.voxels) for one in parts), rng))
        if how.prone and rng.random() < how.prone:
            voxels = prone(voxels, rng)
        if how.boxed and rng.random() < how.boxed / 2.0:
            voxels, _ = boxed(voxels, np.zeros(len(voxels), np.uint8), self.recipe.data.spacing[2], rng)
        return voxels, phase

    def _row(self, length: int, rng: np.random.Generator) -> Row:
        """Return *length* slices of a series, or of several that go on into each other, which are of no one kind."""
        share = self.recipe.data.real_share if self.real else 0.0
        parts = self._parts(self.real if rng.random() < share else self.series, rng)
        return _cut_out(parts, _places(sum(len(one.voxels) for one in parts), length, rng))

    def _parts(self, source: Sequence[Sample], rng: np.random.Generator) -> list[Sample]:
        """Return one of *source*, at times with those that lie above it."""
        parts = [source[int(rng.integers(len(source)))]]
        joined = self.recipe.augmentation.joined
        while joined and rng.random() < (joined if len(parts) == 1 else _ON):
            above = self._above(parts[-1])
            if not above:
                break
            parts.append(above[int(rng.integers(len(above)))])
        return parts

    def _above(self, sample: Sample) -> list[Sample]:
        """Return the series of the region that lies above that of *sample*; none above a head or an object."""
        name = self.regions[sample.labels[-1]]
        if name not in _UPWARDS[:-1]:
            return []
        wanted = self.regions.index(_UPWARDS[_UPWARDS.index(name) + 1])
        return [one for one in self.series if one.labels[-1] == wanted]


def _cut_out(parts: Sequence[Sample], places: NDArray[np.int64]) -> Row:
    """Return the slices at *places* of *parts* one upon the other; what is true of several together is not known."""
    ends = np.cumsum([0, *(len(one.voxels) for one in parts)])
    of = np.searchsorted(ends, places, side="right") - 1
    pairs = [(parts[n], z - ends[n]) for n, z in zip(of, places, strict=True)]
    phase, kind = parts[0].labels[-2:].tolist() if len(parts) == 1 else (UNKNOWN, UNKNOWN)
    voxels, labels = np.stack([one.voxels[z] for one, z in pairs]), np.array([one.labels[z] for one, z in pairs])
    return voxels, labels, (phase, kind)


def _spread(slices: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return slices in order that reach over a good part of all of them."""
    span = rng.uniform(_LEAST_SPAN, 1.0)
    first = rng.uniform(0.0, 1.0 - span)
    return np.asarray(((slices - 1) * np.linspace(first, first + span, _LONG)).round().astype(np.int64))


def _places(slices: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return *length* slices in order, evenly spaced between two ends drawn at random; few are shown repeatedly."""
    first, last = np.sort(rng.integers(0, slices, 2))
    return np.asarray(np.linspace(first, last, length).round().astype(np.int64))


def _balanced(pairs: list[tuple[int, int]]) -> float:
    """Return the mean over the true classes of the share of each that was found."""
    truth, found = np.array(pairs).T
    return float(np.mean([(found[truth == one] == one).mean() for one in np.unique(truth)]))
