"""Data sets, right and wrong (PS3.5 section 7): of images, of steps, of commitment, in four encodings."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from random import Random
from typing import Any

import pydicom
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.scp.storing import file_head
from node.testing import synthetic_ct
from tests.peers import CT

SYNTAXES = (
    str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian), str(DeflatedExplicitVRLittleEndian),
    str(ExplicitVRBigEndian), "1.2.840.10008.1.2.4.50",
)  # fmt: skip
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_ODD_VRS = (b"UN", b"SQ", b"OB", b"\0\0", b"??", b"ui", b"LO", b"US", b"DS", b"\xff\xff")
_ODD_TAGS = (0x00080018, 0x0020000D, 0x7FE00010, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x00020010, 0, 0xFFFFFFFF)
_WHOLE = (0, 1, 2, 7, 8, 0x7F, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000,
          0xFFFFFFF0, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip
#: What an image says of itself: tag, VR, some values.
_IMAGE: tuple[tuple[int, bytes, tuple[bytes, ...]], ...] = (
    (0x00080005, b"CS", (b"ISO_IR 100", b"ISO_IR 192", b"\\ISO 2022 IR 87 ", b"ISO_IR 999", b"nonsense", b"\xff\xfe")),
    (0x00080008, b"CS", (b"ORIGINAL\\PRIMARY\\AXIAL ", b"\\\\", b"DERIVED ")),
    (0x00080016, b"UI", (CT.encode() + b"\0", b"1.2.3\0")),
    (0x00080018, b"UI", (b"2.25.4711.1.1\0", b"1.2.3", b"../../x\0", b"1.2\x003\0", b"", b"1" * 66)),
    (0x00080020, b"DA", (b"20260101", b"2026", b"", b"yesterday ")),
    (0x00080050, b"SH", (b"A1", b"", b"'; DROP TABLE x--")),
    (0x00080060, b"CS", (b"CT", b"MR", b"\xff\xff")),
    (0x00080070, b"LO", (b"Maker ", b"")),
    (0x00081030, b"LO", (
        b"Thorax nativ", b"\x1b$B6;It\x1b(B", b"\xc3\x28\xa0\xa1", b"\xed\xa0\x80\xed\xb0\x80", b"x" * 300,
    )),
    (0x0008103E, b"LO", (b"Lunge weich ", b"a\x07\r\nb\x1b[31m", b"\x1b$)C\xb1\xe8")),
    (0x00100020, b"LO", (b"P-7 ", b"../../..", b"", b"x" * 10_000)),
    (0x00180015, b"CS", (b"CHEST ", b"")),
    (0x00180050, b"DS", (b"2.5 ", b"nan ", b"1e999 ", b"thin", b"2.5\\3 ")),
    (0x0020000D, b"UI", (b"2.25.4711\0", b"", b"..", b"1.2.3.4.5.6.7.8.9\0")),
    (0x0020000E, b"UI", (b"2.25.4711.1\0", b"1.2.840.1\0")),
    (0x00200011, b"IS", (b"3 ", b"99999999999 ", b"0x10", b"1_0 ", b"\xd9\xa1")),
    (0x00200013, b"IS", (b"17", b"-1", b"x7", b"1e3 ")),
    (0x00200032, b"DS", (b"-1.5\\2.25\\30", b"1\\2 ", b"a\\b\\c ")),
    (0x00200037, b"DS", (b"1\\0\\0\\0\\1\\0 ", b"1\\0 ", b"inf\\0\\0\\0\\1\\0 ")),
    (0x00280008, b"IS", (b"1 ", b"1000000 ", b"-5", b"")),
    (0x00280010, b"US", (b"\x04\0", b"\xff\xff", b"\0", b"\x04\0\0\0", b"")),
    (0x00280011, b"US", (b"\x06\0", b"\xff\xff")),
)


class Pen:
    """Writes what a grammar says; how often it slips is drawn once for each input, and often it never does."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self._rate = rng.choice((0.0, 0.0, 0.01, 0.03, 0.1))

    def slips(self) -> bool:
        """Return whether it does now."""
        return self._rate > 0 and self.rng.random() < self._rate


def claimed(rng: Random, length: int) -> int:
    """Return a length that is not the one that it stands for, or hardly."""
    return rng.choice((length + 1, length - 1, length + 2, length * 2, *_WHOLE))


