"""The commands that look after a node, as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from node import cli
from node.cli.common import app
from node.db.session import Database, open_engine
from node.domain.job import JobState
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
