"""Studies, series and instances in the table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    bindparam,
    func,
    literal,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from node.db import events
from node.db.tables import Base, InstanceRow, ResultRow, SeriesRow, StudyRow
from node.domain.study import InstanceFacts, Series, Study, StudyState
from node.errors import IllegalMove, NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """One instance version that lies in the store: what its row will say."""

    facts: InstanceFacts
    orientation: str
    content_sha: str
    path: str
    size: int
    calling_ae: str
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredInstance:
    """One current instance version of a settled study."""

    id: int
    sop_uid: str
    series_uid: str
    content_sha: str
    path: str


def keep_instance(session: Session, kept: Kept, *, wakes: bool) -> bool:
    """Record one instance as `keep_instances` does; return False where the same bytes were recorded before."""
    return keep_instances(session, [(kept, wakes)])[0].is_new


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of recording one instance."""

    is_new: bool  # False: the same bytes were recorded before
    is_ours: bool  # the node made it itself
    in_conflict: bool  # its study waits for a person's decision


@dataclass(slots=True)
class _Standing:
    """A study's row, locked, as instances change it."""

    patient_id: str
    state: str
    reason: str
    last_at: datetime
    opened_at: datetime | None
    look_at: datetime | None
    added: int = 0  # instances; the row's epoch counts them


def keep_instances(session: Session, arrivals: Sequence[tuple[Kept, bool]]) -> list[Recorded]:
    """Record instances, in few statements however many they are; return in order what came of each.

    Beside each stands whether it opens its study again for planning; the node's own results do not.
    Another version of the same SOP Instance UID becomes the current one, the older stays.
    """
    connection = session.connection()
    insert = _inserts(connection.dialect.name)
    standings = _lock(connection, insert, [kept for kept, _ in arrivals])
    ours, versions = _known(connection, [kept.facts.sop_uid for kept, _ in arrivals])
    made: list[Recorded] = []
    for kept, wakes in arrivals:
        is_ours = kept.facts.sop_uid in ours
        is_new = connection.execute(insert.instance, _instance_values(kept)).first() is not None
        standing = standings[kept.facts.study_uid]
        if is_new:
            place = (kept.facts.study_uid, kept.facts.series_uid)
            places = versions.setdefault(kept.facts.sop_uid, set())
            if places:
                same = {"study": kept.facts.study_uid, "sop": kept.facts.sop_uid, "sha": kept.content_sha}
                connection.execute(_OLDER, same)
            _touch(session, standing, kept, wakes=wakes and not is_ours, moved=bool(places) and place not in places)
            places.add(place)
        made.append(Recorded(is_new, is_ours, standing.state == StudyState.CONFLICT))
    changed = [{"key": uid, **_changes(one)} for uid, one in standings.items() if one.added]
    if changed:
        connection.execute(_TOUCHED, changed)
    return made


def _lock(connection: Connection, insert: _Inserts, kepts: Sequence[Kept]) -> dict[str, _Standing]:
    """Lock the studies of these instances, and make studies and series that are not there."""
    studies = {kept.facts.study_uid: kept for kept in reversed(kepts)}  # the first that comes names its study
    series = {(kept.facts.study_uid, kept.facts.series_uid): kept for kept in reversed(kepts)}
    rows: Sequence[Any] = []
    if insert.alone:
        rows = connection.execute(_LOCKED, {"uids": list(studies)}).all()
    missing = sorted(set(studies) - {row.uid for row in rows})
    if missing:  # beside others, new ones are made before any is locked: two listeners must not wait for each other
        connection.execute(insert.study, [_study_values(studies[uid]) for uid in missing])
        rows = connection.execute(_LOCKED, {"uids": list(studies)}).all()
    there = connection.execute(_SERIES_OF, {"studies": list(studies), "uids": [uid for _, uid in series]})
    new = sorted(set(series) - {(row.study_uid, row.uid) for row in there})
    if new:
        connection.execute(insert.series, [_series_values(series[key]) for key in new])
    return {
        row.uid: _Standing(row.patient_id, row.state, row.reason, row.last_at, row.opened_at, row.look_at)
        for row in rows
    }


