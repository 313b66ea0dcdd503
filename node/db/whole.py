"""Rows against files: what the table says that the store holds, and what was found missing."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from node.db import events
from node.db.tables import GarbageRow, InstanceRow, JobRow, ResultRow, StudyRow
from node.domain.job import HELD

_CHUNK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Named:
    """A file that a row names."""

    id: int
    path: str
    sha256: str
    size: int
    lost: bool  # it was missing when it was last looked for
    owner: str  # its study, or its job


def study_uids(session: Session) -> list[str]:
    """Return the UIDs of all studies."""
    return list(session.scalars(select(StudyRow.uid).order_by(StudyRow.uid)))


def instances_named(session: Session, uids: Collection[str]) -> dict[str, list[Named]]:
    """Return the files of these studies by study, those set aside and older versions too."""
    found: dict[str, list[Named]] = {uid: [] for uid in uids}
    rows = session.scalars(select(InstanceRow).where(InstanceRow.study_uid.in_(list(uids))).order_by(InstanceRow.id))
    for r in rows:
        one = Named(
            id=r.id, path=r.path, sha256=r.content_sha, size=r.size, lost=r.lost_at is not None, owner=r.study_uid
        )
        found[r.study_uid].append(one)
    return found


def results_named(session: Session) -> Iterator[Named]:
    """Yield the files of all results that were not deleted on purpose."""
    rows = session.scalars(select(ResultRow).where(ResultRow.deleted_at.is_(None)).order_by(ResultRow.id))
    for r in rows.yield_per(_CHUNK):
        yield Named(id=r.id, path=r.path, sha256=r.sha256, size=r.size, lost=r.lost_at is not None, owner=r.job_id)


def garbage_of(session: Session, uids: Collection[str]) -> frozenset[str]:
    """Return the files of these studies that are about to be deleted."""
    return frozenset(session.scalars(select(GarbageRow.path).where(GarbageRow.study_uid.in_(list(uids)))))


def sender_of(session: Session, uid: str) -> str:
    """Return who sent a study, "" where nothing of it is known."""
    return session.scalar(select(StudyRow.calling_ae).where(StudyRow.uid == uid)) or ""


def mark_instances(session: Session, uid: str, ids: Collection[int], *, lost: bool, at: datetime) -> int:
    """Say of instances of a study that their files are lost, or there again; return of how many that is news."""
    study = session.scalars(select(StudyRow).where(StudyRow.uid == uid).with_for_update()).one()
    known = InstanceRow.lost_at.is_(None) if lost else InstanceRow.lost_at.is_not(None)
    rows = session.execute(
        update(InstanceRow)
        .where(InstanceRow.study_uid == uid, InstanceRow.id.in_(list(ids)), known)
        .values(lost_at=at if lost else None)
        .returning(InstanceRow.id)
    ).all()
    if rows:
        what = "lost" if lost else "found again"
        detail = f"{len(rows)} instances are missing from the store or cut short: have them sent again"
        detail = detail if lost else f"{len(rows)} instances are in the store again"
        events.record(session, what, who="care", at=at, detail=detail, study_uid=uid)
        study.epoch += 1
    return len(rows)


def mark_results(session: Session, job_id: str, ids: Collection[int], *, lost: bool, at: datetime) -> int:
    """Say of results of a job that their files are lost, or there again; return of how many that is news."""
    known = ResultRow.lost_at.is_(None) if lost else ResultRow.lost_at.is_not(None)
    rows = session.execute(
        update(ResultRow)
        .where(ResultRow.job_id == job_id, ResultRow.id.in_(list(ids)), known, ResultRow.deleted_at.is_(None))
        .values(lost_at=at if lost else None)
        .returning(ResultRow.id)
    ).all()
    if rows:
        what = "lost" if lost else "found again"
        detail = f"{len(rows)} results are missing from the store or cut short: run the job again"
        detail = detail if lost else f"{len(rows)} results are in the store again"
        events.record(session, what, who="care", at=at, detail=detail, job_id=job_id)
    return len(rows)


def attempts_held(session: Session) -> frozenset[tuple[str, int]]:
    """Return (job, epoch) of the attempts that some worker is at."""
    rows = session.execute(select(JobRow.id, JobRow.epoch).where(JobRow.state.in_(HELD)))
    return frozenset((row[0], row[1]) for row in rows)


def results_known(session: Session, job_ids: Collection[str]) -> dict[str, frozenset[int]]:
    """Return, for each of these jobs that exists, the epochs whose results the table names."""
    found: dict[str, set[int]] = {}
    wanted = sorted(job_ids)
    for start in range(0, len(wanted), _CHUNK):
        part = wanted[start : start + _CHUNK]
        found |= {job_id: set() for job_id in session.scalars(select(JobRow.id).where(JobRow.id.in_(part)))}
        for job_id, epoch in session.execute(
            select(ResultRow.job_id, ResultRow.epoch).where(ResultRow.job_id.in_(part)).distinct()
        ):
            found[job_id].add(epoch)
    return {job_id: frozenset(epochs) for job_id, epochs in found.items()}
