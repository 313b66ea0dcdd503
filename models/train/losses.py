"""What a training makes small: cross-entropy, and Dice's overlap made smooth (Milletari 2016, 10.1109/3DV.2016.79)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.sampling import UNKNOWN


def segmentation_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return cross-entropy plus 1 - soft Dice of *logits* (n, classes, ...) against *labels* (n, ...), 0 to about 2+.

    Voxels labelled 255 count for neither. Dice is taken over the whole batch, of each class but the background.
    """
    return cross_entropy(logits, labels) + 1.0 - soft_dice(logits, labels)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean cross-entropy over all that is not labelled 255; nought where nothing is known."""
    known = (labels != UNKNOWN).sum()
    total = functional.cross_entropy(logits.float(), labels.long(), ignore_index=UNKNOWN, reduction="sum")
    return total / known.clamp(min=1)


def soft_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the classes 1, 2, ... of Dice between probabilities and labels, 255 left out.

    A class that is nowhere in the batch would have Dice 0 for the least probability: it is left out, and
    cross-entropy alone speaks for it. Where no class is there the answer is 1.
    """
    known = labels != UNKNOWN
    truth = functional.one_hot(torch.where(known, labels, 0).long(), logits.shape[1]).movedim(-1, 1)
    axes = (0, *range(2, logits.dim()))
    probabilities = logits.float().softmax(dim=1) * known[:, None]
    truth = truth * known[:, None]
    both = (probabilities * truth).sum(dim=axes)[1:]
    there = truth.sum(dim=axes)[1:]
    dice = 2.0 * both / (probabilities.sum(dim=axes)[1:] + there).clamp(min=1e-6)
    present = there > 0
    return dice[present].mean() if bool(present.any()) else torch.ones((), device=logits.device)


def binary_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean binary cross-entropy of *logits* (n,) against *truth* (n,) of noughts and ones."""
    return functional.binary_cross_entropy_with_logits(logits.float(), truth.float())
