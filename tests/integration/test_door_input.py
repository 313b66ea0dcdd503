"""Bad input at the DICOM door, each by its number: one answer, no crash, no hang, and the next peer is served."""

from __future__ import annotations

import io
import struct
import warnings
from contextlib import suppress
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from node.scp.commands import BadCommand, Command, read_command, store_answer
from node.scp.storing import file_head
from node.testing import part10, synthetic_ct
from tests.integration.conftest import Door
from tests.integration.test_scp import data_set, part10_lenient, send
from tests.peers import (
    ABORT,
    ACCEPT,
    CT,
    EXPLICIT,
    FIND,
    IMPLICIT,
    P_DATA,
    REJECT,
    VERIFICATION,
    Raw,
    associate_rq,
    associated,
    command,
    p_data,
    pdu,
    store_command,
)

UNRECOGNISED, UNEXPECTED, BAD_VALUE = ((ABORT, bytes((0, 0, 2, reason))) for reason in (1, 2, 6))
CLOSED = (0, b"")
REQUEST = associate_rq()

OUTSIDE: dict[str, tuple[bytes, tuple[int, bytes]]] = {
    "B1 a web browser": (b"GET / HTTP/1.1\r\nHost: node\r\n\r\n", UNRECOGNISED),
    "B1 random bytes": (bytes(range(255, 0, -1)), UNRECOGNISED),
    "B1 a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", UNRECOGNISED),
    "B2 a PDU of type 9": (pdu(9, bytes(4)), UNRECOGNISED),
    "B2 P-DATA before the association": (p_data(1, 3, b""), UNEXPECTED),
    "B2 a release before the association": (pdu(5, bytes(4)), UNEXPECTED),
    "B2 an empty request": (pdu(1, b""), BAD_VALUE),
    "B2 a request with its head alone": (pdu(1, REQUEST[6:74]), (REJECT, b"\0\1\1\2")),
    "B6 no context at all": (pdu(1, REQUEST[6:74] + REQUEST[74:99]), BAD_VALUE),
    "B3 a request of a megabyte": (pdu(1, b"", claim=1 << 20), BAD_VALUE),
    "B4 another protocol version": (associate_rq(version=2), (REJECT, b"\0\1\2\2")),
    "B4 another called title": (associate_rq(called=b"OTHER"), (REJECT, b"\0\1\1\7")),
    "B4 an unknown calling title": (associate_rq(calling=b"STRANGER"), (REJECT, b"\0\1\1\3")),
    "B5 a title for a shell": (associate_rq(calling=b"$(id);`id`|x"), (REJECT, b"\0\1\1\3")),
    "B5 a title with line ends": (associate_rq(calling=b"A\r\nB\x1b[2J"), BAD_VALUE),
    "B5 a title that is no text": (associate_rq(calling=b"\xff\xfe\x00"), BAD_VALUE),
    "B6 an even context": (associate_rq((2, CT, (EXPLICIT,))), BAD_VALUE),
    "B6 a context without transfer syntax": (associate_rq((1, CT, ())), BAD_VALUE),
}


@pytest.mark.parametrize(("data", "answer"), OUTSIDE.values(), ids=OUTSIDE)
def test_what_is_no_proper_request_is_answered_and_closed(
    data: bytes, answer: tuple[int, bytes], door: Door
) -> None:
    """At once, and whoever comes next is let in."""
    peer = Raw(door.settings.port, data)
    assert peer.answer() == answer
    assert peer.answer() == CLOSED
    peer.close()
    associated(door.settings.port).close()


def test_b6_as_many_contexts_as_there_can_be(door: Door) -> None:
    """A hundred and twenty-eight: all are answered."""
    peer = Raw(door.settings.port, associate_rq(*((number, CT, (EXPLICIT,)) for number in range(1, 256, 2))))
    kind, body = peer.answer()
    assert (kind, body.count(b"\x21\0\0\x1b")) == (ACCEPT, 128)
    peer.close()


@pytest.mark.parametrize(
    ("context", "result"),
    [((1, FIND, (EXPLICIT,)), 3), ((1, VERIFICATION, ("1.2.840.10008.1.2.4.50",)), 4), ((1, CT, (IMPLICIT,)), 0)],
    ids=["B7 not offered", "B7 no such syntax", "taken"],
)
def test_b7_each_context_has_its_result(context: tuple[int, str, tuple[str]], result: int, door: Door) -> None:
    """PS3.8 Table 9-18."""
    peer = Raw(door.settings.port, associate_rq(context))
    kind, body = peer.answer()
    place = body.index(b"\x21\0")
    assert (kind, body[place + 6]) == (ACCEPT, result)
    peer.close()


