"""The region task: a row of slices in; the region of each, and of the whole series, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.generator import REGIONS
from models.network import Network, SliceClassifierSettings
from models.sampling import LOWEST, UNKNOWN
from models.train.augment import augmented_slices, middle
from models.train.losses import cross_entropy
from models.train.pictures import coloured, save_strip
from models.train.recipe import Recipe
from models.train.sources import Sample
from models.train.task import Batch

_FEWEST, _MOST = 2, 24  # slices of a series that one step sees
_SHORT = 6.0  # most rows are short: many bodies teach more than many slices of one
_PICTURES = 10
_CHEST = REGIONS.index("chest")
_UPWARDS = ("legs", "pelvis", "abdomen", "chest", "neck", "head")
_ON = 0.5  # share of joined rows that go on once more
_BOX_MM = (60.0, 270.0)  # side of a box that is seen alone
_BODY = -900  # HU: air lies below
_LUNG = (-990, -500)  # HU
_LEAST_LUNG = 0.15  # share of a box

Row = tuple[NDArray[np.int16], NDArray[np.uint8], int]  # slices (slices, y, x), their regions, the series' own


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

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """Return rows of slices (count, slices, y, x), their regions (count, slices) and the series' own (count,)."""
        how, length = self.recipe.augmentation, int(_FEWEST + (_MOST + 1 - _FEWEST) * rng.random() ** _SHORT)
        rows: list[NDArray[np.int16]] = []
        regions: list[NDArray[np.uint8]] = []
        kinds: list[int] = []
        for _ in range(count):
            voxels, labels, kind = self._row(length, rng)
            if how.boxed and rng.random() < how.boxed:
                voxels, labels = boxed(voxels, labels, self.recipe.data.spacing[2], rng)
            rows.append(voxels)
            regions.append(labels)
            kinds.append(kind if (labels != UNKNOWN).any() else UNKNOWN)
        return torch.from_numpy(np.stack(rows)), torch.from_numpy(np.stack(regions)), torch.tensor(kinds)

    def loss(self, network: Network, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Return cross-entropy of the slices' regions and of the series' own, each counting as much."""
        (rows, regions, kinds), data = batch, self.recipe.data
        no_labels = torch.zeros_like(rows[:, 0], dtype=torch.uint8)
        images, _ = augmented_slices(rows, no_labels, data.size, data.spacing[2], self.recipe.augmentation, rng)
        of_slices, of_series = network(images)
        return cross_entropy(of_slices.movedim(-1, 1), regions) + cross_entropy(of_series, kinds)

    def validate(self, network: Network, device: str) -> dict[str, float]:
        """Return the share of slices and of series that are right, each region counting as much; their mean."""
        slices, series = [], []
        for sample, of_slices, of_series in self._judged(network, device):
            truth = sample.labels[:-1]
            slices += [(int(t), int(f)) for t, f in zip(truth, of_slices, strict=True) if t != UNKNOWN]
            series.append((int(sample.labels[-1]), of_series))
        of_slices_right, of_series_right = _balanced(slices), _balanced(series)
        figures = {
            "score": 0.5 * (of_slices_right + of_series_right), "slices_right": of_slices_right,
            "series_right": of_series_right,
        }  # fmt: skip
        return {name: round(value, 5) for name, value in figures.items()}

    def save_worst(self, network: Network, device: str, folder: Path) -> list[dict[str, Any]]:
        """Write the middle slice and its neighbours of the series with the most slices wrong."""
        judged = []
        for sample, of_slices, of_series in self._judged(network, device):
            truth = sample.labels[:-1]
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

    def _judged(self, network: Network, device: str) -> Iterator[tuple[Sample, np.ndarray[Any, Any], int]]:
        """Give each series of validation with the region found for each slice, and for the whole."""
        for sample in self.held:
            row = torch.from_numpy(sample.voxels[None]).to(device)
            with torch.inference_mode():
                of_slices, of_series = network(middle(row, self.recipe.data.canvas))
            yield sample, of_slices[0].argmax(dim=-1).cpu().numpy(), int(of_series[0].argmax())

    def _row(self, length: int, rng: np.random.Generator) -> Row:
        """Return *length* slices of a series, or of several that go on into each other, which are of no one kind."""
        share = self.recipe.data.real_share if self.real else 0.0
        source = self.real if rng.random() < share else self.series
        parts = [source[int(rng.integers(len(source)))]]
        joined = self.recipe.augmentation.joined
        while joined and rng.random() < (joined if len(parts) == 1 else _ON):
            above = self._above(parts[-1])
            if not above:
                break
            parts.append(above[int(rng.integers(len(above)))])
        ends = np.cumsum([0, *(len(one.voxels) for one in parts)])
        places = _places(int(ends[-1]), length, rng)
        of = np.searchsorted(ends, places, side="right") - 1
        pairs = [(parts[n], z - ends[n]) for n, z in zip(of, places, strict=True)]
        kind = parts[0].labels[-1] if len(parts) == 1 else UNKNOWN
        return np.stack([one.voxels[z] for one, z in pairs]), np.array([one.labels[z] for one, z in pairs]), int(kind)

    def _above(self, sample: Sample) -> list[Sample]:
        """Return the series of the region that lies above that of *sample*; none above a head or an object."""
        name = self.regions[sample.labels[-1]]
        if name not in _UPWARDS[:-1]:
            return []
        wanted = self.regions.index(_UPWARDS[_UPWARDS.index(name) + 1])
        return [one for one in self.series if one.labels[-1] == wanted]


def boxed(
    voxels: NDArray[np.int16], labels: NDArray[np.uint8], spacing: float, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return a row of slices (slices, y, x) of which a box in the patient alone is seen, moved to the middle.

    A slice of chest whose box holds next to no lung is not settled any more. *spacing* is that of the plane in mm.
    """
    side = rng.uniform(*_BOX_MM) / spacing
    half = np.maximum(1, np.rint(side * rng.uniform(0.8, 1.25, 2) / 2)).astype(int)
    there = np.argwhere(voxels[len(voxels) // 2] > _BODY)
    middle = np.array(voxels.shape[1:]) // 2
    at = there[int(rng.integers(len(there)))] if len(there) else middle
    moved = np.full_like(voxels, int(LOWEST))
    (low_y, low_x), (high_y, high_x) = np.maximum(at - half, 0), np.minimum(at + half, voxels.shape[1:])
    seen = voxels[:, low_y:high_y, low_x:high_x]
    top, start = np.maximum(middle - np.array(seen.shape[1:]) // 2, 0)
    moved[:, top : top + seen.shape[1], start : start + seen.shape[2]] = seen
    lung = ((seen > _LUNG[0]) & (seen < _LUNG[1])).mean(axis=(1, 2)) >= _LEAST_LUNG
    return moved, np.where((labels == _CHEST) & ~lung, UNKNOWN, labels).astype(np.uint8)


def _places(slices: int, length: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return *length* slices in order, evenly spaced between two ends drawn at random; few are shown repeatedly."""
    first, last = np.sort(rng.integers(0, slices, 2))
    return np.asarray(np.linspace(first, last, length).round().astype(np.int64))


def _balanced(pairs: list[tuple[int, int]]) -> float:
    """Return the mean over the true classes of the share of each that was found."""
    truth, found = np.array(pairs).T
    return float(np.mean([(found[truth == one] == one).mean() for one in np.unique(truth)]))
