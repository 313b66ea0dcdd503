"""The events table: who did what, when; and the outbox: which doorbells are still to be rung."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from node.db.tables import EventRow, OutboxRow
from node.domain.job import Event


def record(
    session: Session, what: str, *, who: str, at: datetime, detail: str = "", job_id: str = "", study_uid: str = ""
) -> None:
    """Write down who did *what*, in the transaction of the change itself."""
    session.add(
        EventRow(at=at, who=who, what=what, detail=detail, job_id=job_id or None, study_uid=study_uid or None)
    )


def story(session: Session, *, job_id: str = "", study_uid: str = "") -> list[Event]:
    """Return the events of a job, or of a study, oldest first."""
    mine = EventRow.job_id == job_id if job_id else EventRow.study_uid == study_uid
    rows = session.scalars(select(EventRow).where(mine).order_by(EventRow.id))
    return [
        Event(
            at=row.at, who=row.who, what=row.what, detail=row.detail,
            job_id=row.job_id or "", study_uid=row.study_uid or "",
        )
        for row in rows
    ]  # fmt: skip


def announce(session: Session, topic: str, job_id: str, *, at: datetime) -> None:
    """Leave a doorbell to be rung once this transaction is committed."""
    session.add(OutboxRow(topic=topic, job_id=job_id, at=at))


def unrung(session: Session, *, limit: int = 500) -> list[tuple[int, str, str]]:
    """Return doorbells (id, topic, job id) still to be rung, oldest first."""
    rows = session.execute(select(OutboxRow.id, OutboxRow.topic, OutboxRow.job_id).order_by(OutboxRow.id).limit(limit))
    return [(row.id, row.topic, row.job_id) for row in rows]


def mark_rung(session: Session, ids: Iterable[int]) -> None:
    """Forget doorbells that were rung."""
    session.execute(delete(OutboxRow).where(OutboxRow.id.in_(list(ids))))
