"""Which studies are over, and the rows of their files.

Rows go first, together with a note of each file that is then nobody's; the file goes after them and its note last.
A crash in between leaves a file too many with its note, which the next round deletes. The other order would leave
rows without files, which look like a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from node.db import events
from node.db.tables import (
    DeliveryRow,
    GarbageRow,
    InstanceRow,
    JobInputRow,
    JobRow,
    ResultRow,
    StudyRow,
    VerdictPendingRow,
)
from node.domain.job import ENDED, JobState
from node.domain.study import StudyState

#: Nothing more happens to a delivery in one of these; "verified" says more than "acked".
CONFIRMED = ("acked", "verified", "cancelled")
_OVER = [state for state in ENDED if state is not JobState.FAILED]


@dataclass(frozen=True, kw_only=True, slots=True)
class Garbage:
    """A file or folder of the store that may be nobody's."""

    path: str
    study_uid: str
    job_id: str  # "" for an instance


def over(session: Session, *, before: datetime, inputs: bool, limit: int = 100) -> list[str]:
    """Return studies that were over before that time and still have *inputs*, else results; the oldest first."""
    has = _has_inputs() if inputs else _has_results()
    query = select(StudyRow.uid).where(_is_over(before), has).order_by(StudyRow.last_at).limit(limit)
    return list(session.scalars(query))


def _is_over(before: datetime) -> ColumnElement[bool]:
    """Nothing is left to do for a study, and nothing happened to it since *before*."""
    job = JobRow.study_uid == StudyRow.uid
    instance = InstanceRow.study_uid == StudyRow.uid
    alive = exists().where(job, JobRow.state.not_in(_OVER) | (JobRow.updated_at > before))
    unsent = exists().where(job, DeliveryRow.job_id == JobRow.id, DeliveryRow.state.not_in(CONFIRMED))
    unjudged = exists().where(instance, VerdictPendingRow.instance_id == InstanceRow.id)
    quiet = (StudyRow.state == StudyState.SETTLED) & (StudyRow.last_at <= before)
    return quiet & ~alive & ~unsent & ~unjudged


def _has_inputs() -> ColumnElement[bool]:
    return exists().where(InstanceRow.study_uid == StudyRow.uid)


def _has_results() -> ColumnElement[bool]:
    job = JobRow.study_uid == StudyRow.uid
    made = exists().where(job, ResultRow.job_id == JobRow.id, ResultRow.deleted_at.is_(None))
    return made | exists().where(job, JobRow.pictured)


def _lock(session: Session, uid: str, *, before: datetime) -> StudyRow | None:
    """Return the study's row, locked with its jobs; None where it is no longer over."""
    study = session.scalars(select(StudyRow).where(StudyRow.uid == uid).with_for_update()).one()
    session.execute(select(JobRow.id).where(JobRow.study_uid == uid).with_for_update()).all()
    still = session.scalar(select(StudyRow.uid).where(StudyRow.uid == uid, _is_over(before)))
    return study if still else None


def forget_inputs(session: Session, uid: str, *, before: datetime, at: datetime) -> int:
    """Take the instances of a study out of the table and note their files; return how many, 0 where it is not over."""
    study = _lock(session, uid, before=before)
    if study is None:
        return 0
    mine = InstanceRow.study_uid == uid
    rows = session.execute(select(InstanceRow.path, InstanceRow.size).where(mine)).all()
    _note(session, [Garbage(path=path, study_uid=uid, job_id="") for path, _ in rows], at=at)
    ids = select(InstanceRow.id).where(mine).scalar_subquery()
    session.execute(delete(JobInputRow).where(JobInputRow.instance_id.in_(ids)))
    session.execute(delete(InstanceRow).where(mine))
    study.epoch += 1
    detail = f"{len(rows)} instances, {sum(size for _, size in rows) / 2**20:.1f} MiB: their time was over"
    events.record(session, "inputs deleted", who="sweep", at=at, detail=detail, study_uid=uid)
    return len(rows)


