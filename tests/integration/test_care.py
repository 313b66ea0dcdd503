"""The commands that look after a node, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from node import cli
from node.cli.common import app
from node.db import jobs
from node.db.session import Database, open_engine
from node.db.tables import DeliveryRow
from node.domain.job import JobState
from node.domain.rule import Rule
from node.domain.study import StudyState
from node.testing import synthetic_ct
from tests.unit.node.conftest import World

STUDY = "2.25.4711"
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[World]:
    """A node's home, as `pacs-node init` makes it."""
    folder = tmp_path / "home"
    assert CliRunner().invoke(app, ["init", "--home", str(folder)]).exit_code == 0
    engine = open_engine(f"sqlite:///{folder / 'node.db'}")
    yield World(Database(engine), folder)
    engine.dispose()


@pytest.fixture
def call(node: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs a command as the shell does: exit code, output, errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["pacs-node", *words, "--home", str(node.home)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def in_conflict(world: World, **first: Any) -> None:
    """Receive two series under one Study Instance UID that name different patients, P-1 first."""
    world.keep(*synthetic_ct(slices=4, patient_id="P-1", **first))
    world.settle()
    world.keep(*synthetic_ct(slices=5, patient_id="P-2", series_number=2), calling_ae="SCANNER2")


def test_a_conflict_is_shown_with_its_patients_on_the_terminal_alone(node: World, call: Call) -> None:
    """Who sent what of whom; events and the study's reason name nobody."""
    in_conflict(node)
    code, out, _ = call("resolve", STUDY)
    assert code == 0
    assert all(word in out for word in ("P-1", "P-2", "SCANNER2", "--keep PATIENT_ID"))
    assert node.study(STUDY).state is StudyState.CONFLICT
    told = f"{node.study(STUDY)} {node.story(study_uid=STUDY)} {[node.story(job_id=job.id) for job in node.jobs()]}"
    assert "P-1" not in told
    assert "P-2" not in told


def test_a_person_keeps_one_patient_and_the_study_is_planned_again(node: World, call: Call) -> None:
    """The other series is set aside, stays on disk, and no job reads it."""
    in_conflict(node)
    assert [job.state for job in node.jobs()] == [JobState.CANCELLED]
    code, out, _ = call("resolve", STUDY, "--keep", "P-2", "--json")
    assert (code, json.loads(out)) == (0, {"study": STUDY, "kept": 5, "set_aside": 4})
    node.settle()
    cancelled, planned = node.jobs()
    assert (cancelled.state, planned.state) == (JobState.CANCELLED, JobState.PENDING)
    assert planned.series_uid == f"{STUDY}.2"
    (event,) = [event for event in node.story(study_uid=STUDY) if event.what == "conflict resolved"]
    assert (event.detail, event.who[:4]) == ("5 instances kept, 4 set aside", "cli:")
    assert len(list((node.home / "store" / "instances").rglob("*.dcm"))) == 9


def test_what_came_first_can_be_kept_without_typing_a_name(node: World, call: Call) -> None:
    """--discard-new: its series is planned anew; the same bytes of the other patient again change nothing."""
    in_conflict(node)
    assert call("resolve", STUDY, "--discard-new")[0] == 0
    node.keep(*synthetic_ct(slices=5, patient_id="P-2", series_number=2))
    assert node.study(STUDY).state is StudyState.OPEN
    node.settle()
    assert [job.series_uid for job in node.jobs()] == [f"{STUDY}.1"] * 2


def test_a_version_that_was_set_aside_gives_its_place_back(node: World, call: Call) -> None:
    """The same instances came again under another patient: the first versions are current again."""
    node.keep(*synthetic_ct(slices=4, patient_id="P-1"))
    node.keep(*synthetic_ct(slices=4, patient_id="P-2"))
    assert call("resolve", STUDY, "--keep", "P-1")[0] == 0
    node.settle()
    (job,) = node.jobs()
    assert node.study(STUDY).instances == 4
    assert job.state is JobState.PENDING


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--keep", "NOBODY"), 3, "no instance of this study names"),
        (("--keep", "P-1", "--discard-new"), 2, "give one of them"),
    ],
)
def test_a_decision_that_cannot_be_meant_is_refused(
    node: World, call: Call, words: tuple[str, ...], code: int, said: str
) -> None:
    """Nothing is guessed at; the study stays in conflict."""
    in_conflict(node)
    found = call("resolve", STUDY, *words)
    assert found[0] == code
    assert said in found[2]
    assert node.study(STUDY).state is StudyState.CONFLICT


