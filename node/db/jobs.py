"""Jobs in the table. Every change of state is one compare-and-set on (id, state, epoch) with its event."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from sqlalchemy import ColumnElement, delete, exists, func, select, update
from sqlalchemy.orm import Session

from node.db import events
from node.db.studies import StoredInstance, _stored
from node.db.tables import DeliveryRow, InstanceRow, JobInputRow, JobRow, PauseRow, ResultRow
from node.domain.job import ENDED, HELD, Job, JobState, check_move, rank_of
from node.domain.profile import DEFAULT
from node.errors import LeaseLost, NotFound

RUN_JOB = "run_job"  # topic of the doorbell that a pending job rings
DELIVER = "deliver"  # topic of the doorbell that a finished set rings


@dataclass(frozen=True, kw_only=True, slots=True)
class NewJob:
    """What planning decides about a job."""

    study_uid: str
    series_uid: str
    model: str
    model_digest: str
    revision: int
    rule: str
    priority: int
    input_digest: str
    calling_ae: str
    destinations: tuple[str, ...]
    instance_ids: tuple[int, ...]
    deadline: timedelta = timedelta(0)  # after settling; 0: none
    settled_at: datetime | None = None  # none: now


def add(session: Session, new: NewJob, *, at: datetime, who: str = "sweep") -> str:
    """Insert a pending job with its inputs, its event and its doorbell; return its id."""
    job_id = str(uuid4())
    settled = new.settled_at or at
    row = JobRow(
        id=job_id, study_uid=new.study_uid, series_uid=new.series_uid, model=new.model, model_digest=new.model_digest,
        revision=new.revision, rule=new.rule, priority=new.priority, state=JobState.PENDING,
        input_digest=new.input_digest, calling_ae=new.calling_ae, destinations=list(new.destinations),
        settled_at=settled, created_at=at, updated_at=at, not_before=at, rank=rank_of(new.priority, settled),
        deadline_at=settled + new.deadline if new.deadline else None,
    )  # fmt: skip
    session.add(row)
    session.flush()
    session.add_all(JobInputRow(job_id=job_id, instance_id=instance) for instance in new.instance_ids)
    events.record(session, "planned", who=who, at=at, detail=f"by rule {new.rule}", job_id=job_id)
    events.announce(session, RUN_JOB, job_id, at=at)
    return job_id


def claim(session: Session, *, worker: str, now: datetime, lease: timedelta) -> Job | None:
    """Take the most urgent claimable job for one attempt, or return None when there is none.

    One UPDATE settles the race: of two workers that hear the same bell, one gets the row.
    """
    urgent = (
        select(JobRow.id)
        .where(JobRow.state == JobState.PENDING, ~_halted())
        .order_by(JobRow.rank, JobRow.id)
        .limit(1)
        .with_for_update(skip_locked=True)  # on PostgreSQL; BEGIN IMMEDIATE holds SQLite
        .scalar_subquery()
    )
    row = session.scalars(
        update(JobRow)
        .where(JobRow.id == urgent, JobRow.state == JobState.PENDING)
        .values(
            state=JobState.LEASED, epoch=JobRow.epoch + 1, attempts=JobRow.attempts + 1, owner=worker,
            lease_until=now + lease, updated_at=now, progress=0.0, stage="claimed", reason="",
        )
        .returning(JobRow)
    ).one_or_none()  # fmt: skip
    if row is None:
        return None
    events.record(session, "claimed", who=worker, at=now, detail=f"attempt {row.attempts}", job_id=row.id)
    return to_domain(row)


def _halted() -> ColumnElement[bool]:
    """Whether a person has paused what a job needs."""
    wide = PauseRow.what.in_(("node", "queue:gpu"))
    return exists().where(wide | (PauseRow.what == "model:" + JobRow.model))


def _move(session: Session, job: Job, state: JobState, *, at: datetime, **values: Any) -> Job:
    """Move *job*, as its holder knows it, to *state*; LeaseLost where the row has moved on without it."""
    check_move(job.id, job.state, state)
    row = session.scalars(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.state == job.state, JobRow.epoch == job.epoch)
        .values(state=state, updated_at=at, **values)
        .returning(JobRow)
    ).one_or_none()
    if row is None:
        raise LeaseLost(f"job {job.id} is no longer held under epoch {job.epoch}")
    return to_domain(row)


def start(session: Session, job: Job, *, at: datetime) -> Job:
    """The worker begins the attempt that it claimed."""
    events.record(session, "started", who=job.owner, at=at, job_id=job.id)
    return _move(session, job, JobState.RUNNING, at=at, stage="starting the model")


def beat(session: Session, job: Job, *, now: datetime, lease: timedelta, progress: float, stage: str) -> bool:
    """Prolong the lease and show progress; return False where the job is no longer ours."""
    beaten = session.execute(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.epoch == job.epoch, JobRow.state.in_(HELD))
        .values(lease_until=now + lease, progress=progress, stage=stage, updated_at=now)
        .returning(JobRow.id)
    )
    return beaten.first() is not None


def end(session: Session, job: Job, state: JobState, *, reason: str, at: datetime) -> Job:
    """End the attempt for good in *state*, with a reason that a person understands."""
    events.record(session, str(state), who=job.owner, at=at, detail=reason, job_id=job.id)
    return _move(session, job, state, at=at, reason=reason, owner="", lease_until=None, stage="")


def note_picture(session: Session, job: Job) -> None:
    """Write down that the job's folder shows what its model declined: the picture goes when results go."""
    session.execute(update(JobRow).where(JobRow.id == job.id).values(pictured=True))


