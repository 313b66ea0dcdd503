"""The page over HTTP: what it shows, what it does, and what it refuses."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest

from node.db import chosen, events, jobs, pauses, studies
from node.domain.job import JobState
from node.pictures import encode_declined
from node.planning import decline
from node.web import words
from tests.web_scene import CANARY, PATIENT, Scene, fill, new_scene, served

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """An empty node."""
    made = new_scene(tmp_path)
    yield made
    made.database.engine.dispose()


@pytest.fixture
def page(scene: Scene) -> Iterator[httpx.Client]:
    """A client of the page, as a browser of no particular make."""
    with served(scene) as address, httpx.Client(base_url=address, trust_env=False, timeout=20) as client:
        yield client


def state_of(scene: Scene, job_id: str) -> JobState:
    """Return where a job stands."""
    with scene.database.reading() as session:
        return jobs.get(session, job_id).state


def token(page: httpx.Client, job_id: str, verb: str) -> str:
    """Return the token of a form as the job's page holds it."""
    text = page.get(f"/job/{job_id}").text
    form = re.search(rf'/{job_id}/{verb}">\s*<input type="hidden" name="token" value="(\w+)"', text)
    assert form is not None, f"no form to {verb}"
    return form[1]


def test_a_pause_is_shown_on_the_table_and_on_the_jobs_that_it_holds_back(scene: Scene, page: httpx.Client) -> None:
    """Who halted what and why, with the command that lets it go on; another model's job does not mention it."""
    held, free = scene.job(model="ct-lung"), scene.job(model="ct-lung-nodule", rule="nodules")
    with scene.database.transaction() as session:
        pauses.put(session, "model:ct-lung", reason="new <weights>", who="cli:admin", at=scene.clock())
    for path in ("/", f"/job/{held}"):
        text = page.get(path).text
        assert "pacs-node resume model:ct-lung" in text
        assert "new &lt;weights&gt;" in text
        assert "cli:admin" in text
    assert "pacs-node resume" not in page.get(f"/job/{free}").text


def test_the_table_shows_every_state_with_its_reason(scene: Scene, page: httpx.Client) -> None:
    """Each of the twelve states stands in its row, in words, with the reason that the table holds."""
    ids = fill(scene)
    text = page.get("/").text
    for name, job_id in ids.items():
        row = text.split(f'id="job-{job_id}"')[1].split("</tr>")[0]
        with scene.database.reading() as session:
            job = jobs.get(session, job_id)
        assert words.PILLS["job"][job.state].label in row, name
        assert f'data-state="{job.state}"' in row
        assert words.job_reason(job, scene.clock()) in unescape(row)
    assert {state_of(scene, job_id) for job_id in ids.values()} == set(JobState)


def test_every_state_has_a_word_and_a_sign() -> None:
    """No state is told by its colour alone, and no two states of a kind look the same."""
    for kind in words.PILLS.values():
        assert all(pill.label and pill.sign for pill in kind.values())
        assert len({(pill.label, pill.sign) for pill in kind.values()}) == len(kind)
    assert set(words.PILLS["job"]) == {str(state) for state in JobState}


def test_counts_at_the_top_count_each_job_once(scene: Scene, page: httpx.Client) -> None:
    """A delivering job with a parked delivery needs a person; it is not counted as delivering as well."""
    fill(scene)
    counts = dict(re.findall(r'data-count="(\w+)">(\d+)<', page.get("/").text))
    assert counts == {"waiting": "2", "running": "2", "delivering": "2", "person": "3", "done": "1", "aside": "3"}


@pytest.mark.parametrize(
    ("group", "names"),
    [
        ("active", {"pending", "leased", "running", "retry_wait", "result_ready", "delivering", "parked"}),
        ("person", {"failed", "input_invalid", "parked"}),
        ("done", {"done", "cancelled", "superseded", "not_applicable"}),
    ],
)
def test_a_filter_shows_its_jobs_and_no_other(scene: Scene, page: httpx.Client, group: str, names: set[str]) -> None:
    """The number on the tab is the number of rows behind it."""
    ids = fill(scene)
    text = page.get("/jobs", params={"group": group}).text
    assert {name for name, job_id in ids.items() if f'id="job-{job_id}"' in text} == names
    assert re.search(rf'group={group}" aria-current="true">[^<]+<b>{len(names)}</b>', text)


