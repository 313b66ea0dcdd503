"""A person's decision about a study that names different patients. On both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import select, update

from node import conflicts
from node.db.tables import InstanceRow, StudyRow
from node.domain.study import StudyState
from node.errors import IllegalMove
from node.testing import synthetic_ct
from tests.unit.node.conftest import World

STUDY = "2.25.4711"


def in_conflict(world: World) -> None:
    """Receive two series under one Study Instance UID that name different patients."""
    world.keep(*synthetic_ct(slices=3, patient_id="P-1", study_description="Chest of one"))
    world.keep(*synthetic_ct(slices=4, patient_id="P-2", study_description="Chest of two", series_number=2))


def test_the_study_becomes_that_of_the_patient_who_is_kept(world: World) -> None:
    """Description and patient are those of the kept instances; the others are not current and say why."""
    in_conflict(world)
    conflicts.decide(world.database, world.store, STUDY, "P-2", who="cli:admin", at=world.clock())
    with world.database.reading() as session:
        study = session.get_one(StudyRow, STUDY)
        rows = session.execute(select(InstanceRow.patient_id, InstanceRow.current, InstanceRow.set_aside)).all()
    assert (study.state, study.patient_id, study.description) == (StudyState.OPEN, "P-2", "Chest of two")
    assert {(patient, current) for patient, current, _ in rows} == {("P-1", False), ("P-2", True)}
    assert all(why == "" or "P-" not in why for _, _, why in rows)


def test_instances_recorded_before_the_column_was_there_are_read_once(world: World) -> None:
    """An upgraded node knows its old instances by their files."""
    in_conflict(world)
    with world.database.transaction() as session:
        session.execute(update(InstanceRow).values(patient_id=None))
    found = conflicts.find_conflict(world.database, world.store, STUDY)
    assert [(one.patient_id, one.instances, one.first) for one in found.identities] == [
        ("P-1", 3, True), ("P-2", 4, False),
    ]  # fmt: skip


def test_of_two_decisions_one_counts(world: World) -> None:
    """The second finds that nothing waits for it and changes nothing."""
    in_conflict(world)
    conflicts.decide(world.database, world.store, STUDY, "P-2", who="cli:one", at=world.clock())
    with pytest.raises(IllegalMove, match="only one in conflict"):
        conflicts.decide(world.database, world.store, STUDY, "P-2", who="cli:two", at=world.clock())
    with world.database.reading() as session:
        assert session.get_one(StudyRow, STUDY).patient_id == "P-2"


def test_a_third_patient_is_a_conflict_again(world: World) -> None:
    """A decision is about what was there, not about what may come."""
    in_conflict(world)
    conflicts.decide(world.database, world.store, STUDY, "P-2", who="cli:one", at=world.clock())
    world.keep(*synthetic_ct(slices=2, patient_id="P-3", series_number=3))
    assert world.study(STUDY).state is StudyState.CONFLICT


def test_a_decision_needs_no_file(world: World) -> None:
    """The kept instances' files are gone: the study keeps its description, and the decision counts."""
    in_conflict(world)
    for path in (world.store.root / "instances").rglob("*.dcm"):
        path.unlink()
    done = conflicts.decide(world.database, world.store, STUDY, "P-2", who="cli:admin", at=world.clock())
    assert (done.kept, done.set_aside) == (4, 3)
    assert world.study(STUDY).description == "Chest of one"
