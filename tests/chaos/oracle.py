"""What must be true when all has come to rest: read from ledger, store, database and PACS, by nothing else.

No line of the node decides here; its tables are read as a stranger would read them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread
from sqlalchemy import text

from node.journal import Journal
from tests.chaos.senders import Ledger, data_set
from tests.chaos.stand import Stand

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
    seen: Counter[str] = field(default_factory=Counter)  # what was looked at

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.missing or self.doubled or self.wrong_patient or self.unended)


def judge(stand: Stand, ledger: Ledger) -> Verdict:
    """Return what is wrong."""
    verdict = Verdict()
    tables = _tables(stand)
    _check_acknowledged(stand, ledger, tables, verdict)
    _check_ended(ledger, tables, verdict)
    _check_pacs(stand, ledger, tables, verdict)
    return verdict


def at_rest(stand: Stand) -> bool:
    """Whether nothing more will happen by itself."""
    if Journal.waiting(stand.home / "store" / "journal"):
        return False
    tables = _tables(stand)
    waiting = [row for row in tables["delivery"] if row["state"] in UNSENT]
    running = [row for row in tables["job"] if row["state"] not in ENDED]
    return not waiting and not running and all(row["state"] != "open" for row in tables["study"])


def _tables(stand: Stand) -> dict[str, list[dict[str, Any]]]:
    services = stand.services()
    try:
        with services.database.engine.execution_options(reading=True).connect() as connection:
            return {
                name: [dict(row) for row in connection.execute(text(f"SELECT * FROM {name}")).mappings()]  # noqa: S608
                for name in ("study", "instance", "job", "result", "delivery")
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
