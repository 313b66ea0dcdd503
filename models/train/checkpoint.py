"""Where a training stands, in one file: enough to go on as if it had never stopped. Safetensors too, never a pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

Row = dict[str, float]  # one epoch of the curve

_FORMAT = "pacs-ai-node training 1"


class CheckpointError(ValueError):
    """A training cannot go on from this file; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """What is told beside the tensors."""

    recipe: dict[str, Any]
    curve: list[Row]
    scaler: dict[str, Any]  # of mixed precision


def save_checkpoint(file: Path, state: Checkpoint, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the training to *file*, whole or not at all."""
    tensors: dict[str, Tensor] = {f"network.{name}": one for name, one in network.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": one for name, one in moments.items()})
    text = {
        "format": _FORMAT, "recipe": json.dumps(state.recipe), "curve": json.dumps(state.curve),
        "scaler": json.dumps(state.scaler),
    }  # fmt: skip
    part = file.with_name(f"{file.name}.part")
    save_file({name: one.detach().cpu().contiguous() for name, one in tensors.items()}, part, metadata=text)
    part.replace(file)


def load_checkpoint(file: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    """Bring *network* and *optimizer* to where *file* left them; CheckpointError where it is none of theirs."""
    try:
        with safe_open(file, framework="pt") as opened:
            text = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    except (SafetensorError, OSError) as why:
        raise CheckpointError(f"{file}: no training to go on with: {why}") from why
    if text.get("format") != _FORMAT:
        raise CheckpointError(f"{file}: its format is {text.get('format')!r}, not {_FORMAT!r}")
    try:
        network.load_state_dict(_below(tensors, "network."))
    except RuntimeError as why:
        raise CheckpointError(f"{file}: is of another network: {why}") from why
    held = optimizer.state_dict()
    held["state"] = {}
    for name, one in _below(tensors, "optimizer.").items():
        number, _, moment = name.partition(".")
        held["state"].setdefault(int(number), {})[moment] = one
    optimizer.load_state_dict(held)
    return Checkpoint(
        recipe=json.loads(text["recipe"]), curve=json.loads(text["curve"]), scaler=json.loads(text["scaler"])
    )


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
