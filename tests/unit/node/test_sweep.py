"""The sweep: nothing that was promised is forgotten, whoever dies and whatever is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy.exc import OperationalError

from node.db import events, jobs
from node.domain.job import JobState
from node.domain.result import DeliveryState
from node.part import PART
from node.processes import identity
from node.testing import synthetic_ct
from tests.unit.node.conftest import SEG_CLASS, World

SEG = ("seg", SEG_CLASS, "2.25.500", b"frozen")
WHO = "from node.processes import identity; print(identity('gpu'))"


@pytest.fixture(scope="module")
def dead_owner() -> str:
    """The name of a worker that ran on this machine and runs no more."""
    made = subprocess.run([sys.executable, "-c", WHO], check=True, capture_output=True, text=True)
    return made.stdout.strip()


def test_a_quiet_study_becomes_a_rung_job_in_one_round(world: World) -> None:
    """Settled, planned, and the workers told; the next round does nothing more."""
    world.keep(*synthetic_ct(slices=4))
    sweep = world.sweep()
    sweep.round()
    assert world.jobs() == []
    world.clock.advance(61)
    sweep.round()
    (job,) = world.jobs()
    assert world.broker.rung == [(jobs.RUN_JOB, job.id)]
    assert world.bells() == []
    sweep.round()
    assert len(world.broker.rung) == 1


def test_the_job_of_a_dead_worker_is_freed_at_once(world: World, dead_owner: str) -> None:
    """Its lease still runs, but its process does not: the next worker may claim within the same round."""
    job_id = world.add_job()
    world.start(dead_owner)
    world.sweep().round()
    job = world.job(job_id)
    assert (job.state, job.owner, job.attempts) == (JobState.PENDING, "", 1)
    assert (jobs.RUN_JOB, job_id) in world.broker.rung
    assert "the worker died or fell silent" in [event.detail for event in world.story(job_id=job_id)]


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_the_job_of_a_silent_worker_is_freed_after_its_lease(world: World, place: str) -> None:
    """A living process, or one on a machine that we cannot see: only the lease decides."""
    owner = identity("gpu") if place == "here" else "gpu@another-host:abcd:1:1"
    job_id = world.add_job()
    world.start(owner)
    sweep = world.sweep()
    world.clock.advance(60)
    sweep.round()
    assert world.job(job_id).state is JobState.RUNNING
    world.clock.advance(1)
    sweep.round()
    assert world.job(job_id).state is JobState.PENDING


def test_a_job_that_kills_every_worker_fails_in_the_end(world: World, dead_owner: str) -> None:
    """Three dead workers: no fourth is sacrificed."""
    job_id = world.add_job()
    sweep = world.sweep()
    for _ in range(3):
        world.start(dead_owner)
        sweep.round()
    job = world.job(job_id)
    assert (job.state, job.reason) == (JobState.FAILED, "the worker died or fell silent (attempt 3 of 3)")


def test_a_dead_senders_delivery_is_asked_for_before_it_is_sent_again(world: World, dead_owner: str) -> None:
    """Nobody knows whether the peer has it."""
    job_id = world.add_job()
    world.publish(world.start(), [SEG], ["pacs"])
    world.deliverer(dead_owner)._claim(job_id)
    assert world.deliveries(job_id)[0].state is DeliveryState.SENDING
    world.broker.rung.clear()
    world.sweep().round()
    assert world.deliveries(job_id)[0].state is DeliveryState.UNKNOWN
    assert (jobs.DELIVER, job_id) in world.broker.rung


def test_a_lost_doorbell_is_rung_again_within_ten_seconds(world: World) -> None:
    """Redis lost its messages: rounds every second ring once more, and not each second."""
    job_id = world.add_job()
    sweep = world.sweep()
    sweep.round()
    for _ in range(25):
        world.clock.advance(1)
        sweep.round()
    assert world.broker.rung == [(jobs.RUN_JOB, job_id)] * 3  # at once, after 10 s, after 20 s


def test_a_sweep_that_was_restarted_rings_for_what_waits(world: World) -> None:
    """It remembers nothing and needs to remember nothing."""
    job_id = world.add_job()
    with world.database.transaction() as session:
        events.mark_rung(session, [bell for bell, _, _ in events.unrung(session)])
    world.clock.advance(11)
    world.sweep().round()
    assert world.broker.rung == [(jobs.RUN_JOB, job_id)]


def test_an_absent_broker_leaves_the_doorbells_in_the_outbox(world: World) -> None:
    """Studies settle all the same; when the broker is back, each bell is rung."""
    world.keep(*synthetic_ct(slices=4))
    world.clock.advance(61)
    world.broker.away = True
    sweep = world.sweep()
    sweep.round()
    (job,) = world.jobs()
    assert world.bells() == [(jobs.RUN_JOB, job.id)]
    world.broker.away = False
    sweep.round()
    assert world.broker.rung == [(jobs.RUN_JOB, job.id)]
    assert world.bells() == []


def test_a_job_whose_last_word_was_lost_is_called_done(world: World) -> None:
    """Killed after the last acknowledgement and before the job's own row: the sweep rings, delivery closes it."""
    job_id = world.add_job()
    world.publish(world.start(), [], [])
    sweep = world.sweep()
    sweep.round()
    world.broker.rung.clear()
    world.clock.advance(11)
    sweep.round()
    assert world.broker.rung == [(jobs.DELIVER, job_id)]
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    world.broker.rung.clear()
    world.clock.advance(11)
    sweep.round()
    assert world.broker.rung == []


def test_a_retry_wait_ends_with_a_doorbell(world: World) -> None:
    """The next attempt needs no luck."""
    job_id = world.add_job()
    job = world.start()
    with world.database.transaction() as session:
        wait = timedelta(seconds=30)
        jobs.give_back(session, job, reason="boom", at=world.clock(), wait=wait, max_attempts=3)
    sweep = world.sweep()
    sweep.round()
    assert world.job(job_id).state is JobState.RETRY_WAIT
    world.broker.rung.clear()
    world.clock.advance(30)
    sweep.round()
    assert world.job(job_id).state is JobState.PENDING
    assert world.broker.rung == [(jobs.RUN_JOB, job_id)]


def test_one_part_that_fails_delays_no_other(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database error while settling must not keep a dead worker's job."""
    job_id = sqlite_world.add_job()
    sweep = sqlite_world.sweep()

    def fail() -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    monkeypatch.setattr(sweep, "_settle", fail)
    fail.__name__ = "_settle"
    sweep.round()
    assert sqlite_world.broker.rung == [(jobs.RUN_JOB, job_id)]


def test_stale_part_files_go_once_in_a_while(sqlite_world: World) -> None:
    """Left by a listener that died while receiving; nobody was told that they are safe."""
    sweep = sqlite_world.sweep()
    part = sqlite_world.store.root / "instances" / "ab" / "cd" / f"x{PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"")
    os.utime(part, (1, 1))
    sweep.round()
    assert not part.exists()
