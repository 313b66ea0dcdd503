"""Verdicts from end to end: through the DICOM door, on the pages, in the metrics and on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydicom.sr.codedict import codes

from models import catalogue
from node.db import jobs, verdicts
from node.db.session import Database, open_engine
from node.db.tables import VerdictRow
from node.domain.verdict import Change, MatchedBy, VerdictKind
from node.sweep import Sweep
from tests.integration.conftest import Door
from tests.integration.test_cli import call
from tests.integration.test_scp import send
from tests.unit.node.conftest import RecordingBroker, World
from tests.verdict_scene import RIGHT, Reading, draw, edited, key_objects
from tests.web_scene import CANARY, PATIENT, Scene, new_scene, served


def test_an_edit_that_a_pacs_sends_becomes_the_verdict_of_its_job(door: Door) -> None:
    """C-STORE, commit, sweep: a corrected Segmentation and a rejection, over a real association each."""
    world = World(door.database, door.settings.home)
    reading = Reading(world)

    def erode(frames: Any) -> Any:
        frames[:, 3] = 0
        return frames

    assert send(door, draw(edited(reading.seg), 1, erode)) == [0x0000]
    assert reading.verdicts() == []  # receiving waits for no comparison
    clock = world.clock
    sweep = Sweep(door.database, door.store, RecordingBroker(), door.settings, clock, clock.monotonic)  # type: ignore[arg-type]
    world.clock.advance(1)
    sweep.round()
    (corrected,) = reading.verdicts()
    assert (corrected.kind, corrected.calling_ae) == (VerdictKind.CORRECTED, "SCANNER")
    assert corrected.detail["segments"][0]["dice"] == pytest.approx(2 * (RIGHT - 32) / (2 * RIGHT - 32))
    assert send(door, key_objects([reading.seg], codes.DCM.RejectedForQualityReasons)) == [0x0000]
    sweep.round()
    assert {one.kind for one in reading.verdicts()} == {VerdictKind.CORRECTED, VerdictKind.REJECTED}
    assert reading.is_settled()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An empty node."""
    made = new_scene(tmp_path)
    yield made
    made.database.engine.dispose()


@pytest.fixture
def page(scene: Scene) -> Iterator[httpx.Client]:
    """A client of the page."""
    with served(scene) as address, httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        yield client


def judged(
    scene: Scene, kind: VerdictKind, *, dice: float | None = None, model: str = "ct-lung", text: str = ""
) -> str:
    """Deliver a job and give it a verdict; return the job's id."""
    job_id = scene.job(model=model)
    scene.finish(scene.publish(scene.start()))
    give(scene, job_id, kind, dice=dice, text=text)
    return job_id


def give(scene: Scene, job_id: str, kind: VerdictKind, *, dice: float | None = None, text: str = "") -> None:
    """Record a verdict on a job; *text* stands where somebody outside can write."""
    scene.clock.forward(seconds=1)
    segment = {
        "label": text or "Left lung", "change": Change.CHANGED, "tracking_uid": "", "paired_by": "overlap",
        "dice": dice, "volume_ml_ours": 2000.0, "volume_ml_theirs": 1900.0,
    }  # fmt: skip
    with scene.database.transaction() as session:
        job = jobs.get(session, job_id)
        scene.count += 1
        row = VerdictRow(
            job_id=job_id, study_uid=job.study_uid, model=job.model, model_digest=job.model_digest,
            sop_uid=f"2.25.{scene.count}", content_sha="c" * 64, kind=kind, matched_by=MatchedBy.STRUCTURE,
            at=scene.clock(), calling_ae=text or "PACS", dice=dice, volume_change=None if dice is None else -5.0,
            reason=text or "of 1 segments 1 changed",
            detail={"segments": [segment] if dice is not None else [], "changes": [text] if text else []},
        )  # fmt: skip
        session.add(row)


def test_the_job_table_shows_the_verdict_that_counts(scene: Scene, page: httpx.Client) -> None:
    """In its row, with word and figure; a job without one has an empty cell."""
    corrected, plain = judged(scene, VerdictKind.CORRECTED, dice=0.94321), scene.job()
    give(scene, corrected, VerdictKind.NOTED)
    text = page.get("/").text
    row = text.split(f'id="job-{corrected}"')[1].split("</tr>")[0]
    assert "Corrected" in row and "Dice 0.943" in row and "Noted" not in row
    assert re.search(r'class="verdict"></td>', text.split(f'id="job-{plain}"')[1].split("</tr>")[0])


def test_a_jobs_page_tells_each_verdict_segment_by_segment(scene: Scene, page: httpx.Client) -> None:
    """Dice, both volumes, how it was matched; and which of two counts."""
    job_id = judged(scene, VerdictKind.CORRECTED, dice=0.9)
    give(scene, job_id, VerdictKind.REJECTED)
    text = unescape(page.get(f"/job/{job_id}").text)
    assert "What radiologists say of it" in text
    assert "0.900" in text and "2000" in text and "1900" in text and "volume -5.0 %" in text
    assert "same source series, same structure and side" in text
    assert text.count("another verdict counts") == 1