def forget_results(session: Session, uid: str, *, before: datetime, folder: str, at: datetime) -> int:
    """Say of the results of a study that their files are deleted, and note these; return how many results.

    A picture of what a model declined counts as one. The rows stay: a result that a PACS sends back must still be known
    as ours. *folder* is the name of a job's results in the store, with "{}" for its id.
    """
    if _lock(session, uid, before=before) is None:
        return 0
    mine = ResultRow.job_id.in_(select(JobRow.id).where(JobRow.study_uid == uid).scalar_subquery())
    rows = session.execute(
        update(ResultRow)
        .where(mine, ResultRow.deleted_at.is_(None))
        .values(deleted_at=at, lost_at=None)
        .returning(ResultRow.job_id, ResultRow.size)
    ).all()
    shown = session.scalars(
        update(JobRow).where(JobRow.study_uid == uid, JobRow.pictured).values(pictured=False).returning(JobRow.id)
    ).all()
    jobs = sorted({job_id for job_id, _ in rows} | set(shown))
    _note(session, [Garbage(path=folder.format(job), study_uid=uid, job_id=job) for job in jobs], at=at)
    pictures = f" and {len(shown)} pictures of what was declined" if shown else ""
    detail = f"{len(rows)} results, {sum(size for _, size in rows) / 2**20:.1f} MiB{pictures}: their time was over"
    events.record(session, "results deleted", who="sweep", at=at, detail=detail, study_uid=uid)
    return len(rows) + len(shown)


def has_results(session: Session, job_id: str) -> bool:
    """Return whether the files of a job's results are kept still, so that they can be sent again."""
    kept = exists().where(ResultRow.job_id == job_id, ResultRow.deleted_at.is_(None))
    return bool(session.scalar(select(kept)))


def _note(session: Session, garbage: Sequence[Garbage], *, at: datetime) -> None:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    values = [{"path": g.path, "study_uid": g.study_uid, "job_id": g.job_id or None, "at": at} for g in garbage]
    for start in range(0, len(values), 500):
        session.execute(dialect.insert(GarbageRow).values(values[start : start + 500]).on_conflict_do_nothing())


def noted(session: Session, *, limit: int = 100) -> list[Garbage]:
    """Return files still to be deleted, those of one study together."""
    query = select(GarbageRow).order_by(GarbageRow.study_uid, GarbageRow.path).limit(limit)
    return [Garbage(path=r.path, study_uid=r.study_uid, job_id=r.job_id or "") for r in session.scalars(query)]


def still_nobodys(session: Session, uid: str, garbage: Sequence[Garbage]) -> list[str]:
    """Lock the study; return which of its *garbage* no row names, so that it may be deleted in this transaction.

    An instance that came again meanwhile has its row back, and a job that runs again its folder.
    """
    session.execute(select(StudyRow.uid).where(StudyRow.uid == uid).with_for_update()).one()
    paths = [one.path for one in garbage if not one.job_id]
    mine = (InstanceRow.study_uid == uid) & InstanceRow.path.in_(paths)
    named = set(session.scalars(select(InstanceRow.path).where(mine)))
    free = [path for path in paths if path not in named]
    for one in garbage:
        if one.job_id and _is_deleted(session, one.job_id):
            free.append(one.path)
    return free


def _is_deleted(session: Session, job_id: str) -> bool:
    """Whether a job is ended and all that it left is said to be deleted; locks the job."""
    job = session.execute(select(JobRow.state, JobRow.pictured).where(JobRow.id == job_id).with_for_update()).one()
    left = select(func.count()).where(ResultRow.job_id == job_id, ResultRow.deleted_at.is_(None))
    return job.state in _OVER and not job.pictured and session.scalar(left) == 0


def drop_notes(session: Session, garbage: Sequence[Garbage]) -> None:
    """Forget files that are deleted, or that belong to somebody again."""
    session.execute(delete(GarbageRow).where(GarbageRow.path.in_([one.path for one in garbage])))