class _Writer:
    """Writes elements in one encoding."""

    def __init__(self, pen: Pen, *, implicit: bool, big: bool) -> None:
        self._pen, self._implicit, self._order = pen, implicit, ">" if big else "<"

    def element(self, tag: int, vr: bytes, value: bytes, *, endless: bool = False) -> bytes:
        """Return an element; *endless*: of undefined length."""
        pen, rng = self._pen, self._pen.rng
        if pen.slips():
            tag = rng.choice((*_ODD_TAGS, rng.randrange(1 << 32), tag + 1))
        if pen.slips():
            vr = rng.choice(_ODD_VRS)
        if pen.slips():
            value = rng.choice((b"", value + b" ", value[:-1], value * 3))
        length = 0xFFFFFFFF if endless else claimed(rng, len(value)) if pen.slips() else len(value)
        head = struct.pack(self._order + "HH", tag >> 16 & 0xFFFF, tag & 0xFFFF)
        if self._implicit or tag >> 16 == 0xFFFE:
            return head + struct.pack(self._order + "I", length & 0xFFFFFFFF) + value
        if vr in _LONG:
            return head + vr + b"\0\0" + struct.pack(self._order + "I", length & 0xFFFFFFFF) + value
        return head + vr + struct.pack(self._order + "H", length & 0xFFFF) + value

    def sequence(self, depth: int) -> bytes:
        """Return a sequence with items of every kind of length, and with sequences in them."""
        rng, out = self._pen.rng, b""
        for _ in range(rng.randrange(3)):
            inside = self.element(0x00081150, b"UI", CT.encode() + b"\0")
            inside += self.element(0x00081155, b"UI", b"1.2.3\0")
            if depth and rng.random() < 0.7:
                inside += self.sequence(depth - 1)
            endless = rng.random() < 0.5
            out += self.element(0xFFFEE000, b"", inside, endless=endless)
            if endless and not self._pen.slips():
                out += self.element(0xFFFEE00D, b"", b"")
        endless = rng.random() < 0.5
        tag, vr = rng.choice(((0x00081140, b"SQ"), (0x00081140, b"SQ"), (0x00091001, b"SQ"), (0x00091002, b"UN")))
        out = self.element(tag, vr, out, endless=endless)
        return out + self.element(0xFFFEE0DD, b"", b"") if endless and not self._pen.slips() else out

    def pixels(self) -> bytes:
        """Return pixel data, as it is or in fragments."""
        rng = self._pen.rng
        if rng.random() < 0.7:
            return self.element(0x7FE00010, b"OW", bytes(rng.choice((48, 48, 0, 10, 5000))))
        fragments = b"".join(self.element(0xFFFEE000, b"", rng.randbytes(rng.randrange(40))) for _ in range(3))
        return self.element(0x7FE00010, b"OB", fragments, endless=True) + self.element(0xFFFEE0DD, b"", b"")


def plain_data_set(rng: Random, *, implicit: bool, big: bool = False) -> bytes:
    """Return a data set as it is before it may be deflated."""
    pen = Pen(rng)
    writer = _Writer(pen, implicit=implicit, big=big)
    parts = []
    for tag, vr, values in _IMAGE:
        if pen.slips():
            continue
        value = values[0] if rng.random() < 0.85 else rng.choice(values)
        if big and vr == b"US":
            value = value[::-1]
        parts.append(writer.element(tag, vr, value))
        if rng.random() < 0.06:
            depth = rng.choice((0, 1, 2, 5)) if not pen.slips() else 40
            parts.append(writer.sequence(depth))
    if rng.random() < 0.1:
        parts.insert(rng.randrange(len(parts) + 1), writer.element(0x00091010, b"UN", rng.randbytes(9)))
    if rng.random() < 0.02:
        level = writer.element(0x00081140, b"SQ", b"", endless=True)
        level += writer.element(0xFFFEE000, b"", b"", endless=True)
        parts.insert(0, level * rng.choice((30, 40, 5000)))
    for change in (rng.shuffle, lambda those: those.append(those[0]), lambda those: those.clear()):
        if pen.slips() and parts:
            change(parts)
    data = b"".join(parts) + (writer.pixels() if rng.random() < 0.8 else b"")
    return data[: rng.randrange(len(data) + 1)] if pen.slips() else data


def data_set(rng: Random, syntax: str) -> bytes:
    """Return a data set in a transfer syntax, as it should be or nearly so."""
    data = plain_data_set(rng, implicit=syntax == ImplicitVRLittleEndian, big=syntax == ExplicitVRBigEndian)
    if syntax != DeflatedExplicitVRLittleEndian:
        return data
    if rng.random() < 0.02:
        data += bytes(rng.choice((1 << 16, 1 << 22)))  # a small bomb
    squeezed = zlib.compressobj(level=1, wbits=-zlib.MAX_WBITS)
    return squeezed.compress(data) + squeezed.flush()


