"""Kill everything, over and over, and count what is left: `make chaos SEED=1 MINUTES=15 DB=sqlite`.

    python -m tests.chaos --seed 1 --minutes 15 --db sqlite|postgres [--report docs/chaos-sqlite.md]

A modality sends studies to a running node whose only destination is a real Orthanc behind a line that delays, cuts and
swallows. Meanwhile a schedule drawn from the seed kills parts of all that with kill -9: listener, sweep, workers, the
inference child, Redis, PostgreSQL, Orthanc, the whole node. Then all is left in peace and the oracle looks.

Progress goes to standard error; the last line on standard output is one JSON object. Exit code 1: something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.oracle import Verdict, at_rest, judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import VICTIMS, Stand, running_stand

KILLS_A_MINUTE = 15.0
STUDIES_A_MINUTE = 3.2
PEACE = 420.0  # seconds after the last kill within which all must have ended


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What the schedule says: when, in seconds from the beginning, and what."""

    at: float
    victim: str


def schedule(seed: int, minutes: float, db: str) -> list[Kill]:
    """Return the kills of one run: the same seed gives the same ones."""
    chance = random.Random(f"{seed} {db}")  # a schedule, no secret
    victims = {name: weight for name, weight in VICTIMS.items() if db == "postgres" or name != "postgres"}
    kills, at = [], 5.0
    while at < minutes * 60:
        (victim,) = chance.choices(list(victims), list(victims.values()))
        kills.append(Kill(at=at, victim=victim))
        at += chance.uniform(0.3, 1.7) * 60 / KILLS_A_MINUTE
    return kills


class Run:
    """One run of the chaos."""

    def __init__(self, stand: Stand, ledger: Ledger, modality: Modality, minutes: float) -> None:
        self._stand, self._ledger, self._modality, self._minutes = stand, ledger, modality, minutes
        self._stopped = threading.Event()
        self.killed: Counter[str] = Counter()
        self._senders: list[threading.Thread] = []

    def __call__(self, kills: Sequence[Kill]) -> None:
        """Send and kill at once; then send to the end in peace."""
        began = time.monotonic()
        feeder = threading.Thread(target=self._feed, args=(began,), daemon=True)
        feeder.start()
        for number, kill in enumerate(kills, start=1):
            time.sleep(max(0.0, began + kill.at - time.monotonic()))
            if self._stand.gone:
                self._stand.up()
            if self._stand.kill(kill.victim):
                self.killed[kill.victim] += 1
            if number % 10 == 0:
                say(f"{kill.at:.0f} s: {sum(self.killed.values())} kills, {len(self._ledger.complete)} studies in")
        feeder.join()
        self._stand.proxy.bad = False
        if self._stand.gone:
            self._stand.up()
        say("peace")
        for sender in self._senders:
            sender.join(timeout=PEACE)
        self._stopped.set()

    def _feed(self, began: float) -> None:
        count = max(1, round(self._minutes * STUDIES_A_MINUTE))
        for number in range(count):
            time.sleep(max(0.0, began + number * self._minutes * 60 / count - time.monotonic()))
            study = self._modality.make(number)
            to = (study, self._stand.port, self._stand.called, self._stopped)
            sender = threading.Thread(target=self._modality.send, args=to, daemon=True)
            sender.start()
            self._senders.append(sender)


def wait_for_rest(stand: Stand) -> float:
    """Return the seconds until nothing more happened by itself; at most PEACE."""
    began = time.monotonic()
    while time.monotonic() - began < PEACE:
        if stand.gone:
            stand.up()
        if at_rest(stand):
            break
        time.sleep(2.0)
    return time.monotonic() - began


def run(seed: int, minutes: float, db: str, folder: Path) -> tuple[dict[str, object], Verdict, Counter[str]]:
    """Return the figures, what the oracle says, and which parts were killed how often."""
    with running_stand(folder, seed=seed, bad=True, db=db) as stand:
        ledger = Ledger()
        chaos = Run(stand, ledger, Modality(folder / "modality", seed, ledger), minutes)
        chaos(schedule(seed, minutes, db))
        rest = wait_for_rest(stand)
        verdict = judge(stand, ledger)
    figures: dict[str, object] = {
        "bench": "chaos", "db": db, "seed": seed, "minutes": minutes, "kills": sum(chaos.killed.values()),
        "studies": len(ledger.sent), "acked_instances": len(ledger.acked), "lost": len(verdict.lost),
        "missing": len(verdict.missing), "doubled": len(verdict.doubled), "wrong_patient": len(verdict.wrong_patient),
        "unended": len(verdict.unended), "rest_s": round(rest), "line_harms": sum(stand.proxy.done.values()),
        "results_expected": verdict.seen["results expected"], "complete_studies": len(ledger.complete),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }  # fmt: skip
    return figures, verdict, chaos.killed


def report(figures: dict[str, object], verdict: Verdict, killed: Counter[str]) -> str:
    """Return what a stranger should know of a run, as Markdown."""
    wrong = [
        *verdict.lost, *verdict.missing, *verdict.doubled, *verdict.wrong_patient, *verdict.unended, *verdict.untrue,
    ]  # fmt: skip
    rows = [f"| {name} | {value} |" for name, value in figures.items()]
    return "\n".join([
        f"# Chaos on {figures['db']}: {'nothing' if not wrong else len(wrong)} wrong",
        "",
        f"Made {datetime.now(UTC):%d %B %Y} by `make chaos SEED={figures['seed']} MINUTES={figures['minutes']} "
        f"DB={figures['db']}`; the seed gives the same schedule of kills again. What is killed, how, and what the "
        "oracle reads: [tests/chaos](../tests/chaos/__main__.py).",
        "",
        "| figure | value |", "|---|---|", *rows, "",
        "Killed with kill -9: " + ", ".join(f"{name} {count}" for name, count in killed.most_common()) + ".",
        "", *[f"- {one}" for one in wrong], "",
    ])  # fmt: skip


def say(words: str) -> None:
    """Tell on standard error."""
    sys.stderr.write(f"{words}\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, report, and end with one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--db", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--report", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for logs and stores, kept afterwards")
    given = parser.parse_args(arguments)
    say(f"seed {given.seed}")
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch:
        folder = given.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        figures, verdict, killed = run(given.seed, given.minutes, given.db, folder)
    text = report(figures, verdict, killed)
    if given.report:
        given.report.write_text(text, encoding="utf-8")
        given.report.with_suffix(".json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    say(text)
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.exit(0 if verdict.is_clean else 1)


if __name__ == "__main__":
    main()
