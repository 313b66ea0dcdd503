"""The figures of an evaluation, by which one release of a model is held beside the next."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from models.evaluate.gate_tables import Counts, phase_counts, turn_counts
from models.evaluate.metrics import NOWHERE
from models.evaluate.planted import KINDS
from models.evaluate.results import PLANTED, Agreement, Passing, Report, Run, scans
from models.evaluate.scores import Calibration, Froc, calibration, froc

#: The case whose lungs a physician drew on every slice.
DRAWN_BY_HAND = "ct-chest-lung1-001/dicom"

#: mm; planted nodules are counted in these stretches, the upper end left out.
DIAMETERS = ((6, 10), (10, 15), (15, 26))

_OF_GATE = (
    "gate_false_refusals", "gate_with_lung", "gate_false_admissions", "gate_without_lung", "gate_phases", "gate_turns",
)  # fmt: skip
_SOURCES = (("real", False), ("generated", True))  # of the scans that the gate is asked about

Pick = Callable[[Run], bool]


def real(run: Run) -> bool:
    """Whether *run* is of a series as it came, and the first of its patient."""
    return not run.variant and not run.repeats


def planted(run: Run) -> bool:
    """Whether *run* is of a series with planted nodules."""
    return run.variant.startswith(PLANTED)


def perturbed(run: Run) -> bool:
    """Whether *run* is of a changed series."""
    return bool(run.variant) and not planted(run)


def figures(report: Report) -> dict[str, Any]:
    """Return the figures of *report*, ready for JSON; None where nothing was measured."""
    runs = report.runs
    first = {one.structure: one for run in runs if real(run) and run.case == DRAWN_BY_HAND for one in run.agreements}
    alarms = [run for run in runs if run.other_body and run.drawn]
    worst = _worst_volume(runs)
    return {
        "bench": "quality", "machine": report.machine,
        "models": {name: one["version"] for name, one in report.models.items()},
        "lung_dice_left": _dice(first.get("left-lung")), "lung_dice_right": _dice(first.get("right-lung")),
        **_nodule_figures(runs),
        "false_alarms_other_body": len({(run.case, run.variant) for run in alarms}),
        "series_other_body": len({run.case for run in runs if run.other_body}),
        "worst_volume_error": worst and worst[1], "worst_volume_of": worst and worst[0],
        "lungs": {f"{run.case} {one.structure}": _lung(one) for run in runs if real(run) for one in run.agreements},
        "perturbed_dice": _perturbed_dice(runs), "perturbed_dice_least": _least_dice(runs),
        "perturbed_nodules": _perturbed_nodules(runs), "planted": _planted_figures(runs),
        "seconds": _greatest(runs, lambda run: run.seconds), "peak_mb": _greatest(runs, lambda run: run.peak_mb),
        **_gate_figures(report.passings),
        "errors": sum(bool(run.error) for run in runs) + sum(bool(one.error) for one in report.passings),
        "runs": len(runs),
    }  # fmt: skip


def _gate_figures(passings: Sequence[Passing]) -> dict[str, Any]:
    """Return how many scans the gate was wrong about, and of how many; None where it was not asked."""
    if not passings:
        return dict.fromkeys(_OF_GATE)
    return {
        "gate_false_refusals": sum(one.wrong for one in passings if one.shown),
        "gate_with_lung": sum(one.shown is True for one in passings),
        "gate_false_admissions": sum(one.wrong for one in passings if not one.shown),
        "gate_without_lung": sum(one.shown is False for one in passings),
        "gate_phases": {
            name: _told(phase_counts(one for one in passings if one.generated is generated))
            for name, generated in _SOURCES
        },
        "gate_turns": {
            f"{name} {turn}{', reversed' if reversed_ else ''}": _told(
                turn_counts((one for one in passings if one.generated is generated), turn, reversed_=reversed_)
            )
            for name, generated in _SOURCES
            for turn in dict.fromkeys(turn for one in passings for turn in one.lies)
            for reversed_ in (False, True)
        },
    }  # fmt: skip


def _told(counts: Counts) -> dict[str, int]:
    return dict(zip(("right", "wrong", "not_known"), counts, strict=True))


def froc_of(runs: Iterable[Run], pick: Pick) -> Froc | None:
    """Return the curve over those *runs* that *pick* takes."""
    return froc(scans(run for run in runs if pick(run)))


def calibration_of(runs: Iterable[Run], pick: Pick) -> Calibration | None:
    """Return the reliability of the scores over those *runs* that *pick* takes."""
    return calibration([mark for scan in scans(run for run in runs if pick(run)) for mark in scan.marks])


def _nodule_figures(runs: Sequence[Run]) -> dict[str, Any]:
    curve, reliability = froc_of(runs, real), calibration_of(runs, real)
    judged = scans(run for run in runs if real(run))
    false = sum(mark.object == NOWHERE for scan in judged for mark in scan.marks)
    return {
        "nodules_found": curve and curve.found, "nodules_labelled": curve and curve.lesions,
        "false_marks_per_scan": _r(false / len(judged)) if judged else None,
        "nodule_scans": len(judged), "calibration_error": reliability and _r(reliability.error),
    }  # fmt: skip


def _planted_figures(runs: Sequence[Run]) -> dict[str, Any] | None:
    curve, reliability = froc_of(runs, planted), calibration_of(runs, planted)
    if curve is None:
        return None
    return {
        "found": curve.found, "labelled": curve.lesions, "scans": curve.scans,
        "false_marks_per_scan": _r(curve.false_marks_per_scan), "sensitivity": [_r(one) for one in curve.sensitivity],
        "froc_mean": _r(curve.mean), "calibration_error": reliability and _r(reliability.error),
        "by_kind": {kind: _share(found_of(runs, planted, kind=kind)) for kind in KINDS},
        "by_diameter": {
            f"{low}-{high} mm": _share(found_of(runs, planted, low=low, high=high)) for low, high in DIAMETERS
        },
    }  # fmt: skip


def _share(found: tuple[int, int]) -> str:
    return f"{found[0]} of {found[1]}"


def found_of(
    runs: Iterable[Run], pick: Pick, *, kind: str = "", low: float = 0.0, high: float = 1e9
) -> tuple[int, int]:
    """Return how many lesions of that kind and diameter were found, and how many there are."""
    chosen = [
        (number in {mark.object for mark in run.marks})
        for run in runs if pick(run) and run.lesions is not None
        for number, lesion in enumerate(run.lesions, start=1)
        if kind in ("", lesion.kind) and low <= lesion.diameter_mm < high
    ]  # fmt: skip
    return sum(chosen), len(chosen)


def _perturbed_dice(runs: Iterable[Run]) -> dict[str, dict[str, dict[str, float]]]:
    """Return Dice by case, variant ("" is the series as it came) and structure."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    tried = {run.case for run in runs if perturbed(run) and run.agreements}
    for run in runs:
        for one in run.agreements:
            if run.case in tried and not planted(run):
                table.setdefault(run.case, {}).setdefault(run.variant, {})[one.structure] = _r(one.dice)
    return table