def test_a_study_that_no_rule_wants_is_visible_with_why(scene: Scene, page: httpx.Client) -> None:
    """The studies' page says it in a sentence, the study's own page says it for each rule and series."""
    fill(scene)
    table = page.get("/studies").text
    assert "no rule wants any of its series" in table
    uid = re.search(r'href="/study/([\d.]+)"><bdi>MR knee', table)
    assert uid is not None
    assert "modality is MR, wanted CT" in page.get(f"/study/{uid[1]}").text


def test_a_study_of_two_patients_is_announced_on_the_first_page(scene: Scene, page: httpx.Client) -> None:
    """The administrator need not open the studies' page to learn of a conflict."""
    fill(scene)
    assert "1 study names more than one patient" in page.get("/").text
    assert "CT of two people" in page.get("/studies?group=conflict").text


def test_a_job_tells_its_story(scene: Scene, page: httpx.Client) -> None:
    """Events in order, each result with its UID and delivery, inputs and pictures stand on the job's page."""
    ids = fill(scene)
    text = page.get(f"/job/{ids['done']}").text
    places = [text.index(part) for part in ("The job was planned", "A worker took the job", "The job is done")]
    assert places == sorted(places)
    assert "Segmentation (SEG)" in text and "1.2 MB" in text and "Structured report (SR)" in text
    assert 'data-state="acked"' in text and "0x0000" in text
    assert "1 instance" in text and "42 s" in text
    assert text.count("<img src=\"/job/") == 4


def test_the_beginning_of_an_id_leads_to_the_job(scene: Scene, page: httpx.Client) -> None:
    """As the command line does, the page takes an unambiguous beginning of an id."""
    job_id = scene.job()
    assert page.get(f"/job/{job_id[:8]}").headers["location"] == f"/job/{job_id}"


def test_text_from_outside_stays_text(scene: Scene, page: httpx.Client) -> None:
    """A script in every text field that a sender, a model or a peer can fill is shown, and is never markup."""
    job_id = scene.job(CANARY)
    job = scene.start()
    scene.beat(job, 0.5, CANARY)
    with scene.database.transaction() as session:
        events.record(session, CANARY[:32], who=CANARY, at=scene.clock(), detail=CANARY, job_id=job_id)
        choice = chosen.Choice(series_uid=job.series_uid, rule="lungs", model="ct-lung", reason=CANARY)
        chosen.add(session, job.study_uid, 2, [choice])
    running = [page.get(path).text for path in ("/", f"/job/{job_id}")]
    scene.publish(job, parked=CANARY)
    with scene.database.transaction() as session:
        jobs.set_reason(session, jobs.get(session, job_id), CANARY, at=scene.clock())
    shown = ("/", "/jobs", "/studies", f"/job/{job_id}", f"/study/{job.study_uid}")
    refused = (f"/job/{CANARY[:8]}", f"/?group={CANARY}")
    for text in [*running, *(page.get(path).text for path in (*shown, *refused))]:
        assert "<script>" not in text and "<img src=x" not in text
        assert "&lt;script&gt;" in text


def test_no_page_names_the_patient(scene: Scene, page: httpx.Client) -> None:
    """The table knows the patient's id to find conflicts; no page, title or address shows it."""
    ids = fill(scene)
    with scene.database.reading() as session:
        found = [study.uid for study in studies.list_studies(session)]
    paths = ["/", "/jobs", "/studies", *(f"/job/{i}" for i in ids.values()), *(f"/study/{uid}" for uid in found)]
    for path in paths:
        answer = page.get(path)
        assert answer.status_code == 200
        assert PATIENT not in answer.text and "SOMEBODY-ELSE" not in answer.text


def test_every_answer_forbids_what_the_page_does_not_need(scene: Scene, page: httpx.Client) -> None:
    """No foreign source, no inline script or style, no frame, no guessing of types: on pages, errors and files."""
    job_id = scene.job()
    for path in ("/", f"/job/{job_id}", "/studies", "/nowhere", "/static/page.js", "/health"):
        headers = page.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    text = page.get("/").text
    assert not re.search(r"<script(?! src=\"/static/)|<style| style=| on\w+=|(src|href)=\"(https?:)?//", text)


def test_a_mistake_of_ours_shows_no_trace(scene: Scene, page: httpx.Client) -> None:
    """A row that the code does not understand: 500 in words, under the same policy as every page."""
    job_id = scene.job()
    with scene.database.transaction() as session:
        session.connection().exec_driver_sql("UPDATE job SET state = 'strange'")
    answer = page.get(f"/job/{job_id}")
    assert answer.status_code == 500
    assert "The log of the web process says why." in answer.text
    assert "Traceback" not in answer.text and "strange" not in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")