def _known(connection: Connection, sop_uids: Sequence[str]) -> tuple[set[str], dict[str, set[tuple[str, str]]]]:
    """Return which of these instances are the node's own results, and in which study and series versions are there."""
    ours: set[str] = set()
    versions: dict[str, set[tuple[str, str]]] = {}
    for row in connection.execute(_KNOWN, {"sop_uids": sop_uids}):
        if row.place == "result":
            ours.add(row.sop_uid)
        else:
            versions.setdefault(row.sop_uid, set()).add((row.study_uid, row.series_uid))
    return ours, versions


def _changes(standing: _Standing) -> dict[str, Any]:
    return {
        "new_state": standing.state, "new_reason": standing.reason, "new_last_at": standing.last_at,
        "new_opened_at": standing.opened_at, "new_look_at": standing.look_at, "added": standing.added,
    }  # fmt: skip


def _touch(session: Session, study: _Standing, kept: Kept, *, wakes: bool, moved: bool) -> None:
    """Note on the study that an instance came; *moved*: its UID was known in another series or study."""
    at, study_uid = kept.at, kept.facts.study_uid
    what = _PATIENTS if study.patient_id != kept.facts.patient_id else _PLACES if moved else ""
    if what and study.state != StudyState.CONFLICT:
        study.state = StudyState.CONFLICT
        study.reason = f"{what}; no model runs until a person decides"
        events.record(session, "conflict", who=kept.calling_ae, at=at, detail=study.reason, study_uid=study_uid)
    if wakes:
        study.last_at, study.look_at = max(study.last_at, at), None
        if study.state == StudyState.SETTLED:
            study.state, study.reason, study.opened_at = StudyState.OPEN, "a late instance came", at
            events.record(session, "reopened", who=kept.calling_ae, at=at, study_uid=study_uid)
    study.added += 1


_PATIENTS = "instances of this study name different patients"
_PLACES = "an instance of this study came before as one of another series or study"
_STUDY, _SERIES, _INSTANCE = (Base.metadata.tables[name] for name in ("study", "series", "instance"))
# Made once: an instance passes through each of them, and to build one takes longer than to run it.
_SOP_UIDS: BindParameter[str] = bindparam("sop_uids", expanding=True)
_KNOWN = union_all(
    select(
        literal("result").label("place"), ResultRow.sop_uid, literal("").label("study_uid"),
        literal("").label("series_uid"),
    ).where(ResultRow.sop_uid.in_(_SOP_UIDS)),
    select(literal("instance"), _INSTANCE.c.sop_uid, _INSTANCE.c.study_uid, _INSTANCE.c.series_uid).where(
        _INSTANCE.c.sop_uid.in_(_SOP_UIDS)
    ),
)
_SERIES_OF = select(_SERIES.c.study_uid, _SERIES.c.uid).where(
    _SERIES.c.study_uid.in_(bindparam("studies", expanding=True)), _SERIES.c.uid.in_(bindparam("uids", expanding=True))
)
_LOCKED = (
    select(_STUDY.c.uid, _STUDY.c.patient_id, _STUDY.c.state, _STUDY.c.reason, _STUDY.c.last_at, _STUDY.c.opened_at,
           _STUDY.c.look_at)
    .where(_STUDY.c.uid.in_(bindparam("uids", expanding=True)))
    .order_by(_STUDY.c.uid)  # two listeners lock in one order
    .with_for_update()
)
_OLDER = (
    update(_INSTANCE)
    .where(
        _INSTANCE.c.study_uid == bindparam("study"),
        _INSTANCE.c.sop_uid == bindparam("sop"),
        _INSTANCE.c.content_sha != bindparam("sha"),
    )
    .values(current=False)
)
_TOUCHED = (
    update(_STUDY)
    .where(_STUDY.c.uid == bindparam("key"))
    .values(
        state=bindparam("new_state"), reason=bindparam("new_reason"), last_at=bindparam("new_last_at"),
        opened_at=bindparam("new_opened_at"), look_at=bindparam("new_look_at"),
        epoch=_STUDY.c.epoch + bindparam("added"),
    )
)  # fmt: skip


