"""Cheap answers for many rows at once, as a page asks for them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from node.db import jobs, studies
from node.db.tables import DeliveryRow, EventRow, JobRow, SeriesRow, StudyRow
from node.domain.job import JobState
from node.domain.result import DeliveryState


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
