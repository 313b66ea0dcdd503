"""The lung task: five neighbouring slices in, the labels of the middle one out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.network import Network, UNetSettings
from models.sampling import UNKNOWN, neighbours
from models.train.augment import augmented_slices, middle
from models.train.losses import segmentation_loss
from models.train.pictures import save_panel
from models.train.recipe import Recipe
from models.train.sources import Sample
from models.train.task import Batch

NAMES = ("none", "left", "right", "airways")  # of the labels 0, 1, 2, 3
_SLICES = 12  # of each body that validation looks at, evenly spaced
_PICTURES = 10
_AT_ONCE = 16  # slices in one forward pass of validation


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LungTask:
    """Slices of bodies; prepared real cases among them as often as the recipe says."""

    recipe: Recipe
    bodies: Sequence[Sample]
    real: Sequence[Sample]
    held: Sequence[Sample]  # for validation
    settings: UNetSettings = field(init=False)

    def __post_init__(self) -> None:
        settings = self.recipe.network
        if not isinstance(settings, UNetSettings) or settings.dims != 2 or settings.classes != len(NAMES):
            raise ValueError(f"the lung task needs a U-Net with dims 2 and {len(NAMES)} classes, not {settings}")
        object.__setattr__(self, "settings", settings)

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """Return stacks (count, slices, y, x) in HU and the labels of their middles (count, y, x)."""
        share = self.recipe.data.real_share if self.real else 0.0
        chosen = []
        for _ in range(count):
            source = self.real if rng.random() < share else self.bodies
            sample = source[int(rng.integers(len(source)))]
            chosen.append(self._stack(sample, int(rng.integers(len(sample.voxels)))))
        return _stacked(chosen)

    def loss(self, network: Network, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Return cross-entropy and soft Dice of the augmented batch."""
        data = self.recipe.data
        images, labels = batch
        images, labels = augmented_slices(images, labels, data.size, data.spacing[2], self.recipe.augmentation, rng)
        return segmentation_loss(network(images.contiguous(memory_format=torch.channels_last)), labels)

    def validate(self, network: Network, device: str) -> dict[str, float]:
        """Return Dice of each label, over all slices of all bodies together, so that stray marks count; their mean."""
        counts = np.zeros((len(NAMES), 2))  # voxels in both, voxels in either summed
        for _, _, truth, found in self._judged(network, device):
            counts += _overlaps(truth, found)
        figures = {
            f"dice_{name}": round(2.0 * both / either, 5) if either else 1.0  # nothing and nothing agree
            for name, (both, either) in zip(NAMES[1:], counts[1:].tolist(), strict=True)
        }
        return {"score": round(float(np.mean(list(figures.values()))), 5), **figures}

    def save_worst(self, network: Network, device: str, folder: Path) -> list[dict[str, Any]]:
        """Write the slices with the most voxels wrong."""
        judged = [
            (int(((truth != found) & (truth != UNKNOWN)).sum()), sample.name, z, sample.voxels[z], truth, found)
            for sample, z, truth, found in self._judged(network, device)
        ]
        worst = sorted(judged, key=lambda one: (-one[0], one[1], one[2]))[:_PICTURES]
        for rank, (_, name, z, picture, truth, found) in enumerate(worst, 1):
            save_panel(folder / f"{rank:02d}-{name}-{z}.png", picture, truth, found)
        return [{"name": name, "slice": z, "wrong_voxels": wrong} for wrong, name, z, *_ in worst]

    def _judged(
        self, network: Network, device: str
    ) -> Iterator[tuple[Sample, int, NDArray[np.uint8], NDArray[np.uint8]]]:
        """Give each slice that validation looks at with its truth and what *network* finds in it."""
        for sample in self.held:
            places = np.unique(np.linspace(0, len(sample.voxels) - 1, _SLICES).round().astype(int)).tolist()
            for start in range(0, len(places), _AT_ONCE):
                some = places[start : start + _AT_ONCE]
                images, truth = _stacked([self._stack(sample, z) for z in some])
                with torch.inference_mode():
                    logits = network(middle(images.to(device), self.recipe.data.canvas))
                found = logits.argmax(dim=1).byte().cpu().numpy()
                for place, z in enumerate(some):
                    yield sample, z, truth[place].numpy(), found[place]

    def _stack(self, sample: Sample, z: int) -> tuple[NDArray[np.generic], NDArray[np.uint8]]:
        return neighbours(sample.voxels, z, self.settings.in_channels), sample.labels[z]


def _stacked(chosen: list[tuple[NDArray[np.generic], NDArray[np.uint8]]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*chosen, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(labels))


def _overlaps(truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return for each label how many voxels have it in both, and how many in either, counted twice where in both."""
    known = truth != UNKNOWN
    rows = [((truth == n) & known, (found == n) & known) for n in range(len(NAMES))]
    return np.array([((one & other).sum(), one.sum() + other.sum()) for one, other in rows], dtype=np.float64)