class _Inserts(NamedTuple):
    """Statements that insert a row unless its key exists."""

    study: Any
    series: Any
    instance: Any
    alone: bool  # one transaction writes at a time


@cache
def _inserts(dialect: str) -> _Inserts:
    insert = (postgresql if dialect == "postgresql" else sqlite).insert
    return _Inserts(
        insert(_STUDY).on_conflict_do_nothing(),
        insert(_SERIES).on_conflict_do_nothing(),
        insert(_INSTANCE).on_conflict_do_nothing().returning(_INSTANCE.c.id),
        alone=dialect == "sqlite",
    )


def _study_values(kept: Kept) -> dict[str, Any]:
    facts = kept.facts
    return {
        "uid": facts.study_uid, "patient_id": facts.patient_id, "accession_number": facts.accession_number,
        "description": facts.study_description, "study_date": facts.study_date, "calling_ae": kept.calling_ae,
        "state": StudyState.OPEN, "revision": 0, "epoch": 0, "reason": "", "first_at": kept.at, "last_at": kept.at,
        "opened_at": kept.at, "look_at": None,
    }  # fmt: skip


def _series_values(kept: Kept) -> dict[str, Any]:
    facts = kept.facts
    return {
        "study_uid": facts.study_uid, "uid": facts.series_uid, "modality": facts.modality,
        "body_part": facts.body_part, "description": facts.series_description, "number": facts.series_number,
        "image_type": list(facts.image_type), "slice_thickness": facts.slice_thickness,
        "orientation": kept.orientation, "manufacturer": facts.manufacturer, "calling_ae": kept.calling_ae,
    }  # fmt: skip


def _instance_values(kept: Kept) -> dict[str, Any]:
    facts = kept.facts
    return {
        "sop_uid": facts.sop_uid, "content_sha": kept.content_sha, "study_uid": facts.study_uid,
        "series_uid": facts.series_uid, "sop_class": facts.sop_class, "transfer_syntax": facts.transfer_syntax,
        "is_image": facts.rows > 0 and facts.columns > 0, "path": kept.path, "size": kept.size, "current": True,
        "calling_ae": kept.calling_ae, "kept_at": kept.at, "patient_id": facts.patient_id,
    }  # fmt: skip


def is_in_conflict(session: Session, uid: str) -> bool:
    """Return whether instances of this study name different patients."""
    return session.scalar(select(StudyRow.state).where(StudyRow.uid == uid)) == StudyState.CONFLICT


def to_look_at(
    session: Session, now: datetime, *, silence: timedelta, longest: timedelta, limit: int = 50
) -> list[str]:
    """Return open studies whose time has come to be looked at, the longest silent first.

    One that instances still come of is left alone for as long as it may wait.
    """
    due = (StudyRow.state == StudyState.OPEN) & or_(StudyRow.look_at.is_(None), StudyRow.look_at <= now)
    still = or_(StudyRow.last_at <= now - silence, StudyRow.opened_at <= now - longest)
    return list(session.scalars(select(StudyRow.uid).where(due, still).order_by(StudyRow.last_at).limit(limit)))


def lock_open(session: Session, uid: str) -> StudyRow | None:
    """Return the row of an open study for settling, locked and as it is now; None where it is not open."""
    mine = (StudyRow.uid == uid) & (StudyRow.state == StudyState.OPEN)
    return session.scalars(select(StudyRow).where(mine).with_for_update()).one_or_none()


