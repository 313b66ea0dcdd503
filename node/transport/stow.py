"""STOW-RS and QIDO-RS as a user (PS3.18 sections 10.5 and 10.6): one request for each instance, one part in each.

One instance a request, so that what refers to another is not sent before the answer to that one came.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from uuid import uuid4
from xml.etree import ElementTree

import httpx

from node.domain.peer import Answer, AnswerKind, CommitReport, OutgoingFile, Peer
from node.errors import PeerAway, PeerBusy, PeerRefused
from node.transport.counts import Counts, count_by_json, patient_by_json
from node.transport.cstore import read_status

MAX_ANSWER = 1 << 20  # bytes of an answer that are read: it names one instance
_CHUNK = 1 << 16
_CONNECT = 10.0  # seconds; a peer that is there takes a connection at once
_JSON = "application/dicom+json"
_BUSY = frozenset({408, 425, 429})  # and every 5xx but 501, "not implemented"
_TELLING = frozenset({200, 202, 400, 409})  # answers whose body says what became of each instance
_MEANINGS = {
    400: "it cannot read the request",
    401: "it does not know us: are token, user and password right?",
    403: "we may not store there",
    404: "there is no such service: is the url right?",
    409: "it does not take this instance",
    413: "the instance is too large for it",
    415: "it does not take DICOM files, or not this transfer syntax",
    501: "it has no such service",
}
_UID, _IS_REFERENCED, _FAILED, _REFERENCED = "00080018", "00081155", "00081198", "00081199"
_WARNING, _FAILURE = "00081196", "00081197"


class StowTransport:
    """One DICOMweb server."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def echo(self) -> float:
        """Return the seconds that a search for one study took; its answer, which names a patient, is not read."""
        began = time.monotonic()
        with self._client() as client:
            try:
                with client.stream("GET", "studies", params={"limit": "1"}) as response:
                    status = response.status_code
            except httpx.RequestError as why:
                raise self._away(why) from why
        if _is_busy(status):
            raise PeerBusy(f"{self._peer.where} answers HTTP {status}: ask again later")
        if not 200 <= status < 300:
            raise PeerRefused(f"{self._peer.where} answers HTTP {status} to a search: {_meaning(status)}")
        return time.monotonic() - began

    def clock(self) -> datetime | None:
        """Return what time it is at the server, by the date of its answer; None where it does not say."""
        with self._client() as client:
            try:
                with client.stream("GET", "studies", params={"limit": "1"}) as response:
                    said = response.headers.get("Date", "")
            except httpx.RequestError as why:
                raise self._away(why) from why
        try:
            told = parsedate_to_datetime(said)
        except ValueError:
            return None
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def find(self, file: OutgoingFile) -> bool | None:
        """Return whether the peer has the instance (QIDO-RS); None where it cannot be asked."""
        return self.find_all([file])[0]

    def find_all(self, files: Sequence[OutgoingFile]) -> list[bool | None]:
        """Return the same for each of several instances, over one connection; PeerAway where it gives out."""
        with self._client() as client:
            return [self._find_one(client, file) for file in files]

    def _find_one(self, client: httpx.Client, file: OutgoingFile) -> bool | None:
        asked = {"StudyInstanceUID": file.study_uid, "SOPInstanceUID": file.sop_uid}
        status, body = self._search(client, "instances", {k: v for k, v in asked.items() if v})
        if status == 204:
            return False
        if status != 200 or (found := _model(body)) is None:
            return None
        return any(_first(item, _UID) == file.sop_uid for item in found)

    def count(self, study_uids: Sequence[str]) -> Iterator[Counts | None]:
        """Yield the peer's own count of each study (QIDO-RS); PeerAway where it does not answer."""
        with self._client() as client:
            for uid in study_uids:
                status, body = self._search(client, "series", {"StudyInstanceUID": uid, "includefield": "00201209"})
                yield {} if status == 204 else count_by_json(_model(body)) if status == 200 else None

    def patient_of(self, study_uid: str) -> str | None:
        """Return the Patient ID under which the peer has a study; None where it has none, or does not say."""
        with self._client() as client:
            asked = {"StudyInstanceUID": study_uid, "includefield": "00100020"}
            status, body = self._search(client, "studies", asked)
            return patient_by_json(_model(body)) if status == 200 else None

    def _search(self, client: httpx.Client, level: str, asked: dict[str, str]) -> tuple[int, bytes | None]:
        try:
            with client.stream("GET", level, params=asked) as response:
                status, body = response.status_code, self._body(response)
        except httpx.RequestError as why:
            raise self._away(why) from why
        if _is_busy(status):
            raise PeerBusy(f"{self._peer.where} answers HTTP {status} to a query: ask again later")
        return status, body

    def commit(
        self,
        files: Sequence[OutgoingFile],  # noqa: ARG002
        transaction_uid: str,  # noqa: ARG002
        answered: Callable[[], bool],  # noqa: ARG002
    ) -> CommitReport | None:
        """Refuse: a DICOMweb server is asked by query."""
        raise PeerRefused(f"{self._peer.where} is asked by QIDO-RS: storage commitment needs DICOM")

    def send(self, files: Sequence[OutgoingFile]) -> Iterator[Answer]:
        """Send the files in order; yield the answer to each as it comes."""
        with self._client() as client:
            for file in files:
                yield self._send_one(client, file)

    def _send_one(self, client: httpx.Client, file: OutgoingFile) -> Answer:
        part = _Part(file.path)
        try:
            with client.stream("POST", "studies", content=part, headers=part.headers) as response:
                status, asked_wait = response.status_code, _seconds(response.headers.get("Retry-After", ""))
                body = self._body(response)
        except httpx.RequestError as why:
            if not part.is_out:
                raise self._away(why) from why  # without its end the peer cannot have taken it
            return Answer(kind=AnswerKind.UNKNOWN, reason=f"sent, and no answer came: {_words(why)}")
        return read_answer(status, body, file.sop_uid, retry_after=asked_wait)

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        peer = self._peer
        headers = {"Accept": _JSON, "Accept-Encoding": "identity", "User-Agent": "pacs-ai-node"}
        if peer.token:
            headers["Authorization"] = f"Bearer {peer.token}"
        with httpx.Client(
            base_url=peer.url, headers=headers, auth=(peer.user, peer.password) if peer.user else None,
            timeout=httpx.Timeout(peer.timeout, connect=min(peer.timeout, _CONNECT)),
            follow_redirects=False,  # credentials and results go where the configuration says, and nowhere else
            trust_env=False,  # so do proxies and .netrc not have a say
            verify=ssl.create_default_context() if peer.url.startswith("https") else False,
        ) as client:  # fmt: skip
            yield client

    def _body(self, response: httpx.Response) -> bytes | None:
        """Return the body of an answer; None where it is too long or comes too slowly to be one."""
        body, deadline = b"", time.monotonic() + self._peer.timeout
        for chunk in response.iter_raw(_CHUNK):  # as it comes: what is packed might unpack without end
            body += chunk
            if len(body) > MAX_ANSWER or time.monotonic() > deadline:
                return None
        return body

    def _away(self, why: httpx.RequestError) -> PeerAway:
        return PeerAway(f"{self._peer.where} does not answer: {_words(why)}")