STORE = store_command(b"1.2.3")
INSIDE: dict[str, tuple[bytes, tuple[int, bytes]]] = {
    "B2 a PDU of type 9": (pdu(9, bytes(4)), UNRECOGNISED),
    "B2 a second request": (REQUEST, UNEXPECTED),
    "B2 a release of two bytes": (pdu(5, bytes(2)), UNEXPECTED),
    "B2 P-DATA of three bytes": (pdu(P_DATA, bytes(3)), BAD_VALUE),
    "B3 P-DATA over the cap": (pdu(P_DATA, b"", claim=(1 << 18) + 1), BAD_VALUE),
    "B2 a value longer than its PDU": (p_data(1, 3, STORE, claim=1 << 16), BAD_VALUE),
    "B2 a value without a control byte": (p_data(1, 3, b"", claim=1), BAD_VALUE),
    "B8 a context that was not accepted": (p_data(9, 3, STORE), BAD_VALUE),
    "a data set without its command": (p_data(1, 2, b"data"), BAD_VALUE),
    "a command inside a data set": (p_data(1, 3, STORE) + p_data(1, 0, b"x") + p_data(1, 3, STORE), BAD_VALUE),
    "a data set on another context": (p_data(1, 3, STORE) + p_data(3, 2, b"data"), BAD_VALUE),
    "a command that is cut": (p_data(1, 3, STORE[:-3]), BAD_VALUE),
    "a command of garbage": (p_data(1, 3, bytes(range(1, 200))), BAD_VALUE),
    "an empty command": (p_data(1, 3, b""), BAD_VALUE),
    "a store of nothing": (p_data(1, 3, command(1)), BAD_VALUE),
    "a command without end": (b"".join(p_data(1, 1, bytes(60_000)) for _ in range(2)), BAD_VALUE),
    "a message without end": (
        p_data(5, 3, command(0x30, e0002=b"1.2.840.10008.1.1\0")) + p_data(5, 0, bytes(250_000)) * 140, BAD_VALUE,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("data", "answer"), INSIDE.values(), ids=INSIDE)
def test_what_breaks_the_protocol_ends_the_association(data: bytes, answer: tuple[int, bytes], door: Door) -> None:
    """With an A-ABORT that says why; nothing of it is kept."""
    peer = associated(door.settings.port, (1, CT, (EXPLICIT,)), (3, CT, (IMPLICIT,)), (5, VERIFICATION, (IMPLICIT,)))
    with suppress(ConnectionError):  # it may have heard enough
        peer.send(data)
    assert peer.answer() in (answer, CLOSED) if len(data) > 1 << 20 else peer.answer() == answer
    peer.close()
    associated(door.settings.port).close()
    assert door.rows() == []


def test_a_c_store_without_a_data_set_is_refused_and_the_association_lives(door: Door) -> None:
    """B15: C000; a verification is answered on the same association."""
    peer = associated(door.settings.port, (1, CT, (EXPLICIT,)), (3, VERIFICATION, (IMPLICIT,)))
    uids = {"e0002": CT.encode() + b"\0", "e1000": b"1.2.3\0"}
    peer.send(p_data(1, 3, command(1, has_data=False, **uids)))
    assert peer.status() == 0xC000
    peer.send(p_data(3, 3, command(0x30, has_data=False, e0002=VERIFICATION.encode() + b"\0")))
    assert peer.status() == 0
    peer.close()


def test_b8_an_instance_on_a_context_that_is_not_for_storage(door: Door) -> None:
    """0122: SOP class not supported."""
    peer = associated(door.settings.port, (1, VERIFICATION, (IMPLICIT,)))
    peer.send(p_data(1, 3, STORE), p_data(1, 2, bytes(100)))
    assert peer.status() == 0x0122
    peer.close()


def nested(depth: int) -> Dataset:
    """Return an instance with sequences in sequences."""
    (image,) = synthetic_ct(slices=1)
    inner = Dataset()
    for _ in range(depth):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        outer["ReferencedImageSequence"].is_undefined_length = True
        inner.is_undefined_length_sequence_item = True
        inner = outer
    image.ReferencedImageSequence = inner.ReferencedImageSequence if depth else Sequence()
    image["ReferencedImageSequence"].is_undefined_length = True
    return image


def changed(**values: object) -> bytes:
    """Return the data set of an instance with other values."""
    image = pydicom.dcmread(io.BytesIO(part10(synthetic_ct(slices=1)[0])))
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        for keyword, value in values.items():
            setattr(image, keyword, value)
        return data_set(part10_lenient(image))


GOOD = changed()
META = struct.pack("<HH2sH", 2, 0x10, b"UI", 20) + b"1.2.840.10008.1.2.2\0"
DATA_SETS: dict[str, tuple[bytes, bytes, int]] = {
    "good": (b"2.25.4711.1.1", GOOD, 0x0000),
    "B10 another class": (b"2.25.4711.1.1", changed(SOPClassUID="1.2.840.10008.5.1.4.1.1.4"), 0xA900),
    "B11 another instance": (b"2.25.4711.1.2", GOOD, 0xA900),
    "B12 no study": (b"2.25.4711.1.1", changed(StudyInstanceUID=""), 0xC000),
    "B12 no series": (b"2.25.4711.1.1", changed(SeriesInstanceUID=""), 0xC000),
    "B12 no instance": (b"2.25.4711.1.1", changed(SOPInstanceUID=""), 0xC000),
    "B13 a path": (b"../../etc/x", changed(SOPInstanceUID="../../etc/x"), 0xA900),
    "B13 a root path": (b"/etc/passwd", changed(SOPInstanceUID="/etc/passwd"), 0xA900),
    "B13 a NUL inside": (b"1.2\x003.4", changed(SOPInstanceUID="1.2\x003.4"), 0xA900),
    "B13 too long": (b"1" * 65, changed(SOPInstanceUID="1" * 65), 0xA900),
    "B13 letters": (b"no uid", changed(SOPInstanceUID="no uid"), 0xA900),
    "B13 a study that is a path": (b"2.25.4711.1.1", changed(StudyInstanceUID="../../x"), 0xC000),
    "B14 a patient that is a path": (b"2.25.4711.1.1", changed(PatientID="../../x"), 0x0000),
    "B14 a patient of 10 KB": (b"2.25.4711.1.1", changed(PatientID="x" * 10_000), 0x0000),
    "B14 no patient": (b"2.25.4711.1.1", changed(PatientID=""), 0x0000),
    "B15 empty": (b"2.25.4711.1.1", b"", 0xC000),
    "B15 file meta inside": (b"2.25.4711.1.1", META + GOOD, 0xC000),
    "B16 cut in the header": (b"2.25.4711.1.1", GOOD[:300], 0xC000),
    "B16 cut in the pixels": (b"2.25.4711.1.1", GOOD[:-1], 0xC000),
    "B17 too few pixels": (b"2.25.4711.1.1", changed(PixelData=bytes(10)), 0x0000),
    "B18 ten deep": (b"2.25.4711.1.1", data_set(part10(nested(10))), 0x0000),
    "B18 two hundred deep": (b"2.25.4711.1.1", data_set(part10(nested(200))), 0xC000),
    "B20 4 G of pixels claimed": (b"2.25.4711.1.1", changed(Rows=65535, Columns=65535), 0x0000),
    "B22 no such VR": (b"2.25.4711.1.1", GOOD.replace(b"CS", b"\x07\x08", 1), 0xC000),
    "B22 endless": (b"2.25.4711.1.1", struct.pack("<HH2sxxI", 8, 8, b"UN", 0xFFFFFFFF) + GOOD, 0xC000),
    "garbage": (b"2.25.4711.1.1", bytes(range(256)) * 50, 0xC000),
}


@pytest.mark.parametrize(("uid", "data", "status"), DATA_SETS.values(), ids=DATA_SETS)
def test_a_data_set_is_taken_or_refused_for_a_reason(uid: bytes, data: bytes, status: int, door: Door) -> None:
    """The association lives on, and what was refused leaves nothing behind."""
    peer = associated(door.settings.port)
    peer.send(p_data(1, 3, store_command(uid)), p_data(1, 2, data))
    assert f"{peer.status():04X}" == f"{status:04X}"
    assert len(door.rows()) == len(door.files()) == (0 if status else 1)
    peer.send(p_data(1, 3, store_command(b"2.25.4711.1.1")), p_data(1, 2, GOOD))
    assert peer.status() == 0
    peer.close()


@pytest.mark.parametrize("size", [1, 2, 7, 100, 16_000])
def test_fragments_may_fall_anywhere(size: int, door: Door) -> None:
    """Command and data set in pieces of any length, several to a PDU: the same file."""
    peer = associated(door.settings.port)
    assert send(door, *synthetic_ct(slices=1)) == [0]
    for control, data in ((1, store_command(b"2.25.4711.1.1")), (0, GOOD[:6000])):
        for start in range(0, len(data), size):
            peer.send(p_data(1, control, data[start : start + size]))
        if control:
            peer.send(p_data(1, 3, b""))
    values = b"".join(struct.pack(">IBB", len(GOOD[6000:][i : i + 999]) + 2, 1, 0) + GOOD[6000:][i : i + 999]
                      for i in range(0, len(GOOD) - 6000, 999))  # fmt: skip
    peer.send(pdu(P_DATA, values), p_data(1, 2, b""))
    assert peer.status() == 0
    assert len(door.rows()) == 1
    peer.close()


def test_the_files_of_the_malformed_collection_each_have_an_answer(door: Door, data_dir: Path) -> None:
    """Sent as they lie there: kept, or refused with C000 or A900, and never anything else."""
    peer = associated(door.settings.port)
    answers = []
    for file in sorted((data_dir / "malformed").glob("*.dcm")):
        data = file.read_bytes()
        body = data[144 + int.from_bytes(data[140:144], "little") :] if data[128:132] == b"DICM" else data
        peer.send(p_data(1, 3, store_command(b"1.2.3")))
        for start in range(0, len(body), 100_000):
            peer.send(p_data(1, 0, body[start : start + 100_000]))
        peer.send(p_data(1, 2, b""))
        answers.append(peer.status())
    assert len(answers) == 38
    assert set(answers) == {0xA900, 0xC000}
    assert door.files() == []
    peer.close()


def test_the_head_of_a_file_is_what_pydicom_would_write() -> None:
    """Byte for byte, whatever the length of the UIDs: the same instance stays the same file for ever."""
    for uid in ("1.2.3", "1.2.34", "2.25.4711.1.1"):
        (image,) = synthetic_ct(slices=1)
        stream = io.BytesIO()
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = image.SOPClassUID, uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = "2.25.280412371463713229371839263781923700161"
        meta.ImplementationVersionName = "PACS_AI_NODE"
        pydicom.filewriter.write_file_meta_info(stream, meta)
        expected = bytes(128) + b"DICM" + stream.getvalue()
        assert file_head(str(image.SOPClassUID), uid, ExplicitVRLittleEndian) == expected


def test_an_answer_is_read_back_by_pydicom() -> None:
    """Status, UIDs and the message that it answers."""
    request = Command(field=1, has_data_set=True, message_id=513, sop_class=CT.encode() + b"\0", sop_uid=b"1.2.34")
    sent = store_answer(7, request, 0xA700)
    assert len(sent) == 6 + int.from_bytes(sent[2:6], "big")
    assert (sent[10], sent[11]) == (7, 3)
    answer = pydicom.filereader.read_dataset(io.BytesIO(sent[12:]), is_implicit_VR=True, is_little_endian=True)
    assert answer.CommandGroupLength == len(sent) - 12 - 12
    assert (answer.Status, answer.CommandField, answer.MessageIDBeingRespondedTo) == (0xA700, 0x8001, 513)
    assert (answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID) == (CT, "1.2.34")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: STORE + tail))
def test_any_bytes_are_a_command_or_none(data: bytes) -> None:
    """And never another exception."""
    try:
        assert read_command(data).field >= 0
    except BadCommand as why:
        assert str(why)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, len(REQUEST) - 1), value=st.integers(0, 255), cut=st.integers(0, 60))
def test_any_request_is_answered(place: int, value: int, cut: int, door: Door) -> None:
    """One byte of an A-ASSOCIATE-RQ is another, and some may be missing: accepted, rejected or aborted, at once."""
    data = bytearray(REQUEST)
    data[place] = value
    body = bytes(data[6 : len(data) - cut])
    peer = Raw(door.settings.port, bytes(data[:1]) + b"\0" + struct.pack(">I", len(body)) + body)
    assert peer.answer()[0] in (ACCEPT, REJECT, ABORT)
    peer.close()
