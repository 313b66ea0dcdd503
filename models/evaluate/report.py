"""One row per case, and the rows as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_HEAD = (
    "case", "lungs L/R mL", "Dice L / R", "Dice both", "marks", "nodules hit", "false", "s lungs / nodules", "peak MB",
    "remark",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What came of one case; None where it was not measured."""

    case: str
    refused: str = ""  # why nothing was run, or why a model declined
    left_ml: float | None = None
    right_ml: float | None = None
    dice_left: float | None = None
    dice_right: float | None = None
    dice_both: float | None = None  # of both lungs together, where the reference does not tell them apart
    marks: int | None = None
    labelled: int | None = None  # nodules of the reference; None where nobody has labelled any
    hit: int | None = None
    false_marks: int | None = None
    lung_seconds: float | None = None
    nodule_seconds: float | None = None
    peak_mb: float | None = None  # of the whole process: interpreter, libraries, series and both models


def table(rows: Sequence[Row]) -> str:
    """Return *rows* as a Markdown table."""
    lines = [_HEAD, tuple("---" for _ in _HEAD), *(_cells(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.case, _pair(row.left_ml, row.right_ml, 0), _pair(row.dice_left, row.dice_right, 3), _one(row.dice_both, 3),
        _one(row.marks, 0), "" if row.labelled is None else f"{row.hit} of {row.labelled}", _one(row.false_marks, 0),
        _pair(row.lung_seconds, row.nodule_seconds, 1), _one(row.peak_mb, 0), row.refused.replace("|", "/"),
    )  # fmt: skip


def _one(value: float | None, decimals: int) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _pair(first: float | None, second: float | None, decimals: int) -> str:
    if first is None and second is None:
        return ""
    return f"{_one(first, decimals) or '-'} / {_one(second, decimals) or '-'}"
