"""What the table keeps of studies, series and instances."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import select

from node import planning
from node.db import studies
from node.db.session import Database
from node.db.tables import InstanceRow
from node.domain.study import StudyState
from node.testing import FixedClock, synthetic_ct
from tests.unit.node.conftest import World, an_instance


def versions(database: Database) -> list[tuple[str, bool]]:
    """Return (content, current) of every instance row, oldest first."""
    with database.reading() as session:
        rows = session.execute(select(InstanceRow.content_sha, InstanceRow.current).order_by(InstanceRow.id))
        return [(content[:1], current) for content, current in rows]


def keep(database: Database, clock: FixedClock, *, wakes: bool = True, **facts: str) -> bool:
    """Record one instance in a transaction of its own; return whether it is new."""
    with database.transaction() as session:
        return studies.keep_instance(session, an_instance("2.25.1", clock, **facts), wakes=wakes)


def test_the_same_bytes_again_are_one_row(database: Database) -> None:
    """A resend is no news."""
    clock = FixedClock()
    assert keep(database, clock)
    assert not keep(database, clock)
    assert versions(database) == [("c", True)]


def test_other_bytes_are_a_second_version_and_the_newest_is_current(database: Database) -> None:
    """Nothing is overwritten; the study reads the newest."""
    clock = FixedClock()
    keep(database, clock, content="a" * 64)
    keep(database, clock, content="b" * 64)
    assert versions(database) == [("a", False), ("b", True)]
    with database.reading() as session:
        assert [one.content_sha[0] for one in studies.instances_of(session, "2.25.1", "2.25.1.1")] == ["b"]
        assert studies.get_study(session, "2.25.1").instances == 1


def test_another_patient_under_the_same_study_is_a_conflict(database: Database) -> None:
    """The study stays in conflict, whatever comes after."""
    clock = FixedClock()
    for number, patient in enumerate(["P-1", "P-2", "P-1"]):
        keep(database, clock, patient_id=patient, sop_uid=f"2.25.1.1.{number}")
    with database.reading() as session:
        study = studies.get_study(session, "2.25.1")
    assert study.state is StudyState.CONFLICT
    assert "different patients" in study.reason


@pytest.mark.parametrize(("study_uid", "series_uid"), [("2.25.1", "2.25.1.2"), ("2.25.2", "2.25.2.1")])
def test_an_instance_that_comes_again_elsewhere_is_a_conflict(
    study_uid: str, series_uid: str, database: Database
) -> None:
    """Of the study that it comes to; the one that it came to first is what it was."""
    clock = FixedClock()
    keep(database, clock, content="a" * 64)
    again = an_instance(study_uid, clock, content="b" * 64, sop_uid="2.25.1.1.1", series_uid=series_uid)
    with database.transaction() as session:
        assert studies.keep_instance(session, again, wakes=True)
    with database.reading() as session:
        study, first = studies.get_study(session, study_uid), studies.get_study(session, "2.25.1")
    assert study.state is StudyState.CONFLICT
    assert "another series or study" in study.reason
    assert first.state is (StudyState.CONFLICT if study_uid == "2.25.1" else StudyState.OPEN)


def test_an_instance_that_does_not_wake_leaves_the_quiet_time_alone(database: Database) -> None:
    """Our own result coming back is kept, and the study's last instance stays the last."""
    clock = FixedClock()
    keep(database, clock)
    clock.advance(30)
    assert keep(database, clock, wakes=False, sop_uid="2.25.9", series_uid="2.25.1.9")
    with database.reading() as session:
        study = studies.get_study(session, "2.25.1")
    assert (study.last_at, study.instances) == (study.first_at, 2)


def test_settling_loses_to_an_instance_that_came_meanwhile(database: Database) -> None:
    """What was read at one epoch is not marked settled at another."""
    clock = FixedClock()
    keep(database, clock)
    with database.reading() as session:
        seen = studies.lock_open(session, "2.25.1")
    keep(database, clock, content="b" * 64)
    assert seen is not None
    with database.transaction() as session:
        assert not studies.mark_settled(session, seen, reason="quiet")


def test_many_associations_may_bring_one_study_at_once(database: Database) -> None:
    """Eight threads record ten instances each of one study: eighty rows, one study, no error."""
    clock, failures = FixedClock(), list[BaseException]()

    def bring(thread: int) -> None:
        try:
            for number in range(10):
                keep(database, clock, sop_uid=f"2.25.1.1.{thread}.{number}")
        except BaseException as why:  # noqa: BLE001  # shown by the assertion below
            failures.append(why)

    threads = [threading.Thread(target=bring, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(versions(database)) == 80


def test_a_study_that_was_quiet_a_moment_ago_and_is_not_any_more_does_not_settle(world: World) -> None:
    """An instance came between the list of quiet studies and its turn: it waits for its quiet time anew."""
    first, second = synthetic_ct(slices=2)
    world.keep(first)
    world.clock.advance(61)
    silence, longest = timedelta(seconds=60), timedelta(hours=1)
    with world.database.reading() as session:
        listed = studies.to_look_at(session, world.clock(), silence=silence, longest=longest)
    assert listed == [first.StudyInstanceUID]
    world.keep(second)
    waits = world.settings().waits
    with world.database.transaction() as session:
        assert planning._settle(session, str(first.StudyInstanceUID), world.rules, waits, now=world.clock()) is None
    assert world.jobs() == []
