"""Jobs in the table: one claim wins, fences hold, nothing is forgotten. On both databases."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta

import pytest

from node.db import jobs, lookups, pauses, results
from node.domain.job import ENDED, MOVES, Job, JobState, check_move
from node.errors import IllegalMove, LeaseLost, NotFound
from tests.unit.node.conftest import SEG_CLASS, World

SEG = ("seg", SEG_CLASS, "2.25.500", b"frozen")


def test_of_many_workers_that_hear_one_bell_one_gets_the_job(world: World) -> None:
    """Six threads claim at the same moment, four jobs: each job is held once, nobody fails."""
    wanted = {world.add_job() for _ in range(4)}
    gate, claimed = threading.Barrier(6), list[Job | None]()

    def hear(worker: str) -> None:
        gate.wait()
        claimed.append(world.claim(worker))

    threads = [threading.Thread(target=hear, args=(f"gpu-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = Counter(job.id for job in claimed if job is not None)
    assert len(claimed) == 6
    assert max(held.values()) == 1
    assert set(held) <= wanted
    while job := world.claim():  # SKIP LOCKED may have shown a worker nothing: its next bell brings the rest
        held[job.id] += 1
    assert held == Counter(wanted)


def test_the_most_urgent_job_is_claimed_first_then_the_oldest(world: World) -> None:
    """A STAT study overtakes a backlog."""
    first = world.add_job()
    world.clock.advance(1)
    second = world.add_job()
    world.clock.advance(1)
    stat = world.add_job(priority=1)
    order = [job.id for job in (world.claim(), world.claim(), world.claim()) if job is not None]
    assert order == [stat, first, second]
    assert world.claim() is None


def test_a_job_waits_for_its_time(world: World) -> None:
    """A failed attempt is followed by another only after its wait."""
    world.add_job()
    job = world.start()
    give_back(world, job, wait=30)
    assert world.claim() is None
    wake(world, expected=0)
    world.clock.advance(30)
    wake(world, expected=1)
    again = world.claim()
    assert again is not None
    assert (again.id, again.attempts, again.epoch) == (job.id, 2, 2)


def give_back(world: World, job: Job, *, wait: float = 0.0, most: int = 3) -> Job:
    """End a failed attempt."""
    with world.database.transaction() as session:
        return jobs.give_back(
            session, job, reason="boom", at=world.clock(), wait=timedelta(seconds=wait), max_attempts=most
        )


def wake(world: World, *, expected: int) -> None:
    """Wake what is due and compare how many."""
    with world.database.transaction() as session:
        assert jobs.wake_due(session, now=world.clock()) == expected


def test_attempts_are_counted_and_the_last_one_fails_the_job(world: World) -> None:
    """Three attempts, then a person: the reason says why and how often."""
    world.add_job()
    for attempt in (1, 2, 3):
        job = world.start()
        assert job.attempts == attempt
        ended = give_back(world, job)
        wake(world, expected=0 if attempt == 3 else 1)
    assert ended.state is JobState.FAILED
    assert ended.reason == "boom (attempt 3 of 3)"
    assert [event.what for event in world.story(job_id=job.id)].count("claimed") == 3


def test_a_worker_that_lost_its_lease_publishes_nothing(world: World) -> None:
    """The job was freed and taken by another: the first worker's results, deliveries and events are void."""
    world.add_job()
    late = world.start("gpu-0")
    give_back(world, late)  # as the sweep does
    wake(world, expected=1)
    world.start("gpu-1")
    before = world.story(job_id=late.id)
    with pytest.raises(LeaseLost, match="no longer held under epoch 1"):
        world.publish(late, [SEG], ["pacs"])
    assert world.deliveries(late.id) == []
    assert world.story(job_id=late.id) == before
    assert world.job(late.id).owner == "gpu-1"


def test_every_fenced_act_of_a_cancelled_attempt_changes_nothing(world: World) -> None:
    """After a person cancelled, the worker can neither end, give back, nor prolong."""
    job_id = world.add_job()
    job = world.start()
    with world.database.transaction() as session:
        jobs.cancel(session, job_id, who="admin", at=world.clock())
    with pytest.raises(LeaseLost):
        give_back(world, job)
    with pytest.raises(LeaseLost), world.database.transaction() as session:
        jobs.end(session, job, JobState.INPUT_INVALID, reason="late", at=world.clock())
    assert not beat(world, job)
    assert world.job(job_id).state is JobState.CANCELLED