def give_back(session: Session, job: Job, *, reason: str, at: datetime, wait: timedelta, max_attempts: int) -> Job:
    """End a failed attempt: another follows after *wait*, or none when all are used up."""
    if job.attempts >= max_attempts:
        return end(session, job, JobState.FAILED, reason=f"{reason} (attempt {job.attempts} of {max_attempts})", at=at)
    events.record(session, "attempt failed", who=job.owner, at=at, detail=reason, job_id=job.id)
    return _move(
        session, job, JobState.RETRY_WAIT, at=at, reason=reason, owner="", lease_until=None, stage="",
        not_before=at + wait,
    )  # fmt: skip


def release(session: Session, job: Job, *, reason: str, at: datetime) -> Job:
    """Give an attempt back that is nobody's failure: it does not count, and the job waits for another worker."""
    events.record(session, "released", who=job.owner, at=at, detail=reason, job_id=job.id)
    events.announce(session, RUN_JOB, job.id, at=at)
    return _move(
        session, job, JobState.PENDING, at=at, reason="", owner="", lease_until=None, stage="", progress=0.0,
        attempts=job.attempts - 1,
    )  # fmt: skip


def tell_late(session: Session, *, now: datetime) -> int:
    """Mark jobs whose deadline has gone by before their results were everywhere, once each; return how many."""
    rows = session.scalars(
        update(JobRow)
        .where(JobRow.deadline_at <= now, JobRow.late.is_(False), JobRow.state.not_in(ENDED))
        .values(late=True, updated_at=now)
        .returning(JobRow)
    ).all()
    for row in rows:
        events.record(session, "deadline missed", who="sweep", at=now, detail=f"while {row.state}", job_id=row.id)
    return len(rows)


def count_late(session: Session) -> int:
    """Return how many jobs have missed their deadline and still have not ended."""
    late = select(func.count()).select_from(JobRow).where(JobRow.late, JobRow.state.not_in(ENDED))
    return session.scalar(late) or 0


def wake_due(session: Session, *, now: datetime) -> int:
    """Make jobs pending whose waiting time is over; return how many."""
    rows = session.scalars(
        update(JobRow)
        .where(JobRow.state == JobState.RETRY_WAIT, JobRow.not_before <= now)
        .values(state=JobState.PENDING, updated_at=now)
        .returning(JobRow)
    ).all()
    for row in rows:
        events.record(session, "pending again", who="sweep", at=now, job_id=row.id)
        events.announce(session, RUN_JOB, row.id, at=now)
    return len(rows)


def held(session: Session) -> list[Job]:
    """Return the jobs that some worker holds."""
    return [to_domain(row) for row in session.scalars(select(JobRow).where(JobRow.state.in_(HELD)))]


def long_pending(session: Session, *, before: datetime, limit: int = 20) -> list[str]:
    """Return pending jobs that nobody took since *before*: their doorbell may be lost."""
    waiting = (JobRow.state == JobState.PENDING) & (JobRow.updated_at <= before)
    order = (JobRow.rank, JobRow.id)
    return list(session.scalars(select(JobRow.id).where(waiting).order_by(*order).limit(limit)))


def supersede_unfinished(
    session: Session, study_uid: str, revision: int, *, at: datetime, keep: Collection[str] = ()
) -> int:
    """End the jobs of older revisions of whose results nothing was ever sent, but those to *keep*; return how many."""
    older = (JobRow.revision < revision) & JobRow.id.not_in(list(keep))
    early = [s for s in JobState if s not in ENDED and s not in (JobState.RESULT_READY, JobState.DELIVERING)]
    begun = exists().where(DeliveryRow.job_id == JobRow.id, (DeliveryRow.tries > 0) | (DeliveryRow.state == "sending"))
    unsent = (JobRow.state == JobState.RESULT_READY) & ~begun
    reason = f"revision {revision} of the study took its place"
    mine = (JobRow.study_uid == study_uid) & older & (JobRow.state.in_(early) | unsent)
    ended = _end_all(session, mine, JobState.SUPERSEDED, who="sweep", reason=reason, at=at)
    session.execute(
        update(DeliveryRow)
        .where(DeliveryRow.job_id.in_(ended))
        .values(state="cancelled", updated_at=at, reason=reason)
    )
    return len(ended)


