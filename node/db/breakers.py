"""Breakers: a peer that is away is looked for by one worker at a time, and delays nobody else meanwhile.

Rows are locked in one order everywhere, so that no two transactions wait for each other: breaker, jobs, deliveries.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from node.db import events
from node.db.jobs import DELIVER
from node.db.tables import BreakerRow, DeliveryRow, JobRow
from node.domain.job import JobState
from node.domain.peer import Breaker, BreakerState
from node.domain.result import DeliveryState

OPENS_AFTER = 5  # connections in a row that failed

_B, _S = BreakerState, DeliveryState
_WAITING = (_S.QUEUED, _S.RETRY_WAIT, _S.UNKNOWN, _S.ACKED)
_DELIVERING = (JobState.RESULT_READY, JobState.DELIVERING)


def cut_off() -> ColumnElement[bool]:
    """The condition that a delivery's peer is away: nothing of it is claimed."""
    return exists().where(BreakerRow.peer == DeliveryRow.peer, BreakerRow.state != _B.CLOSED)


def get(session: Session, peer: str) -> Breaker | None:
    """Return the breaker of a peer; None where it never failed."""
    row = session.get(BreakerRow, peer)
    return None if row is None else _breaker(row)


def all_of(session: Session) -> list[Breaker]:
    """Return the breakers of all peers that ever failed, by name."""
    return [_breaker(row) for row in session.scalars(select(BreakerRow).order_by(BreakerRow.peer))]


def not_closed(session: Session) -> list[Breaker]:
    """Return the breakers of the peers that are away, by name."""
    return [breaker for breaker in all_of(session) if breaker.state is not _B.CLOSED]


def note_success(session: Session, peer: str) -> None:
    """The peer answered: only failures in a row count."""
    session.execute(
        update(BreakerRow)
        .where(BreakerRow.peer == peer, BreakerRow.state == _B.CLOSED, BreakerRow.failures > 0)
        .values(failures=0, reason="")
    )


def note_failure(
    session: Session, peer: str, *, reason: str, who: str, at: datetime, wait: Callable[[int], timedelta]
) -> bool:
    """Count a connection that failed; return whether that opened the breaker. *wait* tells how long from 1, 2, ..."""
    _make_sure_of(session, peer)
    closed = (BreakerRow.peer == peer) & (BreakerRow.state == _B.CLOSED)
    counted = session.execute(
        update(BreakerRow)
        .where(closed)
        .values(failures=BreakerRow.failures + 1, reason=reason)
        .returning(BreakerRow.failures)
    ).first()
    if counted is None or counted[0] < OPENS_AFTER:
        return False
    session.execute(update(BreakerRow).where(closed).values(state=_B.OPEN, opened_at=at, until=at + wait(1)))
    events.record(session, "breaker open", who=who, at=at, detail=f"{peer}: {reason}")
    _tell_those_who_wait(session, peer, at)
    return True


def due_for_probe(session: Session, job_id: str, *, now: datetime) -> list[str]:
    """Return the peers that a job waits for and that somebody should look for now."""
    waits = exists().where(DeliveryRow.job_id == job_id, DeliveryRow.peer == BreakerRow.peer, _waits())
    return list(session.scalars(select(BreakerRow.peer).where(_probe_due(now), waits).order_by(BreakerRow.peer)))


def jobs_for_probes(session: Session, *, now: datetime) -> list[str]:
    """Return, for each peer that should be looked for now, one job that waits for it."""
    first = (
        select(DeliveryRow.job_id)
        .join(JobRow, JobRow.id == DeliveryRow.job_id)
        .where(DeliveryRow.peer == BreakerRow.peer, _waits(), JobRow.state.in_(_DELIVERING))
        .order_by(DeliveryRow.next_at)
        .limit(1)
        .correlate(BreakerRow)
        .scalar_subquery()
    )
    found = session.scalars(select(first).select_from(BreakerRow).where(_probe_due(now)))
    return [job_id for job_id in found if job_id is not None]


def begin_probe(session: Session, peer: str, *, worker: str, now: datetime, lease: timedelta) -> bool:
    """Take the one probe of a peer under a lease; False where it is not due or another worker has it."""
    taken = session.execute(
        update(BreakerRow)
        .where(BreakerRow.peer == peer, _probe_due(now))
        .values(state=_B.HALF_OPEN, owner=worker, until=now + lease)
        .returning(BreakerRow.peer)
    )
    return taken.first() is not None


