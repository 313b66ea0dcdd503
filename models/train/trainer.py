"""One loop for every task: AdamW, a rate that falls, the best by validation kept, an early end, and going on exactly.

What a step sees depends on the recipe's seed and the step's number alone, so a training that was interrupted has the
same curve as one that was not, and two trainings of one recipe have the same curve (on the CPU, with as many threads).
"""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from models.network import Network, read_tensors, save
from models.train.checkpoint import Checkpoint, CheckpointError, Row, load_checkpoint, save_checkpoint
from models.train.recipe import Recipe, Training
from models.train.task import Batch, Task

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_STEEPEST = 1.0  # norm that gradients are clipped to
_WATCHED = "score"


class Diverged(ArithmeticError):
    """The loss is no number any more; a lower rate, or float32, may help."""


def rate_at(training: Training, step: int, curve: list[Row]) -> float:
    """Return the rate of *step* (from 0): linear warm-up, then half a cosine, or halved after each long stay."""
    warm = min(1.0, (step + 1) / max(1, training.warm_up))
    if training.schedule == "cosine":
        return training.rate * warm * 0.5 * (1.0 + math.cos(math.pi * step / (training.steps * training.epochs)))
    return training.rate * warm * 0.5 ** _stays(training, curve)


def _stays(training: Training, curve: list[Row]) -> int:
    """Return how often *patience* epochs went by without gain, each time counted anew."""
    best, waited, stays = -math.inf, 0, 0
    for row in curve:
        if row[_WATCHED] > best + training.least_gain:
            best, waited = row[_WATCHED], 0
        elif (waited := waited + 1) >= training.patience:
            waited, stays = 0, stays + 1
    return stays


def since_gain(training: Training, curve: list[Row]) -> int:
    """Return how many epochs at the end of *curve* brought no gain."""
    best, waited = -math.inf, 0
    for row in curve:
        gained = row[_WATCHED] > best + training.least_gain
        best, waited = (row[_WATCHED], 0) if gained else (best, waited + 1)
    return waited


def transfer(network: Network, weights: Path) -> list[str]:
    """Give *network* every tensor of *weights* that fits it; return the names of its own that found none.

    A head for other classes does not fit and stays as it was drawn. ValueError where nothing fits at all.
    """
    given, own = read_tensors(weights), network.state_dict()
    fitting = {name: one.float() for name, one in given.items() if name in own and one.shape == own[name].shape}
    if not fitting:
        raise ValueError(f"{weights}: not one tensor fits this network")
    network.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))


