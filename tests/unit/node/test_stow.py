"""STOW-RS and QIDO-RS: what each answer of a DICOMweb server, and each silence, means."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest

from node.db import breakers
from node.domain.job import JobState
from node.domain.peer import AnswerKind, OutgoingFile, Peer
from node.domain.result import DeliveryState
from node.errors import PeerAway, PeerBusy, PeerRefused
from node.testing import synthetic_ct, write_series
from node.transport import open_transport
from node.transport.stow import MAX_ANSWER, read_answer
from tests.unit.node.conftest import World
from tests.unit.node.test_delivery import SEG_UID, SR_UID, publish_two

_K, _S = AnswerKind, DeliveryState


def told(uid: str, *, failure: int | None = None, warning: int | None = None) -> bytes:
    """Return an answer's body in DICOM JSON that says what became of one instance."""
    item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
    if failure is not None:
        item["00081197"] = {"vr": "US", "Value": [failure]}
    if warning is not None:
        item["00081196"] = {"vr": "US", "Value": [warning]}
    sequence = "00081199" if failure is None else "00081198"
    return json.dumps({sequence: {"vr": "SQ", "Value": [item]}}).encode()


def told_in_xml(uid: str, failure: int) -> bytes:
    """Return the same as a native DICOM model in XML."""
    return (
        '<?xml version="1.0"?><NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">'
        '<DicomAttribute tag="00081198" vr="SQ"><Item number="1">'
        f'<DicomAttribute tag="00081155" vr="UI"><Value number="1">{uid}</Value></DicomAttribute>'
        f'<DicomAttribute tag="00081197" vr="US"><Value number="1">{failure}</Value></DicomAttribute>'
        "</Item></DicomAttribute></NativeDicomModel>"
    ).encode()


@dataclass
class Act:
    """What the server does with the next request to store."""

    status: int = 200
    body: bytes | None = None  # None: a right one
    headers: dict[str, str] = field(default_factory=dict)
    keeps: bool = True
    cuts: str = ""  # "early": after the first bytes of the body; "late": after all of them
    waits: float = 0.0  # seconds before the answer


class ScriptedWeb(ThreadingHTTPServer):
    """A DICOMweb server on loopback that misbehaves as its script says."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.acts: list[Act] = []
        self.search_status = 200
        self.search_body: bytes | None = None
        self.kept: dict[str, bytes] = {}
        self.stores = 0
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_address[1]}/dicom-web"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedWeb

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Take an instance."""
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))
        act = self.server.acts.pop(0) if self.server.acts else Act()
        if act.cuts == "early":
            self.rfile.read(100)
            self._cut()
            return
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.stores += 1
        uid, data = _part(self.headers["Content-Type"], body)
        if act.keeps and act.status in (200, 202):
            self.server.kept[uid] = data
        time.sleep(act.waits)
        if act.cuts == "late":
            self._cut()
            return
        self._answer(act.status, told(uid) if act.body is None else act.body, act.headers)

    def do_GET(self) -> None:
        """Search."""
        self.server.paths.append(self.path)
        uids = re.findall(r"SOPInstanceUID=([\d.]+)", self.path)
        found = [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids if uid in self.server.kept]
        body = self.server.search_body if self.server.search_body is not None else json.dumps(found).encode()
        self._answer(self.server.search_status, body, {})

    def _cut(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        self.close_connection = True
        self.connection.close()

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/dicom+json", **headers}.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)


def _part(content_type: str, body: bytes) -> tuple[str, bytes]:
    """Return SOP Instance UID and bytes of the one part of a request."""
    (boundary,) = re.findall(r'^multipart/related; type="application/dicom"; boundary=([\w-]+)$', content_type)
    head, _, rest = body.partition(b"\r\n\r\n")
    assert head == f"--{boundary}\r\nContent-Type: application/dicom".encode()
    data, _, end = rest.rpartition(f"\r\n--{boundary}".encode())
    assert end == b"--\r\n"
    return str(pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True).SOPInstanceUID), data


