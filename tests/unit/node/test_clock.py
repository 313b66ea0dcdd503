"""A clock that is put by an hour, either way: nothing begins early, no lease is lost, nothing waits for it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from node.db import jobs
from node.domain.job import JobState
from node.domain.peer import Peer
from node.domain.study import StudyState
from node.sweep import Sweep
from node.testing import synthetic_ct
from tests.unit.node.conftest import World
from tests.unit.node.test_delivery import ready

HOUR = 3600.0


def beat(world: World, sweep: Sweep, seconds: float) -> None:
    """Let *seconds* go by, a round of the sweep in every fifth."""
    for _ in range(round(seconds / 5)):
        world.clock.advance(5)
        sweep.round()


def test_an_hour_forward_takes_no_job_from_a_worker_that_lives(world: World) -> None:
    """Its lease looks over; it beats within it, as the sweep lets it show."""
    world.add_job()
    job = world.start()
    sweep = world.sweep()
    beat(world, sweep, 5)
    world.clock.put(HOUR)
    beat(world, sweep, 20)
    assert world.job(job.id).state is JobState.RUNNING
    with world.database.transaction() as session:
        assert jobs.beat(session, job, now=world.clock(), lease=timedelta(minutes=1), progress=0.5, stage="")
    beat(world, sweep, 50)
    assert (world.job(job.id).state, world.job(job.id).attempts) == (JobState.RUNNING, 1)
    beat(world, sweep, 70)  # and now it is silent
    assert world.job(job.id).state is JobState.PENDING


def test_an_hour_forward_settles_no_study_that_still_comes(world: World) -> None:
    """Its last image looks an hour old."""
    first, *rest = synthetic_ct(slices=6)
    sweep = world.sweep()
    world.keep(first)
    sweep.round()
    world.clock.put(HOUR)
    for image in rest:
        beat(world, sweep, 20)
        assert world.study(first.StudyInstanceUID).state is StudyState.OPEN
        world.keep(image)
    beat(world, sweep, 70)
    assert world.study(first.StudyInstanceUID).revision == 1
    assert len(world.jobs()) == 1


@pytest.mark.parametrize("down", [False, True], ids=["while it runs", "while it is down"])
def test_an_hour_back_lets_nothing_wait_for_it(world: World, down: bool) -> None:
    """A study that came, a job to be tried again, a delivery to be tried again: each goes on in its own time."""
    world.rules.clear()  # these studies were planned by hand
    sending, waiting = ready(world), world.add_job()
    world.keep(*(images := synthetic_ct(slices=3)))
    world.peers.append(Peer(name="pacs", ae_title="NOBODY", host="127.0.0.1", port=1))
    world.deliverer().deliver(sending.id)
    sweep = world.sweep()
    sweep.round()
    job = world.start()
    with world.database.transaction() as session:
        wait = timedelta(seconds=30)
        jobs.give_back(session, job, reason="test", at=world.clock(), wait=wait, max_attempts=3)
    world.clock.put(-HOUR)
    beat(world, world.sweep() if down else sweep, 140)
    assert world.study(images[0].StudyInstanceUID).state is StudyState.SETTLED
    assert world.job(waiting).state is JobState.PENDING
    (due,) = {one.next_at <= world.clock() for one in world.deliveries(sending.id)}
    assert due


def test_a_lease_from_an_hour_ahead_is_no_lease_for_an_hour(world: World) -> None:
    """The worker of another machine took the job, the clock was put back, the worker died."""
    world.add_job()
    job = world.start("gpu@elsewhere:1:2:3")
    sweep = world.sweep()
    sweep.round()
    world.clock.put(-HOUR)
    beat(world, sweep, 130)
    assert world.job(job.id).state is JobState.PENDING


def test_daily_corrections_of_the_clock_are_no_jump(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A second a day is what machines do."""
    sweep = world.sweep()
    sweep.round()
    world.clock.put(1.5)
    beat(world, sweep, 5)
    assert "clock" not in caplog.text
    world.clock.put(timedelta(minutes=2).total_seconds())
    beat(world, sweep, 5)
    assert "the clock was put" in caplog.text