def lock_settled(session: Session, uid: str) -> StudyRow | None:
    """Return the row of a study, locked and as it is now; None where it is open, or its patient is in doubt."""
    row = session.scalars(select(StudyRow).where(StudyRow.uid == uid).with_for_update()).one()
    return row if row.state == StudyState.SETTLED else None


def look_soon(session: Session, uid: str) -> None:
    """Have the sweep look at a study again: something new is known of it."""
    mine = (StudyRow.uid == uid) & (StudyRow.state == StudyState.OPEN)
    session.execute(update(StudyRow).where(mine).values(look_at=None).execution_options(synchronize_session=False))


def let_wait(study: StudyRow, *, reason: str, look_at: datetime | None) -> None:
    """Leave an open study, its row locked, alone until *look_at*, unless something new comes; "": no new reason."""
    study.look_at, study.reason = look_at, reason or study.reason


def mark_settled(session: Session, study: StudyRow, *, reason: str) -> bool:
    """Settle a study as it stood at its epoch; return False where it changed meanwhile."""
    moved = session.execute(
        update(StudyRow)
        .where(StudyRow.uid == study.uid, StudyRow.epoch == study.epoch, StudyRow.state == StudyState.OPEN)
        .values(state=StudyState.SETTLED, revision=study.revision + 1, epoch=study.epoch + 1, reason=reason,
                look_at=None)
        .returning(StudyRow.uid)
        .execution_options(synchronize_session=False)
    )
    return moved.first() is not None


def reopen(session: Session, uid: str, *, who: str, at: datetime) -> None:
    """Have a settled study planned again on a person's word, e.g. by rules that have changed; it is a new revision."""
    moved = session.execute(
        update(StudyRow)
        .where(StudyRow.uid == uid, StudyRow.state == StudyState.SETTLED)
        .values(state=StudyState.OPEN, epoch=StudyRow.epoch + 1, reason=f"{who} has it planned again")
        .returning(StudyRow.uid)
        .execution_options(synchronize_session=False)
    )
    if moved.first() is None:
        state = session.scalar(select(StudyRow.state).where(StudyRow.uid == uid))
        raise IllegalMove(f"study {uid} is {state}: only a settled one can be planned again")
    events.record(session, "planned again", who=who, at=at, study_uid=uid)


def series_of(session: Session, study_uid: str) -> list[Series]:
    """Return the series of a study with the number of their current images."""
    images = (
        select(InstanceRow.series_uid, func.count().label("count"))
        .where(InstanceRow.study_uid == study_uid, InstanceRow.current, InstanceRow.is_image)
        .group_by(InstanceRow.series_uid)
        .subquery()
    )
    rows = session.execute(
        select(SeriesRow, func.coalesce(images.c.count, 0))
        .outerjoin(images, images.c.series_uid == SeriesRow.uid)
        .where(SeriesRow.study_uid == study_uid)
        .order_by(SeriesRow.number, SeriesRow.uid)
    )
    return [_series(row, count) for row, count in rows]


def _series(row: SeriesRow, count: int) -> Series:
    return Series(
        uid=row.uid, study_uid=row.study_uid, modality=row.modality, body_part=row.body_part,
        description=row.description, number=row.number, image_type=tuple(row.image_type), instances=count,
        slice_thickness=row.slice_thickness, orientation=row.orientation, manufacturer=row.manufacturer,
        calling_ae=row.calling_ae,
    )  # fmt: skip


def instances_of(session: Session, study_uid: str, series_uid: str) -> list[StoredInstance]:
    """Return the current images of a series, in the order of their SOP Instance UIDs."""
    mine = (InstanceRow.study_uid == study_uid) & (InstanceRow.series_uid == series_uid)
    rows = session.scalars(
        select(InstanceRow)
        .where(mine, InstanceRow.current, InstanceRow.is_image)
        .order_by(InstanceRow.sop_uid, InstanceRow.content_sha)
    )
    return [_stored(row) for row in rows]