class _Part:
    """The body of one request, streamed from disk; *is_out* once its last byte was handed over."""

    def __init__(self, path: Path) -> None:
        boundary = uuid4().hex
        self._path = path
        self._head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        self._tail = f"\r\n--{boundary}--\r\n".encode()
        self.is_out = False
        self.headers = {
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Content-Length": str(len(self._head) + path.stat().st_size + len(self._tail)),
        }

    def __iter__(self) -> Iterator[bytes]:
        yield self._head
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield self._tail
        self.is_out = True


def read_answer(status: int, body: bytes | None, sop_uid: str, *, retry_after: float = 0.0) -> Answer:
    """Return what the answer to a STOW-RS request of one instance means (PS3.18 10.5.3, table I.2-1)."""
    shown = f"HTTP {status}"
    told = _told(body, sop_uid) if status in _TELLING else _Told()
    if told.failure is not None:
        return read_status(told.failure)
    if status == 200 or (status in _TELLING and told.is_there):
        return Answer(kind=AnswerKind.ACCEPTED, status=f"{told.warning:04X}" if told.warning else shown)
    if _is_busy(status):
        reason = f"the peer answered {shown}: it asks for another try later"
        return Answer(kind=AnswerKind.LATER, status=shown, reason=reason, retry_after=retry_after)
    if 200 <= status < 300:
        return Answer(kind=AnswerKind.UNKNOWN, status=shown, reason=f"{shown}, and not a word about this instance")
    return Answer(kind=AnswerKind.REFUSED, status=shown, reason=f"the peer answered {shown}: {_meaning(status)}")


