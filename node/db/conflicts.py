"""Studies whose instances name different patients: what stands in them, and a person's decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from node.db import events
from node.db.tables import InstanceRow, StudyRow
from node.domain.study import InstanceFacts, StudyState
from node.errors import IllegalMove, NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One patient that instances of a study name. For a person's eyes only: never for a log or an event."""

    patient_id: str
    first: bool  # the study was opened under it
    instances: int
    series: int
    calling_aes: tuple[str, ...]
    first_at: datetime
    last_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What a decision did."""

    kept: int  # instances
    set_aside: int


def unnamed(session: Session, uid: str) -> list[tuple[int, str]]:
    """Return (id, path) of the instances of a study of which no row says yet whom they name."""
    mine = (InstanceRow.study_uid == uid) & InstanceRow.patient_id.is_(None)
    return [(row[0], row[1]) for row in session.execute(select(InstanceRow.id, InstanceRow.path).where(mine))]


def name(session: Session, instance_id: int, patient_id: str) -> None:
    """Write down whom an instance names."""
    session.execute(update(InstanceRow).where(InstanceRow.id == instance_id).values(patient_id=patient_id))


def identities(session: Session, uid: str) -> list[Identity]:
    """Return the patients that the instances of a study name, those set aside left out; the oldest first."""
    study = session.get_one(StudyRow, uid)
    mine = (InstanceRow.study_uid == uid) & (InstanceRow.set_aside == "")
    facts = (
        func.count(), func.count(func.distinct(InstanceRow.series_uid)),
        func.min(InstanceRow.kept_at), func.max(InstanceRow.kept_at),
    )  # fmt: skip
    rows = session.execute(select(InstanceRow.patient_id, *facts).where(mine).group_by(InstanceRow.patient_id)).all()
    pairs = session.execute(select(InstanceRow.patient_id, InstanceRow.calling_ae).where(mine).distinct()).all()
    found = [
        Identity(
            patient_id=patient or "", first=patient == study.patient_id, instances=instances, series=series,
            calling_aes=tuple(sorted(ae for named, ae in pairs if named == patient)),
            first_at=first_at, last_at=last_at,
        )
        for patient, instances, series, first_at, last_at in rows
    ]  # fmt: skip
    return sorted(found, key=lambda one: (one.first_at, one.patient_id))


def a_path_of(session: Session, uid: str, patient_id: str) -> str:
    """Return where the oldest instance that names this patient lies; NotFound where none does."""
    mine = (InstanceRow.study_uid == uid) & (InstanceRow.patient_id == patient_id) & (InstanceRow.set_aside == "")
    path = session.scalar(select(InstanceRow.path).where(mine).order_by(InstanceRow.id).limit(1))
    if path is None:
        raise NotFound("no instance of this study names the patient that you gave")
    return path


def decide(
    session: Session, uid: str, patient_id: str, facts: InstanceFacts | None, *, who: str, at: datetime
) -> Decided:
    """Keep the instances that name *patient_id*, set the others aside, open the study for a new revision.

    *facts* are those of an instance that is kept, where one can be read: the study itself may have been opened by one
    that is not.
    """
    study = session.scalars(select(StudyRow).where(StudyRow.uid == uid).with_for_update()).one()
    another = (InstanceRow.patient_id != patient_id) | InstanceRow.patient_id.is_(None)
    others = (InstanceRow.study_uid == uid) & (InstanceRow.set_aside == "") & another
    aside = session.execute(
        update(InstanceRow)
        .where(others)
        .values(current=False, set_aside=f"another patient, as {who} decided")
        .returning(InstanceRow.id)
    ).all()
    kept = _make_newest_current(session, uid)
    reason = f"{who} decided which patient it is of: {kept} instances kept, {len(aside)} set aside"
    moved = session.execute(
        update(StudyRow)
        .where(StudyRow.uid == uid, StudyRow.epoch == study.epoch, StudyRow.state == StudyState.CONFLICT)
        .values(
            state=StudyState.OPEN, epoch=study.epoch + 1, reason=reason, look_at=None, patient_id=patient_id,
            **_told_by(facts),
        )
        .returning(StudyRow.uid)
        .execution_options(synchronize_session=False)
    )
    if moved.first() is None:
        raise IllegalMove(f"study {uid} is {study.state}: only one in conflict waits for a decision")
    detail = f"{kept} instances kept, {len(aside)} set aside"
    events.record(session, "conflict resolved", who=who, at=at, detail=detail, study_uid=uid)
    return Decided(kept=kept, set_aside=len(aside))


def _told_by(facts: InstanceFacts | None) -> dict[str, str]:
    if facts is None:
        return {}
    return {
        "accession_number": facts.accession_number, "description": facts.study_description,
        "study_date": facts.study_date,
    }  # fmt: skip


def _make_newest_current(session: Session, uid: str) -> int:
    """Make the newest version of each instance that is not set aside the current one; return how many there are.

    A version that was set aside may have taken the place of one that is kept.
    """
    mine = (InstanceRow.study_uid == uid) & (InstanceRow.set_aside == "")
    newest = select(func.max(InstanceRow.id)).where(mine).group_by(InstanceRow.sop_uid).scalar_subquery()
    rows = session.execute(
        update(InstanceRow).where(InstanceRow.id.in_(newest)).values(current=True).returning(InstanceRow.id)
    )
    return len(rows.all())
