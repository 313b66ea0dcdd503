"""The doctor: each ailment of a peer is named, with what to change on which side."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom import AE, _config, evt
from typer.testing import CliRunner

from node.bootstrap import prepare
from node.cli import app
from node.dicom.classes import classes_of
from node.doctor import TEST_PATIENT, Check, State, examine
from node.domain.peer import Peer, Verify
from node.domain.profile import Profile, SegType, SrClass
from node.settings import Settings, load_settings
from node.testing import ScriptedPacs
from node.transport import open_transport
from tests.rig import free_port

# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener looks every 20 ms, not every 500 ms, whether it was told to stop."""
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


def checks(peer: Peer, *, store: bool = False, now: datetime | None = None, **changes: Any) -> dict[str, Check]:
    """Return what the doctor finds, by check."""
    settings = Settings(home=Path("/nowhere"), **changes)
    way = open_transport(peer, calling_ae=settings.ae_title)
    found = examine(peer, settings, way, store=store, now=now or datetime.now(UTC))
    assert len({one.what for one in found}) == len(found)
    return {one.what: one for one in found}


def test_a_healthy_peer_has_nothing_to_change(tmp_path: Path) -> None:
    """Everything is ok but its clock, which nobody can ask for; nothing was stored."""
    with ScriptedPacs(tmp_path / "pacs", commits="same") as pacs:
        found = checks(pacs.peer("pacs"))
    clock = found.pop("clock")
    assert clock.state is State.UNKNOWN
    assert {one.state for one in found.values()} == {State.OK}
    assert {one.here + one.there for one in found.values()} == {""}
    assert list(found) == [
        "echo", "Segmentation", "Comprehensive 3D SR", "Secondary Capture", "query", "storage commitment",
    ]  # fmt: skip
    assert not pacs.received


def test_a_marked_object_is_stored_found_and_committed(tmp_path: Path) -> None:
    """Only where it is asked for; it says what it is."""
    with ScriptedPacs(tmp_path / "pacs", commits="same") as pacs:
        found = checks(pacs.peer("pacs", verify=Verify.COMMITMENT), store=True)
        (uid,) = pacs.received
        stored = pydicom.dcmread(pacs.folder / f"{uid}.dcm")
    assert [found[what].state for what in ("store", "read-back", "commitment")] == [State.OK] * 3
    assert uid in found["store"].says
    assert (stored.PatientID, stored.StudyDescription) == (TEST_PATIENT, "pacs-node doctor: test, may be deleted")


def test_what_a_peer_does_with_the_object_is_told(tmp_path: Path) -> None:
    """Refused; taken and not shown; taken and not committed to; no report."""
    with ScriptedPacs(tmp_path / "pacs", commits="never", statuses=[0xA700]) as pacs:
        peer = pacs.peer("pacs", timeout=4.0, verify=Verify.COMMITMENT)
        refused = checks(peer, store=True)
        assert "A700" in refused["store"].says
        assert "read-back" not in refused
        pacs.loses = 1
        lost = checks(peer, store=True)
        assert (lost["store"].state, lost["read-back"].state) == (State.OK, State.LOOK)
        assert "no report on the same association" in lost["commitment"].says
        pacs.commits, pacs.loses = "same", 1
        assert "0112" in checks(pacs.peer("pacs", verify=Verify.COMMITMENT), store=True)["commitment"].says


def test_what_is_not_offered_is_named_where_it_is_needed(tmp_path: Path) -> None:
    """No query, which verify needs; no commitment, which nothing does."""
    with ScriptedPacs(tmp_path / "pacs", can_find=False) as pacs:
        found = checks(pacs.peer("pacs"))
        asked = checks(pacs.peer("pacs", verify=Verify.COMMITMENT))
    assert (found["query"].state, found["query"].here) == (State.LOOK, 'verify = "none"')
    assert found["storage commitment"].says == "not offered, and not needed"
    assert (asked["storage commitment"].state, asked["query"].state) == (State.LOOK, State.OK)