def first_sent(session: Session, study_uid: str, model: str) -> str | None:
    """Return the newest job of this study and model of which something was sent; None where nothing was."""
    begun = exists().where(DeliveryRow.job_id == JobRow.id, DeliveryRow.tries > 0)
    mine = (JobRow.study_uid == study_uid) & (JobRow.model == model)
    standing = JobRow.state.in_((JobState.DELIVERING, JobState.DONE))
    return session.scalar(select(JobRow.id).where(mine, standing, begun).order_by(JobRow.revision.desc()).limit(1))


def stop_for_conflict(session: Session, study_uid: str, *, who: str, at: datetime) -> list[str]:
    """End every unfinished job of a study whose instances name different patients; return their ids."""
    alive = [s for s in JobState if s not in ENDED]
    mine = (JobRow.study_uid == study_uid) & JobRow.state.in_(alive)
    reason = "instances of the study name different patients: nothing of it is run or sent"
    return _end_all(session, mine, JobState.CANCELLED, who=who, reason=reason, at=at)


def _end_all(
    session: Session, mine: ColumnElement[bool], state: JobState, *, who: str, reason: str, at: datetime
) -> list[str]:
    """End the jobs that *mine* selects, whoever holds them: their epoch moves on."""
    rows = session.scalars(
        update(JobRow)
        .where(mine)
        .values(state=state, epoch=JobRow.epoch + 1, owner="", lease_until=None, updated_at=at, reason=reason)
        .returning(JobRow)
    ).all()
    for row in rows:
        events.record(session, str(state), who=who, at=at, detail=reason, job_id=row.id)
    return [row.id for row in rows]


