"""Questions for storage commitment and the reports that answer them, whichever association they come by."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from node.db import events, jobs
from node.db.tables import CommitmentRow, DeliveryRow, ResultRow
from node.domain.peer import CommitReport
from node.domain.result import DeliveryState

_S = DeliveryState
NEVER = frozenset({0x0119, 0x0122})  # PS3.3 C.14.1.1: class and instance conflict, SOP class not supported


def ask(session: Session, transaction_uid: str, *, job_id: str, peer: str, who: str, at: datetime) -> None:
    """Write a question down before it is put: its report may be faster than the answer to the question."""
    session.add(CommitmentRow(transaction_uid=transaction_uid, job_id=job_id, peer=peer, asked_at=at))
    events.record(session, "commitment asked", who=who, at=at, detail=peer, job_id=job_id)


def is_answered(session: Session, transaction_uid: str) -> bool:
    """Return whether the report to this question came."""
    answered = CommitmentRow.transaction_uid == transaction_uid, CommitmentRow.answered_at.is_not(None)
    return session.scalar(select(CommitmentRow.transaction_uid).where(*answered)) is not None


def take_report(
    session: Session, report: CommitReport, *, who: str, at: datetime, age_limit: timedelta,
    wait: Callable[[int], timedelta],
) -> bool:  # fmt: skip
    """Verify what the peer commits itself to, send again what it does not have; False where we never asked.

    A report that comes twice changes nothing. What it does not mention is asked for again in its time. *wait* tells
    from the number of tries how long before the next one.
    """
    asked = CommitmentRow.transaction_uid == report.transaction_uid
    first = session.execute(
        update(CommitmentRow)
        .where(asked, CommitmentRow.answered_at.is_(None))
        .values(answered_at=at)
        .returning(CommitmentRow.job_id, CommitmentRow.peer)
    ).first()
    if first is None:
        return session.scalar(select(CommitmentRow.transaction_uid).where(asked)) is not None
    job_id, peer = first
    jobs.get(session, job_id, lock=True)  # before its deliveries, as whoever claims them does
    accepted = session.execute(
        select(DeliveryRow.id, DeliveryRow.created_at, DeliveryRow.tries, ResultRow.sop_uid)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(DeliveryRow.job_id == job_id, DeliveryRow.peer == peer, DeliveryRow.state == _S.ACKED)
    ).all()
    for delivery_id, created_at, tries, sop_uid in accepted:
        state, reason = _meaning(report, sop_uid, too_old=at - created_at > age_limit)
        if state is _S.ACKED:
            continue
        next_at = at + wait(tries) if state is _S.QUEUED else at
        moved = session.execute(
            update(DeliveryRow)
            .where(DeliveryRow.id == delivery_id, DeliveryRow.state == _S.ACKED)
            .values(state=state, reason=reason, owner="", lease_until=None, next_at=next_at, looks=0, updated_at=at)
            .returning(DeliveryRow.id)
        ).first()
        if moved is not None:
            events.record(session, f"delivery {state}", who=who, at=at, detail=f"{peer}: {reason}", job_id=job_id)
    events.announce(session, jobs.DELIVER, job_id, at=at)
    return True


def _meaning(report: CommitReport, sop_uid: str, *, too_old: bool) -> tuple[DeliveryState, str]:
    if sop_uid in report.failed:
        why = report.failed[sop_uid]
        reason = f"the peer does not commit itself to it: reason {why:04X}"
        return (_S.PARKED if too_old or why in NEVER else _S.QUEUED), reason
    if sop_uid in report.committed:
        return _S.VERIFIED, "the peer committed itself to it"
    return _S.ACKED, ""
