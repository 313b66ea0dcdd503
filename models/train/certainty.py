"""From where on the gate is sure of a scan's phase and of how it lies: lines drawn on generated bodies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.gate.whole import odds, shows
from models.network import TURNS, SliceClassifier
from models.sampling import UNKNOWN
from models.train.augment import middle
from models.train.sources import Sample

_LENGTH = 24  # slices of a row at most, as the gate looks at
_ROOM = 1.5  # a line lies so many times as far out as the surest wrong answer
_LEAST = 2.2  # log-odds: nobody is sure of what is as likely as 9 in 10
_NEVER = 1e6  # log-odds that no answer reaches

Logits = NDArray[np.float32]


def certainty(
    network: SliceClassifier, held: Sequence[Sample], canvas: int, device: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the lines of phase and turns in log-odds, as `Limits` takes them, and what is told of how they were drawn.

    Each series of *held* is shown whole, and its lower and upper half alone; what does not look like chest or abdomen
    counts as little as with the gate. None of them is turned: an answer that says so is wrong, and a row that is turned
    gets the opposite answer. Where nothing looks so, nothing is ever sure.
    """
    seen = list(_seen(network, held, canvas, device))
    if not seen:
        return {"phase": _NEVER, "turns": [_NEVER] * len(TURNS)}, {"rows": 0}
    phases, of_phases, turns = (np.stack(one) for one in zip(*seen, strict=True))
    known = phases != UNKNOWN
    each = odds(of_phases[known])
    best, sure = each.argmax(axis=1), each.max(axis=1)
    wrong = best != phases[known]
    phase_line = _line(sure[wrong])
    turn_lines = [_line(one[one > 0.0]) for one in turns.T]
    told = {
        "rows": len(turns), "rows_with_phase": int(known.sum()), "phase_wrong": int(wrong.sum()),
        "phase_known": int((sure > phase_line).sum()),
        "turn_wrong": dict(zip(TURNS, (turns > 0.0).sum(axis=0).tolist(), strict=True)),
        "turn_known": dict(zip(TURNS, (turns < -np.array(turn_lines)).sum(axis=0).tolist(), strict=True)),
        "turn_known_with_phase": dict(
            zip(TURNS, (turns[known] < -np.array(turn_lines)).sum(axis=0).tolist(), strict=True)
        ),
    }  # fmt: skip
    return {"phase": phase_line, "turns": turn_lines}, told


def _line(of_wrong: NDArray[np.floating]) -> float:
    """Return the line beyond *of_wrong*, the log-odds of answers that were wrong."""
    return round(max(_LEAST, _ROOM * float(of_wrong.max(initial=0.0))), 2)


def _seen(
    network: SliceClassifier, held: Sequence[Sample], canvas: int, device: str
) -> Iterator[tuple[NDArray[np.uint8], Logits, Logits]]:
    """Give the phase of each series, and of each of its halves, with the logits of phases and turns."""
    for sample in held:
        count = len(sample.voxels)
        for first, last in ((0, count), (0, (count + 1) // 2), (count // 2, count)):
            places = np.unique(np.linspace(first, last - 1, min(last - first, _LENGTH)).round().astype(int))
            row = middle(torch.from_numpy(sample.voxels[places][None]), canvas).to(device)
            with torch.inference_mode():
                regions = network(row)[0][0].argmax(dim=-1).tolist()
                if not shows([network.settings.regions[one] for one in regions]):
                    continue
                of_phase, of_turns = network.whole(row)
            yield sample.labels[-2], of_phase[0].cpu().numpy(), of_turns[0].cpu().numpy()