def test_a_job_is_cancelled_and_run_again(scene: Scene, page: httpx.Client) -> None:
    """Both buttons lead back to the job, and the events say that it was the page."""
    job_id = scene.job()
    answer = page.post(f"/job/{job_id}/cancel", data={"token": token(page, job_id, "cancel")})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/job/{job_id}")
    assert state_of(scene, job_id) is JobState.CANCELLED
    answer = page.post(f"/job/{job_id}/retry", data={"token": token(page, job_id, "retry")})
    assert answer.status_code == 303
    assert state_of(scene, job_id) is JobState.PENDING
    with scene.database.reading() as session:
        story = [(event.what, event.who) for event in events.story(session, job_id=job_id)]
    assert story[1:] == [("cancelled", "web"), ("retried", "web")]


def test_a_parked_delivery_is_sent_again_without_a_second_run(scene: Scene, page: httpx.Client) -> None:
    """The button says what it does, and the job's epoch, which counts runs, stays."""
    ids = fill(scene)
    job_id = ids["parked"]
    assert "Send again" in page.get(f"/job/{job_id}").text
    assert page.post(f"/job/{job_id}/retry", data={"token": token(page, job_id, "retry")}).status_code == 303
    text = page.get(f"/job/{job_id}").text
    assert 'data-state="parked"' not in text and "Delivery was asked for again" in text
    assert state_of(scene, job_id) is JobState.DELIVERING


@pytest.mark.parametrize("verb", ["retry", "cancel"])
def test_a_post_without_its_token_is_refused(scene: Scene, page: httpx.Client, verb: str) -> None:
    """No token, a wrong one, one of another job and one of another verb: 403, and the job stays as it was."""
    job_id, other = scene.job(), scene.job()
    cancelled = scene.job()
    with scene.database.transaction() as session:
        jobs.cancel(session, cancelled, who="test", at=scene.clock())
    foreign = [token(page, other, "cancel"), token(page, cancelled, "retry")]
    for strange in ("", "0" * 64, "é", *foreign):
        answer = page.post(f"/job/{job_id}/{verb}", data={"token": strange} if strange else {})
        assert answer.status_code == 403
        assert "nothing was changed" in answer.text
    assert state_of(scene, job_id) is JobState.PENDING


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_post_from_another_site_is_refused(scene: Scene, page: httpx.Client, headers: dict[str, str]) -> None:
    """Even with the right token: another port of this machine is another site too."""
    job_id = scene.job()
    answer = page.post(f"/job/{job_id}/cancel", data={"token": token(page, job_id, "cancel")}, headers=headers)
    assert answer.status_code == 403
    assert state_of(scene, job_id) is JobState.PENDING


