"""What the rules said of each series of a study, and what its model says of those that they accept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from node.db import studies
from node.db.tables import ChoiceRow
from node.domain.study import Series


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a rule said of a series; an empty reason means that it was taken."""

    series_uid: str
    rule: str
    model: str
    reason: str
    place: int | None = None  # among the series that the rule accepts, the best first, from 0; none: refused


def add(session: Session, study_uid: str, revision: int, choices: Iterable[Choice]) -> None:
    """Write down what each rule said of each series at this revision."""
    for choice in choices:
        session.add(
            ChoiceRow(
                study_uid=study_uid, revision=revision, series_uid=choice.series_uid,
                rule=choice.rule, model=choice.model, reason=choice.reason, place=choice.place,
            )
        )  # fmt: skip


def taken_for(session: Session, study_uid: str, revision: int, model: str) -> str | None:
    """Return the series that *model* is given at this revision; None where it is given none, or has declined all."""
    mine = _accepted(study_uid, revision, model)
    return session.scalar(select(ChoiceRow.series_uid).where(mine, ChoiceRow.reason == ""))


def accepted_after(session: Session, study_uid: str, revision: int, model: str, series_uid: str) -> list[Series]:
    """Return the series that suited *model* less well than this one when the study settled, the best first."""
    mine = _accepted(study_uid, revision, model)
    place = select(ChoiceRow.place).where(mine, ChoiceRow.series_uid == series_uid).scalar_subquery()
    uids = session.scalars(
        select(ChoiceRow.series_uid).where(mine, ChoiceRow.place > place).order_by(ChoiceRow.place)
    ).all()
    known = {one.uid: one for one in studies.series_of(session, study_uid)}
    return [known[uid] for uid in uids]


def change(
    session: Session, study_uid: str, revision: int, model: str, series_uid: str, *, reason: str
) -> None:
    """Write down what is said of an accepted series now that the model has seen one; "": it is taken."""
    mine = _accepted(study_uid, revision, model)
    session.execute(update(ChoiceRow).where(mine, ChoiceRow.series_uid == series_uid).values(reason=reason))


def _accepted(study_uid: str, revision: int, model: str) -> ColumnElement[bool]:
    """The series of a study that the rule which asks for *model* accepts: of all rules only one does."""
    mine = (ChoiceRow.study_uid == study_uid) & (ChoiceRow.revision == revision) & (ChoiceRow.model == model)
    return mine & ChoiceRow.place.is_not(None)


def of_study(session: Session, study_uid: str) -> list[Choice]:
    """Return what the rules said of each series at the study's newest revision."""
    newest = select(func.max(ChoiceRow.revision)).where(ChoiceRow.study_uid == study_uid).scalar_subquery()
    rows = session.scalars(
        select(ChoiceRow)
        .where(ChoiceRow.study_uid == study_uid, ChoiceRow.revision == newest)
        .order_by(ChoiceRow.series_uid, ChoiceRow.rule)
    )
    return [
        Choice(series_uid=r.series_uid, rule=r.rule, model=r.model, reason=r.reason, place=r.place) for r in rows
    ]
