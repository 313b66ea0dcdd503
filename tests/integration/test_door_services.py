"""What is asked of the door beside storing (B9): what is offered is served, all else has its answer, nothing aborts."""

from __future__ import annotations

import io
import struct
import threading
import time
from collections.abc import Iterator

import pydicom
import pytest

from node.scp.receiver import _known
from node.testing import part10, synthetic_ct
from tests.integration.conftest import Door
from tests.integration.test_scp import data_set
from tests.peers import (
    ABORT,
    ACCEPT,
    CT,
    EXPLICIT,
    FIND,
    IMPLICIT,
    VERIFICATION,
    Raw,
    associate_rq,
    associated,
    command,
    p_data,
    pdu,
    store_command,
)

MPPS, COMMITMENT = "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = b"1.2.840.10008.1.20.1.1"
CONTEXTS = (
    (1, CT, (EXPLICIT,)), (3, VERIFICATION, (IMPLICIT,)), (5, MPPS, (IMPLICIT,)), (7, COMMITMENT, (IMPLICIT,)),
)  # fmt: skip
GOOD = data_set(part10(synthetic_ct(slices=1)[0]))
BAD_VALUE = (ABORT, bytes((0, 0, 2, 6)))


def padded(uid: str) -> bytes:
    """Return a UID as an element's value."""
    return uid.encode() + b"\0" * (len(uid) % 2)


@pytest.fixture
def peer(door: Door) -> Iterator[Raw]:
    """A peer with an association for all that the door offers."""
    one = associated(door.settings.port, *CONTEXTS)
    yield one
    one.close()


ASKED: dict[str, tuple[int, int, dict[str, bytes], int]] = {
    "C-FIND": (1, 0x0020, {"e0002": padded(FIND)}, 0x0211),
    "C-MOVE": (1, 0x0021, {"e0002": padded(FIND), "e0600": b"ELSE"}, 0x0211),
    "C-GET": (1, 0x0010, {"e0002": padded(FIND)}, 0x0211),
    "C-ECHO on a context of images": (1, 0x0030, {"e0002": padded(VERIFICATION)}, 0x0211),
    "C-ECHO of another class": (3, 0x0030, {"e0002": padded(CT)}, 0x0122),
    "N-GET": (5, 0x0110, {"e0003": padded(MPPS), "e1001": b"1.2.3\0"}, 0x0211),
    "N-DELETE": (5, 0x0150, {"e0003": padded(MPPS), "e1001": b"1.2.3\0"}, 0x0211),
    "N-CREATE on a context of images": (1, 0x0140, {"e0002": padded(MPPS)}, 0x0211),
    "N-CREATE of another class": (5, 0x0140, {"e0002": padded(CT)}, 0x0118),
    "N-SET of another class": (5, 0x0120, {"e0003": padded(CT), "e1001": b"1.2.3\0"}, 0x0118),
    "N-ACTION of a step": (5, 0x0130, {"e0003": padded(MPPS), "e1001": b"1.2.3\0", "e1008": b"\1\0"}, 0x0211),
    "a command that is none": (1, 0x7777, {}, 0x0211),
}


@pytest.mark.parametrize("has_data", [False, True], ids=["alone", "with a data set"])
@pytest.mark.parametrize(("context", "field", "elements", "status"), ASKED.values(), ids=ASKED)
def test_b9_what_is_not_offered_is_answered_and_the_association_lives(
    context: int, field: int, elements: dict[str, bytes], status: int, has_data: bool, peer: Raw
) -> None:
    """By the answer that belongs to the request (PS3.7 10.3, annex C); storing goes on."""
    peer.send(p_data(context, 3, command(field, has_data=has_data, message=513, **elements)))
    if has_data:
        peer.send(p_data(context, 0, bytes(1000)), p_data(context, 2, b""))
    kind, body = peer.answer()
    answer = pydicom.filereader.read_dataset(io.BytesIO(body[6:]), is_implicit_VR=True, is_little_endian=True)
    assert (kind, body[4:6]) == (4, bytes((context, 3)))
    assert f"{answer.Status:04X}" == f"{status:04X}"
    assert (answer.CommandField, answer.MessageIDBeingRespondedTo) == (field | 0x8000, 513)
    assert answer.CommandDataSetType == 0x0101
    named = [value for name, value in elements.items() if name in ("e0002", "e0003")]
    assert [padded(str(answer.AffectedSOPClassUID or ""))] == (named or [b""])
    peer.send(p_data(1, 3, store_command(b"2.25.4711.1.1")), p_data(1, 2, GOOD))
    assert peer.status() == 0


@pytest.mark.parametrize("field", [0x0FFF, 0x8001, 0x8030, 0x8100], ids=["cancel", "stored", "echoed", "reported"])
def test_an_answer_that_nobody_waits_for_is_let_pass(field: int, peer: Raw) -> None:
    """A cancel of nothing, answers to what was never asked: the next request is served."""
    for _ in range(20):
        peer.send(p_data(3, 3, command(field, has_data=False, e0120=b"\1\0", e0900=b"\0\0")))
    peer.send(p_data(3, 3, command(0x30, has_data=False, e0002=padded(VERIFICATION))))
    assert peer.status() == 0


@pytest.mark.parametrize(
    ("field", "elements"),
    [(0x0130, {"e0003": padded(COMMITMENT)}), (0x0120, {"e0003": padded(MPPS)})], ids=["N-ACTION", "N-SET"],
)  # fmt: skip
def test_b9_a_request_without_what_it_must_have_ends_the_association(
    field: int, elements: dict[str, bytes], peer: Raw
) -> None:
    """Nobody waits for an answer that never comes."""
    peer.send(p_data(7 if field == 0x0130 else 5, 3, command(field, has_data=False, **elements)))
    assert peer.answer() == BAD_VALUE


