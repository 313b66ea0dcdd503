"""Silence says nothing of a study while nobody listens: neither while the listener is dead nor just after."""

from __future__ import annotations

from sqlalchemy import select

from node.db import completion
from node.db.tables import ListenerRow
from node.processes import identity
from node.testing import synthetic_ct
from tests.rig import dead_process
from tests.unit.node.conftest import World

STUDY = "2.25.4711"


def listens(world: World, owner: str) -> None:
    """Let a listener begin to listen."""
    with world.database.transaction() as session:
        completion.listens(session, owner=owner, at=world.clock())


def test_silence_while_nobody_listens_settles_nothing(world: World) -> None:
    """A listener is killed in the middle of a study: its sender finds the door shut, and comes back."""
    images = synthetic_ct(slices=6)
    listens(world, dead_process())
    world.keep(*images[:3])
    assert world.settle(300) == []
    assert world.study(STUDY).reason == "waits: the listener is not running, so nobody can send the rest"
    listens(world, identity("scp"))
    assert world.settle(55) == []
    assert "senders may try again" in world.study(STUDY).reason
    world.keep(*images[3:])
    (planned,) = world.settle(61)
    assert planned.reason == "no instance for 60 s; 1 job planned"
    assert len(world.jobs()) == 1


def test_a_listener_that_never_comes_back_holds_a_study_to_its_longest_wait(world: World) -> None:
    """What came is read all the same."""
    listens(world, dead_process())
    world.keep(*synthetic_ct(slices=3))
    assert world.settle(5390) == []
    (planned,) = world.settle(10)
    assert planned.reason.startswith("waited 90 min, the longest wait")


def test_a_new_listener_forgets_the_dead_and_those_unseen_for_a_day(world: World) -> None:
    """Where machines come and go, a row of each is not kept for ever."""
    for owner, later in ((dead_process(), 0), ("scp@elsewhere:1:1:1", 50_000), ("scp@elsewhere:1:1:2", 50_000)):
        world.clock.advance(later)
        listens(world, owner)
    with world.database.reading() as session:
        assert set(session.scalars(select(ListenerRow.owner))) == {"scp@elsewhere:1:1:1", "scp@elsewhere:1:1:2"}
    world.clock.advance(50_000)
    listens(world, identity("scp"))
    with world.database.reading() as session:
        assert set(session.scalars(select(ListenerRow.owner))) == {"scp@elsewhere:1:1:2", identity("scp")}