def test_only_a_study_in_conflict_waits_for_a_decision(node: World, call: Call) -> None:
    """A settled one says what it is."""
    node.keep(*synthetic_ct(slices=4))
    node.settle()
    code, _, err = call("resolve", STUDY, "--discard-new")
    assert (code, "wait for no decision" in err) == (1, True)


def test_a_study_tells_its_story_in_sentences(node: World, call: Call) -> None:
    """What came, why it settled, which rule took or refused what, and what it waits for; nobody is named."""
    node.keep(*synthetic_ct(slices=4, patient_id="P-1", patient_name="CANARY^NAME"))
    node.keep(*synthetic_ct(slices=2, patient_id="P-1", patient_name="CANARY^NAME", series_number=2))
    node.settle()
    code, out, _ = call("explain", STUDY[:5])
    told = " ".join(out.split())
    assert code == 0
    assert "SCANNER sent 6 instances of 2 series within 5 s" in told
    assert "the study settled, revision 1: no instance for 60 s; 1 job planned" in told
    assert "rule lungs took series 1 (CT, 4 images) for ct-lung" in told
    assert "rule lungs refused series 2 (CT, 2 images): 2 slices, wanted at least 3" in told
    assert "was planned by rule lungs" in told
    assert "a free worker, since" in told
    assert "you should nothing" in told
    assert "CANARY" not in out
    assert "P-1" not in out


def test_the_story_of_a_conflict_ends_with_the_command_that_helps(node: World, call: Call) -> None:
    """And after the decision it tells what was set aside."""
    in_conflict(node)
    story = json.loads(call("explain", STUDY, "--json")[1])
    assert story["next_steps"] == [f"pacs-node resolve {STUDY}"]
    assert call("resolve", STUDY, "--keep", "P-2")[0] == 0
    _, out, _ = call("explain", STUDY)
    told = " ".join(out.split())
    assert "4 instances are set aside now" in told
    assert "5 instances kept, 4 set aside" in told
    assert "P-2" not in out


