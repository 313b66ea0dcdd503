"""What is told of a training when it ends: enough to do it again, and to see where it fails."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from typing import Any

import torch

from models.network import load_network
from models.train.trainer import Trainer


def save_report(trainer: Trainer, ended: str) -> dict[str, Any]:
    """Write report.json and the pictures of the worst validation examples of the best weights; return the report."""
    weights, pictures = trainer.out / "weights.safetensors", trainer.out / "worst"
    best = load_network(weights, trainer.device)
    shutil.rmtree(pictures, ignore_errors=True)  # of an earlier part of this run
    pictures.mkdir()
    report = {
        **trainer.facts, "ended": ended, "recipe": trainer.recipe.as_dict(), "epochs": len(trainer.curve),
        "minutes": round(sum(row["seconds"] for row in trainer.curve) / 60.0, 1), "best": trainer.best,
        "validation_of_file": trainer.task.validate(best, trainer.device),  # of the weights as they are stored
        "worst": trainer.task.save_worst(best, trainer.device, pictures),
        "parameters": sum(one.numel() for one in best.parameters()), "bytes": weights.stat().st_size,
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(), "machine": machine(trainer.device),
    }  # fmt: skip
    (trainer.out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def machine(device: str) -> dict[str, str | int]:
    """Return what trained it."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor()
    return {
        "device": device, "name": name or platform.machine(), "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(), "python": platform.python_version(), "torch": torch.__version__,
    }  # fmt: skip
