"""Performed procedure steps (MPPS): what modalities say of their own work, of which study, and with which images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from node.db import events, studies
from node.db.tables import InstanceRow, StepRow, StepStudyRow
from node.domain.completion import Steps
from node.domain.step import StepState
from node.errors import IllegalMove, NotFound


def begin(session: Session, sop_uid: str, study_uids: Collection[str], *, calling_ae: str, at: datetime) -> bool:
    """Record a step that a modality has begun; False where one of that UID is known."""
    if session.get(StepRow, sop_uid) is not None:
        return False
    session.add(
        StepRow(
            sop_uid=sop_uid, state=StepState.IN_PROGRESS, calling_ae=calling_ae, created_at=at, updated_at=at, series={}
        )
    )
    session.flush()  # what is of a study refers to it
    for uid in sorted(set(study_uids)):
        session.add(StepStudyRow(study_uid=uid, step_uid=sop_uid))
        events.record(session, "mpps", who=calling_ae, at=at, detail="a step is in progress", study_uid=uid)
        studies.look_soon(session, uid)
    return True


def change(
    session: Session, sop_uid: str, state: StepState | None, series: Mapping[str, Sequence[str]] | None, *,
    calling_ae: str, at: datetime,
) -> None:  # fmt: skip
    """Record how far a step is and what it has made so far; None leaves either as it was.

    NotFound where there is no such step, IllegalMove where it has ended (PS3.4 F.7.2.2.3).
    """
    row = session.scalars(select(StepRow).where(StepRow.sop_uid == sop_uid).with_for_update()).one_or_none()
    if row is None:
        raise NotFound("there is no such performed procedure step")
    if row.state != StepState.IN_PROGRESS:
        raise IllegalMove(f"the performed procedure step is {row.state}: it is not changed any more")
    if series is not None:
        row.series = {uid: list(uids) for uid, uids in series.items()}
    row.updated_at = at
    if state is None or state is StepState.IN_PROGRESS:
        return
    row.state = state
    named = sum(len(uids) for uids in row.series.values())
    detail = f"a step is {state}: {named} instances of {len(row.series)} series"
    for uid in session.scalars(select(StepStudyRow.study_uid).where(StepStudyRow.step_uid == sop_uid)):
        events.record(session, "mpps", who=calling_ae, at=at, detail=detail, study_uid=uid)
        studies.look_soon(session, uid)


def steps_of(session: Session, study_uid: str) -> Steps:
    """Return what the steps of a study say, beside what came of it."""
    rows = session.scalars(
        select(StepRow)
        .join(StepStudyRow, StepStudyRow.step_uid == StepRow.sop_uid)
        .where(StepStudyRow.study_uid == study_uid)
    ).all()
    if not rows:
        return Steps()
    here = set(session.scalars(select(InstanceRow.sop_uid).where(InstanceRow.study_uid == study_uid)))
    states = [row.state for row in rows]
    heard = [row.updated_at for row in rows if row.state == StepState.IN_PROGRESS]
    named: dict[str, set[str]] = {}
    for row in rows:
        if row.state == StepState.COMPLETED:
            for uid, instances in row.series.items():
                named.setdefault(uid, set()).update(instances)
    begun = {uid: instances for uid, instances in named.items() if instances & here}
    return Steps(
        in_progress=len(heard), heard_at=max(heard, default=None), completed=states.count(StepState.COMPLETED),
        discontinued=states.count(StepState.DISCONTINUED), named=sum(map(len, named.values())),
        lacking=sum(len(instances - here) for instances in begun.values()),
        absent_series=sum(uid not in begun for uid, instances in named.items() if instances),
    )  # fmt: skip