def test_reports_make_no_threads(peer: Raw) -> None:
    """A hundred N-EVENT-REPORTs of nothing at once: each is refused on the association's own thread."""
    report = command(0x0100, message=9, e0002=padded(COMMITMENT), e1000=COMMITMENT_INSTANCE, e1002=b"\1\0")
    transaction = struct.pack("<HHI", 8, 0x1195, 6) + b"1.2.3\0"
    before, most = threading.active_count(), 0
    for _ in range(100):
        peer.send(p_data(7, 3, report), p_data(7, 2, transaction))
    for _ in range(100):
        assert peer.status() == 0x0115
        most = max(most, threading.active_count())
    assert most <= before


SEQUENCE = struct.pack("<HHI", 8, 0x1198, 31) + struct.pack("<HHI", 0xFFFE, 0xE000, 23)
UNREADABLE = {
    "a report": (7, 0x0100, {"e0002": padded(COMMITMENT), "e1000": COMMITMENT_INSTANCE, "e1002": b"\2\0"},
                 struct.pack("<HHI", 8, 0x1195, 6) + b"1.2.3\0" + SEQUENCE
                 + struct.pack("<HHI", 8, 0x1155, 6) + b"1.2.3\0" + struct.pack("<HHI", 8, 0x1197, 1) + b"x"),
    "a question": (7, 0x0130, {"e0003": padded(COMMITMENT), "e1001": COMMITMENT_INSTANCE, "e1008": b"\1\0"},
                   struct.pack("<HHI", 8, 0x1195, 4) + b"1.2."
                   + struct.pack("<HHI", 8, 0x1199, 0xFFFFFFFF) + b"CANARY"),
    "a step": (5, 0x0140, {"e0002": padded(MPPS), "e1000": b"1.2.3\0"},
               struct.pack("<HHI", 0x40, 0x252, 12) + b"IN PROGRESS "
               + struct.pack("<HHI", 0x40, 0x270, 0xFFFFFFFF) + b"CANARY"),
}  # fmt: skip


@pytest.mark.parametrize(("context", "field", "elements", "data"), UNREADABLE.values(), ids=UNREADABLE)
def test_b22_a_message_whose_data_set_cannot_be_read_is_refused(
    context: int, field: int, elements: dict[str, bytes], data: bytes, peer: Raw, caplog: pytest.LogCaptureFixture
) -> None:
    """0110, and what stood in it reaches no log; a verification is answered on the same association."""
    peer.send(p_data(context, 3, command(field, **elements)), p_data(context, 2, data))
    assert f"{peer.status():04X}" == "0110"
    peer.send(p_data(3, 3, command(0x30, has_data=False, e0002=padded(VERIFICATION))))
    assert peer.status() == 0
    assert "CANARY" not in caplog.text
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


HEAD = associate_rq()[6:99]  # titles and application context
INFORMATION = _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3.4")
ASKS_FOR_WHAT_CANNOT_BE = {
    "B6 a context without abstract syntax": (
        _item(0x20, b"\1\0\0\0" + _item(0x40, EXPLICIT.encode())) + _item(0x50, INFORMATION)
    ),
    "B4 a role that is none": (
        _item(0x20, b"\1\0\0\0" + _item(0x30, CT.encode()) + _item(0x40, EXPLICIT.encode()))
        + _item(0x50, INFORMATION + _item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\0\0"))
    ),
    "B4 an identity of no kind": (
        _item(0x20, b"\1\0\0\0" + _item(0x30, CT.encode()) + _item(0x40, EXPLICIT.encode()))
        + _item(0x50, INFORMATION + _item(0x58, b"\x09\1\0\0\0\0"))
    ),
}


@pytest.mark.parametrize("items", ASKS_FOR_WHAT_CANNOT_BE.values(), ids=ASKS_FOR_WHAT_CANNOT_BE)
def test_a_request_for_what_cannot_be_is_aborted_and_is_no_failure_of_ours(
    items: bytes, door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """2/6: a value that is not valid; the log tells of the peer, not of a traceback of the node."""
    raw = Raw(door.settings.port, pdu(1, HEAD + items))
    assert raw.answer() == BAD_VALUE
    raw.close()
    deadline = time.monotonic() + 5
    while "association ended" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "association ended by a failure" not in caplog.text
    again = Raw(door.settings.port, associate_rq())
    assert again.answer()[0] == ACCEPT
    again.close()


def test_a_request_that_was_understood_once_is_answered_alike_each_time(door: Door) -> None:
    """The same bytes, twice at once: the same answer, and each association keeps what it has agreed on for itself."""
    request = associate_rq(*CONTEXTS)
    before = _known.cache_info().hits
    first, second = Raw(door.settings.port, request), Raw(door.settings.port, request)
    answers = [one.answer() for one in (first, second)]
    assert answers[0][0] == ACCEPT and answers[0] == answers[1]
    assert _known.cache_info().hits > before
    other = Raw(door.settings.port, associate_rq(*CONTEXTS[:2]))
    assert other.answer() != answers[0]
    first.close()
    second.send(p_data(3, 3, command(0x0030, has_data=False, e0002=padded(VERIFICATION))))
    assert second.status() == 0
    for one in (second, other):
        one.close()
