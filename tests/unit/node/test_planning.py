"""From received instances to planned jobs: quiet time, revisions, reasons."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.db import chosen, jobs, results
from node.db.results import Outcome
from node.domain.job import JobState
from node.domain.result import DeliveryState
from node.domain.rule import LateImages
from node.domain.study import StudyState
from node.errors import IllegalMove
from node.planning import digest_of
from node.steering import retry_job
from node.testing import synthetic_ct
from tests.unit.node.conftest import RULE, SEG_CLASS, World

STUDY = "2.25.4711"


def test_a_study_settles_only_after_its_quiet_time(world: World) -> None:
    """One second too early nothing happens; then one job is planned with its inputs and its doorbell."""
    world.keep(*synthetic_ct(slices=4))  # the last one came one second ago
    assert world.settle(58) == []
    (planned,) = world.settle(1)
    assert (planned.study_uid, planned.revision, planned.reason) == (STUDY, 1, "no instance for 60 s; 1 job planned")
    (job,) = world.jobs()
    assert (job.state, job.rule, job.calling_ae, job.destinations) == (JobState.PENDING, "lungs", "SCANNER", ("pacs",))
    with world.database.reading() as session:
        assert len(jobs.inputs(session, job.id)) == 4
    assert world.bells() == [(jobs.RUN_JOB, job.id)]
    assert world.study(STUDY).state is StudyState.SETTLED
    assert world.settle() == []


def test_every_refused_series_keeps_its_reason(world: World) -> None:
    """The localizer and the short series are not run, and the table says why; the longest series is."""
    world.keep(*synthetic_ct(slices=4, series_number=1))
    world.keep(*synthetic_ct(slices=1, series_number=2, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")))
    world.keep(*synthetic_ct(slices=5, series_number=3))
    world.keep(*synthetic_ct(slices=3, series_number=4, modality="MR"))
    world.settle()
    with world.database.reading() as session:
        reasons = {choice.series_uid[-1]: choice.reason for choice in chosen.of_study(session, STUDY)}
    assert reasons == {
        "1": "series 3 suits better (5 slices)",
        "2": "1 slices, wanted at least 3",
        "3": "",
        "4": "modality is MR, wanted CT",
    }
    assert [job.series_uid for job in world.jobs()] == [f"{STUDY}.3"]


def test_a_study_that_no_rule_wants_is_settled_and_says_so(world: World) -> None:
    """Nothing vanishes: the study shows, with why it has no job."""
    world.keep(*synthetic_ct(slices=3, modality="MR"))
    world.settle()
    study = world.study(STUDY)
    assert (study.state, study.reason) == (StudyState.SETTLED, "no instance for 60 s; no rule wants any of its series")
    assert world.jobs() == []


def test_two_rules_for_one_model_plan_one_job(world: World) -> None:
    """The first rule decides; the second says which one was first."""
    world.rules.append(replace(RULE, name="second"))
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    assert [job.rule for job in world.jobs()] == ["lungs"]
    with world.database.reading() as session:
        reasons = {choice.rule: choice.reason for choice in chosen.of_study(session, STUDY)}
    assert reasons["second"] == "model ct-lung is already asked by rule lungs"


def test_a_late_instance_opens_revision_2_and_supersedes_the_pending_job(world: World) -> None:
    """The old job would read too few images; the new one reads all."""
    images = synthetic_ct(slices=5)
    world.keep(*images[:4])
    world.settle()
    world.keep(images[4])
    assert world.study(STUDY).state is StudyState.OPEN
    world.settle()
    old, new = world.jobs()
    assert (old.state, old.reason) == (JobState.SUPERSEDED, "revision 2 of the study took its place")
    assert (new.state, new.revision) == (JobState.PENDING, 2)
    with world.database.reading() as session:
        assert len(jobs.inputs(session, new.id)) == 5
    what = [event.what for event in world.story(study_uid=STUDY)]
    assert what == ["settled", "reopened", "settled"]


def test_a_worker_at_an_older_revision_loses_its_job(world: World) -> None:
    """A running job is superseded too: its epoch moves on, and what it makes is void."""
    images = synthetic_ct(slices=5)
    world.keep(*images[:4])
    world.settle()
    running = world.start()
    world.keep(images[4])
    world.settle()
    superseded = world.job(running.id)
    assert (superseded.state, superseded.epoch) == (JobState.SUPERSEDED, running.epoch + 1)


def published(world: World, *, sent: bool) -> str:
    """Return a job whose set is ready, and tried to be sent once where it is *sent*; then a late instance came."""
    images = synthetic_ct(slices=5)
    world.keep(*images[:4])
    world.settle()
    job = world.start()
    world.publish(job, [("seg", SEG_CLASS, "2.25.77", b"x")], ["pacs"])
    if sent:
        with world.database.transaction() as session:
            ((delivery, _),) = results.claim(
                session, job.id, worker="io", now=world.clock(), lease=timedelta(seconds=60)
            )
            jobs.advance(session, jobs.get(session, job.id), JobState.DELIVERING, at=world.clock())
            results.conclude(
                session, delivery, Outcome(state=DeliveryState.ACKED, status="0000"), worker="io", at=world.clock()
            )
    world.keep(images[4])
    world.settle()
    return job.id


def test_a_set_that_nobody_was_sent_is_dropped_for_the_newer_revision(world: World) -> None:
    """Two results of one study, the older of which nobody has seen, would only contradict each other."""
    job_id = published(world, sent=False)
    assert world.job(job_id).state is JobState.SUPERSEDED
    assert [one.state for one in world.deliveries(job_id)] == [DeliveryState.CANCELLED]
    assert [job.revision for job in world.jobs()] == [1, 2]


def test_a_set_that_was_sent_is_revised(world: World) -> None:
    """The PACS keeps the first; the second names it."""
    job_id = published(world, sent=True)
    assert world.job(job_id).state is JobState.DELIVERING
    assert [(job.revision, job.state) for job in world.jobs()][1:] == [(2, JobState.PENDING)]


def test_a_rule_may_keep_the_result_that_was_sent(world: World) -> None:
    """No second job; the first says why."""
    world.rules = [replace(RULE, late_images=LateImages.KEEP)]
    job_id = published(world, sent=True)
    assert [job.id for job in world.jobs()] == [job_id]
    assert world.story(job_id=job_id)[-1].what == "late images not read"


def test_the_same_images_again_need_no_second_job(world: World) -> None:
    """A resend with other bytes of another series reopens the study; the lungs' result still stands."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    job = world.start()
    world.publish(job, [("seg", SEG_CLASS, "2.25.77", b"x")], ["pacs"])
    world.keep(*synthetic_ct(slices=2, series_number=2))
    (planned,) = world.settle()
    assert (planned.revision, planned.job_ids) == (2, ())
    assert planned.reason == "no instance for 60 s; the results that exist still hold"
    assert [one.id for one in world.jobs()] == [job.id]
    assert world.story(job_id=job.id)[-1].what == "still valid"


