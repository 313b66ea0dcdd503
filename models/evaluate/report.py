"""An evaluation as pages for people: Markdown, and one HTML file with its pictures inside. Worst first."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from models.evaluate import summary
from models.evaluate.gate_tables import gate_tables
from models.evaluate.metrics import IGNORED, NOWHERE
from models.evaluate.pictures import FOUND, REFERENCE, Fault, choose
from models.evaluate.planted import KINDS
from models.evaluate.results import Agreement, Report, Run
from models.evaluate.scores import RATES
from models.evaluate.table import Table

PICTURES = 10  # of each model and group

#: Figures that have a table of their own, or stand at the top.
_ELSEWHERE = {
    "bench", "machine", "models", "lungs", "perturbed_dice", "perturbed_nodules", "planted", "seconds", "peak_mb",
}  # fmt: skip
_LUNGS = ("structure", "Dice", "IoU", "HD95 mm", "surface mm", "found mL", "reference mL", "volume error")
_MARKS = ("lesions found", "false marks", "marks not judged", "best Dice of a lesion")
_COST = ("s", "peak MB")
_GROUPS = (
    ("series as they came", lambda run: not run.variant),
    ("changed series", summary.perturbed),
    ("planted nodules", summary.planted),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Album:
    """The worst slices of one model in one group of series."""

    title: str
    faults: tuple[Fault, ...]


def markdown(report: Report, earlier: Report | None = None) -> str:
    """Return *report* as Markdown, beside *earlier* where there is one."""
    lines = [f"# Quality of {_names(report)}", "", f"On {report.machine}.", ""]
    for table in tables(report, earlier):
        lines += [f"## {table.title}", "", _line(table.head), _line(["---"] * len(table.head))]
        lines += [*map(_line, table.rows), ""]
    return "\n".join(lines)


def html(report: Report, faults: Sequence[Fault], earlier: Report | None = None) -> str:
    """Return *report* as one HTML page that needs no other file; pictures of the worst of *faults* first."""
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page.filters["embedded"] = lambda png: "data:image/png;base64," + base64.b64encode(png).decode("ascii")
    return page.get_template("report.html.j2").render(
        title=f"Quality of {_names(report)}", machine=report.machine, tables=tables(report, earlier),
        albums=albums(report, faults), colours={"reference": _css(REFERENCE), "found": _css(FOUND)},
    )  # fmt: skip


def albums(report: Report, faults: Sequence[Fault]) -> list[Album]:
    """Return the ten worst slices of each model, for series as they came, changed, and with planted nodules."""
    by_run = {_key(run): run for run in report.runs}
    made = []
    for name in report.models:
        mine = [fault for fault in faults if fault.model == name]
        for group, pick in _GROUPS:
            chosen = choose([one for one in mine if pick(by_run[one.model, one.case, one.variant])], PICTURES)
            if chosen:
                made.append(Album(title=f"{name}: worst slices, {group}", faults=tuple(chosen)))
    return made


def tables(report: Report, earlier: Report | None = None) -> list[Table]:
    """Return every table of the page, in order."""
    made = [_overview(report, earlier)]
    if earlier is not None:
        made.append(_versions(report, earlier))
    for name in report.models:
        mine = [run for run in report.runs if run.model == name]
        made += [_runs(f"{name}: {group}", [run for run in mine if pick(run)]) for group, pick in _GROUPS]
        made += [*_score_tables(name, mine), _planted_table(name, mine)]
    made += [*gate_tables(report.passings)]
    return [table for table in made if table.rows]


def _overview(report: Report, earlier: Report | None) -> Table:
    """Return the figures; those of *earlier* over the same series, or one series more would look like a change."""
    now = summary.figures(report)
    names = [name for name in now if name not in _ELSEWHERE]
    if earlier is None:
        return Table(title="Figures", head=("figure", "now"), rows=tuple((name, _text(now[name])) for name in names))
    tried = {_key(run) for run in report.runs}
    then = summary.figures(replace(earlier, runs=tuple(run for run in earlier.runs if _key(run) in tried)))
    rows = [(name, _text(now[name]), _text(then[name])) for name in names]
    head = ("figure", "now", "before, on the same series")
    return Table(title="Figures", head=head, rows=tuple(rows))


def _versions(report: Report, earlier: Report) -> Table:
    """Return what differs between two evaluations, run by run, the greatest loss first."""
    before = {_key(run): run for run in earlier.runs}
    rows = []
    for run in report.runs:
        old = before.get(_key(run))
        if old is not None:
            rows += list(_differences(run, old))
    rows.sort(key=lambda row: row[0])
    head = ("model", "series", "changed", "figure", "before", "now", "difference")
    title = f"Side by side: {_names(earlier)} and {_names(report)}"
    return Table(title=title, head=head, rows=tuple(row for _, row in rows))


def _differences(run: Run, old: Run) -> Iterator[tuple[float, tuple[str, ...]]]:
    name = (f"{run.model} {old.version} / {run.version}", run.case, run.variant)
    before = {one.structure: one for one in old.agreements}
    for one in run.agreements:
        if one.structure in before:
            gain = one.dice - before[one.structure].dice
            figure = (f"Dice {one.structure}", f"{before[one.structure].dice:.4f}", f"{one.dice:.4f}", f"{gain:+.4f}")
            yield gain, (*name, *figure)
    if run.lesions is not None and old.lesions is not None:
        now, then = (_found(one) - _false(one) for one in (run, old))
        told = tuple(f"{_found(one)} of {len(one.lesions or ())}, {_false(one)} false" for one in (old, run))
        yield float(now - then), (*name, "lesions", *told, f"{now - then:+d}")
    if run.drawn != old.drawn and run.other_body:
        yield float(old.drawn - run.drawn), (*name, "drawn where nothing is", str(old.drawn), str(run.drawn), "")


def _runs(title: str, runs: Sequence[Run]) -> Table:
    """Return *runs*, worst first, with the columns that any of them fills."""
    rows = [(run, one) for run in runs for one in (run.agreements or (None,))]
    rows.sort(key=lambda pair: _badness(*pair))
    regions, marks = any(run.agreements for run in runs), any(run.lesions is not None for run in runs)
    head = ["series", "changed", *(_LUNGS if regions else ()), *(_MARKS if marks else ()), "drawn", *_COST, "remark"]
    return Table(title=title, head=tuple(head), rows=tuple(_cells(run, one, regions, marks) for run, one in rows))


def _badness(run: Run, one: Agreement | None) -> tuple[float, ...]:
    if run.error or (run.other_body and run.drawn):
        return (0.0, 0.0)
    if one is not None:
        return (1.0, one.dice)
    if run.lesions is not None:
        return (2.0, _found(run) - len(run.lesions) - _false(run))
    return (3.0, -run.drawn)


def _cells(run: Run, one: Agreement | None, regions: bool, marks: bool) -> tuple[str, ...]:
    cells = [run.case, run.variant]
    if regions:
        cells += [""] * len(_LUNGS) if one is None else [
            one.structure, f"{one.dice:.4f}", f"{one.iou:.4f}", _number(one.hd95_mm), _number(one.surface_mm, 2),
            f"{one.found_ml:.0f}", f"{one.reference_ml:.0f}",
            "" if one.volume_error is None else f"{100 * one.volume_error:+.1f} %",
        ]  # fmt: skip
    if marks:
        cells += [""] * len(_MARKS) if run.lesions is None else [
            f"{_found(run)} of {len(run.lesions)}", str(_false(run)), str(_struck(run).count(IGNORED)),
            _number(max((m.dice for m in run.marks if m.dice is not None), default=None), 2),
        ]  # fmt: skip
    return (*cells, str(run.drawn), _number(run.seconds), _number(run.peak_mb, 0), _remark(run))


def _remark(run: Run) -> str:
    if run.other_body and run.drawn:
        return "drawn where nothing is in view"
    if run.error:
        return f"BROKE: {run.error}"
    return f"not tried: {run.skipped}" if run.skipped else run.refused


def _score_tables(name: str, runs: Sequence[Run]) -> Iterator[Table]:
    """Yield the curves and reliabilities of a detector, real and planted nodules apart."""
    for told, pick in (("labelled", summary.real), ("planted", summary.planted)):
        curve, reliability = summary.froc_of(runs, pick), summary.calibration_of(runs, pick)
        if curve is not None:
            head = ("false marks a scan, at most", *(f"{rate:g}" for rate in RATES), "mean")
            row = ("sensitivity", *(f"{one:.3f}" for one in curve.sensitivity), f"{curve.mean:.3f}")
            least = f"{curve.found} of {curve.lesions}, {curve.false_marks_per_scan:.2f} false marks a scan"
            title = f"{name}: FROC, {told} nodules in {curve.scans} scans ({least} in all)"
            yield Table(title=title, head=head, rows=(row,))
        if reliability is not None:
            title = f"{name}: scores of {reliability.marks} marks, {told} (calibration error {reliability.error:.3f})"
            bins = tuple(
                (f"{b.low:.1f}-{b.high:.1f}", str(b.marks), f"{b.mean_score:.3f}", f"{b.true_share:.3f}")
                for b in reliability.bins
            )
            yield Table(title=title, head=("score", "marks", "mean score", "share of true marks"), rows=bins)


def _planted_table(name: str, runs: Sequence[Run]) -> Table:
    """Return how many planted nodules were found, kind by kind and from small to large."""
    rows = []
    for kind in KINDS if any(summary.planted(run) for run in runs) else ():
        shares = [summary.found_of(runs, summary.planted, kind=kind, low=a, high=b) for a, b in summary.DIAMETERS]
        rows.append((kind, *(f"{found} of {count}" for found, count in shares)))
    head = ("planted", *(f"{low} to {high} mm" for low, high in summary.DIAMETERS))
    return Table(title=f"{name}: planted nodules found", head=head, rows=tuple(rows))


def _key(run: Run) -> tuple[str, str, str]:
    return run.model, run.case, run.variant


def _struck(run: Run) -> list[int]:
    return [mark.object for mark in run.marks]


def _found(run: Run) -> int:
    return len({one for one in _struck(run) if one > NOWHERE})


def _false(run: Run) -> int:
    return _struck(run).count(NOWHERE)


def _names(report: Report) -> str:
    return ", ".join(f"{name} {one['version']}" for name, one in report.models.items())


def _css(colour: tuple[int, int, int]) -> str:
    return "rgb({}, {}, {})".format(*colour)


def _number(value: float | None, decimals: int = 1) -> str:
    return "" if value is None else f"{value:.{decimals}f}"


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
