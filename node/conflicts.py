"""A study whose instances name different patients: shown to a person, and settled by that person's word."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from node.db import conflicts, studies
from node.db.conflicts import Decided, Identity
from node.db.session import Database
from node.dicom.header import read_facts
from node.domain.study import InstanceFacts, Study, StudyState
from node.errors import IllegalMove, NotFound, UnreadableInstance
from node.store import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Conflict:
    """A study in conflict and the patients that its instances name. For a person's eyes only."""

    study: Study
    identities: tuple[Identity, ...]

    @property
    def first(self) -> Identity:
        """The patient under which the study was opened."""
        found = [one for one in self.identities if one.first]
        if not found:
            raise NotFound("no instance of this study names the patient that it was opened for")
        return found[0]


def find_conflict(database: Database, store: Store, named: str) -> Conflict:
    """Return what conflicts in a study; IllegalMove where nothing does."""
    with database.reading() as session:
        uid = studies.find_uid(session, named)
        study = studies.get_study(session, uid)
        unnamed = conflicts.unnamed(session, uid)
    if study.state is not StudyState.CONFLICT:
        raise IllegalMove(f"study {uid} is {study.state}: its instances wait for no decision")
    _name(database, store, unnamed)
    with database.reading() as session:
        return Conflict(study=study, identities=tuple(conflicts.identities(session, uid)))


def decide(database: Database, store: Store, uid: str, patient_id: str, *, who: str, at: datetime) -> Decided:
    """Keep what names *patient_id* and set the rest aside, on a person's word; the study settles again."""
    with database.reading() as session:
        path = conflicts.a_path_of(session, uid, patient_id)
    facts = _facts(store, path)
    with database.transaction() as session:
        return conflicts.decide(session, uid, patient_id, facts, who=who, at=at)


def _facts(store: Store, path: str) -> InstanceFacts | None:
    """Return what the header of an instance says, none where its file is gone or damaged."""
    try:
        return read_facts(store.path(path))
    except UnreadableInstance:
        return None


def _name(database: Database, store: Store, unnamed: list[tuple[int, str]]) -> None:
    """Write down whom instances name that were recorded before the table said so."""
    for instance_id, path in unnamed:
        facts = _facts(store, path)
        with database.transaction() as session:
            conflicts.name(session, instance_id, facts.patient_id if facts else "")  # a lost file names nobody
