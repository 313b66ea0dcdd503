"""Times at which something waits to be done: none may lie further ahead than anything ever waits."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from node.db.tables import (
    BreakerRow,
    CommitRequestRow,
    CountRow,
    DeliveryRow,
    JobRow,
    StudyRow,
    VerdictPendingRow,
)

_LIVED = (StudyRow.last_at, StudyRow.opened_at, JobRow.updated_at)  # what has happened, and is waited from
_WAITS = (
    JobRow.not_before, DeliveryRow.next_at, VerdictPendingRow.not_before, StudyRow.look_at, CountRow.next_at,
    CommitRequestRow.next_at,
)  # fmt: skip
_HELD = (JobRow.lease_until, DeliveryRow.lease_until, BreakerRow.until, CommitRequestRow.lease_until)


def bring_back(session: Session, *, now: datetime, longest: timedelta) -> int:
    """Make due what waits for a time that the clock will reach far too late; return how many times were changed.

    A clock that was an hour ahead when they were written, and is put right, would else hold each of them for an hour.
    """
    columns = [(column, now) for column in _LIVED] + [(column, now + longest) for column in (*_WAITS, *_HELD)]
    return sum(_clamp(session, column, latest, now) for column, latest in columns)


def _clamp(session: Session, column: InstrumentedAttribute[Any], latest: datetime, now: datetime) -> int:
    changed = session.execute(update(column.class_).where(column > latest).values({column.key: now}))
    return cast("CursorResult[Any]", changed).rowcount