def test_a_job_that_already_reads_the_same_images_runs_on(world: World) -> None:
    """A dose report that comes late costs no running work: the running job is not superseded."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    running = world.start()
    world.keep(*synthetic_ct(slices=1, series_number=9, modality="SR"))
    world.settle()
    now = world.job(running.id)
    assert (now.state, now.epoch) == (JobState.RUNNING, running.epoch)
    assert len(world.jobs()) == 1


def test_the_same_bytes_again_leave_a_settled_study_settled(world: World) -> None:
    """A modality that sends everything twice wakes nobody."""
    images = synthetic_ct(slices=4)
    world.keep(*images)
    world.settle()
    world.keep(*images)
    assert world.study(STUDY).state is StudyState.SETTLED
    assert world.settle() == []


def test_our_own_results_never_wake_the_study(world: World) -> None:
    """A PACS that routes everything back to us must not start a loop: by manufacturer, and by recorded UID."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    world.publish(world.start(), [("seg", SEG_CLASS, f"{STUDY}.8.1", b"x")], ["pacs"])
    world.keep(*synthetic_ct(slices=1, series_number=7, manufacturer="pacs-ai-node"))
    world.keep(*synthetic_ct(slices=1, series_number=8))
    assert world.study(STUDY).state is StudyState.SETTLED
    assert world.study(STUDY).instances == 6
    assert world.settle() == []


def test_a_study_in_conflict_gets_no_job(world: World) -> None:
    """Two patients under one Study UID: kept, shown, not run."""
    world.keep(*synthetic_ct(slices=4))
    world.keep(*synthetic_ct(slices=1, series_number=2, patient_id="SOMEBODY-ELSE"))
    assert world.settle() == []
    assert world.study(STUDY).state is StudyState.CONFLICT
    assert world.jobs() == []
    assert [event.what for event in world.story(study_uid=STUDY)] == ["conflict"]


def test_another_patient_s_instance_stops_what_is_under_way(world: World) -> None:
    """A result that may lie under the wrong patient is not sent: the running job is taken, the waiting sending ends."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    ready = world.start()
    world.publish(ready, [("seg", SEG_CLASS, f"{STUDY}.8.1", b"x")], ["pacs"])
    world.keep(*synthetic_ct(slices=1, series_number=2, patient_id="SOMEBODY-ELSE"))
    (job,) = world.jobs()
    assert job.state is JobState.CANCELLED
    assert "different patients" in job.reason
    assert [delivery.state for delivery in world.deliveries(job.id)] == [DeliveryState.CANCELLED]
    with pytest.raises(IllegalMove, match="different patients"):
        retry_job(world.database, job.id, who="admin", at=world.clock())


_PAIRS = st.tuples(st.text("0123456789.", min_size=1, max_size=64), st.text("0123456789abcdef", min_size=64))


@settings(max_examples=40)
@given(pairs=st.lists(_PAIRS, min_size=1, max_size=6, unique=True), chance=st.randoms())
def test_the_digest_of_inputs_does_not_depend_on_their_order(
    pairs: list[tuple[str, str]], chance: random.Random
) -> None:
    """Any order gives the same digest; leaving one out gives another."""
    mixed = chance.sample(pairs, len(pairs))
    assert digest_of(mixed) == digest_of(pairs)
    assert digest_of(pairs[1:]) != digest_of(pairs)


def test_a_rule_that_goes_leaves_its_jobs_what_was_planned(world: World) -> None:
    """The node is started anew without the rule: what waits is run and sent all the same."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    world.rules.clear()
    world.sweep().round()
    job = world.start()
    world.publish(job, [("seg", SEG_CLASS, "2.25.77", b"a")], job.destinations)
    assert [one.peer for one in world.deliveries(job.id)] == ["pacs"]
    assert world.job(job.id).rule == "lungs"
