"""Results and their deliveries in the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from node.db import breakers, events
from node.db.tables import DeliveryRow, JobRow, PauseRow, ResultRow, StudyRow
from node.domain.job import Job, JobState
from node.domain.result import TAKEN, Delivery, DeliveryState, Result

_S = DeliveryState
#: Something may still happen by itself.
OPEN = frozenset({_S.QUEUED, _S.SENDING, _S.UNKNOWN, _S.RETRY_WAIT})


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one attempt to send one result ended."""

    state: DeliveryState
    reason: str = ""
    status: str = ""  # as in Answer
    wait: timedelta = timedelta(0)  # before the next try or look, where there is one
    looks: int = 0  # for it at the peer, since it was sent last


def results_of(session: Session, job_id: str) -> list[Result]:
    """Return the frozen results of a job in the order of sending."""
    rows = session.scalars(select(ResultRow).where(ResultRow.job_id == job_id).order_by(ResultRow.position))
    return [_result(row) for row in rows]


def previous_set(session: Session, job: Job) -> list[Result]:
    """Return the results that *job*'s results take the place of: its own of an earlier run, or an earlier revision's.

    Nothing that no peer ever accepted is replaced.
    """
    sent = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.state.in_(TAKEN))
    earlier = session.scalar(
        select(JobRow.id)
        .where(JobRow.study_uid == job.study_uid, JobRow.model == job.model, JobRow.revision <= job.revision, sent)
        .order_by(JobRow.revision.desc())
        .limit(1)
    )
    return results_of(session, earlier) if earlier else []


def prior_set(session: Session, job: Job) -> list[Result]:
    """Return the newest accepted results of the same model for the same patient ID, from another, earlier study.

    A patient ID may mean two people where two hospitals meet: who uses the set compares the rest of the identity.
    """
    now = session.get_one(StudyRow, job.study_uid)
    sent = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.state.in_(TAKEN))
    earlier = session.scalar(
        select(JobRow.id)
        .join(StudyRow, StudyRow.uid == JobRow.study_uid)
        .where(
            StudyRow.patient_id == now.patient_id, StudyRow.patient_id != "", StudyRow.uid != now.uid,
            StudyRow.study_date <= now.study_date, JobRow.model == job.model, JobRow.settled_at < job.settled_at, sent,
        )
        .order_by(StudyRow.study_date.desc(), JobRow.settled_at.desc())
        .limit(1)
    )  # fmt: skip
    return results_of(session, earlier) if earlier else []


def deliveries_of(session: Session, job_id: str) -> list[Delivery]:
    """Return the deliveries of a job, by peer, in the order of sending."""
    rows = session.scalars(
        select(DeliveryRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(DeliveryRow.job_id == job_id)
        .order_by(DeliveryRow.peer, ResultRow.position)
    )
    return [_delivery(row) for row in rows]


def due_jobs(session: Session, *, now: datetime, limit: int = 50) -> list[str]:
    """Return jobs with a delivery whose time has come, those that wait for a peer which should be looked for, and
    those that only wait to be called done."""
    due = session.scalars(
        select(DeliveryRow.job_id).where(_due(now)).group_by(DeliveryRow.job_id)
        .order_by(func.min(DeliveryRow.next_at)).limit(limit)
    )  # fmt: skip
    delivering = JobRow.state.in_((JobState.RESULT_READY, JobState.DELIVERING))
    looked_for = session.scalars(
        select(DeliveryRow.job_id)
        .join(JobRow, JobRow.id == DeliveryRow.job_id)
        .where(delivering, _look_due(now))
        .group_by(DeliveryRow.job_id)
        .order_by(func.min(DeliveryRow.next_at))
        .limit(limit)
    )
    unverified = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.state != _S.VERIFIED)
    over = session.scalars(select(JobRow.id).where(delivering, ~unverified).limit(limit))
    return list(dict.fromkeys([*due, *looked_for, *breakers.jobs_for_probes(session, now=now), *over]))


def claim(
    session: Session, job_id: str, *, worker: str, now: datetime, lease: timedelta
) -> list[tuple[Delivery, Result]]:
    """Take the due deliveries of one job to one peer, in the order of sending; none where nothing can be sent.

    A set goes to a peer as a whole and in order: while one of its deliveries is being sent, or waits, the later
    ones wait behind it. The deliveries keep the state that they had (e.g. UNKNOWN) in the returned value.
    """
    due = select(DeliveryRow.peer).where(DeliveryRow.job_id == job_id, _due(now)).group_by(DeliveryRow.peer)
    for peer in session.scalars(due.order_by(func.min(DeliveryRow.next_at))).all():
        if taken := _claim_for(session, job_id, peer, worker=worker, now=now, lease=lease):
            return taken
    return []


