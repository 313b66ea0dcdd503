"""What came of a study, when and from whom, as a person would tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from node.db.tables import DeliveryRow, InstanceRow, JobInputRow

#: A peer has the result; "verified" says more than "acked".
TAKEN = ("acked", "verified")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arrival:
    """Instances of a study that one sender sent without a long pause between them."""

    calling_ae: str
    instances: int
    series: int
    other_versions: int  # of instances that were there already
    first_at: datetime
    last_at: datetime


def arrivals_of(session: Session, uid: str, *, gap: timedelta) -> list[Arrival]:
    """Return what came of a study, cut where the sender changed or nothing came for *gap*; oldest first."""
    rows = session.execute(
        select(InstanceRow.calling_ae, InstanceRow.series_uid, InstanceRow.sop_uid, InstanceRow.kept_at)
        .where(InstanceRow.study_uid == uid)
        .order_by(InstanceRow.kept_at, InstanceRow.id)
    ).all()
    if not rows:
        return []
    cuts = [0]
    for place, (before, row) in enumerate(pairwise(rows), start=1):
        if row.calling_ae != before.calling_ae or row.kept_at - before.kept_at > gap:
            cuts.append(place)
    seen: set[str] = set()
    return [_arrival(rows[start:stop], seen) for start, stop in pairwise([*cuts, len(rows)])]


def _arrival(rows: Sequence[Any], seen: set[str]) -> Arrival:
    """Return one run of rows; *seen* are the instances that came before it, and with it afterwards."""
    other = 0
    for row in rows:
        other += row.sop_uid in seen
        seen.add(row.sop_uid)
    return Arrival(
        calling_ae=rows[0].calling_ae, instances=len(rows), series=len({row.series_uid for row in rows}),
        other_versions=other, first_at=rows[0].kept_at, last_at=rows[-1].kept_at,
    )  # fmt: skip


def set_aside(session: Session, uid: str) -> list[tuple[str, int, datetime]]:
    """Return (why, how many, when the last of them came) of the instances that were set aside."""
    mine = (InstanceRow.study_uid == uid) & (InstanceRow.set_aside != "")
    facts = (InstanceRow.set_aside, func.count(), func.max(InstanceRow.kept_at))
    rows = session.execute(select(*facts).where(mine).group_by(InstanceRow.set_aside))
    return [(row[0], row[1], row[2]) for row in rows]


def count_lost(session: Session, uid: str = "") -> int:
    """Return how many instances, of one study or of all, have a row and no whole file."""
    lost = InstanceRow.lost_at.is_not(None)
    mine = lost & (InstanceRow.study_uid == uid) if uid else lost
    return session.scalar(select(func.count()).select_from(InstanceRow).where(mine)) or 0


def sent_from_set_aside(session: Session, uid: str) -> list[tuple[str, str]]:
    """Return (job, peer) of the results that a peer took and that were made from instances now set aside."""
    mine = (InstanceRow.study_uid == uid) & (InstanceRow.set_aside != "")
    rows = session.execute(
        select(DeliveryRow.job_id, DeliveryRow.peer)
        .join(JobInputRow, JobInputRow.job_id == DeliveryRow.job_id)
        .join(InstanceRow, InstanceRow.id == JobInputRow.instance_id)
        .where(mine, DeliveryRow.state.in_(TAKEN))
        .distinct()
        .order_by(DeliveryRow.job_id, DeliveryRow.peer)
    )
    return [(row[0], row[1]) for row in rows]
