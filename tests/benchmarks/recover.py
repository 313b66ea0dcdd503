"""Seconds until what was killed works again: `make bench-recover`.

    python -m tests.benchmarks.recover

Each role is killed with kill -9 three times; then the worker in the middle of a job; then the whole node is started
over a table of 100,000 studies and jobs. Medians, but for the last two. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from pynetdicom import AE

from node.db.tables import JobRow, StudyRow
from node.domain.job import JobState
from node.supervisor import running_roles
from tests.chaos.oracle import at_rest, judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import Stand, running_stand
from tests.rig import wait_for

ROLES = ("scp", "web", "sweep", "redis", "worker-gpu-1", "worker-io-1")
ROUNDS = 3
ROWS = 100_000


def seconds(true: Callable[[], object], limit: float) -> float:
    """Return how long it takes until *true*."""
    began = time.monotonic()
    wait_for("recovery", true, limit=limit)
    return time.monotonic() - began


def echoes(stand: Stand) -> bool:
    """Whether the listener answers."""
    ae = AE(ae_title="CHAOSCT")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = 2
    ae.add_requested_context("1.2.840.10008.1.1")
    association = ae.associate("127.0.0.1", stand.port, ae_title=stand.called)
    if not association.is_established:
        return False
    association.release()
    return True


def back(stand: Stand, role: str) -> float:
    """Kill a role; return the seconds until another process has its place, and the listener answers."""
    before = running_roles(stand.home).get(role)
    stand.kill(role)
    return seconds(lambda: running_roles(stand.home).get(role) not in (None, before) and echoes(stand), 60)


def taken_again(stand: Stand, modality: Modality, number: int) -> float:
    """Kill the worker in the middle of a job; return the seconds until the job runs again."""
    study = modality.make(number)
    modality.send(study, stand.port, stand.called, threading.Event())

    def attempts() -> int:
        services = stand.services()
        try:
            with services.database.reading() as session:
                rows = session.query(JobRow).filter(JobRow.study_uid == study.study_uid).all()
                return max((row.attempts for row in rows if row.state != JobState.PENDING), default=0)
        finally:
            services.database.engine.dispose()

    wait_for("the first attempt", lambda: attempts() == 1, limit=60)
    stand.kill("worker-gpu-1")
    return seconds(lambda: attempts() == 2 or at_rest(stand), 90)


def fill(stand: Stand) -> None:
    """Write studies and ended jobs into the table."""
    services, at = stand.services(), datetime.now(UTC)
    with services.database.transaction() as session:
        for start in range(0, ROWS, 5000):
            numbers = range(start, start + 5000)
            session.bulk_insert_mappings(StudyRow.__mapper__, [
                {"uid": f"2.25.999.{n}", "patient_id": "X", "accession_number": "", "description": "", "study_date": "",
                 "calling_ae": "A", "state": "settled", "revision": 1, "epoch": 1, "reason": "", "first_at": at,
                 "last_at": at}
                for n in numbers
            ])  # fmt: skip
            session.bulk_insert_mappings(JobRow.__mapper__, [
                {"id": f"{n:036d}", "study_uid": f"2.25.999.{n}", "series_uid": "1", "model": "ct-lung",
                 "model_digest": "m", "revision": 1, "rule": "r", "priority": 5, "rank": n, "state": "done",
                 "epoch": 1, "attempts": 1, "reason": "", "input_digest": "i", "calling_ae": "A", "destinations": [],
                 "settled_at": at, "created_at": at, "updated_at": at, "not_before": at, "owner": "", "progress": 1.0,
                 "stage": "", "late": False}
                for n in numbers
            ])  # fmt: skip
    services.database.engine.dispose()


def main() -> None:
    """Run everything and end with one line of JSON."""
    figures: dict[str, object] = {"machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores"}
    with tempfile.TemporaryDirectory(prefix="recover-") as name, running_stand(Path(name)) as stand:
        ledger = Ledger()
        modality = Modality(stand.folder / "modality", 1, ledger)
        for role in ROLES:
            times = []
            for _ in range(ROUNDS):
                time.sleep(11)  # what dies at once is started a little later each time: that is not asked here
                times.append(back(stand, role))
            figures[f"back_{role.replace('-', '_')}_s"] = round(statistics.median(times), 2)
            say(f"{role}: {times}")
        figures["job_taken_again_s"] = round(taken_again(stand, modality, 0), 2)
        stand.down()
        fill(stand)
        say(f"{ROWS} rows written")
        began = time.monotonic()
        stand.up()
        wait_for("an answer", lambda: echoes(stand), limit=120)
        figures["up_over_100000_s"] = round(time.monotonic() - began, 2)
        study = modality.make(1)
        modality.send(study, stand.port, stand.called, threading.Event())
        figures["study_over_100000_s"] = round(seconds(lambda: at_rest(stand), 120), 2)
        figures["clean"] = judge(stand, ledger).is_clean
    sys.stdout.write(json.dumps(figures) + "\n")


def say(words: str) -> None:
    """Tell on standard error."""
    sys.stderr.write(f"{words}\n")


if __name__ == "__main__":
    main()
