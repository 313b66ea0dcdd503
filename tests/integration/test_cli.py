"""The command line: tables for people, JSON for machines, exit codes that mean something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from node import cli
from node.cli.common import app
from node.db import jobs
from node.db.session import Database, open_engine
from node.domain.job import JobState
from node.testing import ScriptedPacs, synthetic_ct, write_series
from tests.unit.node.conftest import World

STUDY = "2.25.4711"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A node's home, as `pacs-node init` makes it, with one settled study and its job."""
    folder = tmp_path / "home"
    assert CliRunner().invoke(app, ["init", "--home", str(folder)]).exit_code == 0
    engine = open_engine(f"sqlite:///{folder / 'node.db'}")
    world = World(Database(engine), folder)
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    engine.dispose()
    return folder


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run the command as the shell does; return exit code, output and errors."""
    monkeypatch.setattr("sys.argv", ["pacs-node", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_init_makes_a_configuration_that_is_valid_as_it_stands(home: Path) -> None:
    """The template's comments are true: nothing in it stops a node from starting."""
    assert "[[peer]]" in (home / "pacs-node.toml").read_text()
    assert CliRunner().invoke(app, ["jobs", "--home", str(home)]).exit_code == 0


@pytest.mark.parametrize("command", ["jobs", "studies", "status"])
def test_each_table_is_json_for_machines(
    home: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What --json prints parses, and holds the study."""
    code, out, _ = call(monkeypatch, capsys, command, "--home", str(home), "--json")
    assert code == (1 if command == "status" else 0)  # no node is up in this home: a person is needed
    text = json.dumps(json.loads(out))
    assert STUDY in text or '"pending": 1' in text


def test_a_job_is_found_by_the_beginning_of_its_id_and_can_be_cancelled_and_retried(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steering writes events that say who did it; an illegal move is refused with exit code 1."""
    _, out, _ = call(monkeypatch, capsys, "jobs", "--home", str(home), "--json")
    job_id = json.loads(out)[0]["id"]
    assert call(monkeypatch, capsys, "cancel", job_id[:8], "--home", str(home))[0] == 0
    code, _, err = call(monkeypatch, capsys, "cancel", job_id[:8], "--home", str(home))
    assert (code, "cannot become cancelled" in err) == (1, True)
    assert call(monkeypatch, capsys, "retry", job_id[:8], "--home", str(home))[0] == 0
    _, out, _ = call(monkeypatch, capsys, "job", job_id[:8], "--home", str(home), "--json")
    story = json.loads(out)
    assert story["job"]["state"] == JobState.PENDING
    assert [event["what"] for event in story["events"]] == ["planned", "cancelled", "retried"]
    assert story["events"][1]["who"].startswith("cli:")


def test_the_story_of_a_study_tells_what_each_rule_said(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people: the series, and that a rule took it."""
    code, out, _ = call(monkeypatch, capsys, "study", STUDY, "--home", str(home))
    assert code == 0
    assert "taken" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("job", "nothing"), 3, "there is no job"),
        (("study", "1.2.3"), 3, "there is no study"),
        (("echo", "nobody"), 3, "there is no peer"),
    ],
)
def test_what_is_not_there_is_exit_code_3(
    home: Path, words: tuple[str, ...], code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """One line says what is missing."""
    found = call(monkeypatch, capsys, *words, "--home", str(home))
    assert found[0] == code
    assert said in found[2]


def test_a_mistake_in_the_file_is_exit_code_2_and_names_its_place(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """File and field stand in the message."""
    (home / "pacs-node.toml").write_text("port = 0\n", encoding="utf-8")
    code, _, err = call(monkeypatch, capsys, "jobs", "--home", str(home))
    assert code == 2
    assert "pacs-node.toml" in err
    assert "port" in err


def test_send_and_echo_reach_a_peer_and_say_when_it_is_away(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with a stray text file in it is sent; a peer that is gone is exit code 4."""
    write_series(synthetic_ct(slices=3), tmp_path / "series")
    (tmp_path / "series" / "notes.txt").write_text("not DICOM")
    with ScriptedPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        lines = f'[[peer]]\nname = "pacs"\nae_title = "PACS"\nport = {pacs.port}\ntimeout = 5\n'
        (home / "pacs-node.toml").write_text(lines, encoding="utf-8")
        assert call(monkeypatch, capsys, "echo", "pacs", "--home", str(home))[0] == 0
        code, out, _ = call(
            monkeypatch, capsys, "send", str(tmp_path / "series"), "--to", "pacs", "--home", str(home), "--json"
        )
        assert code == 0
        sent = json.loads(out)
        assert (sent["sent"], len(sent["skipped"])) == (3, 1)
        assert len(pacs.received) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_that_is_away_is_exit_code_4(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message asks what a person would ask."""
    with ScriptedPacs(tmp_path / "pacs", ae_title="PACS") as pacs:
        port = pacs.port
    lines = f'[[peer]]\nname = "pacs"\nae_title = "PACS"\nport = {port}\ntimeout = 5\n'
    (home / "pacs-node.toml").write_text(lines, encoding="utf-8")
    code, _, err = call(monkeypatch, capsys, "echo", "pacs", "--home", str(home))
    assert code == 4
    assert "is it running" in err


def test_models_are_listed_with_their_limits(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No home is needed."""
    code, out, _ = call(monkeypatch, capsys, "models", "--json")
    assert code == 0
    assert {card["name"] for card in json.loads(out)} == {"ct-lung", "ct-lung-nodule"}
    assert all(card["limits"] for card in json.loads(out))


def test_jobs_is_also_a_table_for_people(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """State and model stand in it."""
    _, out, _ = call(monkeypatch, capsys, "jobs", "--home", str(home), "--state", "pending")
    assert "ct-lung" in out
    assert jobs.RUN_JOB not in out