def test_a_post_as_a_browser_sends_it_is_taken(scene: Scene, page: httpx.Client) -> None:
    """Our own Origin and Sec-Fetch-Site pass."""
    job_id = scene.job()
    ours = {"Origin": str(page.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    answer = page.post(f"/job/{job_id}/cancel", data={"token": token(page, job_id, "cancel")}, headers=ours)
    assert answer.status_code == 303


@pytest.mark.parametrize("host", ["pacs.example", "127.0.0.1.example:8080", "localhost@pacs.example", "[::2]", ""])
def test_a_foreign_name_gets_nothing(scene: Scene, page: httpx.Client, host: str) -> None:
    """A name that somebody pointed at this address (DNS rebinding) reads no page."""
    scene.job("CT thorax")
    answer = page.get("/", headers={"Host": host})
    assert answer.status_code == 400
    assert "CT thorax" not in answer.text
    assert page.get("/", headers={"Host": "localhost:9"}).status_code == 200


def test_a_move_that_the_job_cannot_make_is_explained(scene: Scene, page: httpx.Client) -> None:
    """A button of a page that grew old: 409 says what stands in the way and what comes next."""
    job_id = scene.job()
    cancel = token(page, job_id, "cancel")
    scene.finish(scene.publish(scene.start()))
    answer = page.post(f"/job/{job_id}/cancel", data={"token": cancel})
    assert answer.status_code == 409
    assert f"Job {job_id} is done and cannot become cancelled." in answer.text
    assert "a new run comes with a new revision" in answer.text
    assert f'href="/job/{job_id}"' in answer.text


@pytest.mark.parametrize(
    "path",
    [f"/job/{UNKNOWN}", f"/job/{UNKNOWN}/part", f"/job/{UNKNOWN}/pictures/a.png", "/study/1.2.3", "/x", "/?group=x"],
)
def test_what_is_not_there_says_where_to_look(page: httpx.Client, path: str) -> None:
    """404 with a next step, never a trace."""
    answer = page.get(path)
    assert answer.status_code == 404
    assert "Look for it in the job table" in answer.text


def test_what_a_model_declined_is_shown_beside_its_reason(scene: Scene, page: httpx.Client) -> None:
    """Above the facts, not among the overlays; its address serves it."""
    job_id = scene.job()
    running = scene.start()
    picture = encode_declined(np.full((4, 6, 3), 90, np.uint8))
    with scene.database.transaction() as session:
        decline(session, running, reason="no lung is in view", now=scene.clock())
        scene.store.put_declined(job_id, picture)
        jobs.note_picture(session, running)
    text = page.get(f"/job/{job_id}").text
    place = re.search(rf'<img src="(/job/{job_id}/pictures/declined\.png\?v=\d+)" alt="What the model declined"', text)
    assert place is not None and "<h2>Pictures</h2>" not in text
    assert text.index("no lung is in view") < place.start() < text.index('<dl class="facts">')
    assert "This job read it, and the model declined" in text
    assert page.get(place[1]).content == picture


def test_a_picture_is_served_and_a_page_cannot_leave_its_folder(scene: Scene, page: httpx.Client) -> None:
    """Only names that the folder lists are opened: no path, no link, no other file."""
    job_id = scene.job()
    folder = scene.pictures(job_id, "axial")
    (folder.parent / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    (folder / "notes.txt").write_text("secret", encoding="utf-8")
    picture = page.get(f"/job/{job_id}/pictures/axial.png")
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")
    ways_out = ("../secret.png", "..%2Fsecret.png", "%2e%2e%2fsecret.png", "..%5csecret.png", f"{folder.parent}/secret")
    for name in (*ways_out, "link.png", "notes.txt", "axial", "."):
        assert raw_status(page, f"/job/{job_id}/pictures/{name}") == 404, name


def raw_status(page: httpx.Client, path: str) -> int:
    """Return the status for *path* as it stands: an ordinary client would shorten it first."""
    assert page.base_url.port is not None
    with socket.create_connection(("127.0.0.1", page.base_url.port), timeout=10) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        return int(line.recv(64).split()[1])


def test_an_open_page_hears_of_a_change(scene: Scene, page: httpx.Client) -> None:
    """The stream names the mark at once, then again when a job changed; a stream that is closed is forgotten."""
    scene.job()
    with page.stream("GET", "/live") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in stream.iter_lines() if line.startswith("data:"))
        before = next(lines)
        scene.clock.forward(seconds=1)
        scene.start()
        assert next(lines) != before
        assert scene.live is not None and scene.live.listeners == 1
    deadline = time.monotonic() + 10
    while scene.live.listeners and time.monotonic() < deadline:
        time.sleep(0.05)
    assert scene.live.listeners == 0


def test_health_says_whether_the_database_answers(scene: Scene, page: httpx.Client) -> None:
    """A probe by any name gets 200, and 503 once the table is gone; pages say it in words."""
    answer = page.get("/health", headers={"Host": "10.0.0.7:8080"})
    assert (answer.status_code, answer.json()) == (200, {"ok": True})
    with scene.database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE job RENAME TO gone")
    assert page.get("/health").status_code == 503
    assert page.get("/health").json()["ok"] is False
    answer = page.get("/")
    assert answer.status_code == 503
    assert "The database does not answer" in answer.text


SERVER = """
import sys
from pathlib import Path
from tests.web_scene import new_scene
from node.web import make_web_app, serve
scene = new_scene(Path(sys.argv[1]))
app = make_web_app(database=scene.database, store=scene.store, settings=scene.settings, now=scene.clock)
serve(app, host="127.0.0.1", port=int(sys.argv[2]))
print("returned", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_returns_promptly_with_a_stream_open(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the streams and the server within three seconds; `serve` returns."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-c", SERVER, str(tmp_path), str(port)]
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root)
    try:
        _wait_for_port(port)
        with httpx.stream("GET", f"http://127.0.0.1:{port}/live", trust_env=False, timeout=20) as stream:
            lines = stream.iter_lines()  # kept: a dropped iterator would close the stream
            assert next(lines) == "retry: 2000"
            began = time.monotonic()
            process.send_signal(number)
            out, _ = process.communicate(timeout=20)
        assert time.monotonic() - began < 3
        assert (process.returncode, out) == (0, b"returned\n")
    finally:
        process.kill()


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")
