"""Take one guard away at a time and see that some test notices: `make test-mutants`.

    python -m tests.chaos.mutants [--only TEXT]

Each mutant is a change of a few words in a copy of the working tree: a sync, a guard of a WHERE clause, a unique key,
an epoch, a doorbell. A mutant under which all tests pass is a guard that nobody would miss: the run then ends with 1. The
last line on standard output is one JSON object.
"""

# ruff: noqa: E501  # the words that a mutant takes away stand as they stand in the code

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "tests/unit/node/db", "tests/unit/node/domain", "tests/unit/node/test_completion.py", "tests/unit/node/test_listening.py",
    "tests/unit/node/test_store.py", "tests/unit/node/test_intake.py", "tests/unit/node/test_journal.py",
    "tests/unit/node/test_logbook.py", "tests/unit/node/test_logbook_faults.py",
    "tests/integration/test_door_journal.py", "tests/unit/node/test_planning.py", "tests/unit/node/test_clock.py",
    "tests/unit/node/test_sweep.py", "tests/unit/node/test_delivery.py", "tests/integration/test_scp.py",
    "tests/unit/node/test_life_of_a_job.py",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One guard, and what stands there without it."""

    name: str
    file: str
    old: str
    new: str


def _m(name: str, file: str, old: str, new: str = "") -> Mutant:
    return Mutant(name=name, file=file, old=old, new=new)


_JOBS, _RESULTS, _STUDIES = "node/db/jobs.py", "node/db/results.py", "node/db/studies.py"
_TABLES = "node/db/migrations/versions/0001_studies_jobs_results.py"
MUTANTS = (
    _m("no sync of a file's data", "node/store.py", "                os.fsync(file.fileno())\n"),
    _m("no sync of an instance's data", "node/part.py", "            os.fsync(self._file)\n"),
    _m("no sync of an instance's folder", "node/store.py", "            sync_folder(folder)\n            reach(", "            reach("),
    _m("no sync of its folder", "node/store.py", "        sync_folder(path.parent)\n        reach(", "        reach("),
    _m("no sync of a new folder's entry", "node/store.py", "        sync_folder(folder.parent)\n        if len", "        if len"),
    _m("SQLite commits may be rolled back", "node/db/session.py", '"synchronous=FULL", "foreign', '"synchronous=NORMAL", "foreign'),
    _m("transactions upgrade from reading", "node/db/session.py", 'else "BEGIN IMMEDIATE"', 'else "BEGIN"'),
    _m("a claim does not look at the state", _JOBS, "JobRow.state == JobState.PENDING, ~_halted()",
       "JobRow.state != JobState.DONE, ~_halted()"),
    _m("a claim keeps the epoch", _JOBS, "state=JobState.LEASED, epoch=JobRow.epoch + 1", "state=JobState.LEASED"),
    _m("a claim does not count", _JOBS, " attempts=JobRow.attempts + 1, owner", " owner"),
    _m("a move does not look at the epoch", _JOBS,
       ".where(JobRow.id == job.id, JobRow.state == job.state, JobRow.epoch == job.epoch)\n        .values(state=state",
       ".where(JobRow.id == job.id, JobRow.state == job.state)\n        .values(state=state"),
    _m("a move does not look at the state", _JOBS,
       ".where(JobRow.id == job.id, JobRow.state == job.state, JobRow.epoch == job.epoch)\n        .values(state=state",
       ".where(JobRow.id == job.id, JobRow.epoch == job.epoch)\n        .values(state=state"),
    _m("a heartbeat does not look at the epoch", _JOBS,
       "JobRow.id == job.id, JobRow.epoch == job.epoch, JobRow.state.in_(HELD)", "JobRow.id == job.id, JobRow.state.in_(HELD)"),
    _m("ending others' jobs keeps the epoch", _JOBS, "values(state=state, epoch=JobRow.epoch + 1, owner=", "values(state=state, owner="),
    _m("no limit of attempts", _JOBS, "if job.attempts >= max_attempts:", "if job.attempts >= max_attempts + 99:"),
    _m("a new job rings nobody", _JOBS, '    events.announce(session, RUN_JOB, job_id, at=at)\n    return job_id', "    return job_id"),
    _m("a finished set rings nobody", _JOBS,
       "    events.announce(session, DELIVER, job.id, at=at)\n    return ready", "    return ready"),
    _m("a retried job rings nobody", _JOBS, "    events.announce(session, RUN_JOB, job.id, at=at)\n    return retried", "    return retried"),
    _m("a job that has waited rings nobody", _JOBS, "        events.announce(session, RUN_JOB, row.id, at=now)\n"),
    _m("pauses are not heeded", _JOBS, "JobRow.state == JobState.PENDING, ~_halted())", "JobRow.state == JobState.PENDING)"),
    _m("an attempt given back counts", _JOBS, "attempts=job.attempts - 1", "attempts=job.attempts"),
    _m("a set that was sent is dropped", _JOBS, "(JobRow.state.in_(early) | unsent)", "(JobRow.state.in_([*early, JobState.DELIVERING]) | unsent)"),
    _m("older revisions run on", _JOBS, "JobRow.revision < revision", "JobRow.revision < -revision"),
    _m("one set twice", _JOBS, "    _forget_results(session, job.id)\n"),
    _m("a concluded delivery may be another's", _RESULTS,
       "DeliveryRow.state == _S.SENDING, DeliveryRow.owner == worker)", "DeliveryRow.state == _S.SENDING)"),
    _m("a concluded delivery may stand anywhere", _RESULTS,
       "DeliveryRow.state == _S.SENDING, DeliveryRow.owner == worker)", "DeliveryRow.owner == worker)"),
    _m("a dead sender's result is sent blindly", _RESULTS, ".values(state=_S.UNKNOWN, next_at=at", ".values(state=_S.QUEUED, next_at=at"),
    _m("results overtake each other", _RESULTS, "        if not _is_due(row, now):\n            break\n",
       "        if not _is_due(row, now):\n            continue\n"),
    _m("settling does not look at the epoch", _STUDIES, "StudyRow.epoch == study.epoch, StudyRow.state", "StudyRow.state"),
    _m("settling does not look at the last instance", "node/domain/completion.py",
       "if now >= quiet_at and not (held or sending or seen.deaf):", "if not (held or sending or seen.deaf):"),
    _m("settling does not wait for who is sending", "node/domain/completion.py",
       "if now >= quiet_at and not (held or sending or seen.deaf):", "if now >= quiet_at and not (held or seen.deaf):"),
    _m("settling does not wait for what lacks", "node/domain/completion.py",
       "if now >= quiet_at and not (held or sending or seen.deaf):", "if now >= quiet_at and not (sending or seen.deaf):"),
    _m("silence counts while nobody listens", "node/domain/completion.py",
       "if now >= quiet_at and not (held or sending or seen.deaf):", "if now >= quiet_at and not (held or sending):"),
    _m("silence counts from before anybody listened", "node/domain/completion.py",
       "return max(seen.last_at, seen.listening_since or seen.last_at)", "return seen.last_at"),
    _m("a step that never ends is waited for", "node/domain/completion.py", "at_it=at_it is not None and now < at_it)",
       "at_it=at_it is not None)"),
    _m("a word about a step is not heard", "node/domain/completion.py", "max(seen.last_at, seen.steps.heard_at or seen.last_at)", "seen.last_at"),
    _m("the longest wait has no end", "node/domain/completion.py", "    if now >= over:\n", "    if False:\n"),
    _m("an old count settles", "node/domain/completion.py", "seen.tally.fresh and seen.tally.there", "seen.tally.there"),
    _m("a study that waits is not looked at when an instance comes", _STUDIES,
       "study.last_at, study.look_at = max(study.last_at, at), None", "study.last_at = max(study.last_at, at)"),
    _m("a late instance does not reopen", _STUDIES, "if study.state == StudyState.SETTLED:", "if False:"),
    _m("two patients are no conflict", _STUDIES, "_PATIENTS if study.patient_id != kept.facts.patient_id else ", ""),
    _m("an image in two series is no conflict", _STUDIES, "else _PLACES if moved else", "else"),
    _m("a job may stand twice", _TABLES,
       "    sa.UniqueConstraint('study_uid', 'model', 'revision', name=op.f('uq_job_study_uid_model_revision'))\n"),
    _m("an instance may stand twice", _TABLES,
       "    sa.UniqueConstraint('sop_uid', 'content_sha', name=op.f('uq_instance_sop_uid_content_sha'))\n"),
    _m("a delivery may stand twice", _TABLES,
       "    sa.UniqueConstraint('result_id', 'peer', name=op.f('uq_delivery_result_id_peer'))\n"),
    _m("a bell is forgotten before it is rung", "node/sweep.py", "            self.broker.ring(topic, job_id)\n            reach(",
       "            with self.database.transaction() as session:\n                events.mark_rung(session, [bell])\n"
       "            self.broker.ring(topic, job_id)\n            reach("),
    _m("abandoned jobs stay", "node/sweep.py", "return is_dead(owner) or (self._trusts_times and (lease_until is None or lease_until < now))", "return False"),
    _m("leases are believed after a jump of the clock", "node/sweep.py", "is_dead(owner) or (self._trusts_times and (", "is_dead(owner) or (True and ("),
    _m("times from an hour ahead stay", "node/sweep.py", "            self._mended = False\n", "            self._mended = True\n"),
    _m("a lost connection to the database is a lost result", "node/db/session.py", "if time.monotonic() + _AGAIN > deadline:", "if True:"),
    _m("a database that stands still is waited for", "node/db/session.py", "        if not patient:\n            bound(engine)\n"),
    _m("lost bells stay lost", "node/sweep.py", "self._tell_late, self._relay, self._ring_again)", "self._tell_late, self._relay)"),
    _m("success without the bytes", "node/scp/storing.py", "self._refuse(OUT_OF_RESOURCES, str(why))", "self.drop()"),
    _m("success without the row", "node/together.py", "        if one.why is not None:\n            raise one.why\n"),
    _m("no sync of the journal", "node/journal.py", "                os.fdatasync(self._file)\n                reach(", "                reach("),
    _m("a journal that failed goes on", "node/journal.py", "        except BaseException:\n            self._is_broken = True\n", "        except BaseException:\n"),
    _m("zeros go over a record", "node/journal.py", "        self._prepared = max(self._prepared, half.at)  # nobody", "        # nobody"),
    _m("a version overtakes in its batch", "node/intake.py", "self._keep_together(arrivals, in_order=True)", "self._keep_together(arrivals)"),
    _m("outages count as an instance's own fault", "node/logbook.py", "isinstance(why.__cause__, IntegrityError | DataError)", "True"),
    _m("what is not filed is written over", "node/journal.py", "            if other.last > self._filed:\n                return None\n"),
    _m("what is filed is not marked", "node/filing.py", "                journal.mark(number, durably=", "                bool("),
    _m("what cannot be filed keeps nobody out", "node/logbook.py", "        self._filing.admit()\n"),
    _m("a version with a file of its own overtakes", "node/intake.py", "self.logbook is not None and not self.logbook.rest()", "False"),
    _m("commitment does not wait for the journal", "node/scp/commitment.py", "if not intake.rest(_PATIENCE):", "if False:"),
    _m("what a dead listener left stays", "node/logbook.py", "                self._filing.add(self._left(journal, entries))\n"),
    _m("success for another instance", "node/intake.py", "        _compare(facts, self._sop_class, self._sop_uid)\n"),
    _m("an unknown outcome is not asked for", "node/delivery.py", "delivery.state is DeliveryState.UNKNOWN and transport", "False and transport"),
)  # fmt: skip


def outcome(mutant: Mutant, tree: Path) -> str:
    """Return "killed", "survived" or "not there" for one mutant."""
    file = tree / mutant.file
    before = file.read_text(encoding="utf-8")
    if mutant.old not in before:
        return "not there"
    file.write_text(before.replace(mutant.old, mutant.new, 1), encoding="utf-8")
    try:
        environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
        line = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *QUICK]
        ran = subprocess.run(line, cwd=tree, env=environment, capture_output=True, text=True, timeout=900, check=False)
    finally:
        file.write_text(before, encoding="utf-8")
    return "survived" if ran.returncode == 0 else "killed"


def main() -> None:
    """Try every mutant."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.mutants")
    parser.add_argument("--only", default="", help="mutants whose name holds this text")
    wanted = parser.parse_args().only
    found: dict[str, list[str]] = {"killed": [], "survived": [], "not there": []}
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        tree = Path(scratch) / "tree"
        left_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", "out", "demo-out", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=left_out)
        if outcome(Mutant(name="none", file="Makefile", old="help:", new="help:"), tree) != "survived":
            sys.exit("the tests fail as they are: nothing can be learnt from mutants")
        for mutant in MUTANTS:
            if wanted not in mutant.name:
                continue
            began = time.monotonic()
            how = outcome(mutant, tree)
            found[how].append(mutant.name)
            sys.stderr.write(f"{how}: {mutant.name} ({time.monotonic() - began:.0f} s)\n")
    figures = {"bench": "mutants", **{how.replace(" ", "_"): len(names) for how, names in found.items()}}
    sys.stdout.write(json.dumps(figures | {"survivors": found["survived"] + found["not there"]}) + "\n")
    sys.exit(1 if found["survived"] or found["not there"] else 0)


if __name__ == "__main__":
    main()