def walked_data_set(rng: Random) -> bytes:
    """Return a data set that the walk is meant for."""
    return plain_data_set(rng, implicit=rng.random() < 0.5)


def file(rng: Random) -> bytes:
    """Return a file of PS3.10 as the receiver writes it, or nearly so."""
    syntax = rng.choice(SYNTAXES[:2] * 3 + SYNTAXES)
    said = syntax if rng.random() < 0.95 else rng.choice((*SYNTAXES, "1.2.3", "x", ""))
    head = file_head(CT, rng.choice(("2.25.4711.1.1", "1.2.3")), said)
    if rng.random() < 0.05:
        place = rng.randrange(128, len(head))
        head = head[:place] + rng.randbytes(2) + head[place + rng.randrange(4) :]
    return head + data_set(rng, syntax)


@functools.cache
def named_data_set(uid: str, syntax: str) -> bytes:
    """Return the data set of a small honest CT image of that UID."""
    (image,) = synthetic_ct(slices=1, rows=4, columns=6)
    image.SOPInstanceUID = uid
    return _encoded(image, syntax)


def _encoded(ds: Dataset, syntax: str) -> bytes:
    stream = io.BytesIO()
    big, implicit = syntax == ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    deflated = syntax == DeflatedExplicitVRLittleEndian
    copy = pydicom.Dataset()
    copy.update({element.tag: element for element in ds if element.tag.group != 2})
    pydicom.filewriter.write_dataset(_buffer(stream, implicit=implicit, big=big), copy)
    data = stream.getvalue()
    if not deflated:
        return data
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return squeezed.compress(data) + squeezed.flush()


def _buffer(stream: io.BytesIO, *, implicit: bool, big: bool) -> Any:
    buffer = pydicom.filebase.DicomBytesIO() if stream is None else pydicom.filebase.DicomFileLike(stream)
    buffer.is_implicit_VR, buffer.is_little_endian = implicit, not big
    return buffer


def _nested(writer: _Writer, tag: int, *items: bytes) -> bytes:
    inside = b"".join(writer.element(0xFFFEE000, b"", one) for one in items)
    return writer.element(tag, b"SQ", inside)


def step_of(pen: Pen, *, implicit: bool) -> bytes:
    """Return the attributes of a performed procedure step (PS3.4 F.7.2)."""
    rng, writer = pen.rng, _Writer(pen, implicit=implicit, big=False)
    status = rng.choice((b"IN PROGRESS ", b"COMPLETED ", b"DISCONTINUED", b"", b"nonsense", b"\xff\xfe"))
    study = writer.element(0x0020000D, b"UI", rng.choice((b"2.25.4711\0", b"", b"../x")))
    image = writer.element(0x00081155, b"UI", rng.choice((b"2.25.4711.1.1\0", b"x ")))
    series = writer.element(0x0020000E, b"UI", b"2.25.4711.1\0") + _nested(writer, 0x00081140, image, image)
    parts = [writer.element(0x00400252, b"CS", status), _nested(writer, 0x00400270, study)]
    if rng.random() < 0.6:
        parts.append(_nested(writer, 0x00400340, series))
    if pen.slips():
        rng.shuffle(parts)
    if pen.slips():
        parts.pop()
    return b"".join(parts)


def transaction(pen: Pen, *, implicit: bool) -> bytes:
    """Return a question for storage commitment, or a report on one (PS3.4 J.3)."""
    rng, writer = pen.rng, _Writer(pen, implicit=implicit, big=False)
    item = writer.element(0x00081150, b"UI", CT.encode() + b"\0")
    item += writer.element(0x00081155, b"UI", rng.choice((b"2.25.4711.1.1\0", b"1.2.3\0", b"..")))
    if rng.random() < 0.2:
        item += writer.element(0x00081197, b"US", rng.choice((b"\x12\x01", b"", b"\0" * 4)))
    parts = [writer.element(0x00081195, b"UI", b"2.25.%d" % rng.randrange(50))]
    parts.append(_nested(writer, rng.choice((0x00081199, 0x00081199, 0x00081198)), *[item] * rng.randrange(4)))
    return b"".join(parts[:1] if pen.slips() else parts)
