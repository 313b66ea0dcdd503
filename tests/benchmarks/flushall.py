"""What a Redis costs that is emptied every 30 seconds: `make bench-flushall`.

    python -m tests.benchmarks.flushall [--minutes 10]

A modality keeps the node busy all the time, once in peace and once with FLUSHALL every 30 s. `throughput` is the
number of jobs done in the second time over that in the first. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import threading
import time
from pathlib import Path

import redis

from node.db import jobs
from node.domain.job import JobState
from tests.chaos.__main__ import wait_for_rest
from tests.chaos.oracle import judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import Stand, running_stand

AHEAD = 6  # studies sent and not done: the worker is never without work


def done(stand: Stand) -> int:
    """Return how many jobs are done."""
    services = stand.services()
    try:
        with services.database.reading() as session:
            return jobs.count_by_state(session).get(JobState.DONE, 0)
    finally:
        services.database.engine.dispose()


def busy(stand: Stand, modality: Modality, ledger: Ledger, minutes: float, flush: float) -> int:
    """Keep the node busy for *minutes*; return how many jobs were done in them."""
    began, before, flushed = time.monotonic(), done(stand), 0
    client = redis.Redis(unix_socket_path=str(stand.home / "run" / "redis.sock"))
    finished = before
    while (now := time.monotonic() - began) < minutes * 60:
        if flush and now > flush * (flushed + 1):
            client.flushall()
            flushed += 1
        finished = done(stand)
        if len(ledger.sent) - finished < AHEAD:
            modality.send(modality.make(len(ledger.sent)), stand.port, stand.called, threading.Event())
        else:
            time.sleep(0.3)
    client.close()
    return finished - before


def main() -> None:
    """Run both and end with one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.flushall")
    parser.add_argument("--minutes", type=float, default=10.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="flushall-") as name, running_stand(Path(name)) as stand:
        ledger = Ledger()
        modality = Modality(stand.folder / "modality", 1, ledger)
        busy(stand, modality, ledger, 0.5, 0)  # until all processes are warm
        peace = busy(stand, modality, ledger, minutes, 0)
        sys.stderr.write(f"in peace: {peace} jobs\n")
        flushed = busy(stand, modality, ledger, minutes, 30)
        sys.stderr.write(f"with FLUSHALL: {flushed} jobs\n")
        wait_for_rest(stand)
        verdict = judge(stand, ledger)
    figures = {
        "bench": "flushall", "minutes": minutes, "jobs_in_peace": peace, "jobs_flushed": flushed,
        "throughput": round(flushed / max(1, peace), 3), "lost": len(verdict.lost), "missing": len(verdict.missing),
        "doubled": len(verdict.doubled), "unended": len(verdict.unended),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.exit(0 if verdict.is_clean else 1)


if __name__ == "__main__":
    main()