def _perturbed_nodules(runs: Iterable[Run]) -> dict[str, dict[str, str]]:
    """Return, by case and variant, what was found of how many, and the false marks."""
    table: dict[str, dict[str, str]] = {}
    for run in runs:
        if perturbed(run) and run.lesions is not None and not run.skipped:
            struck = [mark.object for mark in run.marks]
            found = len({one for one in struck if one > NOWHERE})
            told = f"{found} of {len(run.lesions)}, {struck.count(NOWHERE)} false"
            table.setdefault(run.case, {})[run.variant] = f"{told} (declined)" if run.refused else told
    return table


def _least_dice(runs: Iterable[Run]) -> float | None:
    """Return the least Dice of a changed series of the case drawn by hand."""
    values = [one.dice for run in runs if perturbed(run) and run.case == DRAWN_BY_HAND for one in run.agreements]
    return _r(min(values)) if values else None


def _worst_volume(runs: Iterable[Run]) -> tuple[str, float] | None:
    errors = [
        (f"{run.case} {one.structure}", _r(one.volume_error))
        for run in runs if real(run) for one in run.agreements if one.volume_error is not None
    ]  # fmt: skip
    return max(errors, key=lambda one: abs(one[1]), default=None)


def _greatest(runs: Iterable[Run], value: Callable[[Run], float | None]) -> dict[str, float]:
    """Return, by model, the greatest *value* over the series as they came."""
    table: dict[str, float] = {}
    for run in runs:
        one = value(run)
        if one is not None and not run.variant:
            table[run.model] = round(max(table.get(run.model, 0.0), one), 1)
    return table


def _lung(one: Agreement) -> dict[str, float | None]:
    return {
        "dice": _r(one.dice), "iou": _r(one.iou), "hd95_mm": one.hd95_mm and _r(one.hd95_mm),
        "surface_mm": one.surface_mm and _r(one.surface_mm),
        "volume_error": None if one.volume_error is None else _r(one.volume_error),
    }  # fmt: skip


def _dice(one: Agreement | None) -> float | None:
    return None if one is None else _r(one.dice)


def _r(value: float) -> float:
    return round(value, 4)