@dataclass(frozen=True, slots=True)
class _Told:
    """What the body of an answer says of one instance."""

    is_there: bool = False
    failure: int | None = None
    warning: int = 0


def _told(body: bytes | None, sop_uid: str) -> _Told:
    """Look the instance up in the sequences of an answer (PS3.18 annex I)."""
    for answer in _model(body) or []:
        for item in _items(answer, _FAILED):
            if _first(item, _IS_REFERENCED) == sop_uid:
                return _Told(failure=_number(_first(item, _FAILURE), otherwise=0x0110))
        for item in _items(answer, _REFERENCED):
            if _first(item, _IS_REFERENCED) == sop_uid:
                return _Told(is_there=True, warning=_number(_first(item, _WARNING), otherwise=0))
    return _Told()


def _model(body: bytes | None) -> list[dict[str, Any]] | None:
    """Return the data sets of a DICOM JSON or native XML answer as DICOM JSON; None where it is neither."""
    if body is None:
        return None
    try:
        read = _from_xml(body) if body.lstrip().startswith(b"<") else json.loads(body or b"[]")
    except (ValueError, RecursionError, ElementTree.ParseError):
        return None
    found = read if isinstance(read, list) else [read]
    return [item for item in found if isinstance(item, dict)]


def _from_xml(body: bytes) -> dict[str, Any]:
    if b"<!" in body:
        raise ValueError("an answer declares no entities")  # what it has declared might unfold without end
    return _xml_data_set(ElementTree.fromstring(body))  # noqa: S314  # no declarations: see above


def _xml_data_set(element: ElementTree.Element) -> dict[str, Any]:
    """Return a NativeDicomModel or Item element (PS3.19 A.1) as DICOM JSON."""
    found: dict[str, Any] = {}
    for attribute in element:
        values: list[Any] = []
        for child in attribute:
            name = child.tag.rpartition("}")[2]
            values.append(_xml_data_set(child) if name == "Item" else (child.text or "").strip())
        found[attribute.get("tag", "").upper()] = {"Value": values}
    return found


def _items(data_set: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    return [item for item in _values(data_set, tag) if isinstance(item, dict)]


def _values(data_set: dict[str, Any], tag: str) -> list[Any]:
    attribute = data_set.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _first(data_set: dict[str, Any], tag: str) -> Any:
    values = _values(data_set, tag)
    return values[0] if values else None


def _number(value: Any, *, otherwise: int) -> int:
    try:
        return int(value) & 0xFFFF
    except (TypeError, ValueError):
        return otherwise


def _is_busy(status: int) -> bool:
    return status in _BUSY or (status >= 500 and status != 501)


def _meaning(status: int) -> str:
    if 300 <= status < 400:
        return "it sends us elsewhere, and nothing is sent where the configuration does not say: is the url right?"
    return _MEANINGS.get(status, "it does not take this")


def _seconds(retry_after: str) -> float:
    """Return the wait that a Retry-After header asks for (RFC 9110 10.2.3): seconds, or a date."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after[:9])
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _words(why: Exception) -> str:
    return str(why) or type(why).__name__