def test_a_peer_that_takes_some_classes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Secondary Capture in Implicit VR alone is no way for our results."""
    monkeypatch.setattr(_config, "UNRESTRICTED_STORAGE_SERVICE", False)  # as the listener has it in this process
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    ae.add_supported_context(SecondaryCaptureImageStorage, "1.2.840.10008.1.2")
    handlers: list[Any] = [(evt.EVT_C_ECHO, lambda _: 0)]
    server: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        found = checks(Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.server_address[1]))
    finally:
        server.shutdown()
    bad = [one for one in found.values() if one.state is State.BAD]
    assert [one.what for one in bad] == ["Segmentation", "Comprehensive 3D SR", "Secondary Capture"]
    assert bad[2].there == f"accept SOP class {SecondaryCaptureImageStorage} in Explicit VR Little Endian"


def test_a_peer_that_cannot_be_reached_is_all_that_is_said(tmp_path: Path) -> None:
    """Nothing listens; it does not know us; we call it by another name."""
    (away,) = checks(Peer(name="gone", ae_title="GONE", host="127.0.0.1", port=free_port(), timeout=2)).values()
    assert (away.state, away.here) == (State.BAD, "host and port of the peer")
    with ScriptedPacs(tmp_path / "pacs", refuses=True) as pacs:
        (refused,) = checks(pacs.peer("pacs")).values()
    assert refused.there == "make PACSAINODE known to it, with this machine's address and port 11112"
    ae = AE(ae_title="RIGHT")
    ae.require_called_aet = True
    ae.add_supported_context("1.2.840.10008.1.1")
    server: Any = ae.start_server(("127.0.0.1", 0), block=False)
    try:
        (called,) = checks(Peer(name="p", ae_title="WRONG", host="127.0.0.1", port=server.server_address[1])).values()
    finally:
        server.shutdown()
    assert called.here == "ae_title of [[peer]] p: is it what the peer calls itself?"


@contextmanager
def web_server(date: str) -> Iterator[str]:
    """A DICOMweb server that finds nothing and says what time it is."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            if date:
                self.send_header("Date", date)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, format: str, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("ahead", "state", "says"),
    [(0, State.OK, "0 s"), (-90, State.LOOK, "90 s behind ours"), (None, State.UNKNOWN, "does not tell")],
)
def test_the_clock_of_a_web_server_is_compared(ahead: int | None, state: State, says: str) -> None:
    """By the date of its answer."""
    now = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
    date = "" if ahead is None else format_datetime(now + timedelta(seconds=ahead), usegmt=True)
    with web_server(date) as url:
        found = checks(Peer(name="web", url=url), now=now)
    assert list(found) == ["echo", "clock"]
    assert found["clock"].state is state
    assert says in found["clock"].says


def test_the_command_prints_a_table_or_json_and_fails_where_something_is_bad(tmp_path: Path) -> None:
    """Its exit is a refusal; machines read the same checks."""
    with ScriptedPacs(tmp_path / "pacs", commits="same") as pacs:
        home = tmp_path / "home"
        home.mkdir()
        lines = f'[[peer]]\nname = "pacs"\nae_title = "{pacs.ae_title}"\nport = {pacs.port}\n'
        lines += f'[[peer]]\nname = "gone"\nae_title = "GONE"\nport = {free_port()}\ntimeout = 2\n'
        (home / "pacs-node.toml").write_text(lines)
        prepare(load_settings(home))
        run = CliRunner()
        good = run.invoke(app, ["doctor", "pacs", "--home", str(home)])
        assert good.exit_code == 0, good.output
        read = json.loads(run.invoke(app, ["doctor", "pacs", "--home", str(home), "--json"]).stdout)
        assert {one["what"]: one["state"] for one in read}["Segmentation"] == "ok"
        bad = run.invoke(app, ["doctor", "gone", "--home", str(home)])
    assert str(bad.exception) == "gone: echo"


def test_every_class_of_a_profile_stands_in_the_conformance_statement() -> None:
    """And the other way round."""
    rich: dict[str, Any] = dict.fromkeys(
        ("secondary_capture", "pdf", "parametric_map", "presentation_state", "key_images"), True
    )
    every = [
        Profile(seg=seg, sr=sr, **rich)
        for seg in (SegType.BINARY, SegType.LABELMAP)
        for sr in (SrClass.COMPREHENSIVE_3D, SrClass.COMPREHENSIVE)
    ]
    named = {uid for profile in every for uid, _ in classes_of(profile)}
    page = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")
    cells = page.split("### 8.2 Results")[1].split("### ")[0].split(" | ")
    written = {cell for cell in cells if cell.startswith("1.2.840.10008.5")}
    assert named == written
