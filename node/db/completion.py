"""What is known of whether a study is complete: open associations, a peer's count, performed steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, func, or_, select
from sqlalchemy.orm import Session

from node.db import studies
from node.db.arrivals import TAKEN
from node.db.steps import steps_of
from node.db.tables import (
    AssociationRow,
    CountRow,
    DeliveryRow,
    InstanceRow,
    JobRow,
    ListenerRow,
    ResultRow,
    StudyRow,
)
from node.domain.completion import Evidence, Tally, compare
from node.domain.rule import Rule
from node.domain.study import StudyState
from node.processes import is_dead

#: Results of these classes are in series with a modality like any image's: a peer's count holds them, too.
_LIKE_IMAGES = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.30")  # Secondary Capture, Parametric Map

_ASK_AGAIN = timedelta(seconds=5)  # at least between two questions about one study


def evidence_of(session: Session, study: StudyRow, rules: Sequence[Rule]) -> Evidence:
    """Return all that is known of whether *study*, whose row is locked, is complete."""
    here = _here(session, study.uid)
    series = studies.series_of(session, study.uid)
    concerned = [rule for rule in rules if rule.concerns(series, study.description)]
    tally, unasked = _tally(session, study, here)
    listening, deaf = _listening(session)
    return Evidence(
        opened_at=study.opened_at or study.first_at, last_at=study.last_at, here=sum(here.values()),
        sending=_sending(session, study.uid), listening_since=listening, deaf=deaf,
        tally=tally, unasked=unasked, steps=steps_of(session, study.uid),
        required=tuple(dict.fromkeys(name for rule in concerned for name in rule.required_series)),
        missing=tuple(dict.fromkeys(name for rule in concerned for name in rule.missing(series, study.description))),
    )  # fmt: skip


def _here(session: Session, study_uid: str) -> dict[str, int]:
    """Return how many instances of each series came."""
    rows = session.execute(
        select(InstanceRow.series_uid, func.count(func.distinct(InstanceRow.sop_uid)))
        .where(InstanceRow.study_uid == study_uid)
        .group_by(InstanceRow.series_uid)
    )
    return {row[0]: row[1] for row in rows}


def _sending(session: Session, study_uid: str) -> tuple[str, ...]:
    rows = session.execute(
        select(AssociationRow.calling_ae, AssociationRow.owner)
        .where(AssociationRow.study_uid == study_uid)
        .order_by(AssociationRow.since, AssociationRow.id)
    )
    return tuple(row.calling_ae for row in rows if not is_dead(row.owner))


def _tally(session: Session, study: StudyRow, here: dict[str, int]) -> tuple[Tally | None, str]:
    """Return the peer's count beside what came, and why the peer could not be asked since then."""
    row = session.get(CountRow, study.uid)
    if row is None:
        return None, ""
    there = {uid: (str(modality), int(count)) for uid, (modality, count) in row.there.items()}
    fresh = row.epoch == study.epoch and not row.reason
    tally = compare(row.peer, there, here, ours=_ours_there(session, study.uid, row.peer), fresh=fresh)
    return tally, row.reason


def _ours_there(session: Session, study_uid: str, peer: str) -> int:
    """Return how many results that look like images this peer took and did not send back."""
    came_back = exists().where(InstanceRow.sop_uid == ResultRow.sop_uid)
    return (
        session.scalar(
            select(func.count(func.distinct(ResultRow.sop_uid)))
            .join(DeliveryRow, DeliveryRow.result_id == ResultRow.id)
            .join(JobRow, JobRow.id == ResultRow.job_id)
            .where(JobRow.study_uid == study_uid, DeliveryRow.peer == peer, DeliveryRow.state.in_(TAKEN))
            .where(ResultRow.sop_class.in_(_LIKE_IMAGES), ~came_back)
        )
        or 0
    )


# -- listeners

_DAY = timedelta(days=1)


def listens(session: Session, *, owner: str, at: datetime) -> None:
    """Note that a listener begins to listen; what is known of those that are dead is forgotten.

    One of another machine may be dead unseen: after a day a newer one's word is enough.
    """
    for row in session.scalars(select(ListenerRow)):
        if is_dead(row.owner) or row.since < at - _DAY:
            session.delete(row)
    session.flush()
    session.merge(ListenerRow(owner=owner, since=at))


