"""Pauses in the table: what a person has halted."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from node.db import events
from node.db.tables import PauseRow
from node.domain.pause import Pause, PauseKind, is_paused, names_of

__all__ = ["PauseKind", "end", "is_paused", "list_pauses", "names_of", "paused", "put"]


def paused(session: Session) -> frozenset[str]:
    """Return what is halted now: "node", "queue:NAME", "model:NAME", "peer:NAME"."""
    return frozenset(session.scalars(select(PauseRow.what)))


def list_pauses(session: Session) -> list[Pause]:
    """Return the pauses, the oldest first."""
    rows = session.scalars(select(PauseRow).order_by(PauseRow.at, PauseRow.what))
    return [Pause(what=row.what, reason=row.reason, who=row.who, at=row.at) for row in rows]


def put(session: Session, what: str, *, reason: str, who: str, at: datetime) -> bool:
    """Halt *what*; return False where it was halted before: the first word stands."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    values = {"what": what, "reason": reason, "who": who, "at": at}
    statement = dialect.insert(PauseRow).values(**values).on_conflict_do_nothing().returning(PauseRow.what)
    if session.execute(statement).first() is None:
        return False
    events.record(session, "paused", who=who, at=at, detail=f"{what}: {reason}" if reason else what)
    return True


def end(session: Session, what: str, *, who: str, at: datetime) -> bool:
    """Let *what* go on; return False where it was not halted. The sweep rings for what waits."""
    gone = session.execute(delete(PauseRow).where(PauseRow.what == what).returning(PauseRow.what))
    if gone.first() is None:
        return False
    events.record(session, "resumed", who=who, at=at, detail=what)
    return True
