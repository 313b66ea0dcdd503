"""Models that go wrong, each in a way of its own; loaded by the inference child of a test."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

import numpy as np

from models.contract import Findings, Model, NotApplicable, Progress, Segment, Volume

SHOWN = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)  # (y, x, 3)
DECLINES: dict[str, Any] = {
    "declines": None, "declines and shows": SHOWN,
    "declines and shows too much": np.zeros((3000, 2, 3), np.uint8),
    "declines and shows what is no picture": np.zeros((4, 4), np.float32),
}  # fmt: skip


class Misbehaving:
    """A model that fails as its name says."""

    def __init__(self, how: str) -> None:
        self._how = how

    def run(self, volume: Volume, progress: Progress) -> Findings:
        """Fail."""
        progress(0.5, "about to misbehave")
        if self._how == "hangs":
            time.sleep(600)
        if self._how == "exits":
            os._exit(7)
        if self._how == "segfaults":
            ctypes.string_at(0)
        if self._how == "raises":
            raise ZeroDivisionError("no weights")
        if self._how == "eats":
            eaten = []
            while True:
                eaten.append(np.ones(4 << 20))  # 32 MiB each, touched
                time.sleep(0.02)
        if self._how == "finds no memory":
            raise MemoryError
        if self._how == "fills the GPU":
            raise OutOfMemoryError
        if self._how in DECLINES:
            raise NotApplicable("no lung is in view", picture=DECLINES[self._how])
        if self._how == "empty":
            return _one_segment(np.zeros(volume.voxels.shape, dtype=bool))
        if self._how == "wrong shape":
            return _one_segment(np.ones((2, 2, 2), dtype=bool))
        return Findings(remarks=(repr(sorted(name for name in os.environ if name.startswith("PACS_NODE_"))),))


class OutOfMemoryError(RuntimeError):
    """Called as torch calls its own."""


def _one_segment(mask: np.ndarray) -> Findings:  # type: ignore[type-arg]
    return Findings(segments=(Segment(key="left-lung", mask=mask, volume_ml=1.0),))


def load(name: str, device: str) -> Model:
    """Stand in for the catalogue's door: the device names the misbehaviour."""
    return Misbehaving(device)
