"""What the gate needs beyond a trained classifier: where its features lie, and where it draws the line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.gate.judge import Limits
from models.network import SliceClassifier, load_network, read_facts, save
from models.sampling import UNKNOWN
from models.train.augment import augmented_slices, middle
from models.train.certainty import certainty
from models.train.region import RegionTask
from models.train.sources import Sample

_BATCHES, _CHECKED = 80, 40  # of rows changed as in training: to remember, and to draw the lines by
_ROWS = 8  # of a batch
_ROOM = 1.25  # the line of strangeness lies so many times as far out as the strangest row of validation
_SURE = 0.5  # the line of evidence lies at this share of the least evidence of a series of validation with a chest
_LENGTH = 24  # slices of a row at most, as the gate looks at


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """What the network makes of one row of slices."""

    regions: NDArray[np.uint8]  # (slices,): true ones, 255 where they are not settled
    features: Tensor  # (slices, features)
    probabilities: NDArray[np.float32]  # (slices, regions)


def complete(weights: Path, task: RegionTask, device: str) -> dict[str, Any]:
    """Add to *weights* the scatter of the training's features and the gate's limits; return what is told of them.

    Everything is drawn by the recipe's seed, so the same training gives the same lines.
    """
    network = load_network(weights, device, SliceClassifier)
    learnt = [one for rows in (task.series, task.real) for one in _as_they_are(network, rows, task, device)]
    learnt += _changed(network, task, _BATCHES, device)
    features, regions = torch.cat([one.features for one in learnt]), np.concatenate([one.regions for one in learnt])
    known = torch.from_numpy(regions != UNKNOWN).to(device)
    network.remember(features[known], torch.from_numpy(regions).to(device)[known].long())
    held = replace(task, series=task.held, real=())
    told = _told(
        network, list(_as_they_are(network, task.held, task, device)), _changed(network, held, _CHECKED, device)
    )
    lines, sure = certainty(network, task.held, task.recipe.data.canvas, device)
    limits = Limits(
        evidence=round(_SURE * told["least_evidence"], 3), strangeness=round(_ROOM * told["strangest"], 2), **lines
    )
    added = {"limits": asdict(limits), "gate": told, "certainty": sure, "real_cases": [one.name for one in task.real]}
    save(network, weights, {**read_facts(weights), **added})
    return added


def _as_they_are(
    network: SliceClassifier, samples: Sequence[Sample], task: RegionTask, device: str
) -> Iterator[Seen]:
    """Give each series whole, its slices thinned to what the gate looks at."""
    for one in samples:
        count = len(one.voxels)
        places = np.unique(np.linspace(0, count - 1, min(count, _LENGTH)).round().astype(int))
        rows = middle(torch.from_numpy(one.voxels[places][None]), task.recipe.data.canvas)
        yield from _seen(network, rows, one.labels[places][None], device)


def _changed(network: SliceClassifier, task: RegionTask, count: int, device: str) -> list[Seen]:
    """Return what is seen of *count* batches that were changed as in training."""
    seen, data = list[Seen](), task.recipe.data
    for number in range(count):
        rng = np.random.default_rng((task.recipe.seed, number, 2))
        rows, regions, *_ = task.batch(rng, _ROWS)
        nothing = torch.zeros_like(rows[:, 0], dtype=torch.uint8)
        images, _ = augmented_slices(rows, nothing, data.size, data.spacing[2], task.recipe.augmentation, rng)
        seen += _seen(network, images, regions.numpy(), device)
    return seen


def _seen(
    network: SliceClassifier, rows: Tensor, regions: NDArray[np.uint8], device: str
) -> Iterator[Seen]:
    with torch.inference_mode():
        features = network.features(rows.to(device))
        probabilities = network.judge(features)[0].softmax(dim=-1).cpu().numpy()
    for number, truth in enumerate(regions):
        yield Seen(regions=truth, features=features[number], probabilities=probabilities[number])


def _told(network: SliceClassifier, whole: Sequence[Seen], changed: Sequence[Seen]) -> dict[str, Any]:
    """Return how strange all rows are, and how much evidence of a chest *whole* series give, with one and without.

    Evidence is the greatest probability of chest in a row; one whose slices are not settled may show it or not. Rows
    that were *changed* are often of two slices, or boxes with a rim of lung: no line could be drawn by those.
    """
    strange = [float(network.strangeness(one.features).median()) for one in (*whole, *changed)]
    chest = network.settings.regions.index("chest")
    evidence = [(one.regions, float(one.probabilities[:, chest].max())) for one in whole]
    with_it = sorted(most for regions, most in evidence if (regions == chest).any())
    without = sorted(most for regions, most in evidence if ((regions != chest) & (regions != UNKNOWN)).all())
    return {
        "rows": len(strange), "strangest": round(max(strange), 4),
        "strange_median": round(float(np.median(strange)), 4),
        "series_with_chest": len(with_it), "least_evidence": round(min(with_it), 4),
        "series_without_chest": len(without), "evidence_without": [round(one, 3) for one in without],
    }  # fmt: skip
