"""`python -m workers.evaluate --data DIR`: the models over the test data, as it is and made harder.

Each series, and each variant of it, runs in a process of its own. Standard output is a Markdown report whose last line
is one JSON object with the figures; with --out, the folder holds report.json, report.md, report.html and the pictures
of the worst slices.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from models import catalogue
from models.evaluate import report as pages
from models.evaluate import results, summary
from models.evaluate.perturb import PERTURBATIONS
from models.evaluate.pictures import Fault
from models.evaluate.results import PLANTED, Report, Run
from workers.evaluation import Task, blank_runs, evaluate
from workers.gating import passings
from workers.reference_cases import CASES, Case
from workers.storage_order import ORDERS

DETECTOR = "detection"
_PLANTED = {"ct-chest-lung1-001/dicom": 4, "ct-chest-lidc-0001-slab/dicom": 2, "ct-chest-elastix-small/dicom": 1}


def tasks(cases: Sequence[Case], models: Sequence[str], data: Path, device: str) -> Iterator[Task]:
    """Yield every series as it is, then those with known lungs made harder and with planted nodules."""
    for case in cases:
        yield Task(case=case, variant="", models=tuple(models), data=data, device=device)
    known = [case for case in cases if case.lungs and not case.repeats]
    for case in known:
        for variant in (*ORDERS, *PERTURBATIONS):
            yield Task(case=case, variant=variant, models=tuple(models), data=data, device=device)
    detectors = tuple(name for name in models if catalogue.card(name).kind == DETECTOR)
    for case in known if detectors else ():
        for seed in range(_PLANTED.get(case.name, 0)):
            yield Task(case=case, variant=f"{PLANTED}-{seed}", models=detectors, data=data, device=device)


def run_all(chosen: Sequence[Task]) -> tuple[list[Run], list[Fault]]:
    """Return the runs and their worst slices; what breaks in a process is told in its runs."""
    runs, faults = list[Run](), list[Fault]()
    for number, task in enumerate(chosen, start=1):
        sys.stderr.write(f"[{number}/{len(chosen)}] {task.case.name} {task.variant}\n")
        with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
            try:
                made, seen = pool.submit(evaluate, task).result()
            except BrokenProcessPool:
                made, seen = _broken(task, "the process died"), []
            except Exception as why:  # noqa: BLE001  # the page is to name it, and go on
                made, seen = _broken(task, f"{type(why).__name__}: {why}"), []
        runs += made
        faults += seen
    return runs, faults


def _broken(task: Task, why: str) -> list[Run]:
    sys.stderr.write(f"  {why}\n")
    return [replace(run, error=why) for run in blank_runs(task)]


def machine() -> str:
    """Return what figures were taken on, in words."""
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}"


def write_pages(report: Report, faults: Sequence[Fault], folder: Path, earlier: Report | None) -> None:
    """Write report.json, report.md, report.html and the pictures of the worst slices into *folder*."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(report, folder / "report.json")
    (folder / "report.md").write_text(pages.markdown(report, earlier), encoding="utf-8")
    (folder / "report.html").write_text(pages.html(report, faults, earlier), encoding="utf-8")
    for album in pages.albums(report, faults):
        name = album.title.replace(": ", "-").replace(",", "").replace(" ", "-")
        for number, fault in enumerate(album.faults, start=1):
            (folder / f"{name}-{number:02d}.png").write_bytes(fault.png)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; progress goes to standard error. Ends with 1 where anything broke."""
    parser = argparse.ArgumentParser(prog="python -m workers.evaluate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the test data")
    parser.add_argument("--out", type=Path, help="folder for the report")
    parser.add_argument("--compare", type=Path, help="report.json of an earlier run to stand beside")
    parser.add_argument("--model", action="append", choices=catalogue.card_names(), help="only this model; repeatable")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cuda:0")
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--gate", action="store_true", help="the gate's part alone")
    parser.add_argument("--plain", action="store_true", help="only the series as they are: no variants")
    options = parser.parse_args(arguments)
    cases = [case for case in CASES if options.only in case.name]
    if not cases or not options.data.is_dir():
        parser.error(f"no case holds {options.only!r}" if options.data.is_dir() else f"no folder {options.data}")
    earlier = results.read(options.compare) if options.compare else None
    names = tuple(options.model or catalogue.card_names())
    chosen = () if options.gate else tasks(cases, names, options.data, options.device)
    runs, faults = run_all([task for task in chosen if not (options.plain and task.variant)])
    passed = tuple(passings(cases, options.data, options.device, plain=options.plain, only=options.only))
    known = {name: {"version": catalogue.card(name).version, "digest": catalogue.digest(name)} for name in names}
    report = Report(machine=machine(), models=known, runs=tuple(runs), passings=passed)
    if options.out:
        write_pages(report, faults, options.out, earlier)
    figures = summary.figures(report)
    sys.stdout.write(f"{pages.markdown(report, earlier)}\n{json.dumps(figures)}\n")
    sys.exit(1 if figures["errors"] else 0)


if __name__ == "__main__":
    main()
