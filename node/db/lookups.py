"""Cheap answers for many rows at once, as a page asks for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from node.db import jobs, studies
from node.db.tables import DeliveryRow, EventRow, JobRow, SeriesRow, StudyRow
from node.domain.job import HELD, Job, JobState
from node.domain.result import OTHER_PATIENT, DeliveryState


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """How a study is named in a row: nothing here says who the patient is."""

    uid: str
    description: str
    study_date: str
    modalities: tuple[str, ...]


def labels_of(session: Session, uids: Collection[str]) -> dict[str, Label]:
    """Return the labels of these studies without counting their instances."""
    rows = session.execute(
        select(StudyRow.uid, StudyRow.description, StudyRow.study_date).where(StudyRow.uid.in_(uids))
    ).all()
    pairs = session.execute(
        select(SeriesRow.study_uid, SeriesRow.modality).where(SeriesRow.study_uid.in_(uids)).distinct()
    ).all()
    return {
        uid: Label(
            uid=uid, description=description, study_date=date,
            modalities=tuple(sorted(modality for study, modality in pairs if study == uid)),
        )
        for uid, description, date in rows
    }  # fmt: skip


def jobs_with_parked(session: Session) -> frozenset[str]:
    """Return the unfinished jobs of which a delivery waits for a person."""
    sending = JobRow.state.in_((JobState.RESULT_READY, JobState.DELIVERING))
    parked = select(DeliveryRow.job_id).join(JobRow, JobRow.id == DeliveryRow.job_id)
    return frozenset(session.scalars(parked.where(DeliveryRow.state == DeliveryState.PARKED, sending)))


def change_mark(session: Session) -> str:
    """Return a mark that differs whenever a job, a delivery or a study changed.

    Times alone would miss a change that is committed late, or by a machine whose clock is behind.
    """
    times = f"{jobs.last_change(session)}|{session.scalar(select(func.max(StudyRow.last_at)))}"
    states = [*jobs.count_by_state(session).items(), *studies.count_by_state(session).items()]
    return f"{times}|{session.scalar(select(func.max(EventRow.id)))}|{sorted(states)}"


def pending_since(session: Session, before: datetime) -> list[tuple[str, int, datetime]]:
    """Return (model, how many, since when) of the jobs that could have been taken since *before* and were not."""
    waiting = (JobRow.state == JobState.PENDING) & (JobRow.updated_at <= before) & (JobRow.not_before <= before)
    facts = (JobRow.model, func.count(), func.min(JobRow.updated_at))
    rows = session.execute(select(*facts).where(waiting).group_by(JobRow.model).order_by(JobRow.model))
    return [(row[0], row[1], row[2]) for row in rows]


def undelivered_since(session: Session, before: datetime) -> list[tuple[str, int, datetime]]:
    """Return (peer, how many, since when) of the deliveries that were tried, and wait since *before*."""
    waiting = DeliveryRow.state.in_((DeliveryState.RETRY_WAIT, DeliveryState.UNKNOWN))
    mine = waiting & (DeliveryRow.tries > 0) & (DeliveryRow.created_at <= before)
    facts = (DeliveryRow.peer, func.count(), func.min(DeliveryRow.created_at))
    rows = session.execute(select(*facts).where(mine).group_by(DeliveryRow.peer).order_by(DeliveryRow.peer))
    return [(row[0], row[1], row[2]) for row in rows]


def patient_of(session: Session, study_uid: str) -> str | None:
    """Return the Patient ID of a study; for comparing alone, never for showing."""
    return session.scalar(select(StudyRow.patient_id).where(StudyRow.uid == study_uid))


def under_another_patient(session: Session, since: datetime) -> int:
    """Return how many results were found *since* in a study that their peer has under another patient."""
    told = DeliveryRow.reason.contains(OTHER_PATIENT) & (DeliveryRow.updated_at >= since)
    return session.scalar(select(func.count(DeliveryRow.job_id.distinct())).where(told)) or 0


_RUNS = 20  # how many earlier runs of a model say how long one takes


def expected_end(session: Session, job: Job, *, now: datetime) -> datetime | None:
    """Return when the results of an unfinished job should be ready; None where nobody can know.

    From how long the model's last runs took, and from what is claimed before it. An estimate for people: no move of a
    job depends on it.
    """
    usual = _usual_run(session, job.model)
    if usual is None or job.state not in (JobState.PENDING, JobState.LEASED, JobState.RUNNING):
        return None
    if job.state is not JobState.PENDING:
        began = session.scalar(
            select(func.max(EventRow.at)).where(EventRow.job_id == job.id, EventRow.what.in_(("claimed", "started")))
        )
        return None if began is None or began + usual < now else began + usual
    rank = select(JobRow.rank).where(JobRow.id == job.id).scalar_subquery()
    before = select(func.count()).select_from(JobRow).where(JobRow.state == JobState.PENDING, JobRow.rank < rank)
    holders = select(func.count(JobRow.owner.distinct())).where(JobRow.state.in_(HELD))
    ahead, workers = session.scalar(before) or 0, session.scalar(holders) or 0
    turns = ahead // max(1, workers) + (1 if workers else 0)  # those who work now are through with one turn first
    return max(now, job.not_before) + usual * (turns + 1)


def _usual_run(session: Session, model: str) -> timedelta | None:
    """The median time from beginning to results of a model's last runs."""
    ready = session.execute(
        select(EventRow.job_id, EventRow.at)
        .join(JobRow, JobRow.id == EventRow.job_id)
        .where(JobRow.model == model, EventRow.what == "result_ready")
        .order_by(EventRow.id.desc())
        .limit(_RUNS)
    ).all()
    starts: dict[str, datetime] = {}
    for job_id, at in session.execute(
        select(EventRow.job_id, EventRow.at)
        .where(EventRow.job_id.in_([row.job_id for row in ready]), EventRow.what == "started")
        .order_by(EventRow.id)
    ):
        starts[str(job_id)] = at
    took = [row.at - starts[row.job_id] for row in ready if row.job_id in starts and row.at > starts[row.job_id]]
    return median(took) if took else None