def _claim_for(
    session: Session, job_id: str, peer: str, *, worker: str, now: datetime, lease: timedelta
) -> list[tuple[Delivery, Result]]:
    """Take the due deliveries to one peer; none where an earlier one of the set is still on its way."""
    rows = session.execute(
        select(DeliveryRow, ResultRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(DeliveryRow.job_id == job_id, DeliveryRow.peer == peer)
        .order_by(ResultRow.position)
        .with_for_update(of=DeliveryRow)
    ).all()
    taken: list[tuple[Delivery, Result]] = []
    for row, result in rows:
        if row.state in TAKEN:
            continue
        if not _is_due(row, now):
            break
        taken.append((_delivery(row), _result(result)))
        row.state, row.owner, row.lease_until = _S.SENDING, worker, now + lease
        row.tries, row.updated_at = row.tries + 1, now
    return taken


def _due(now: datetime) -> ColumnElement[bool]:
    waiting = DeliveryRow.state.in_((_S.QUEUED, _S.RETRY_WAIT, _S.UNKNOWN))
    return waiting & (DeliveryRow.next_at <= now) & ~breakers.cut_off() & ~_halted()


def _halted() -> ColumnElement[bool]:
    """Whether a person has paused sending to the peer."""
    wide = PauseRow.what.in_(("node", "queue:io"))
    return exists().where(wide | (PauseRow.what == "peer:" + DeliveryRow.peer))


def claim_looks(
    session: Session, job_id: str, *, worker: str, now: datetime, lease: timedelta
) -> list[tuple[Delivery, Result]]:
    """Take what one peer has accepted of one job, to look for it there; none where something is still on its way."""
    due = select(DeliveryRow.peer).where(DeliveryRow.job_id == job_id, _look_due(now)).order_by(DeliveryRow.next_at)
    peer = session.scalars(due.limit(1)).first()
    if peer is None:
        return []
    rows = session.execute(
        select(DeliveryRow, ResultRow)
        .join(ResultRow, ResultRow.id == DeliveryRow.result_id)
        .where(DeliveryRow.job_id == job_id, DeliveryRow.peer == peer, DeliveryRow.state == _S.ACKED, _is_free(now))
        .order_by(ResultRow.position)
        .with_for_update(of=DeliveryRow)
    ).all()
    taken: list[tuple[Delivery, Result]] = []
    for row, result in rows:
        taken.append((_delivery(row), _result(result)))
        row.owner, row.lease_until = worker, now + lease
    return taken


def _look_due(now: datetime) -> ColumnElement[bool]:
    """Accepted, time to look, and nothing of its set on the way to that peer: sets are asked for whole."""
    other = aliased(DeliveryRow)
    same_set = (other.job_id == DeliveryRow.job_id) & (other.peer == DeliveryRow.peer)
    on_its_way = exists().where(same_set, other.state.in_(OPEN))
    accepted = (DeliveryRow.state == _S.ACKED) & (DeliveryRow.next_at <= now) & _is_free(now)
    return accepted & ~on_its_way & ~breakers.cut_off() & ~_halted()


def _is_free(now: datetime) -> ColumnElement[bool]:
    return (DeliveryRow.owner == "") | (DeliveryRow.lease_until < now)


def conclude_look(session: Session, delivery: Delivery, outcome: Outcome, *, worker: str, at: datetime) -> bool:
    """Record how a look ended; return False where the delivery is no longer *worker*'s, or a report came first."""
    moved = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id == delivery.id, DeliveryRow.state == _S.ACKED, DeliveryRow.owner == worker)
        .values(
            state=outcome.state, reason=outcome.reason, next_at=at + outcome.wait, looks=outcome.looks, owner="",
            lease_until=None, updated_at=at,
        )
        .returning(DeliveryRow.id)
    )  # fmt: skip
    if moved.first() is None:
        return False
    if outcome.state is not _S.ACKED:  # another look is no news
        detail = f"{delivery.peer}: {outcome.reason}"
        events.record(session, f"delivery {outcome.state}", who=worker, at=at, detail=detail, job_id=delivery.job_id)
    return True


def _is_due(row: DeliveryRow, now: datetime) -> bool:
    return row.state in (_S.QUEUED, _S.RETRY_WAIT, _S.UNKNOWN) and row.next_at <= now


def conclude(session: Session, delivery: Delivery, outcome: Outcome, *, worker: str, at: datetime) -> bool:
    """Record how a try ended; return False where the delivery is no longer *worker*'s."""
    moved = session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.id == delivery.id, DeliveryRow.state == _S.SENDING, DeliveryRow.owner == worker)
        .values(
            state=outcome.state, reason=outcome.reason, last_status=outcome.status, next_at=at + outcome.wait,
            looks=0, owner="", lease_until=None, updated_at=at,
        )
        .returning(DeliveryRow.id)
    )  # fmt: skip
    if moved.first() is None:
        return False
    detail = f"{delivery.peer}: {outcome.reason or outcome.status or 'accepted'}"
    events.record(session, f"delivery {outcome.state}", who=worker, at=at, detail=detail, job_id=delivery.job_id)
    return True