@contextmanager
def serving(port: int = 0) -> Iterator[ScriptedWeb]:
    """Serve on that port, or a free one."""
    with ScriptedWeb(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def web() -> Iterator[ScriptedWeb]:
    """A DICOMweb server that behaves until it is told otherwise."""
    with serving() as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> list[OutgoingFile]:
    """Three instances, ready to be sent."""
    images = synthetic_ct(slices=3)
    paths = write_series(images, tmp_path / "out")
    return [
        OutgoingFile(
            path=path, sop_class=str(ds.SOPClassUID), sop_uid=str(ds.SOPInstanceUID),
            study_uid=str(ds.StudyInstanceUID), transfer_syntax="1.2.840.10008.1.2.1",
        )
        for ds, path in zip(images, paths, strict=True)
    ]  # fmt: skip


def peer(web: ScriptedWeb, **changes: Any) -> Peer:
    """Return this server as a peer."""
    return Peer(**{"name": "web", "url": web.url, "timeout": 5.0, **changes})


def to(web: ScriptedWeb, **changes: Any) -> Any:
    """Return the way to this server."""
    return open_transport(peer(web, **changes), calling_ae="NODE")


def test_files_arrive_in_order_as_they_lie_on_disk(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """Byte for byte, one instance a request."""
    assert [answer.kind for answer in to(web).send(files)] == [_K.ACCEPTED] * 3
    assert list(web.kept) == [file.sop_uid for file in files]
    assert list(web.kept.values()) == [file.path.read_bytes() for file in files]
    assert web.paths == ["/dicom-web/studies"] * 3


UID = "1.2.3"


@pytest.mark.parametrize(
    ("status", "body", "kind", "shown"),
    [
        (200, b"", _K.ACCEPTED, "HTTP 200"),
        (200, told(UID), _K.ACCEPTED, "HTTP 200"),
        (200, told(UID, warning=0xB000), _K.ACCEPTED, "B000"),
        (200, told(UID, failure=0xA700), _K.LATER, "A700"),
        (200, None, _K.ACCEPTED, "HTTP 200"),
        (202, told(UID), _K.ACCEPTED, "HTTP 202"),
        (202, told(UID, warning=0xB006), _K.ACCEPTED, "B006"),
        (202, told(UID, failure=0xA700), _K.LATER, "A700"),
        (202, told(UID, failure=0x0110), _K.LATER, "0110"),
        (202, told(UID, failure=0xA900), _K.REFUSED, "A900"),
        (202, told_in_xml(UID, 0xC000), _K.REFUSED, "C000"),
        (202, told("9.9.9"), _K.UNKNOWN, "HTTP 202"),
        (202, b"", _K.UNKNOWN, "HTTP 202"),
        (202, b"<html>nonsense", _K.UNKNOWN, "HTTP 202"),
        (202, b"[" * 100_000, _K.UNKNOWN, "HTTP 202"),
        (202, b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', _K.UNKNOWN, "HTTP 202"),
        (202, b'{"00081198": {"Value": "no list"}, "00081199": 7}', _K.UNKNOWN, "HTTP 202"),
        (202, None, _K.UNKNOWN, "HTTP 202"),
        (204, b"", _K.UNKNOWN, "HTTP 204"),
        (409, told(UID, failure=0x0111), _K.ACCEPTED, "0111"),
        (409, told(UID, failure=0xA770), _K.LATER, "A770"),
        (409, told(UID, failure=0x0122), _K.REFUSED, "0122"),
        (409, told_in_xml(UID, 0x0111), _K.ACCEPTED, "0111"),
        (409, b"", _K.REFUSED, "HTTP 409"),
        (400, b"", _K.REFUSED, "HTTP 400"),
        (400, told(UID, failure=0x0111), _K.ACCEPTED, "0111"),
        (401, b"", _K.REFUSED, "HTTP 401"),
        (403, told(UID), _K.REFUSED, "HTTP 403"),
        (404, b"", _K.REFUSED, "HTTP 404"),
        (413, b"", _K.REFUSED, "HTTP 413"),
        (415, b"", _K.REFUSED, "HTTP 415"),
        (418, b"", _K.REFUSED, "HTTP 418"),
        (302, b"", _K.REFUSED, "HTTP 302"),
        (408, b"", _K.LATER, "HTTP 408"),
        (425, b"", _K.LATER, "HTTP 425"),
        (429, b"", _K.LATER, "HTTP 429"),
        (501, b"", _K.REFUSED, "HTTP 501"),
        (500, told(UID), _K.LATER, "HTTP 500"),
        (502, b"", _K.LATER, "HTTP 502"),
        (503, b"", _K.LATER, "HTTP 503"),
        (504, b"", _K.LATER, "HTTP 504"),
    ],
)
def test_each_status_means_what_the_standard_says(
    status: int, body: bytes | None, kind: AnswerKind, shown: str
) -> None:
    """PS3.18 10.5.3; None is a body that was too long to be read."""
    answer = read_answer(status, body, UID)
    assert (answer.kind, answer.status) == (kind, shown)
    assert bool(answer.reason) == (kind is not _K.ACCEPTED)


def test_answers_come_over_the_wire_as_they_were_meant(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """Accepted with a warning, asked to wait for a time, refused."""
    web.acts = [
        Act(202, told(files[0].sop_uid, warning=0xB007)),
        Act(503, b"busy", {"Retry-After": "120"}),
        Act(409, told(files[2].sop_uid, failure=0xA900)),
    ]
    answers = list(to(web).send(files))
    assert [answer.kind for answer in answers] == [_K.ACCEPTED, _K.LATER, _K.REFUSED]
    assert answers[1].retry_after == 120


def test_a_date_to_come_back_at_is_understood(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """RFC 9110: seconds or a date; nonsense and the past are no wait."""
    dates = ["Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 2001 00:00:00 GMT", "soon"]
    web.acts = [Act(429, b"", {"Retry-After": date}) for date in dates]
    far, past, nonsense = (answer.retry_after for answer in to(web).send(files))
    assert far > 1e9
    assert (past, nonsense) == (0, 0)


def test_a_redirect_is_never_followed(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """Neither with the token nor without: a person writes the right address down."""
    with ScriptedWeb() as elsewhere:
        for status in (301, 302, 307, 308):
            web.acts = [Act(status, b"", {"Location": elsewhere.url + "/studies"})]
            (answer,) = to(web, token="canary").send(files[:1])
            assert answer.kind is _K.REFUSED
            assert "is the url right?" in answer.reason
        assert elsewhere.stores == 0
        assert elsewhere.headers == []


def test_a_silence_after_the_instance_leaves_its_fate_unknown(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """The server has it all and says nothing within its time, or cuts the line."""
    web.acts = [Act(waits=1.0), Act(cuts="late")]
    kinds = [answer.kind for answer in to(web, timeout=0.4).send(files[:2])]
    assert kinds == [_K.UNKNOWN, _K.UNKNOWN]


def test_a_reset_in_the_middle_of_the_instance_is_an_absent_peer(web: ScriptedWeb, tmp_path: Path) -> None:
    """Without its end the server cannot have taken it: it is sent again, not asked for."""
    (ds,) = synthetic_ct(slices=1, rows=2048, columns=2048)
    (path,) = write_series([ds], tmp_path / "large")
    file = OutgoingFile(
        path=path, sop_class=str(ds.SOPClassUID), sop_uid=str(ds.SOPInstanceUID), transfer_syntax="1.2.840.10008.1.2.1"
    )
    web.acts = [Act(cuts="early")]
    with pytest.raises(PeerAway, match="does not answer"):
        list(to(web).send([file]))


def test_an_absent_server_is_away_for_everything() -> None:
    """Nothing listens: a person reads which address to look at."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    way = open_transport(Peer(name="web", url=f"http://127.0.0.1:{port}/x", timeout=2), calling_ae="NODE")
    file = OutgoingFile(path=Path(__file__), sop_class="1", sop_uid="1.2", transfer_syntax="1")
    for ask in (way.echo, lambda: list(way.send([file])), lambda: way.find(file)):
        with pytest.raises(PeerAway, match=rf"web \(http://127.0.0.1:{port}/x\) does not answer"):
            ask()


def test_an_answer_without_end_is_not_read_to_its_end(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """One MiB is more than an answer about one instance needs."""
    web.acts = [Act(202, b" " * (MAX_ANSWER + 1))]
    (answer,) = to(web).send(files[:1])
    assert answer.kind is _K.UNKNOWN
    web.search_body = b" " * (MAX_ANSWER + 1)
    assert to(web).find(files[0]) is None


def test_a_search_tells_what_is_there(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """QIDO-RS by study and instance; 204 is no as well; another instance than the one asked for is no."""
    list(to(web).send(files[:1]))
    assert to(web).find_all(files[:2]) == [True, False]
    asked = f"StudyInstanceUID={files[1].study_uid}&SOPInstanceUID={files[1].sop_uid}"
    assert web.paths[-1] == f"/dicom-web/instances?{asked}"
    web.search_body = json.dumps([{"00080018": {"vr": "UI", "Value": ["9.9"]}}]).encode()
    assert to(web).find(files[0]) is False
    web.search_status = 204
    assert to(web).find(files[0]) is False


def test_a_search_for_the_study_tells_whose_it_is(web: ScriptedWeb) -> None:
    """Nothing where it does not say, says it twice, or is no list."""
    for told, patient in ((["P"], "P"), ([" P "], "P"), ([""], None), ([], None), (["P", "Q"], None)):
        web.search_body = json.dumps([{"00100020": {"vr": "LO", "Value": [one]}} for one in told]).encode()
        assert to(web).patient_of("2.25.7") == patient
    assert web.paths[-1] == "/dicom-web/studies?StudyInstanceUID=2.25.7&includefield=00100020"
    web.search_body = b"{}"
    assert to(web).patient_of("2.25.7") is None
    web.search_status = 404
    assert to(web).patient_of("2.25.7") is None


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 405, 501])
def test_a_server_that_takes_no_searches_cannot_be_asked(
    web: ScriptedWeb, files: list[OutgoingFile], status: int
) -> None:
    """Neither yes nor no."""
    web.search_status = status
    assert to(web).find(files[0]) is None


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_busy_server_is_asked_again_later(web: ScriptedWeb, files: list[OutgoingFile], status: int) -> None:
    """Busy is not away: it counts for no breaker."""
    web.search_status = status
    with pytest.raises(PeerBusy):
        to(web).find(files[0])
    with pytest.raises(PeerBusy):
        to(web).echo()


def test_echo_is_a_search_that_is_not_read(web: ScriptedWeb) -> None:
    """Its answer names a patient; where it is not allowed, a person reads why."""
    assert 0 < to(web).echo() < 5
    assert web.paths == ["/dicom-web/studies?limit=1"]
    web.search_status = 401
    with pytest.raises(PeerRefused, match="are token, user and password right"):
        to(web).echo()


def test_credentials_are_sent_and_never_said(
    web: ScriptedWeb, files: list[OutgoingFile], caplog: pytest.LogCaptureFixture
) -> None:
    """A bearer token, or user and password; in no log line, no reason, no address."""
    with caplog.at_level(logging.DEBUG):
        answers = list(to(web, token="canary-1").send(files[:1]))
        answers += to(web, user="canary-2", password="canary-3").send(files[:1])
        web.acts = [Act(401, b"")]
        answers += to(web, token="canary-1").send(files[:1])
    sent = [headers["Authorization"] for headers in web.headers]
    assert sent == ["Bearer canary-1", f"Basic {base64.b64encode(b'canary-2:canary-3').decode()}", "Bearer canary-1"]
    assert "canary" not in caplog.text + repr(answers) + "".join(web.paths)


def test_commitment_is_refused_by_name(web: ScriptedWeb, files: list[OutgoingFile]) -> None:
    """A DICOMweb server is asked by query."""
    with pytest.raises(PeerRefused, match="QIDO-RS"):
        to(web).commit(files, "2.25.1", lambda: False)


# What the deliverer makes of it


def test_a_set_goes_by_stow_and_is_found_by_qido(world: World, web: ScriptedWeb) -> None:
    """Stored, searched for, done."""
    world.peers.append(peer(web))
    job_id = publish_two(world, "web")
    assert world.deliverer().deliver(job_id) == 2
    assert list(web.kept) == [SEG_UID, SR_UID]
    assert world.job(job_id).state is JobState.DONE
    assert {one.reason for one in world.deliveries(job_id)} == {"found there"}
    assert {one.last_status for one in world.deliveries(job_id)} == {"HTTP 200"}


def test_an_instance_whose_answer_was_lost_is_searched_for_and_not_sent_twice(
    sqlite_world: World, web: ScriptedWeb
) -> None:
    """Cut after the whole instance: QIDO-RS says yes, and only the report is sent."""
    world = sqlite_world
    world.peers.append(peer(web))
    job_id = publish_two(world, "web")
    web.acts = [Act(cuts="late")]
    world.deliverer().deliver(job_id)
    assert [one.state for one in world.deliveries(job_id)] == [_S.UNKNOWN, _S.RETRY_WAIT]
    world.clock.advance(10)
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    assert web.stores == 2


def test_a_server_that_asks_for_time_gets_it(sqlite_world: World, web: ScriptedWeb) -> None:
    """Retry-After over our own back-off; more than an hour is not waited; being busy opens no breaker."""
    world = sqlite_world
    world.peers.append(peer(web))
    job_id = publish_two(world, "web")
    for wish, wait in (("600", 600), ("999999", 3600)):
        web.acts = [Act(503, b"", {"Retry-After": wish})]
        world.deliverer().deliver(job_id)
        first = world.deliveries(job_id)[0]
        assert first.state is _S.RETRY_WAIT
        assert (first.next_at - world.clock()).total_seconds() == wait
        world.clock.advance(wait)
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    with world.database.reading() as session:
        assert breakers.not_closed(session) == []


def test_a_server_that_is_down_opens_the_breaker_and_a_search_closes_it(sqlite_world: World) -> None:
    """The same breaker, another way to look."""
    world = sqlite_world
    with ScriptedWeb() as web:
        pass  # its port is free again
    world.peers.append(peer(web, timeout=2.0))
    job_id = publish_two(world, "web")
    for _ in range(breakers.OPENS_AFTER):
        world.clock.advance(900)
        world.deliverer().deliver(job_id)
    assert world.job(job_id).reason.startswith("peer web is away since")
    with serving(web.server_address[1]) as back:
        world.clock.advance(10)
        world.deliverer().deliver(job_id)
        assert world.job(job_id).state is JobState.DONE
        assert list(back.kept) == [SEG_UID, SR_UID]


def test_a_search_that_always_fails_is_tried_less_and_less_often_and_ends_with_a_person(
    sqlite_world: World, web: ScriptedWeb
) -> None:
    """Nobody knows whether the results are there: neither sent again nor taken for verified."""
    world = sqlite_world
    world.peers.append(peer(web))
    web.search_status = 500
    job_id = publish_two(world, "web")
    waits = []
    for _ in range(6):
        world.deliverer().deliver(job_id)
        first = world.deliveries(job_id)[0]
        assert (first.state, first.looks) == (_S.ACKED, 0)
        waits.append((first.next_at - world.clock()).total_seconds())
        world.clock.advance(waits[-1] + 60)
    assert waits[0] <= 5
    assert waits[-1] > 100
    assert "HTTP 500 to a query" in world.job(job_id).reason
    world.clock.advance(8 * 86_400)
    world.deliverer().deliver(job_id)
    assert [one.state for one in world.deliveries(job_id)] == [_S.PARKED, _S.PARKED]
    assert web.stores == 2


def test_the_sender_s_results_go_to_the_url_of_its_title(sqlite_world: World, web: ScriptedWeb) -> None:
    """A PACS that sends by DICOM and takes results by DICOMweb is one peer."""
    world = sqlite_world
    world.peers.append(replace(peer(web), ae_title="SCANNER"))
    job_id = publish_two(world, "sender")
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    assert len(web.kept) == 2