def _stored(row: InstanceRow) -> StoredInstance:
    return StoredInstance(
        id=row.id, sop_uid=row.sop_uid, series_uid=row.series_uid, content_sha=row.content_sha, path=row.path
    )


def list_studies(session: Session, *, limit: int = 100, uid: str = "") -> list[Study]:
    """Return studies, the last touched first."""
    query = select(StudyRow).order_by(StudyRow.last_at.desc(), StudyRow.uid).limit(limit)
    rows = session.scalars(query.where(StudyRow.uid == uid) if uid else query).all()
    uids = [row.uid for row in rows]
    modalities = _modalities(session, SeriesRow.study_uid.in_(uids))
    counts, lost = _counts(session, uids), _lost(session, uids)
    return [
        _study(row, modalities.get(row.uid, ()), *counts.get(row.uid, (0, 0)), lost=lost.get(row.uid, 0))
        for row in rows
    ]


def find_uid(session: Session, named: str) -> str:
    """Return the UID of the study of that UID, unambiguous beginning of it, or accession number; else NotFound."""
    if session.get(StudyRow, named) is not None:
        return named
    uids = select(StudyRow.uid).limit(2)
    for mine in (StudyRow.accession_number == named, StudyRow.uid.startswith(named, autoescape=True)):
        found = session.scalars(uids.where(mine)).all() if named else []
        if len(found) == 1:
            return found[0]
        if found:
            raise NotFound(f"more than one study is meant by {named}: give its whole UID")
    raise NotFound(f"there is no study {named}")


def get_study(session: Session, uid: str) -> Study:
    """Return one study; NotFound where there is none."""
    found = list_studies(session, uid=uid, limit=1)
    if not found:
        raise NotFound(f"there is no study {uid}")
    return found[0]


def count_by_state(session: Session) -> dict[str, int]:
    """Return how many studies stand in each state."""
    rows = session.execute(select(StudyRow.state, func.count()).group_by(StudyRow.state))
    return {row[0]: row[1] for row in rows}


def _counts(session: Session, uids: list[str]) -> dict[str, tuple[int, int]]:
    """Return the numbers of series and of current instances of these studies."""
    rows = session.execute(
        select(InstanceRow.study_uid, func.count(func.distinct(InstanceRow.series_uid)), func.count())
        .where(InstanceRow.current, InstanceRow.study_uid.in_(uids))
        .group_by(InstanceRow.study_uid)
    )
    return {row[0]: (row[1], row[2]) for row in rows}


def _lost(session: Session, uids: list[str]) -> dict[str, int]:
    """Return how many instances of these studies are missing from the store, those of which none is left out."""
    mine = InstanceRow.lost_at.is_not(None) & InstanceRow.study_uid.in_(uids)
    rows = session.execute(
        select(InstanceRow.study_uid, func.count()).where(mine).group_by(InstanceRow.study_uid)
    )
    return {row[0]: row[1] for row in rows}


def _modalities(session: Session, mine: ColumnElement[bool]) -> dict[str, tuple[str, ...]]:
    pairs = session.execute(select(SeriesRow.study_uid, SeriesRow.modality).where(mine).distinct())
    found: dict[str, list[str]] = {}
    for uid, modality in pairs:
        found.setdefault(uid, []).append(modality)
    return {uid: tuple(sorted(names)) for uid, names in found.items()}


def _study(row: StudyRow, modalities: tuple[str, ...], series: int, instances: int, *, lost: int) -> Study:
    return Study(
        uid=row.uid, state=StudyState(row.state), revision=row.revision, reason=row.reason,
        description=row.description, study_date=row.study_date, modalities=modalities, series=series,
        instances=instances, calling_ae=row.calling_ae, first_at=row.first_at, last_at=row.last_at,
        lost=lost,
    )  # fmt: skip