def _listening(session: Session) -> tuple[datetime | None, bool]:
    """Return since when the newest living listener has listened, and whether there are dead ones only."""
    rows = session.execute(select(ListenerRow.owner, ListenerRow.since)).all()
    living = [row.since for row in rows if not is_dead(row.owner)]
    return max(living, default=None), bool(rows) and not living


# -- associations


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """An association that is open, and the study that it brought last."""

    id: str
    study_uid: str
    calling_ae: str


def known(session: Session, study_uids: Collection[str]) -> set[str]:
    """Return those of the studies that are in the table."""
    return set(session.scalars(select(StudyRow.uid).where(StudyRow.uid.in_(study_uids))))


def hold(session: Session, found: Collection[Open], *, owner: str, at: datetime) -> None:
    """Note which study each of these associations brings now."""
    for one in found:
        row = session.get(AssociationRow, one.id)
        if row is None:
            row = AssociationRow(id=one.id, calling_ae=one.calling_ae, owner=owner, since=at)
            session.add(row)
        elif row.study_uid != one.study_uid:
            studies.look_soon(session, row.study_uid)
        row.study_uid = one.study_uid


def release(session: Session, ids: Collection[str]) -> None:
    """Note that these associations are over; their studies are looked at soon."""
    gone = delete(AssociationRow).where(AssociationRow.id.in_(list(ids))).returning(AssociationRow.study_uid)
    for uid in sorted(set(session.scalars(gone))):
        studies.look_soon(session, uid)


def held(session: Session) -> list[tuple[str, str, datetime]]:
    """Return (id, owner, since) of all associations that are said to be open."""
    rows = session.execute(select(AssociationRow.id, AssociationRow.owner, AssociationRow.since))
    return [(row.id, row.owner, row.since) for row in rows]


# -- a peer's count


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A study of which a peer is to be asked how many instances it has."""

    study_uid: str
    epoch: int


def to_be_counted(
    session: Session, calling_ae: str, *, after: timedelta, now: datetime, limit: int
) -> list[Question]:
    """Return open studies of this sender that are silent for *after* and whose count is not known, or lacks some."""
    anew = (CountRow.epoch != StudyRow.epoch) & (CountRow.asked_at <= now - _ASK_AGAIN)
    due = or_(CountRow.study_uid.is_(None), CountRow.next_at <= now, anew)
    mine = (StudyRow.state == StudyState.OPEN) & (StudyRow.calling_ae == calling_ae)
    rows = session.execute(
        select(StudyRow.uid, StudyRow.epoch)
        .outerjoin(CountRow, CountRow.study_uid == StudyRow.uid)
        .where(mine, StudyRow.last_at <= now - after, due)
        .order_by(CountRow.asked_at.is_not(None), CountRow.asked_at, StudyRow.last_at)
        .limit(limit)
    )
    return [Question(study_uid=row.uid, epoch=row.epoch) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """A peer's answer; *reason* says why there is none."""

    peer: str
    there: dict[str, tuple[str, int]]
    reason: str = ""


def note_count(
    session: Session, question: Question, answer: Counted, *, asked_at: datetime, wait: timedelta, cap: timedelta
) -> None:
    """Keep a peer's answer; what it said before stays where it could not be asked. Asked again later and later."""
    row = session.get(CountRow, question.study_uid)
    if row is None:
        row = CountRow(study_uid=question.study_uid, epoch=-1, tries=0, there={})
        session.add(row)
    tries = row.tries + 1 if row.epoch == question.epoch else 1
    row.peer, row.epoch, row.tries, row.reason = answer.peer, question.epoch, tries, answer.reason
    row.asked_at, row.next_at = asked_at, asked_at + min(cap, wait * (1 << min(tries - 1, 16)))
    if not answer.reason:
        row.there = {uid: [modality, count] for uid, (modality, count) in answer.there.items()}
    studies.look_soon(session, question.study_uid)
