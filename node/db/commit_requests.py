"""Peers' questions whether the node commits itself to instances, until each has its report."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from node.db.tables import CommitRequestRow, InstanceRow


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitRequest:
    """One question, as far as its report is."""

    id: int
    calling_ae: str
    transaction_uid: str
    instances: dict[str, str]  # SOP Instance UID -> SOP Class UID
    asked_at: datetime
    tries: int


def take(
    session: Session, calling_ae: str, transaction_uid: str, instances: Mapping[str, str], *, at: datetime,
    wait: timedelta,
) -> int | None:  # fmt: skip
    """Keep a question, to be reported on by whoever is free in *wait*; return its number.

    None where another question of this peer bears the transaction UID. The same one again is reported on again.
    """
    mine = (CommitRequestRow.calling_ae == calling_ae) & (CommitRequestRow.transaction_uid == transaction_uid)
    row = session.scalars(select(CommitRequestRow).where(mine).with_for_update()).one_or_none()
    if row is not None and row.instances != dict(instances):
        return None
    if row is None:
        row = CommitRequestRow(
            calling_ae=calling_ae, transaction_uid=transaction_uid, instances=dict(instances), asked_at=at
        )
        session.add(row)
    row.next_at, row.reported_at, row.tries, row.reason = at + wait, None, 0, ""
    session.flush()
    return row.id


def due(session: Session, *, now: datetime, but: Collection[str] = (), limit: int = 100) -> list[tuple[int, str]]:
    """Return (number, peer's AE title) of questions whose report is due and nobody's, the oldest first."""
    free = or_(CommitRequestRow.owner == "", CommitRequestRow.lease_until < now)
    rows = session.execute(
        select(CommitRequestRow.id, CommitRequestRow.calling_ae)
        .where(CommitRequestRow.reported_at.is_(None), CommitRequestRow.next_at <= now, free)
        .where(CommitRequestRow.calling_ae.not_in(list(but)))
        .order_by(CommitRequestRow.next_at, CommitRequestRow.id)
        .limit(limit)
    )
    return [(row.id, row.calling_ae) for row in rows]


def claim(session: Session, number: int, *, owner: str, now: datetime, lease: timedelta) -> CommitRequest | None:
    """Take a question to report on it; None where it is reported on, or somebody else is at it."""
    free = or_(CommitRequestRow.owner == "", CommitRequestRow.lease_until < now)
    row = session.scalars(
        update(CommitRequestRow)
        .where(CommitRequestRow.id == number, CommitRequestRow.reported_at.is_(None), free)
        .values(owner=owner, lease_until=now + lease, tries=CommitRequestRow.tries + 1)
        .returning(CommitRequestRow)
    ).one_or_none()
    if row is None:
        return None
    return CommitRequest(
        id=row.id, calling_ae=row.calling_ae, transaction_uid=row.transaction_uid, instances=dict(row.instances),
        asked_at=row.asked_at, tries=row.tries,
    )  # fmt: skip


def reported(session: Session, number: int, *, owner: str, committed: int, at: datetime) -> None:
    """Note that the peer took the report."""
    _let_go(session, number, owner, reported_at=at, committed=committed, reason="")


def give_up(session: Session, number: int, *, owner: str, reason: str, at: datetime) -> None:
    """Note that nobody tries to report any more."""
    _let_go(session, number, owner, reported_at=at, reason=reason)


def put_off(session: Session, number: int, *, owner: str, reason: str, next_at: datetime) -> None:
    """Note that the peer did not take the report; it is tried again."""
    _let_go(session, number, owner, reason=reason, next_at=next_at)


def _let_go(session: Session, number: int, owner: str, **values: object) -> None:
    session.execute(
        update(CommitRequestRow)
        .where(CommitRequestRow.id == number, CommitRequestRow.owner == owner, CommitRequestRow.reported_at.is_(None))
        .values(owner="", lease_until=None, **values)
    )


def held(session: Session) -> list[tuple[int, str]]:
    """Return (number, owner) of the questions that somebody is at."""
    rows = session.execute(select(CommitRequestRow.id, CommitRequestRow.owner).where(CommitRequestRow.owner != ""))
    return [(row.id, row.owner) for row in rows]


def unreported(session: Session, *, before: datetime) -> list[tuple[str, int, str]]:
    """Return (peer's AE title, how many, why) of questions asked *before* that time whose peer took no report yet."""
    late = (CommitRequestRow.reported_at.is_(None)) & (CommitRequestRow.asked_at < before)
    rows = session.execute(
        select(CommitRequestRow.calling_ae, func.count(), func.max(CommitRequestRow.reason))
        .where(late)
        .group_by(CommitRequestRow.calling_ae)
        .order_by(CommitRequestRow.calling_ae)
    )
    return [(row[0], row[1], row[2]) for row in rows]


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A current version of an instance, as its row says."""

    sop_uid: str
    sop_class: str
    path: str
    sha256: str


def kept(session: Session, sop_uids: Collection[str]) -> list[Kept]:
    """Return what the table says that the store holds of these instances: the newest version in each study."""
    rows = session.scalars(
        select(InstanceRow)
        .where(InstanceRow.sop_uid.in_(list(sop_uids)), or_(InstanceRow.current, InstanceRow.set_aside != ""))
        .order_by(InstanceRow.id)
    )
    return [Kept(sop_uid=r.sop_uid, sop_class=r.sop_class, path=r.path, sha256=r.content_sha) for r in rows]