def beat(world: World, job: Job) -> bool:
    """Prolong the lease by a minute."""
    with world.database.transaction() as session:
        return jobs.beat(
            session, job, now=world.clock(), lease=timedelta(seconds=60), progress=0.5, stage="half way"
        )


def test_a_beat_prolongs_the_lease_and_shows_progress(world: World) -> None:
    """The row says what a person wants to see, and until when the worker is believed."""
    world.add_job()
    job = world.start()
    world.clock.advance(40)
    assert beat(world, job)
    now = world.job(job.id)
    assert (now.progress, now.stage) == (0.5, "half way")
    assert now.lease_until == world.clock() + timedelta(seconds=60)


def test_publishing_records_results_deliveries_event_and_doorbell_together(world: World) -> None:
    """One transaction: the set, one delivery for each result and peer, the bell."""
    job_id = world.add_job()
    world.publish(world.start(), [SEG, ("sr", "1.2", "2.25.501", b"words")], ["pacs", "archive"])
    assert world.job(job_id).state is JobState.RESULT_READY
    expected = [("archive", "queued")] * 2 + [("pacs", "queued")] * 2
    assert [(d.peer, d.state) for d in world.deliveries(job_id)] == expected
    assert world.story(job_id=job_id)[-1].detail == "2 results for pacs, archive"
    assert world.bells()[-1] == (jobs.DELIVER, job_id)


def test_a_cancelled_job_that_runs_again_writes_its_results_anew(world: World) -> None:
    """The same instances under the same UIDs replace the rows of the first run."""
    job_id = world.add_job()
    world.publish(world.start(), [SEG], ["pacs"])
    with world.database.transaction() as session:
        jobs.cancel(session, job_id, who="admin", at=world.clock())
        jobs.retry(session, job_id, model_digest="d" * 64, who="admin", at=world.clock())
    world.publish(world.start(), [SEG], ["pacs"])
    with world.database.reading() as session:
        assert [result.sop_uid for result in results.results_of(session, job_id)] == ["2.25.500"]
    assert len(world.deliveries(job_id)) == 1


def test_retry_and_cancel_by_the_beginning_of_an_id_are_in_the_jobs_own_story(world: World) -> None:
    """A person types eight letters; event and doorbell carry the whole id."""
    job_id = world.add_job()
    with world.database.transaction() as session:
        jobs.cancel(session, job_id[:8], who="admin", at=world.clock())
        jobs.retry(session, job_id[:8], model_digest="d" * 64, who="admin", at=world.clock())
    assert [event.what for event in world.story(job_id=job_id)] == ["planned", "cancelled", "retried"]
    assert world.bells() == [("run_job", job_id)] * 2  # one for its planning, one for the retry


def test_an_unknown_or_ambiguous_id_is_no_job(world: World) -> None:
    """Neither nothing nor two jobs are guessed at."""
    with pytest.raises(NotFound, match="there is no job"):
        world.job("nothing")
    world.add_job()
    world.add_job()
    with pytest.raises(NotFound, match="more than one"):
        world.job("")


@pytest.mark.parametrize("old", list(JobState))
@pytest.mark.parametrize("new", list(JobState))
def test_only_the_listed_moves_are_legal(old: JobState, new: JobState) -> None:
    """Every pair of states is either listed or refused by name."""
    if new in MOVES[old]:
        check_move("j", old, new)
    else:
        with pytest.raises(IllegalMove, match=f"{old} and cannot become {new}"):
            check_move("j", old, new)


def test_an_ended_job_leaves_its_state_only_on_a_persons_word() -> None:
    """Pending again, or, where its results exist already, to their delivery."""
    assert all(MOVES[state] <= {JobState.PENDING} for state in ENDED - {JobState.CANCELLED})
    assert MOVES[JobState.CANCELLED] == {JobState.PENDING, JobState.RESULT_READY}