@dataclass(kw_only=True, slots=True, eq=False)
class Trainer:
    """A training in a folder: `curve.csv`, `weights.safetensors` of the best epoch, and where it stands."""

    network: Network
    task: Task
    recipe: Recipe
    out: Path
    device: str
    console: Console
    facts: dict[str, Any] = field(default_factory=dict)  # what the weights' file is to tell of their training
    curve: list[Row] = field(default_factory=list)
    _optimizer: torch.optim.AdamW = field(init=False)
    _scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.network.to(self.device)
        if any(isinstance(one, torch.nn.Conv2d) for one in self.network.modules()):
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a quarter faster
        training = self.recipe.training
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=training.rate, weight_decay=training.weight_decay
        )
        scaled = training.precision == "float16" and self.device.startswith("cuda")
        self._scaler = torch.amp.GradScaler(self.device.partition(":")[0], enabled=scaled)

    def resume(self) -> None:
        """Go back to where the folder's checkpoint left off; CheckpointError where that is of another recipe."""
        state = load_checkpoint(self.out / "checkpoint.safetensors", self.network, self._optimizer)
        asked, held = (_without_limit(one) for one in (_plain(self.recipe), state.recipe))
        if asked != held:
            keys = sorted(key for key in {*asked, *held} if asked.get(key) != held.get(key))
            raise CheckpointError(f"{self.out}: the checkpoint is of another recipe: {', '.join(keys)} differ")
        self.curve = state.curve
        if self._scaler.is_enabled():
            self._scaler.load_state_dict(state.scaler)

    def run(self) -> str:
        """Train until the recipe's epochs, its time or its patience are over; return which of them ended it."""
        training, start = self.recipe.training, time.monotonic()
        with Board(self.out) as board:
            for epoch in range(len(self.curve), training.epochs):
                if since_gain(training, self.curve) >= training.early_stop:
                    return f"no gain for {training.early_stop} epochs"
                if training.minutes and time.monotonic() - start >= training.minutes * 60.0:
                    return f"{training.minutes:g} minutes are over"
                board.add(row := self._epoch(epoch))
                self._record(row)
        return f"all {training.epochs} epochs are done"

    @property
    def best(self) -> Row:
        """The epoch whose weights are kept."""
        return max(self.curve, key=lambda row: row[_WATCHED])

    def _epoch(self, epoch: int) -> Row:
        training, start, losses = self.recipe.training, time.monotonic(), []
        self.network.train()
        with Progress(console=self.console, transient=True) as bars:
            bar = bars.add_task(f"epoch {epoch + 1}", total=training.steps)
            for step, batch in self._batches(epoch * training.steps, training.steps):
                losses.append(self._step(step, batch))
                bars.update(bar, advance=1, description=f"epoch {epoch + 1}, loss {losses[-1]:.3f}")
        self.network.eval()
        rate = rate_at(training, (epoch + 1) * training.steps - 1, self.curve)
        figures = self.task.validate(self.network, self.device)
        loss = float(np.mean(losses))
        seconds = round(time.monotonic() - start, 1)
        return {"epoch": epoch + 1, "rate": rate, "loss": loss, **figures, "seconds": seconds}

    def _step(self, step: int, batch: Batch) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = rate_at(self.recipe.training, step, self.curve)
        dtype = _DTYPES[self.recipe.training.precision]
        rng = np.random.default_rng((self.recipe.seed, step, 1))
        with torch.autocast(self.device.partition(":")[0], dtype=dtype, enabled=dtype != torch.float32):
            loss = self.task.loss(self.network, tuple(one.to(self.device, non_blocking=True) for one in batch), rng)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self._scaler.unscale_(self._optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _STEEPEST)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if not math.isfinite(value := float(loss.detach())):
            raise Diverged(f"the loss of step {step + 1} is {value}; try a lower rate or precision float32")
        return value

    def _batches(self, first: int, count: int) -> Iterator[tuple[int, Batch]]:
        """Give each step's batch; the next one is put together while the network works on this one."""

        def gather(step: int) -> Batch:
            return self.task.batch(np.random.default_rng((self.recipe.seed, step, 0)), self.recipe.training.batch)

        with ThreadPoolExecutor(1) as beside:
            coming: Future[Batch] = beside.submit(gather, first)
            for step in range(first, first + count):
                batch = coming.result()
                if step + 1 < first + count:
                    coming = beside.submit(gather, step + 1)
                yield step, batch

    def _record(self, row: Row) -> None:
        """Keep the weights where they are the best so far, then say where the training stands."""
        best = all(row[_WATCHED] > one[_WATCHED] for one in self.curve)
        self.curve.append(row)
        if best:
            facts = {**self.facts, "recipe": _plain(self.recipe), "epoch": row["epoch"], "validation": row}
            save(self.network, self.out / "weights.safetensors", facts, half=self.recipe.training.half)
        state = Checkpoint(recipe=_plain(self.recipe), curve=self.curve, scaler=self._scaler.state_dict())
        save_checkpoint(self.out / "checkpoint.safetensors", state, self.network, self._optimizer)
        with (self.out / "curve.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(row))
            table.writeheader()
            table.writerows(self.curve)
        told = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
        self.console.print(f"{told}{' *' if best else ''}", highlight=False)


class Board:
    """Curves for TensorBoard below *out*, where the `train` extra is installed; else nothing is written."""

    def __init__(self, out: Path) -> None:
        self._writer: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter  # needs tensorboard, not tensorflow

            self._writer = SummaryWriter(str(out / "tensorboard"))

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Row) -> None:
        """Add one epoch."""
        if self._writer is not None:
            for name in row.keys() - {"epoch"}:
                self._writer.add_scalar(name, row[name], int(row["epoch"]))


def _plain(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as JSON gives it back."""
    plain: dict[str, Any] = json.loads(json.dumps(recipe.as_dict()))
    return plain


def _without_limit(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe but for its time limit, which changes no step."""
    return {**recipe, "training": {**recipe["training"], "minutes": 0.0}}


def with_minutes(recipe: Recipe, minutes: float) -> Recipe:
    """Return *recipe* with another time limit."""
    return replace(recipe, training=replace(recipe.training, minutes=minutes))
