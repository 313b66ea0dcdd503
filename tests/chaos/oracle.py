"""What must be true when all has come to rest: read from ledger, store, database and PACS, by nothing else.

No line of the node decides here; its tables are read as a stranger would read them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread
from sqlalchemy import text

from node.journal import Journal
from tests.chaos.senders import Ledger, data_set
from tests.chaos.stand import Stand
from tests.chaos.talker import Said

ENDED = {"done", "failed", "cancelled", "superseded", "not_applicable", "input_invalid"}
UNSENT = {"queued", "sending", "unknown", "retry_wait", "acked"}  # acked: not yet found there


@dataclass
class Verdict:
    """Everything that is wrong, each as a sentence."""

    lost: list[str] = field(default_factory=list)  # acknowledged, but not in the store as it was sent
    missing: list[str] = field(default_factory=list)  # expected of a complete study, but not in the PACS
    doubled: list[str] = field(default_factory=list)  # twice in the PACS, or nobody's
    wrong_patient: list[str] = field(default_factory=list)
    unended: list[str] = field(default_factory=list)  # neither finished nor given up with a reason
    untrue: list[str] = field(default_factory=list)  # answered, reported or recorded, but not so
    seen: Counter[str] = field(default_factory=Counter)  # what was looked at

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.missing or self.doubled or self.wrong_patient or self.unended or self.untrue)


def judge(stand: Stand, ledger: Ledger, said: Said | None = None) -> Verdict:
    """Return what is wrong, also with what the node was *said* and answered."""
    verdict = Verdict()
    tables = _tables(stand)
    _check_acknowledged(stand, ledger, tables, verdict)
    _check_ended(ledger, tables, verdict)
    _check_pacs(stand, ledger, tables, verdict)
    if said is not None:
        _check_steps(said, tables, verdict)
        _check_commitment(ledger, said, verdict)
    return verdict


def at_rest(stand: Stand) -> bool:
    """Whether nothing more will happen by itself."""
    if Journal.waiting(stand.home / "store" / "journal"):
        return False
    tables = _tables(stand)
    waiting = [row for row in tables["delivery"] if row["state"] in UNSENT]
    running = [row for row in tables["job"] if row["state"] not in ENDED]
    silent = [row for row in tables["commit_request"] if row["reported_at"] is None]
    return not (waiting or running or silent) and all(row["state"] != "open" for row in tables["study"])


def ends_of(stand: Stand, study_uid: str) -> list[str]:
    """Return how the jobs of one study stand, sorted."""
    return sorted(row["state"] for row in _tables(stand)["job"] if row["study_uid"] == study_uid)


def _tables(stand: Stand) -> dict[str, list[dict[str, Any]]]:
    services = stand.services()
    try:
        with services.database.engine.execution_options(reading=True).connect() as connection:
            return {
                name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name}")).mappings()]  # noqa: S608
                for name in ("study", "instance", "job", "result", "delivery", "step", "commit_request")
            }
    finally:
        services.database.engine.dispose()


def _check_acknowledged(stand: Stand, ledger: Ledger, tables: dict[str, Any], verdict: Verdict) -> None:
    """Every acknowledged instance lies in the store byte for byte, and a current row finds it."""
    rows = {row["sop_uid"]: row for row in tables["instance"] if row["current"]}
    for sop_uid, (study, digest) in ledger.acked.items():
        verdict.seen["acknowledged"] += 1
        row = rows.get(sop_uid)
        if row is None:
            verdict.lost.append(f"study {study.number}: no row of instance {sop_uid}")
            continue
        file = stand.home / "store" / row["path"]
        if not file.is_file() or hashlib.sha256(data_set(file.read_bytes())).hexdigest() != digest:
            verdict.lost.append(f"study {study.number}: instance {sop_uid} is missing or altered in the store")


def _check_ended(ledger: Ledger, tables: dict[str, Any], verdict: Verdict) -> None:
    """Every study that the node knows has settled, every job has ended, and no delivery hangs in the air."""
    known = {row["uid"]: row for row in tables["study"]}
    numbers = {study.study_uid: study.number for study in ledger.sent}
    for uid, row in known.items():
        if row["state"] == "open":
            verdict.unended.append(f"study {numbers.get(uid)}: still open")
    for row in tables["job"]:
        verdict.seen["jobs"] += 1
        if row["state"] not in ENDED:
            verdict.unended.append(f"study {numbers.get(row['study_uid'])}: job is {row['state']}: {row['reason']}")
    for row in tables["delivery"]:
        if row["state"] in UNSENT:
            verdict.unended.append(f"delivery {row['id']} is {row['state']}: {row['reason']}")


def _check_pacs(stand: Stand, ledger: Ledger, tables: dict[str, Any], verdict: Verdict) -> None:
    """The PACS holds each expected result once, and nothing else of ours; each under its patient and study."""
    jobs = {row["id"]: row for row in tables["job"]}
    results = {row["sop_uid"]: row for row in tables["result"]}
    patients = {study.study_uid: study.patient_id for study in ledger.sent}
    numbers = {study.study_uid: study.number for study in ledger.sent}
    held: Counter[str] = Counter()
    places: Counter[tuple[Any, ...]] = Counter()
    for one in stand.orthanc.call("/instances"):
        ds = dcmread(BytesIO(stand.orthanc.instance(one)), stop_before_pixels=True)
        uid, study_uid = str(ds.SOPInstanceUID), str(ds.StudyInstanceUID)
        verdict.seen["in the PACS"] += 1
        held[uid] += 1
        if uid not in results:
            verdict.doubled.append(f"study {numbers.get(study_uid)}: the PACS holds {uid}, which no row tells of")
            continue
        row = results[uid]
        job = jobs[row["job_id"]]
        places[job["study_uid"], job["revision"], job["model"], row["role"], row["variant"], row["position"]] += 1
        if job["study_uid"] != study_uid or patients.get(study_uid) != str(ds.PatientID):
            number = numbers.get(job["study_uid"])
            verdict.wrong_patient.append(f"{row['role']} of study {number}: under another patient or study")
        digest = hashlib.sha256((stand.home / "store" / row["path"]).read_bytes()).hexdigest()
        if digest != row["sha256"]:
            verdict.lost.append(f"{row['role']} of study {numbers.get(study_uid)}: the frozen bytes have changed")
    verdict.doubled += [f"{uid} lies {count} times in the PACS" for uid, count in held.items() if count > 1]
    verdict.doubled += [f"study {numbers.get(p[0])}: {p[1:]} {n} times" for p, n in places.items() if n > 1]
    _check_missing(ledger, tables, held, verdict)


def _check_missing(ledger: Ledger, tables: dict[str, Any], held: Counter[str], verdict: Verdict) -> None:
    """Of each completely acknowledged study: a job over all of its images is done, its set is in the PACS."""
    for study in ledger.sent:
        if study.number not in ledger.complete:
            continue
        verdict.seen["complete studies"] += 1
        mine = [row for row in tables["job"] if row["study_uid"] == study.study_uid]
        done = [row for row in mine if row["state"] == "done"]
        if not done:
            told = ", ".join(f"{row['state']}: {row['reason']}" for row in mine) or "no job"
            verdict.missing.append(f"study {study.number}: {told}")
            continue
        newest = max(done, key=lambda row: row["revision"])
        mine = [row for row in tables["result"] if row["job_id"] == newest["id"]]
        roles = {row["role"] for row in mine}
        if not {"seg", "sr", "sc"} <= roles:
            verdict.missing.append(f"study {study.number}: only {sorted(roles)} were made")
        verdict.seen["results expected"] += len(mine)
        verdict.missing += [
            f"study {study.number}: its {row['role']} is not in the PACS" for row in mine if not held[row["sop_uid"]]
        ]


def _check_steps(said: Said, tables: dict[str, Any], verdict: Verdict) -> None:
    """A step stands in the table if, and only if, it was said and answered; as far as it was said to be."""
    rows = {row["sop_uid"]: row for row in tables["step"]}
    verdict.untrue += said.odd
    for uid in sorted(said.begun | said.ended.keys()):
        verdict.seen["steps"] += 1
        row = rows.pop(uid, None)
        if row is None:
            verdict.lost.append(f"step {uid} was answered, and no row tells of it")
            continue
        state = "completed" if uid in said.ended else "in progress"
        made = json.loads(row["series"]) if isinstance(row["series"], str) else row["series"]
        named = {one for uids in made.values() for one in uids}
        if row["state"] != state or named != said.ended.get(uid, set()):
            verdict.untrue.append(f"step {uid} is {row['state']} with {len(named)} instances, and was said {state}")
    verdict.untrue += [f"step {uid} was never said" for uid in rows]


def _check_commitment(ledger: Ledger, said: Said, verdict: Verdict) -> None:
    """Every question has its report; what was acknowledged is committed, and nothing else."""
    for transaction, instances in said.asked.items():
        verdict.seen["questions"] += 1
        if not said.of(transaction):
            verdict.lost.append(f"question {transaction} has no report")
        for there, lacking in said.of(transaction):
            verdict.seen["reports"] += 1
            if there | lacking != instances:
                verdict.untrue.append(f"the report on {transaction} is about other instances")
            if refused := lacking & ledger.acked.keys():
                verdict.untrue.append(f"{len(refused)} acknowledged instances of {transaction} are not committed")
            if there - ledger.acked.keys():
                verdict.untrue.append(f"{transaction}: committed without ever having been acknowledged")
    known = set(said.asked)
    verdict.untrue += [f"a report on {name}, which nobody asked" for name, _, _ in said.reports if name not in known]
