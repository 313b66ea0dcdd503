"""A series that the model declines gives way to the next best: once, whatever happens in between. On both databases."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from node.db import chosen, jobs
from node.domain.job import Job, JobState
from node.errors import LeaseLost
from node.planning import decline
from node.steering import cancel_job, retry_job
from node.story import tell
from node.testing import synthetic_ct
from tests.unit.node.conftest import RULE, SEG_CLASS, World
from tests.unit.node.test_life_of_a_job import dying

STUDY = "2.25.4711"
WHY = "no lung is in view"
N_A = JobState.NOT_APPLICABLE


def two_series(world: World) -> Job:
    """Receive series 3 (6 slices), 5 (4 slices) and 7 (too short for the rule); return the running job over 3."""
    world.keep(*synthetic_ct(slices=6, series_number=3))
    world.keep(*synthetic_ct(slices=4, series_number=5))
    world.keep(*synthetic_ct(slices=2, series_number=7))
    world.settle()
    job = world.start()
    assert job.series_uid == f"{STUDY}.3"
    return job


def declined(world: World, job: Job, why: str = WHY) -> None:
    """Let the model decline what *job* reads."""
    with world.database.transaction() as session:
        decline(session, job, reason=why, now=world.clock())


def stand(world: World) -> list[tuple[str, int, JobState]]:
    """Return (series number, revision, state) of all jobs."""
    return sorted((job.series_uid.removeprefix(f"{STUDY}."), job.revision, job.state) for job in world.jobs())


def said(world: World) -> dict[str, str]:
    """Return what is said of each series of the study as it settled last."""
    with world.database.reading() as session:
        return {one.series_uid.removeprefix(f"{STUDY}."): one.reason for one in chosen.of_study(session, STUDY)}


def test_the_next_best_series_is_read_with_all_that_was_asked(world: World) -> None:
    """Same rule, revision, destinations and deadline; its own images; a doorbell; both jobs tell why."""
    world.rules = [replace(RULE, priority=2, deadline=timedelta(hours=1))]
    first = two_series(world)
    world.clock.advance(30)
    declined(world, first)
    assert stand(world) == [("3", 1, N_A), ("5", 1, JobState.PENDING)]
    (second,) = [job for job in world.jobs() if job.id != first.id]
    for name in ("rule", "model", "model_digest", "priority", "destinations", "settled_at", "deadline_at", "revision"):
        assert getattr(second, name) == getattr(first, name), name
    with world.database.reading() as session:
        assert {one.series_uid for one in jobs.inputs(session, second.id)} == {f"{STUDY}.5"}
        assert len(jobs.inputs(session, second.id)) == 4
    assert (jobs.RUN_JOB, second.id) in world.bells()
    for job in (first, second):
        told = [event.detail for event in world.story(job_id=job.id) if event.what == "next series"]
        assert told == [f"series 3 was declined: {WHY}; series 5 is tried instead"]
    assert said(world) == {"3": f"the model declined it: {WHY}", "5": "", "7": "2 slices, wanted at least 3"}


def test_those_further_down_name_the_series_that_is_read_now(sqlite_world: World) -> None:
    """They were worse than the one that was declined; what counts is that they are worse than the next."""
    world = sqlite_world
    for number, slices in ((3, 6), (5, 5), (7, 4)):
        world.keep(*synthetic_ct(slices=slices, series_number=number))
    world.settle()
    better = "series {} suits better ({} slices)".format
    assert said(world) == {"3": "", "5": better(3, 6), "7": better(3, 6)}
    declined(world, world.start())
    assert said(world) == {"3": f"the model declined it: {WHY}", "5": "", "7": better(5, 5)}


def test_the_story_tells_which_series_was_declined_and_which_is_read(sqlite_world: World) -> None:
    """The rule did not refuse it: the model did."""
    declined(sqlite_world, two_series(sqlite_world))
    with sqlite_world.database.reading() as session:
        lines = [line.says for line in tell(session, STUDY, now=sqlite_world.clock(), quiet=timedelta(minutes=1)).lines]
    took = f"rule lungs took series 3 (CT, 6 images) for ct-lung, but the model declined it: {WHY}"
    assert took in lines and "rule lungs took series 5 (CT, 4 images) for ct-lung" in lines
    assert any("goes on to the next series: series 3 was declined" in line for line in lines)


def test_a_model_that_declines_all_ends_the_study(sqlite_world: World) -> None:
    """The last job ends as the first did; what no rule took is never read."""
    declined(sqlite_world, two_series(sqlite_world))
    declined(sqlite_world, sqlite_world.start(), "nor here")
    assert stand(sqlite_world) == [("3", 1, N_A), ("5", 1, N_A)]
    assert sqlite_world.claim() is None
    reasons = said(sqlite_world)
    assert (reasons["3"], reasons["5"]) == (f"the model declined it: {WHY}", "the model declined it: nor here")


def test_wherever_it_dies_there_is_one_next_job_or_none(world: World) -> None:
    """Before each statement and before the commit: nothing of it is there, and the job is still held."""
    job = two_series(world)
    deaths = 0
    for after in range(100):
        with dying(world.database, after):
            declined(world, job)
        if world.job(job.id).state is N_A:
            break
        deaths += 1
        assert stand(world) == [("3", 1, JobState.RUNNING)]
        assert said(world)["3"] == ""
    assert deaths > 8
    assert stand(world) == [("3", 1, N_A), ("5", 1, JobState.PENDING)]


def test_of_two_workers_that_decline_one_job_one_is_heard(world: World) -> None:
    """The other has lost its lease; one job follows."""
    job = two_series(world)
    both, lost = threading.Barrier(2), []

    def work() -> None:
        both.wait()
        try:
            declined(world, job)
        except LeaseLost:
            lost.append(1)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == [1]
    assert stand(world) == [("3", 1, N_A), ("5", 1, JobState.PENDING)]
    assert [bell for bell in world.bells() if bell[1] != job.id] == [(jobs.RUN_JOB, world.start().id)]


def test_a_cancelled_job_plans_nothing(sqlite_world: World) -> None:
    """What a person ended stays ended."""
    job = two_series(sqlite_world)
    cancel_job(sqlite_world.database, job.id, who="web", at=sqlite_world.clock())
    with pytest.raises(LeaseLost):
        declined(sqlite_world, job)
    assert stand(sqlite_world) == [("3", 1, JobState.CANCELLED)]


def test_a_study_that_is_open_again_goes_on_when_it_settles(world: World) -> None:
    """Images came meanwhile: the new revision skips what was declined, and reads all of the next."""
    images = synthetic_ct(slices=5, series_number=5)
    world.keep(*synthetic_ct(slices=6, series_number=3), *images[:4])
    world.settle()
    job = world.start()
    world.keep(images[4])
    declined(world, job)
    assert stand(world) == [("3", 1, N_A)]
    world.settle()
    assert stand(world) == [("3", 1, N_A), ("5", 2, JobState.PENDING)]
    assert said(world) == {"3": f"the model declined it: {WHY}", "5": ""}
    with world.database.reading() as session:
        assert len(jobs.inputs(session, world.start().id)) == 5


def test_a_job_that_still_holds_for_a_newer_revision_is_followed_there(world: World) -> None:
    """A dose report came meanwhile and changed nothing for the model; the next series is read all the same."""
    job = two_series(world)
    world.keep(*synthetic_ct(slices=1, series_number=9, modality="SR"))
    world.settle()
    declined(world, job)
    assert stand(world) == [("3", 1, N_A), ("5", 2, JobState.PENDING)]


def test_a_newer_revision_lets_the_next_series_run_on(sqlite_world: World) -> None:
    """It settles again while the second job runs: that job is what the model is asked, and is not superseded."""
    declined(sqlite_world, two_series(sqlite_world))
    running = sqlite_world.start()
    sqlite_world.keep(*synthetic_ct(slices=1, series_number=9, modality="SR"))
    (planned,) = sqlite_world.settle()
    assert planned.job_ids == ()
    now = sqlite_world.job(running.id)
    assert (now.state, now.epoch) == (JobState.RUNNING, running.epoch)
    assert stand(sqlite_world) == [("3", 1, N_A), ("5", 1, JobState.RUNNING)]
    assert said(sqlite_world)["5"] == ""


def test_a_declined_job_that_is_run_again_and_declined_again_plans_no_second(world: World) -> None:
    """Each series is tried once; a person may only have one run again."""
    first = two_series(world)
    declined(world, first)
    second = world.start()
    retry_job(world.database, first.id, who="web", at=world.clock())
    declined(world, world.start())
    assert stand(world) == [("3", 1, N_A), ("5", 1, JobState.RUNNING)]
    assert said(world)["5"] == ""
    declined(world, second)
    assert stand(world) == [("3", 1, N_A), ("5", 1, N_A)]


def test_a_series_that_has_its_result_is_not_read_twice(world: World) -> None:
    """The best one came late and is declined: the result of the other, which was sent, stands."""
    world.keep(*synthetic_ct(slices=4, series_number=5))
    world.settle()
    done = world.start()
    world.publish(done, [("seg", SEG_CLASS, "2.25.77", b"x")], ["pacs"])
    with world.database.transaction() as session:
        jobs.advance(session, jobs.get(session, done.id), JobState.DELIVERING, at=world.clock())
    world.keep(*synthetic_ct(slices=6, series_number=3))
    world.settle()
    declined(world, world.start())
    assert stand(world) == [("3", 2, N_A), ("5", 1, JobState.DELIVERING)]
    assert world.story(job_id=done.id)[-1].detail == f"series 3 was declined: {WHY}; series 5 was tried before"


def test_an_outdated_job_that_a_person_has_run_again_speaks_for_itself_only(world: World) -> None:
    """The study has more images of that series by now, and another job reads them: no third one."""
    images = synthetic_ct(slices=6, series_number=3)
    world.keep(*images[:5], *synthetic_ct(slices=4, series_number=5))
    world.settle()
    outdated = world.start()
    cancel_job(world.database, outdated.id, who="web", at=world.clock())
    world.keep(images[5])
    world.settle()
    current = world.start()
    retry_job(world.database, outdated.id, who="web", at=world.clock())
    declined(world, world.start())
    assert stand(world) == [("3", 1, N_A), ("3", 2, JobState.RUNNING)]
    assert said(world)["3"] == ""
    declined(world, current)
    assert stand(world) == [("3", 1, N_A), ("3", 2, N_A), ("5", 2, JobState.PENDING)]
