"""Named places where a test makes this process die, fail or hang. Off unless PACS_NODE_FAILPOINTS names a file.

Each line of the file is ``name=action`` or ``name=action*times``; the action is ``kill`` (kill -9 of this process),
``raise`` (an error that nothing foresees), ``hang:SECONDS``, ``eio`` or ``enospc`` (what a sick disk says). Without
``*times`` it happens once over all processes. A place that was reached leaves a mark in the folder ``FILE.hits``.
The file is read each time, so that one running node can be led through many of them.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

_FILE = os.environ.get("PACS_NODE_FAILPOINTS", "")

#: Every place that has a name, and when it is reached.
POINTS: dict[str, str] = {
    "journal.written": "an instance is written to the journal, nothing synced",
    "journal.synced": "it is safe in the journal, success not yet said",
    "intake.opened": "the part file of an instance exists, empty",
    "intake.mid": "a piece of an instance is written",
    "intake.last_byte": "all of it is written, nothing synced",
    "intake.fsynced": "the data is synced, the file still has its temporary name",
    "intake.renamed": "it has its name, the folder is not synced",
    "intake.dir_fsynced": "the file is safe, no row tells of it",
    "intake.committed": "the row is safe, success not yet said",
    "intake.rsp_sent": "success was said",
    "mpps.written": "what a modality says of its step stands in the open transaction",
    "mpps.recorded": "it is safe, nobody was answered",
    "mpps.answered": "the modality was answered",
    "commitment.asked": "a question for storage commitment is safe, nobody was answered",
    "commitment.answered": "who asked was answered, nobody has begun to look",
    "commitment.claimed": "somebody holds the question, no file was looked at",
    "commitment.checked": "every file was hashed, the report is not sent",
    "commitment.told": "the peer has taken the report, nobody noted it",
    "commitment.reported": "it is noted that it was reported",
    "settle.before": "a quiet study is about to be planned",
    "settle.recorded": "its jobs stand in the open transaction",
    "settle.committed": "its jobs are safe, nobody was rung",
    "relay.read": "doorbells were read from the outbox",
    "relay.published": "one was rung, the outbox still holds it",
    "relay.marked": "it was rung and forgotten",
    "job.claimed": "a worker holds a job, nothing is begun",
    "job.started": "the attempt is recorded as running",
    "job.heartbeat": "a lease is about to be prolonged",
    "job.model_loaded": "the child has read the series and loaded the model",
    "job.infer": "the model has found what it finds, nothing is written",
    "job.inferred": "findings lie in the attempt's own folder",
    "job.encoded": "all objects of the set are encoded and checked",
    "result.opened": "the part file of a result exists, empty",
    "result.mid": "half of a result is written",
    "result.last_byte": "all of it is written, nothing synced",
    "result.fsynced": "its data is synced, it still has its temporary name",
    "result.renamed": "it has its name, the folder is not synced",
    "result.dir_fsynced": "one result of the set is safe",
    "job.frozen": "the whole set is safe on disk, no row tells of it",
    "job.published": "the set is recorded with its deliveries",
    "declined.recorded": "a declined job's end, and the job over the next series, stand in the open transaction",
    "declined.pictured": "what the model shows of it is safe on disk, nothing is committed",
    "declined.committed": "all of it is safe, nobody was rung",
    "deliver.picked": "deliveries are taken, no connection is open",
    "deliver.connected": "the peer took the association",
    "deliver.sent": "the peer has answered for a result, nobody noted it",
    "deliver.marked": "the answer is noted",
    "deliver.verified": "the peer was asked and has it, nobody noted it",
}


class Reached(RuntimeError):
    """A failpoint was told to fail here; the message names it."""


def armed() -> bool:
    """Return whether a test leads this process: then places may be watched that cost something."""
    return bool(_FILE)


def reach(name: str) -> None:
    """Do what the file says of this place: nothing, but for tests."""
    if _FILE:
        _act(name)


def _act(name: str) -> None:
    file = Path(_FILE)
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    if name not in told:
        return
    action, _, times = told[name].partition("*")
    if not _first(file.with_name(f"{file.name}.hits"), name, int(times or 1)):
        return
    what, _, seconds = action.partition(":")
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang":
        time.sleep(float(seconds))
    elif what in ("eio", "enospc"):
        number = errno.EIO if what == "eio" else errno.ENOSPC
        raise OSError(number, os.strerror(number))
    else:
        raise Reached(f"failpoint {name}")


def _first(hits: Path, name: str, times: int) -> bool:
    """Whether fewer than *times* processes were here before; the mark is made by exactly one of two at once."""
    hits.mkdir(exist_ok=True)
    for number in range(times):
        try:
            (hits / f"{name}.{number}").touch(exist_ok=False)
        except FileExistsError:
            continue
        return True
    return False
