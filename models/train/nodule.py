"""The nodule task: a small cube in, how much its middle looks like a nodule out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.network import Network, NoduleCNNSettings
from models.train.augment import augmented_cubes, middle
from models.train.losses import binary_loss
from models.train.pictures import coloured, save_strip
from models.train.recipe import Recipe
from models.train.sources import Sample
from models.train.task import Batch

_AT_ONCE = 32
_PICTURES = 10
_LEAST_SPECIFICITY = 0.95  # where sensitivity is told


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class NoduleTask:
    """Cubes with and without a lesion in their middle, as many of each in a batch."""

    recipe: Recipe
    cubes: Sequence[Sample]
    real: Sequence[Sample]
    held: Sequence[Sample]  # for validation

    def __post_init__(self) -> None:
        if not isinstance(self.recipe.network, NoduleCNNSettings):
            raise ValueError(f"the nodule task needs a nodule CNN, not {self.recipe.network}")
        for name, samples in (("learn from", self.cubes), ("validate with", self.held)):
            if {int(one.labels[0]) for one in samples} != {0, 1}:
                raise ValueError(f"cubes to {name} must be of both kinds; there are {len(samples)}")

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """Return cubes (count, z, y, x) in HU and what they show (count,)."""
        chosen = []
        for n in range(count):
            real = self.real and rng.random() < self.recipe.data.real_share
            source = [one for one in (self.real if real else self.cubes) if int(one.labels[0]) == n % 2]
            source = source or [one for one in self.cubes if int(one.labels[0]) == n % 2]
            chosen.append(source[int(rng.integers(len(source)))])
        return _stacked(chosen)

    def loss(self, network: Network, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Return binary cross-entropy of the augmented batch."""
        data, (cubes, truth) = self.recipe.data, batch
        cubes = augmented_cubes(cubes, data.size, data.spacing[0], self.recipe.augmentation, rng)
        return binary_loss(network(cubes), truth)

    def validate(self, network: Network, device: str) -> dict[str, float]:
        """Return the area under the ROC curve as the score, and sensitivity at a specificity of 0.95 at least."""
        judged = list(self._judged(network, device))
        truth = np.array([int(one.labels[0]) for one, _ in judged])
        rating = np.array([value for _, value in judged])
        none, some = rating[truth == 0], rating[truth == 1]
        area = float(((some[:, None] > none) + 0.5 * (some[:, None] == none)).mean())
        bar = np.sort(none)[min(len(none) - 1, int(np.ceil(_LEAST_SPECIFICITY * len(none))) - 1)]
        found, right = float((some > bar).mean()), float(((rating > 0) == truth).mean())
        return {"score": round(area, 5), "sensitivity": round(found, 5), "accuracy": round(right, 5)}

    def save_worst(self, network: Network, device: str, folder: Path) -> list[dict[str, Any]]:
        """Write the three middle planes of the cubes that were judged most wrongly."""
        judged = [(value * (1 - 2 * int(one.labels[0])), value, one) for one, value in self._judged(network, device)]
        worst = sorted(judged, key=lambda one: (-one[0], one[2].name))[:_PICTURES]
        for rank, (_, _, one) in enumerate(worst, 1):
            at = one.voxels.shape[0] // 2
            planes = (one.voxels[at], one.voxels[:, at], one.voxels[:, :, at])
            pictures = [coloured(plane, np.zeros(plane.shape, np.uint8)) for plane in planes]
            save_strip(folder / f"{rank:02d}-{one.name}.png", pictures)
        return [{"name": one.name, "logit": round(value, 3)} for _, value, one in worst]

    def _judged(self, network: Network, device: str) -> Iterator[tuple[Sample, float]]:
        """Give each cube of validation with the network's logit."""
        for start in range(0, len(self.held), _AT_ONCE):
            some = self.held[start : start + _AT_ONCE]
            cubes = _stacked(some)[0].to(device)[:, None]
            with torch.inference_mode():
                logits = network(middle(cubes, self.recipe.data.size)).float().cpu().tolist()
            yield from zip(some, logits, strict=True)


def _stacked(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    voxels: NDArray[np.int16] = np.stack([one.voxels for one in samples])
    return torch.from_numpy(voxels), torch.tensor([int(one.labels[0]) for one in samples])