def test_what_a_peer_took_of_the_wrong_patient_is_named(node: World, call: Call) -> None:
    """The decision came after the delivery: a person has to have it removed, and is told where."""
    node.keep(*synthetic_ct(slices=4, patient_id="P-1"))
    node.settle()
    job = node.start()
    node.publish(job, [("seg", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.500", b"frozen")], ["pacs"])
    with node.database.transaction() as session:
        session.scalars(select(DeliveryRow)).one().state = "acked"
    node.deliverer()._settle_job(job.id)
    node.keep(*synthetic_ct(slices=5, patient_id="P-2", series_number=2))
    assert call("resolve", STUDY, "--keep", "P-2")[0] == 0
    (step,) = json.loads(call("explain", STUDY, "--json")[1])["next_steps"]
    assert step.startswith(f"have the results of job {job.id[:8]} removed from pacs")


def test_a_failed_job_and_a_parked_delivery_are_told_with_their_reasons(node: World, call: Call) -> None:
    """Attempts, results and each peer's state; what a person should do names the job."""
    node.keep(*synthetic_ct(slices=4))
    node.settle()
    job = node.start("gpu@reading-room:abcd:1:1")
    node.publish(job, [("seg", "1.2.840.10008.5.1.4.1.1.66.4", "2.25.500", b"frozen")], ["pacs"])
    with node.database.transaction() as session:
        delivery = session.scalars(select(DeliveryRow)).one()
        delivery.state, delivery.reason = "parked", "the peer refuses the SOP class"
    story = json.loads(call("explain", STUDY, "--json")[1])
    assert [(one["peer"], one["states"], one["reason"]) for one in story["peers"]] == [
        ("pacs", {"parked": 1}, "the peer refuses the SOP class")
    ]
    assert story["next_steps"] == [f"mend it, then pacs-node retry {job.id[:8]}"]
    assert "gpu on reading-room" in [line["who"] for line in story["lines"]]


def test_a_study_is_found_by_its_accession_number(node: World, call: Call) -> None:
    """As a radiologist would name it; a beginning that two share is none."""
    for number, prefix in enumerate(("2.25.11", "2.25.12"), start=1):
        made = synthetic_ct(slices=4, uid_prefix=prefix)
        for ds in made:
            ds.AccessionNumber = f"A-{number}"
        node.keep(*made)
    assert json.loads(call("explain", "A-2", "--json")[1])["study"]["uid"] == "2.25.12"
    code, _, err = call("explain", "2.25.1")
    assert (code, "more than one study" in err) == (3, True)


def test_what_is_paused_is_said_where_a_person_looks(node: World, call: Call) -> None:
    """In status, in the study's story, and in the events, with who and why; resume takes it back."""
    node.keep(*synthetic_ct(slices=4))
    node.settle()
    assert call("pause", "model:ct-lung", "--reason", "new weights tomorrow")[0] == 0
    assert "was paused before" in call("pause", "model:ct-lung")[1]
    story = json.loads(call("explain", STUDY, "--json")[1])
    assert story["waits_for"][0].endswith("a pause to end")
    assert story["next_steps"] == ["pacs-node resume model:ct-lung, once it may go on"]
    assert call("resume", "model:ct-lung")[0] == 0
    code, _, err = call("resume", "model:ct-lung")
    assert (code, "is not paused; paused: nothing" in err) == (3, True)


@pytest.mark.parametrize(
    ("what", "code"), [("model:nothing", 3), ("peer:nobody", 3), ("queue:fast", 3), ("everything", 2), ("queue:gpu", 0)]
)
def test_only_what_is_there_can_be_paused(call: Call, what: str, code: int) -> None:
    """A slip of the pen would halt nothing, and nobody would see it."""
    assert call("pause", what)[0] == code


def test_a_study_that_no_rule_wanted_is_planned_again_by_the_rules_of_today(node: World, call: Call) -> None:
    """The story says how; a study in conflict is not planned behind the person's back."""
    node.keep(*synthetic_ct(slices=2))
    node.settle()
    assert node.jobs() == []
    assert json.loads(call("explain", STUDY, "--json")[1])["next_steps"][0].endswith(f"pacs-node replan {STUDY}")
    node.rules = [Rule(name="all", model="ct-lung")]
    assert call("replan", STUDY)[0] == 0
    node.settle(after=0)
    assert [(job.revision, job.rule) for job in node.jobs()] == [(2, "all")]
    assert call("replan", STUDY)[0] == 0
    node.settle(after=0)
    assert len(node.jobs()) == 1  # the same work on the same images stands
    node.keep(*synthetic_ct(slices=1, patient_id="ANOTHER", series_number=2))
    code, _, err = call("replan", STUDY)
    assert (code, "is conflict" in err) == (1, True)


def test_status_names_what_is_wrong_with_the_command_that_helps(
    node: World, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conflict, a failed job, a parked and a late delivery, a pause, a job that nobody takes."""
    monkeypatch.setenv("PACS_NODE_BROKER_URL", "memory://")  # else two commands wait for a Redis that is not there
    in_conflict(node)
    node.add_job()
    failed = node.start()
    with node.database.transaction() as session:
        jobs.end(session, failed, JobState.FAILED, reason="boom", at=node.clock())
    for peer, state in (("pacs", "parked"), ("archive", "retry_wait")):
        node.add_job()
        node.publish(node.start(), [("seg", "1.2.840.10008.5.1.4.1.1.66.4", f"2.25.{peer}", b"frozen")], [peer])
        with node.database.transaction() as session:
            delivery = session.scalars(select(DeliveryRow).where(DeliveryRow.peer == peer)).one()
            delivery.state, delivery.tries = state, 3
    node.add_job("ct-lung-nodule")
    assert call("pause", "model:ct-lung")[0] == 0
    code, out, _ = call("status", "--json")
    found = {need["what"]: need for need in json.loads(out)["needs"]}
    assert code == 1
    assert set(found) == {"down", "conflict", "failed", "parked", "away", "pending", "paused"}
    assert "pacs-node resolve" in found["conflict"]["helps"]
    assert found["away"]["helps"] == "pacs-node echo archive"
    assert found["paused"]["helps"] == "pacs-node resume model:ct-lung"
    told = " ".join(call("status")[1].split())
    assert all(need["says"] in told for need in found.values() if "since" not in need["says"])