def sending(session: Session) -> list[tuple[int, str, datetime | None]]:
    """Return (id, owner, end of lease) of the deliveries that some worker is sending, or looks for."""
    held = (DeliveryRow.state == _S.SENDING) | ((DeliveryRow.state == _S.ACKED) & (DeliveryRow.owner != ""))
    rows = session.execute(select(DeliveryRow.id, DeliveryRow.owner, DeliveryRow.lease_until).where(held))
    return [(row[0], row[1], row[2]) for row in rows]


def give_up_sending(
    session: Session, delivery_id: int, *, owner: str, at: datetime, reason: str = "the sender died"
) -> None:
    """The sender died, or failed: nobody knows whether the peer has the object, so it is asked before the next try.

    One who only looked for it left nothing in doubt: somebody else looks.
    """
    mine, free = (DeliveryRow.id == delivery_id) & (DeliveryRow.owner == owner), {"owner": "", "lease_until": None}
    moved = session.execute(
        update(DeliveryRow)
        .where(mine, DeliveryRow.state == _S.SENDING)
        .values(state=_S.UNKNOWN, next_at=at, updated_at=at, reason=reason, **free)
        .returning(DeliveryRow.job_id, DeliveryRow.peer)
    ).all()
    for job_id, peer in moved:
        events.record(
            session, "delivery unknown", who="sweep", at=at, detail=f"{peer}: {reason}", job_id=job_id
        )
    session.execute(update(DeliveryRow).where(mine, DeliveryRow.state == _S.ACKED).values(next_at=at, **free))


def cancel_open(session: Session, job_id: str, *, at: datetime) -> None:
    """Send nothing more of this job."""
    endable = DeliveryRow.state.in_((_S.QUEUED, _S.RETRY_WAIT, _S.UNKNOWN, _S.PARKED))
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.job_id == job_id, endable)
        .values(state=_S.CANCELLED, updated_at=at, reason="cancelled")
    )


def requeue_parked(session: Session, job_id: str, *, at: datetime) -> int:
    """Try the deliveries of a job that are parked, waiting or cancelled again, at once; return how many.

    One whose fate is unknown stays so: the peer is asked before it is sent.
    """
    mine, again = DeliveryRow.job_id == job_id, {"next_at": at, "created_at": at, "updated_at": at, "reason": ""}
    waiting = DeliveryRow.state.in_((_S.PARKED, _S.RETRY_WAIT, _S.CANCELLED))
    queued = update(DeliveryRow).where(mine, waiting).values(state=_S.QUEUED, **again).returning(DeliveryRow.id)
    asked = update(DeliveryRow).where(mine, DeliveryRow.state == _S.UNKNOWN).values(**again).returning(DeliveryRow.id)
    return len(session.scalars(queued).all()) + len(session.scalars(asked).all())


def count_open_by_peer(session: Session) -> dict[str, dict[str, int]]:
    """Return, for each peer, how many deliveries stand in each state but VERIFIED.

    What a peer took of a job that was cancelled then is not looked for, and not counted.
    """
    found: dict[str, dict[str, int]] = {}
    cancelled = exists().where(JobRow.id == DeliveryRow.job_id, JobRow.state == JobState.CANCELLED)
    over = (DeliveryRow.state == _S.VERIFIED) | ((DeliveryRow.state == _S.ACKED) & cancelled)
    query = select(DeliveryRow.peer, DeliveryRow.state, func.count()).where(~over)
    for peer, state, count in session.execute(query.group_by(DeliveryRow.peer, DeliveryRow.state)):
        found.setdefault(peer, {})[state] = count
    return found


def all_over(deliveries: Sequence[Delivery]) -> bool:
    """Return whether every delivery is verified."""
    return all(delivery.state == _S.VERIFIED for delivery in deliveries)


def _result(row: ResultRow) -> Result:
    return Result(
        id=row.id, job_id=row.job_id, role=row.role, variant=row.variant, sop_class=row.sop_class,
        sop_uid=row.sop_uid, path=row.path, sha256=row.sha256, size=row.size, position=row.position,
    )  # fmt: skip


def _delivery(row: DeliveryRow) -> Delivery:
    return Delivery(
        id=row.id, result_id=row.result_id, job_id=row.job_id, peer=row.peer, state=DeliveryState(row.state),
        tries=row.tries, next_at=row.next_at, created_at=row.created_at, last_status=row.last_status, reason=row.reason,
        looks=row.looks,
    )  # fmt: skip
