"""What is true of a scan as a whole: the phase of its contrast, and whether it lies as its header says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.network import TURNS

SHOWING = frozenset({"chest", "abdomen"})  # regions whose vessels and organs tell the phase, and which side is which
_SHARE = 0.5  # of the slices that must look like these before anything is told
_WITH = {
    frozenset({"none"}): "without contrast", frozenset({"arterial"}): "with contrast in the arteries",
    frozenset({"venous"}): "with contrast in the veins too", frozenset({"arterial", "venous"}): "with contrast",
    frozenset({"none", "arterial"}): "without contrast or with contrast in the arteries alone",
    frozenset({"none", "venous"}): "without contrast or with contrast in the veins too",
}  # fmt: skip
#: A scan that surely lies so otherwise than its header says is refused; of the others there is a remark.
DECLINED = ("front-back", "head-feet")
_EXCHANGED = {"left-right": "left and right", "front-back": "front and back", "head-feet": "head and feet"}
_REMARKS = {
    "left-right": "The picture looks mirrored: what lies left and right in most people seems exchanged. Check the side "
    "markers and Image Orientation (Patient) before a side is believed; situs inversus looks the same.",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    """Phase and turns of one scan."""

    phases: Mapping[str, float]  # the probability of each; empty where too few slices show what tells it
    phase: str  # the one that it surely is; empty where that is not known
    turned: Mapping[str, float]  # by TURNS, the probability that it lies the other way round than its header says
    lies: Mapping[str, bool | None]  # by TURNS, whether it surely lies as its header says; None where it is not known


def shows(found: Sequence[str]) -> bool:
    """Whether slices of the regions *found* show enough of chest or abdomen for the whole to be told."""
    return bool(found) and sum(one in SHOWING for one in found) >= _SHARE * len(found)


def odds(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the log-odds of each class against all others of *logits* (..., classes)."""
    each = np.asarray(logits, dtype=np.float64)
    others = [np.logaddexp.reduce(np.delete(each, n, axis=-1), axis=-1) for n in range(each.shape[-1])]
    return np.asarray(each - np.stack(others, axis=-1))


def probability(log_odds: float) -> float:
    """Return the probability of *log_odds*."""
    return float(1.0 / (1.0 + np.exp(-log_odds)))


def other_phases(phases: Mapping[str, float], wanted: frozenset[str]) -> float:
    """Return the log-odds that a scan with the probabilities *phases* is of none of those *wanted*."""
    share = np.clip(sum(phases[one] for one in wanted), 1e-9, 1.0 - 1e-9)
    return float(np.log1p(-share) - np.log(share))


def why_of_another_phase(whole: Whole, wanted: frozenset[str], line: float) -> str:
    """Return why a scan is refused that is surely of no *wanted* phase, by the *line* in log-odds; empty where not."""
    if not wanted or not whole.phases or other_phases(whole.phases, wanted) <= line:
        return ""
    others = frozenset(whole.phases) - wanted
    seen = frozenset({whole.phase}) if whole.phase else others
    return f"this looks like a scan {_WITH[seen]}, and the model is made for scans {_WITH[wanted]}"


def why_turned(whole: Whole) -> str:
    """Return why a scan is refused that surely lies otherwise than its header says; empty where it is not."""
    turned = [name for name in DECLINED if whole.lies[name] is False]
    if not turned:
        return ""
    exchanged = " and ".join(_EXCHANGED[name] for name in turned)
    return f"{exchanged} seem exchanged: check Image Orientation (Patient) and how the patient lay"


def remarks_on(whole: Whole) -> tuple[str, ...]:
    """Return what a reader should know of how the scan lies, where that is no reason to refuse it."""
    turned = [name for name in TURNS if name not in DECLINED and whole.lies[name] is False]
    return tuple(_REMARKS[name] for name in turned)


def seen_of(whole: Whole) -> tuple[str, ...]:
    """Return what is known of phase and turns, in words; nothing of what is not."""
    phase = (_WITH[frozenset({whole.phase})],) if whole.phase else ()
    how = {True: "as the header says", False: "exchanged"}
    return (*phase, *(f"{_EXCHANGED[name]} {how[lies]}" for name in TURNS if (lies := whole.lies[name]) is not None))


def whole_of(
    phase_logits: NDArray[np.floating], turn_logits: NDArray[np.floating], names: tuple[str, ...],
    phase_line: float, turn_lines: tuple[float, ...], *, told: bool,
) -> Whole:  # fmt: skip
    """Return what the logits of phases (phases,), called *names*, and of turns (3,) say, by lines in log-odds.

    Nothing is known where it is not to be *told*.
    """
    each = odds(phase_logits)
    best = int(each.argmax())
    turned = {name: probability(float(one)) for name, one in zip(TURNS, turn_logits, strict=True)}
    lies: dict[str, bool | None] = {
        name: bool(one < 0.0) if told and abs(one) > line else None
        for name, one, line in zip(TURNS, turn_logits, turn_lines, strict=True)
    }
    return Whole(
        phases={name: probability(float(one)) for name, one in zip(names, each, strict=True)} if told else {},
        phase=names[best] if told and each[best] > phase_line else "", turned=turned, lies=lies,
    )  # fmt: skip
