"""The region task: a row of slices in; the region of each, and of the whole series, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.network import Network, SliceClassifierSettings
from models.sampling import UNKNOWN
from models.train.augment import augmented_slices, middle
from models.train.losses import cross_entropy
from models.train.pictures import coloured, save_strip
from models.train.recipe import Recipe
from models.train.sources import Sample
from models.train.task import Batch

_FEWEST, _MOST = 3, 24  # slices of a series that one step sees
_PICTURES = 10


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
        share, length = self.recipe.data.real_share if self.real else 0.0, int(rng.integers(_FEWEST, _MOST + 1))
        rows, regions, kinds = [], [], []
        for _ in range(count):
            source = self.real if rng.random() < share else self.series
            sample = source[int(rng.integers(len(source)))]
            places = self._places(len(sample.voxels), length, rng)
            rows.append(sample.voxels[places])
            regions.append(sample.labels[places])
            kinds.append(sample.labels[-1])
        return tuple(torch.from_numpy(np.stack(one)) for one in (rows, regions, kinds))

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

    @staticmethod
    def _places(slices: int, length: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        """Return *length* slices in order, evenly spaced between two ends drawn at random; few are shown repeatedly."""
        first, last = np.sort(rng.integers(0, slices, 2))
        return np.asarray(np.linspace(first, last, length).round().astype(int))


def _balanced(pairs: list[tuple[int, int]]) -> float:
    """Return the mean over the true classes of the share of each that was found."""
    truth, found = np.array(pairs).T
    return float(np.mean([(found[truth == one] == one).mean() for one in np.unique(truth)]))
