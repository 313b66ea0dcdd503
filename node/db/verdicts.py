"""Verdicts in the table: which received instances are still to be looked at, and what was found."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from node.db import events, jobs
from node.db.tables import (
    DeliveryRow,
    EventRow,
    InstanceRow,
    JobInputRow,
    JobRow,
    ResultRow,
    VerdictPendingRow,
    VerdictRow,
)
from node.domain.job import Job
from node.domain.result import TAKEN
from node.domain.verdict import (
    Judgement,
    MatchedBy,
    ModelFigures,
    Verdict,
    VerdictKind,
    detail_of,
    dice_text,
    figures,
    standing,
)

MOST_TRIES = 5
_WAITS = tuple(timedelta(minutes=minutes) for minutes in (1, 5, 30, 120, 720))  # after the first try, the second, ...
_CHUNK = 500  # UIDs in one query


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """A received instance that may bear a verdict."""

    instance_id: int
    sop_uid: str
    sop_class: str
    content_sha: str
    study_uid: str
    path: str
    calling_ae: str
    kept_at: datetime
    tries: int  # with this one


@dataclass(frozen=True, kw_only=True, slots=True)
class OwnResult:
    """One result of ours, and where it lies."""

    job_id: str
    role: str
    sop_class: str
    sop_uid: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NewVerdict:
    """What one object says of one job."""

    job: Job
    matched_by: MatchedBy
    judgement: Judgement


def mark_pending(session: Session, sop_uid: str, content_sha: str, *, at: datetime) -> None:
    """Have the instance that this transaction records looked at; it is not forgotten before it was."""
    mine = (InstanceRow.sop_uid == sop_uid) & (InstanceRow.content_sha == content_sha)
    instance_id = session.scalars(select(InstanceRow.id).where(mine)).one()
    session.add(VerdictPendingRow(instance_id=instance_id, tries=0, not_before=at))


def count_pending(session: Session) -> int:
    """Return how many instances are still to be looked at."""
    return session.scalar(select(func.count()).select_from(VerdictPendingRow)) or 0


def claim_due(session: Session, *, now: datetime) -> Pending | None:
    """Take the instance that waits longest; nobody else looks at it before its next try is due.

    The try counts at once, so that an instance that ends the process does so a few times only.
    """
    found = session.execute(
        select(VerdictPendingRow, InstanceRow)
        .join(InstanceRow, InstanceRow.id == VerdictPendingRow.instance_id)
        .where(VerdictPendingRow.not_before <= now)
        .order_by(VerdictPendingRow.not_before, VerdictPendingRow.instance_id)
        .limit(1)
        .with_for_update(of=VerdictPendingRow, skip_locked=True)
    ).first()
    if found is None:
        return None
    mark, row = found
    mark.tries += 1
    mark.not_before = now + _WAITS[min(mark.tries, len(_WAITS)) - 1]
    return Pending(
        instance_id=row.id, sop_uid=row.sop_uid, sop_class=row.sop_class, content_sha=row.content_sha,
        study_uid=row.study_uid, path=row.path, calling_ae=row.calling_ae, kept_at=row.kept_at, tries=mark.tries,
    )  # fmt: skip


def settle(session: Session, pending: Pending, found: Sequence[NewVerdict], *, at: datetime, trouble: str = "") -> None:
    """Record what an instance says, each verdict with its job's event, and look at the instance no more.

    *trouble* says why nobody knows whether it says anything; it stands among the events of its study.
    """
    gone = delete(VerdictPendingRow).where(VerdictPendingRow.instance_id == pending.instance_id)
    if session.execute(gone.returning(VerdictPendingRow.instance_id)).first() is None:
        return  # another sweep was faster
    for one in found:
        if _insert(session, pending, one):
            judgement, who = one.judgement, pending.calling_ae
            what, detail = f"verdict {judgement.kind}", f"{in_words(judgement)}; matched by {one.matched_by}"
            events.record(session, what, who=who, at=at, detail=detail, job_id=one.job.id)
    if trouble:
        what, who = "verdict unreadable", pending.calling_ae
        events.record(session, what, who=who, at=at, detail=trouble, study_uid=pending.study_uid)


def in_words(one: Judgement | Verdict) -> str:
    """Return figures and reason in a line, without a text of the object itself."""
    dice = f"Dice {dice_text(one.dice)}, " if one.dice is not None else ""
    volume = f"volume {one.volume_change:+.1f} %, " if one.volume_change is not None else ""
    return f"{dice}{volume}{one.reason}"


def _insert(session: Session, pending: Pending, new: NewVerdict) -> bool:
    """Insert one verdict; False where the same bytes said it of the same job before."""
    judgement, job = new.judgement, new.job
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = (
        dialect.insert(VerdictRow)
        .values(
            job_id=job.id, study_uid=job.study_uid, model=job.model, model_digest=job.model_digest,
            sop_uid=pending.sop_uid, content_sha=pending.content_sha, kind=judgement.kind, matched_by=new.matched_by,
            at=pending.kept_at, calling_ae=pending.calling_ae, dice=judgement.dice,
            volume_change=judgement.volume_change, reason=judgement.reason, detail=detail_of(judgement),
        )
        .on_conflict_do_nothing()
        .returning(VerdictRow.id)
    )  # fmt: skip
    return session.execute(statement).first() is not None


def own_among(session: Session, sop_uids: Collection[str]) -> list[OwnResult]:
    """Return those of these instances that are results of ours."""
    return [one for part in _parts(sop_uids) for one in _own(session, ResultRow.sop_uid.in_(part))]


def own_of_study(session: Session, study_uid: str) -> list[OwnResult]:
    """Return all results of ours in a study."""
    return _own(session, JobRow.study_uid == study_uid)


def _own(session: Session, mine: ColumnElement[bool]) -> list[OwnResult]:
    rows = session.scalars(
        select(ResultRow).join(JobRow, JobRow.id == ResultRow.job_id).where(mine).order_by(ResultRow.id)
    )
    return [
        OwnResult(job_id=r.job_id, role=r.role, sop_class=r.sop_class, sop_uid=r.sop_uid, path=r.path) for r in rows
    ]


def jobs_of(session: Session, job_ids: Collection[str]) -> list[Job]:
    """Return these jobs, the newest revision first."""
    rows = session.scalars(
        select(JobRow)
        .where(JobRow.id.in_(list(job_ids)))
        .order_by(JobRow.revision.desc(), JobRow.created_at.desc(), JobRow.id)
    )
    return [jobs.to_domain(row) for row in rows]


def ready_before(session: Session, job_ids: Collection[str], before: datetime) -> frozenset[str]:
    """Return those of these jobs whose results existed at that time."""
    ready = (EventRow.what == "result_ready") & (EventRow.at <= before)
    rows = session.scalars(select(EventRow.job_id).where(EventRow.job_id.in_(list(job_ids)), ready))
    return frozenset(row for row in rows if row)


def input_uids(session: Session, job_id: str) -> frozenset[str]:
    """Return the SOP Instance UIDs of the images that a job read."""
    rows = session.scalars(
        select(InstanceRow.sop_uid)
        .join(JobInputRow, JobInputRow.instance_id == InstanceRow.id)
        .where(JobInputRow.job_id == job_id)
    )
    return frozenset(rows)


def list_verdicts(
    session: Session, *, model: str = "", since: datetime | None = None, job_ids: Collection[str] | None = None,
    limit: int | None = None,
) -> list[Verdict]:  # fmt: skip
    """Return verdicts, the newest first."""
    mine: list[ColumnElement[bool]] = []
    if model:
        mine.append(VerdictRow.model == model)
    if since is not None:
        mine.append(VerdictRow.at >= since)
    if job_ids is not None:
        mine.append(VerdictRow.job_id.in_(list(job_ids)))
    query = select(VerdictRow).where(*mine).order_by(VerdictRow.at.desc(), VerdictRow.id.desc()).limit(limit)
    return [_verdict(row) for row in session.scalars(query)]


def standing_of(session: Session, job_ids: Collection[str]) -> dict[str, Verdict]:
    """Return, for each of these jobs that has one, the verdict that counts."""
    found = [one for part in _parts(job_ids) for one in list_verdicts(session, job_ids=part)]
    return standing(found)


def model_figures(session: Session, *, model: str = "", since: datetime | None = None) -> list[ModelFigures]:
    """Return how the results of each model fared, by name and digest; of *since* on, where it is given."""
    delivered = _delivered(session, model, since)
    counting: dict[tuple[str, str], list[Verdict]] = {}
    for one in standing(list_verdicts(session, model=model, since=since)).values():
        counting.setdefault((one.model, one.model_digest), []).append(one)
    return [
        figures(*key, delivered.get(key, 0), counting.get(key, [])) for key in sorted({*delivered, *counting})
    ]


def _delivered(session: Session, model: str, since: datetime | None) -> dict[tuple[str, str], int]:
    """Return the numbers of jobs of which a peer took something."""
    mine: list[ColumnElement[bool]] = [DeliveryRow.state.in_(TAKEN)]
    if model:
        mine.append(JobRow.model == model)
    if since is not None:
        mine.append(DeliveryRow.updated_at >= since)
    rows = session.execute(
        select(JobRow.model, JobRow.model_digest, func.count(func.distinct(JobRow.id)))
        .join(DeliveryRow, DeliveryRow.job_id == JobRow.id)
        .where(*mine)
        .group_by(JobRow.model, JobRow.model_digest)
    )
    return {(row[0], row[1]): row[2] for row in rows}


def count_by_kind(session: Session) -> dict[tuple[str, str, str], int]:
    """Return how many verdicts were ever recorded, by (model, digest, kind)."""
    keys = (VerdictRow.model, VerdictRow.model_digest, VerdictRow.kind)
    rows = session.execute(select(*keys, func.count()).group_by(*keys).order_by(*keys))
    return {(row[0], row[1], row[2]): row[3] for row in rows}


def _parts(values: Collection[str]) -> Iterator[list[str]]:
    ordered = sorted(values)
    return (ordered[start : start + _CHUNK] for start in range(0, len(ordered), _CHUNK))


def _verdict(row: VerdictRow) -> Verdict:
    return Verdict(
        id=row.id, job_id=row.job_id, study_uid=row.study_uid, model=row.model, model_digest=row.model_digest,
        sop_uid=row.sop_uid, content_sha=row.content_sha, kind=VerdictKind(row.kind),
        matched_by=MatchedBy(row.matched_by), at=row.at, calling_ae=row.calling_ae, dice=row.dice,
        volume_change=row.volume_change, reason=row.reason, detail=row.detail,
    )  # fmt: skip