def test_the_models_page_has_medians_over_the_verdicts_that_count(scene: Scene, page: httpx.Client) -> None:
    """Three judged jobs, one of them rejected, and one that nobody judged."""
    for dice in (0.8, 0.9):
        judged(scene, VerdictKind.CORRECTED, dice=dice)
    again = judged(scene, VerdictKind.CORRECTED, dice=0.1)
    give(scene, again, VerdictKind.ACCEPTED, dice=1.0)
    judged(scene, VerdictKind.REJECTED)
    scene.job()
    scene.finish(scene.publish(scene.start()))
    page_text = page.get("/models").text
    row = page_text.split("<tbody>")[1].split("</tr>")[0]
    cells = re.findall(r'class="num">([^<]*)<', row)
    assert cells == ["5", "4", "1", "2", "1", "0.900", "-5.0 %"]
    assert page.get("/models/part").text in page_text
    assert 'href="/models" aria-current="page"' in page_text


def test_an_empty_node_says_how_a_verdict_comes(page: httpx.Client) -> None:
    """No table without a row."""
    text = page.get("/models").text
    assert "No result was delivered yet" in text and "A verdict comes by itself" in text


def test_what_a_viewer_wrote_stays_text(scene: Scene, page: httpx.Client) -> None:
    """Labels, reasons and calling AE titles are never markup; and no page or metric names the patient."""
    job_id = judged(scene, VerdictKind.CORRECTED, dice=0.5, text=CANARY)
    for path in ("/", f"/job/{job_id}", "/models", "/metrics"):
        text = page.get(path).text
        assert "<script>" not in text and "<img src=x" not in text
        assert PATIENT not in text
    assert "&lt;script&gt;" in page.get(f"/job/{job_id}").text


def samples(page: httpx.Client) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the samples of /metrics by name and values of their labels, these sorted by name."""
    answer = page.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_metrics_are_read_from_the_tables(scene: Scene, page: httpx.Client) -> None:
    """Counters count every verdict, gauges what counts; states without a job are zero."""
    for dice in (0.8, 0.9, 0.95):
        judged(scene, VerdictKind.CORRECTED, dice=dice)
    give(scene, judged(scene, VerdictKind.ACCEPTED, dice=1.0, model="ct-lung-nodule"), VerdictKind.NOTED)
    found, version = samples(page), "5" * 12
    assert found["pacs_node_verdicts_total", ("corrected", "ct-lung", version)] == 3
    assert found["pacs_node_verdicts_total", ("noted", "ct-lung-nodule", version)] == 1
    assert found["pacs_node_verdict_dice", ("ct-lung", version)] == 0.9
    assert found["pacs_node_verdict_volume_change_percent", ("ct-lung", version)] == -5.0
    assert found["pacs_node_delivered_jobs", ("ct-lung", version)] == 3
    assert found["pacs_node_judged_jobs", ("ct-lung-nodule", version)] == 1
    assert (found["pacs_node_jobs", ("done",)], found["pacs_node_jobs", ("failed",)]) == (4, 0)
    assert found["pacs_node_verdicts_pending", ()] == 0


def test_metrics_keep_the_pages_guard(scene: Scene, page: httpx.Client) -> None:
    """A foreign name reads no metric; a database that is gone is 503."""
    assert page.get("/metrics", headers={"Host": "pacs.example"}).status_code == 400
    with scene.database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE job RENAME TO gone")
    assert page.get("/metrics").status_code == 503


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A node's home with one judged job."""
    folder = tmp_path / "home"
    monkeypatch.setattr("sys.argv", ["pacs-node", "init", "--home", str(folder)])
    with pytest.raises(SystemExit):
        from node import cli

        cli.main()
    capsys.readouterr()
    engine = open_engine(f"sqlite:///{folder / 'node.db'}")
    Reading(World(Database(engine), folder)).receive_edit()
    engine.dispose()
    return folder


def test_the_command_line_tells_figures_and_verdicts(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For machines whole, for people a table; filters by model and time; a job's story has its verdict."""
    code, out, _ = call(monkeypatch, capsys, "verdicts", "--home", str(home), "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["models"][0]["accepted"], told["models"][0]["version"]) == (1, catalogue.card("ct-lung").version)
    assert (told["verdicts"][0]["kind"], told["verdicts"][0]["dice"], told["pending"]) == ("accepted", 1.0, 0)
    for words, count in ((("--model", "ct-lung"), 1), (("--model", "x"), 0), (("--since", "2999-01-01"), 0)):
        _, out, _ = call(monkeypatch, capsys, "verdicts", *words, "--home", str(home), "--json")
        assert len(json.loads(out)["verdicts"]) == count
    _, out, _ = call(monkeypatch, capsys, "verdicts", "--home", str(home))
    assert "accepted" in out and "tracking" in out
    _, out, _ = call(monkeypatch, capsys, "job", told["verdicts"][0]["job_id"], "--home", str(home))
    assert "verdict accepted (tracking identifier): Dice 1.000" in " ".join(out.split())


def test_a_page_stays_quick_with_many_verdicts(scene: Scene, page: httpx.Client) -> None:
    """The newest two hundred are listed; the figures count all."""
    job_id = judged(scene, VerdictKind.CORRECTED, dice=0.5)
    for _ in range(205):
        give(scene, job_id, VerdictKind.NOTED)
    text = page.get("/models").text
    assert text.count('id="verdict-') == 200
    with scene.database.reading() as session:
        assert len(verdicts.list_verdicts(session, since=scene.clock() - timedelta(days=1))) == 206