def end_probe_away(
    session: Session, peer: str, *, worker: str, reason: str, at: datetime, wait: Callable[[int], timedelta]
) -> bool:
    """The peer is still away: look again after a longer while; False where the probe is no longer *worker*'s."""
    failures = session.execute(
        update(BreakerRow)
        .where(BreakerRow.peer == peer, BreakerRow.state == _B.HALF_OPEN, BreakerRow.owner == worker)
        .values(state=_B.OPEN, owner="", failures=BreakerRow.failures + 1, reason=reason)
        .returning(BreakerRow.failures)
    ).first()
    if failures is None:
        return False
    until = at + wait(failures[0] - OPENS_AFTER + 1)
    session.execute(update(BreakerRow).where(BreakerRow.peer == peer, BreakerRow.state == _B.OPEN).values(until=until))
    _tell_those_who_wait(session, peer, at)
    return True


def end_probe_back(session: Session, peer: str, *, worker: str, at: datetime) -> bool:
    """The peer is back: everything that waits for it goes at once; False where the probe is no longer *worker*'s."""
    closed = session.execute(
        update(BreakerRow)
        .where(BreakerRow.peer == peer, BreakerRow.state == _B.HALF_OPEN, BreakerRow.owner == worker)
        .values(state=_B.CLOSED, owner="", failures=0, opened_at=None, until=None, reason="")
        .returning(BreakerRow.peer)
    ).first()
    if closed is None:
        return False
    waiting = _lock_jobs(session, peer)
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.peer == peer, _waits(), DeliveryRow.owner == "")
        .values(next_at=at, updated_at=at, reason="")
    )
    for job_id in waiting:
        events.announce(session, DELIVER, job_id, at=at)
    events.record(session, "breaker closed", who=worker, at=at, detail=peer)
    return True


def look_soon(session: Session, job_id: str, *, at: datetime) -> None:
    """A person wants the job's results sent now: the peers that it waits for are looked for at once."""
    peers = select(DeliveryRow.peer).where(DeliveryRow.job_id == job_id)
    session.execute(
        update(BreakerRow).where(BreakerRow.peer.in_(peers), BreakerRow.state == _B.OPEN).values(until=at)
    )


def park_old(session: Session, peer: str, *, before: datetime, who: str, at: datetime) -> list[str]:
    """Park what has waited for an absent peer since *before*; return the jobs that a person must look at."""
    _lock_jobs(session, peer)
    rows = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.peer == peer, _waits(), DeliveryRow.owner == "", DeliveryRow.created_at < before)
        .where(DeliveryRow.job_id.in_(select(JobRow.id).where(JobRow.state.in_(_DELIVERING))))
        .values(state=_S.PARKED, updated_at=at)
        .returning(DeliveryRow.job_id, DeliveryRow.reason)
    ).all()
    for job_id, reason in rows:
        events.record(session, "delivery parked", who=who, at=at, detail=f"{peer}: {reason}", job_id=job_id)
    return list(dict.fromkeys(row[0] for row in rows))


def _waits() -> ColumnElement[bool]:
    return DeliveryRow.state.in_(_WAITING)


def _probe_due(now: datetime) -> ColumnElement[bool]:
    """Open long enough, or its probe's lease is over: that worker died."""
    return (BreakerRow.state != _B.CLOSED) & (BreakerRow.until <= now)


def _tell_those_who_wait(session: Session, peer: str, at: datetime) -> None:
    """Say on every job and delivery that waits for the peer why it waits, and until when at least."""
    session.flush()
    row = session.get_one(BreakerRow, peer, populate_existing=True)
    words = _breaker(row).words
    _lock_jobs(session, peer)
    waits = (DeliveryRow.peer == peer) & _waits()
    session.execute(update(DeliveryRow).where(waits, DeliveryRow.owner == "").values(reason=words, updated_at=at))
    mine = exists().where(DeliveryRow.job_id == JobRow.id, waits)
    parked = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.state == _S.PARKED)  # a person comes first
    session.execute(
        update(JobRow)
        .where(JobRow.state.in_(_DELIVERING), mine, ~parked)
        .values(reason=words, updated_at=at)
        .execution_options(synchronize_session=False)
    )


def _lock_jobs(session: Session, peer: str) -> list[str]:
    """Lock the jobs that wait for the peer, as whoever claims their deliveries does first; return their ids."""
    waits = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.peer == peer, _waits())
    locked = select(JobRow.id).where(JobRow.state.in_(_DELIVERING), waits).order_by(JobRow.id).with_for_update()
    return list(session.scalars(locked))


def _make_sure_of(session: Session, peer: str) -> None:
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    row = dialect.insert(BreakerRow).values(peer=peer, state=_B.CLOSED, failures=0, reason="", owner="")
    session.execute(row.on_conflict_do_nothing())


def _breaker(row: BreakerRow) -> Breaker:
    return Breaker(
        peer=row.peer, state=BreakerState(row.state), failures=row.failures, opened_at=row.opened_at, until=row.until,
        reason=row.reason,
    )  # fmt: skip