def same_work(session: Session, study_uid: str, model: str, model_digest: str, input_digest: str) -> Job | None:
    """Return a job that did, or is doing, exactly this work: same images, same model."""
    usable = [s for s in JobState if s not in (JobState.FAILED, JobState.CANCELLED, JobState.SUPERSEDED)]
    mine = (JobRow.study_uid == study_uid) & (JobRow.model == model) & (JobRow.model_digest == model_digest)
    row = session.scalars(
        select(JobRow)
        .where(mine, JobRow.input_digest == input_digest, JobRow.state.in_(usable))
        .order_by(JobRow.revision.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else to_domain(row)


def cancel(session: Session, job_id: str, *, who: str, at: datetime) -> Job:
    """End a job on a person's word, whoever holds it; what was not sent yet stays here."""
    job = get(session, job_id)
    cancelled = _move(
        session, job, JobState.CANCELLED, at=at, epoch=job.epoch + 1, owner="", lease_until=None,
        reason=f"cancelled by {who}", stage="",
    )  # fmt: skip
    events.record(session, "cancelled", who=who, at=at, job_id=job.id)
    return cancelled


def retry(session: Session, job_id: str, *, model_digest: str, who: str, at: datetime) -> Job:
    """Run an ended job again on a person's word, with all its attempts and the model as it is now."""
    job = get(session, job_id)
    retried = _move(
        session, job, JobState.PENDING, at=at, attempts=0, not_before=at, reason="", epoch=job.epoch + 1,
        model_digest=model_digest,
    )  # fmt: skip
    events.record(session, "retried", who=who, at=at, job_id=job.id)
    events.announce(session, RUN_JOB, job.id, at=at)
    return retried


def note_retry(session: Session, job: Job, *, who: str, at: datetime) -> None:
    """Write down that a person had a job's deliveries tried again, and ring for them."""
    events.record(session, "delivery retried", who=who, at=at, job_id=job.id)
    events.announce(session, DELIVER, job.id, at=at)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewResult:
    """One frozen result instance."""

    role: str
    sop_class: str
    sop_uid: str
    path: str
    sha256: str
    size: int
    variant: str = ""
    profiles: frozenset[str] = frozenset({DEFAULT})  # it goes to the peers that have one of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Address:
    """Where a result set goes; with a reason it waits for a person instead."""

    peer: str
    reason: str = ""
    profile: str = DEFAULT  # the peer is sent the results of this one


def publish(
    session: Session, job: Job, results: Sequence[NewResult], addresses: Sequence[Address], *, at: datetime
) -> Job:
    """Record a frozen result set and its deliveries, in one transaction fenced by the epoch."""
    ready = _move(
        session, job, JobState.RESULT_READY, at=at,
        owner="", lease_until=None, progress=1.0, stage="", reason="",
    )  # fmt: skip
    _forget_results(session, job.id)
    for position, result in enumerate(results):
        row = ResultRow(
            job_id=job.id, epoch=job.epoch, role=result.role, variant=result.variant, sop_class=result.sop_class,
            sop_uid=result.sop_uid, path=result.path, sha256=result.sha256, size=result.size, position=position,
        )  # fmt: skip
        session.add(row)
        session.flush()
        wanted = (address for address in addresses if address.profile in result.profiles)
        session.add_all(_delivery(job.id, row.id, address, at) for address in wanted)
    what = f"{len(results)} results for {', '.join(a.peer for a in addresses) or 'nobody'}"
    events.record(session, "result_ready", who=job.owner, at=at, detail=what, job_id=job.id)
    events.announce(session, DELIVER, job.id, at=at)
    return ready


def _delivery(job_id: str, result_id: int, address: Address, at: datetime) -> DeliveryRow:
    return DeliveryRow(
        result_id=result_id, job_id=job_id, peer=address.peer, state="parked" if address.reason else "queued",
        next_at=at, created_at=at, updated_at=at, reason=address.reason,
    )  # fmt: skip


def _forget_results(session: Session, job_id: str) -> None:
    """A cancelled job that runs again makes the same instances anew; their rows are written once more."""
    session.execute(delete(DeliveryRow).where(DeliveryRow.job_id == job_id))
    session.execute(delete(ResultRow).where(ResultRow.job_id == job_id))


def advance(session: Session, job: Job, state: JobState, *, at: datetime, reason: str = "") -> Job:
    """Move a job whose results exist along its delivery."""
    events.record(session, str(state), who="delivery", at=at, detail=reason, job_id=job.id)
    return _move(session, job, state, at=at, reason=reason)


def set_reason(session: Session, job: Job, reason: str, *, at: datetime) -> None:
    """Say why a job waits, without moving it."""
    session.execute(
        update(JobRow)
        .where(JobRow.id == job.id, JobRow.epoch == job.epoch, JobRow.state == job.state)
        .values(reason=reason, updated_at=at)
    )


def inputs(session: Session, job_id: str) -> list[StoredInstance]:
    """Return the instance versions that a job reads."""
    rows = session.scalars(
        select(InstanceRow)
        .join(JobInputRow, JobInputRow.instance_id == InstanceRow.id)
        .where(JobInputRow.job_id == job_id)
        .order_by(InstanceRow.sop_uid, InstanceRow.content_sha)
    )
    return [_stored(row) for row in rows]


def get(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return one job by its id or an unambiguous beginning of it; NotFound where there is none."""
    query = select(JobRow).where(JobRow.id.startswith(job_id, autoescape=True)).limit(2)
    rows = session.scalars(query.with_for_update() if lock else query).all()
    if len(rows) != 1:
        raise NotFound(f"there is no job {job_id}" if not rows else f"more than one job begins with {job_id}")
    return to_domain(rows[0])


def list_jobs(
    session: Session, *, states: Sequence[JobState] = (), study_uid: str = "", limit: int = 100
) -> list[Job]:
    """Return jobs, the last changed first."""
    mine: list[ColumnElement[bool]] = []
    if states:
        mine.append(JobRow.state.in_(states))
    if study_uid:
        mine.append(JobRow.study_uid == study_uid)
    rows = session.scalars(select(JobRow).where(*mine).order_by(JobRow.updated_at.desc(), JobRow.id).limit(limit))
    return [to_domain(row) for row in rows]


def count_by_state(session: Session) -> dict[str, int]:
    """Return how many jobs stand in each state."""
    rows = session.execute(select(JobRow.state, func.count()).group_by(JobRow.state))
    return {row[0]: row[1] for row in rows}


def last_change(session: Session) -> str:
    """Return a mark that differs whenever a job or delivery changed: cheap enough to ask every second."""
    jobs = session.execute(select(func.max(JobRow.updated_at), func.count(JobRow.id))).one()
    sent = session.scalar(select(func.max(DeliveryRow.updated_at)))
    return f"{jobs[0]}|{jobs[1]}|{sent}"


def to_domain(row: JobRow) -> Job:
    """Return the frozen job that *row* says."""
    return Job(
        id=row.id, study_uid=row.study_uid, series_uid=row.series_uid, model=row.model, model_digest=row.model_digest,
        revision=row.revision, rule=row.rule, priority=row.priority, state=JobState(row.state), epoch=row.epoch,
        attempts=row.attempts, reason=row.reason, input_digest=row.input_digest, calling_ae=row.calling_ae,
        destinations=tuple(row.destinations), settled_at=row.settled_at, created_at=row.created_at,
        updated_at=row.updated_at, not_before=row.not_before, owner=row.owner, lease_until=row.lease_until,
        progress=row.progress, stage=row.stage, deadline_at=row.deadline_at, late=row.late,
    )  # fmt: skip
