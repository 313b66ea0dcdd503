"""What the loop asks of a task; each of the three tasks answers in a file of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from models.network import Network

Batch = tuple[Tensor, ...]


class Task(Protocol):
    """Samples to learn from and to be judged by."""

    def batch(self, rng: np.random.Generator, count: int) -> Batch:
        """Return *count* samples drawn by *rng*, not yet augmented; on the CPU."""

    def loss(self, network: Network, batch: Batch, rng: np.random.Generator) -> Tensor:
        """Return the loss of *network* on *batch*, augmented by *rng* where the batch is."""

    def validate(self, network: Network, device: str) -> dict[str, float]:
        """Return figures on what is kept for validation; "score" is the one that the best is chosen by."""

    def save_worst(self, network: Network, device: str, folder: Path) -> list[dict[str, Any]]:
        """Write pictures of the worst examples of validation; return what each of them is, worst first."""