def test_routine_work_does_not_starve_behind_urgent_work(world: World) -> None:
    """Each half hour of waiting makes a job as urgent as a fresh one of the next priority."""
    old = world.add_job(priority=5)
    world.clock.advance(4 * 30 * 60 + 1)
    urgent = world.add_job(priority=1)
    claimed = [world.claim(), world.claim()]
    assert [job.id for job in claimed if job] == [old, urgent]


def test_a_missed_deadline_is_told_once(world: World) -> None:
    """Of a job whose results are not everywhere by then; never of one without a deadline, or that has ended."""
    job_id = world.add_job(deadline=timedelta(minutes=10))
    world.add_job()
    world.clock.advance(599)
    for _ in range(2):
        world.sweep().round()
    assert not world.job(job_id).late
    world.clock.advance(2)
    for _ in range(2):
        world.sweep().round()
    assert world.job(job_id).late
    assert [one.what for one in world.story(job_id=job_id)].count("deadline missed") == 1


@pytest.mark.parametrize("what", ["node", "queue:gpu", "model:ct-lung"])
def test_a_paused_job_is_not_claimed(world: World, what: str) -> None:
    """It waits, and is taken when the pause ends; other models go on."""
    world.add_job()
    with world.database.transaction() as session:
        pauses.put(session, what, reason="test", who="person", at=world.clock())
        pauses.put(session, "model:another", reason="test", who="person", at=world.clock())
        pauses.put(session, "queue:io", reason="test", who="person", at=world.clock())
    assert world.claim() is None
    with world.database.transaction() as session:
        pauses.end(session, what, who="person", at=world.clock())
    assert world.claim() is not None


def test_an_attempt_that_is_given_back_does_not_count(world: World) -> None:
    """A worker that is stopped for an upgrade leaves the job as it found it, and rings for another."""
    world.add_job()
    job = world.start()
    with world.database.transaction() as session:
        jobs.release(session, job, reason="the worker was stopped", at=world.clock())
    back = world.job(job.id)
    assert (back.state, back.attempts, back.owner, back.lease_until) == (JobState.PENDING, 0, "", None)
    assert back.epoch == job.epoch
    assert world.bells()[-1] == ("run_job", job.id)
    with pytest.raises(LeaseLost), world.database.transaction() as session:
        jobs.release(session, job, reason="again", at=world.clock())


def test_when_results_are_expected_follows_from_earlier_runs_and_what_is_ahead(world: World) -> None:
    """Nobody knows before the first run; then each job ahead costs one usual run."""
    first = world.add_job()
    now = world.clock
    with world.database.reading() as session:
        assert lookups.expected_end(session, world.job(first), now=now()) is None
    job = world.start()
    now.advance(40)
    world.publish(job, [("seg", SEG_CLASS, "2.25.1", b"x")], ["pacs"])
    waiting = [world.add_job() for _ in range(3)]
    with world.database.reading() as session:
        ends = [lookups.expected_end(session, world.job(one), now=now()) for one in waiting]
        done = lookups.expected_end(session, world.job(first), now=now())
    assert [end - now() for end in ends if end] == [timedelta(seconds=40)] * 3  # of one rank: none is ahead of another
    assert done is None
    running = world.start()
    now.advance(10)
    with world.database.reading() as session:
        assert lookups.expected_end(session, running, now=now()) == now() + timedelta(seconds=30)
        left = next(one for one in waiting if one != running.id)
        assert (lookups.expected_end(session, world.job(left), now=now()) or now()) >= now() + timedelta(seconds=80)
        now.advance(60)
        assert lookups.expected_end(session, running, now=now()) is None


def test_the_heart_of_a_worker_that_was_replaced_does_not_beat_for_the_next(world: World) -> None:
    """Its beat is no longer the job's: it learns so, and prolongs nobody's lease."""
    world.add_job()
    slow = world.start("gpu-slow")
    world.clock.advance(61)
    world.sweep().round()
    quick = world.start("gpu-quick")
    assert (quick.id, quick.epoch) == (slow.id, slow.epoch + 1)
    world.clock.advance(5)
    with world.database.transaction() as session:
        assert not jobs.beat(
            session, slow, now=world.clock(), lease=timedelta(seconds=60), progress=0.9, stage="slow"
        )
    assert (world.job(quick.id).lease_until, world.job(quick.id).stage) == (quick.lease_until, quick.stage)
