"""Just enough of an instance's header to file it and to plan; hostile input is expected, pixel data never touched."""

from __future__ import annotations

import io
import logging
import math
import os
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydicom import Dataset, dcmread
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from node.dicom.walk import Beyond, Damaged, Unusual, Walk
from node.domain.study import InstanceFacts
from node.errors import UnreadableInstance

_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "AccessionNumber", "StudyDate", "StudyDescription", "Modality", "BodyPartExamined", "SeriesDescription",
    "SeriesNumber", "InstanceNumber", "ImageType", "Rows", "Columns", "NumberOfFrames", "SliceThickness",
    "ImageOrientationPatient", "ImagePositionPatient", "Manufacturer",
)  # fmt: skip
_TAGS = {keyword: BaseTag(tag_for_keyword(keyword) or 0) for keyword in _KEYWORDS}
_WANTED: list[BaseTag | int] = list(_TAGS.values())
_NAMES = {int(tag): keyword for keyword, tag in _TAGS.items()}
_META_LENGTH, _TRANSFER_SYNTAX = 0x00020000, 0x00020010
_META_LENGTH_AT, _META_AT = 132, 144  # PS3.10 7.1: behind preamble, prefix and the group's length
_BEGINNINGS = (1 << 17, 1 << 23)  # bytes of a file in which its header is looked for
_UNUSUAL = {DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian}
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # PS3.5 9.1, lenient on leading zeros, which real devices send
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})  # float, double float and integer pixel data
_INFLATED_AT_MOST = 1 << 20  # bytes of a deflated data set that are inflated: its header, never a bomb
_LARGEST_INSTANCE = 1 << 30  # bytes of a deflated instance once inflated
_LONGEST_UID = 64  # characters
_LONGEST_TEXT = 256  # characters kept of a text value
_LARGEST_NUMBER = 2**31 - 1  # PS3.5 6.2, VR IS
_DELIMITERS = {ord(c) for c in "\\\r\n\t\f"}  # where a character set falls back to its first (PS3.5 6.1.2.5.3)
#: All that pydicom has been seen to raise on damaged input.
PARSE_ERRORS = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, TypeError, AttributeError, LookupError,
    NotImplementedError, RecursionError, struct.error, zlib.error, OverflowError, MemoryError, AssertionError,
)  # fmt: skip

_filters = threading.RLock()  # `warnings` has one list of filters for all threads
_pydicom_log = logging.getLogger("pydicom")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep pydicom from warning of values that break their VR: they are looked at where they are used.

    It also logs each, with the value: a patient's name may be in it.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = _pydicom_log.level
        _pydicom_log.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            _pydicom_log.setLevel(level)


def read_facts(source: bytes | memoryview | Path) -> InstanceFacts:
    """Return the facts of one Part-10 encoded instance (PS3.10 section 7).

    Raises UnreadableInstance, saying what is missing or damaged; never anything else, whatever the bytes are.
    """
    try:
        header = _walked(source)
        if header is None:
            with quiet():
                header = _read_header(bytes(source) if isinstance(source, memoryview) else source)
        return _facts(header)
    except Damaged as why:
        raise UnreadableInstance(f"the instance {why}") from why
    except PARSE_ERRORS as why:
        raise UnreadableInstance(f"not a readable DICOM instance ({type(why).__name__})") from why


def _walked(source: bytes | memoryview | Path) -> _Header | None:
    """Return the header where it is as the standard has it, in one of the usual encodings; else None."""
    if not isinstance(source, Path):
        return _walk(memoryview(source), len(source))
    with source.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for most in _BEGINNINGS:
            file.seek(0)
            with suppress(Beyond):
                return _walk(memoryview(file.read(most)), size)
    return None


def _walk(data: memoryview, size: int) -> _Header | None:
    """Return the header of a file of *size* bytes that begins with *data*; Beyond where it does not lie in them."""
    try:
        syntax, place = _read_meta(data)
        if syntax in _UNUSUAL:
            return None
        walk = Walk(data, place, implicit=syntax == ImplicitVRLittleEndian, size=size)
        values = walk.until(_PIXELS, _NAMES)
    except Beyond:
        raise
    except Unusual:
        return None
    return _Header({_NAMES[tag]: value for tag, value in values.items()}, syntax, "little")


def _read_meta(data: memoryview) -> tuple[str, int]:
    """Return the transfer syntax and where the data set begins; Unusual where the file does not say so plainly."""
    if bytes(data[128:132]) != b"DICM":
        raise Unusual
    try:
        told = Walk(data[:_META_AT], _META_LENGTH_AT, implicit=False).until((), (_META_LENGTH,))
        place = _META_AT + int.from_bytes(told.get(_META_LENGTH, b""), "little")
        meta = Walk(data[:place], _META_AT, implicit=False).until((), (_TRANSFER_SYNTAX,))
    except Damaged as why:
        raise Unusual from why
    syntax = meta.get(_TRANSFER_SYNTAX, b"").decode("ascii", errors="replace").rstrip("\0 ")
    if not _is_uid(syntax) or _META_LENGTH not in told:
        raise Unusual
    if place > len(data) or bytes(data[place : place + 2]) == b"\x02\0":
        raise Unusual
    return syntax, place


def read_instance(path: Path, *, pixels: bool) -> Dataset:
    """Return a whole instance, with or without its pixel data; elements that cannot be read are left out.

    Raises UnreadableInstance where the file is no DICOM instance.
    """
    try:
        with quiet():
            _check_inflated_size(path)
            dataset = dcmread(path, stop_before_pixels=not pixels)
            _drop_unreadable(dataset)
            return dataset
    except PARSE_ERRORS as why:
        raise UnreadableInstance(f"{path.name} is not a readable DICOM instance ({type(why).__name__})") from why


def _drop_unreadable(dataset: Dataset) -> None:
    """Convert every value now, so that none fails or warns where it is used."""
    for tag in list(dataset.keys()):
        try:
            _ = dataset[tag]
        except PARSE_ERRORS:
            del dataset[tag]


def _check_inflated_size(path: Path) -> None:
    """Refuse a deflated file that would fill the memory; pydicom inflates without a limit."""
    with path.open("rb") as stream:
        if _syntax_of(stream) != DeflatedExplicitVRLittleEndian:
            return
        inflater, data, size = zlib.decompressobj(-zlib.MAX_WBITS), stream.read(), 0
        while data and not inflater.eof:
            size += len(inflater.decompress(data, _INFLATED_AT_MOST))
            data = inflater.unconsumed_tail
            if size > _LARGEST_INSTANCE:
                raise UnreadableInstance(f"{path.name} is larger than {_LARGEST_INSTANCE >> 20} MiB once inflated")


@dataclass(frozen=True, slots=True)
class _Header:
    """The values of an instance's header as they stand in the file: quicker than pydicom's types, and never refused."""

    values: dict[str, bytes]
    syntax: str
    order: Literal["little", "big"]

    def raw(self, keyword: str) -> bytes:
        """Return the bytes of a value; none where it is not there."""
        return self.values.get(keyword, b"")


def _syntax_of(stream: BinaryIO) -> str:
    """Return the transfer syntax and leave *stream* at the beginning of the data set."""
    read_preamble(stream, force=False)
    meta = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=_behind_meta)
    return _uid(_Header({"TransferSyntaxUID": _raw(meta, "TransferSyntaxUID")}, "", "little"), "TransferSyntaxUID")


def _read_header(source: bytes | Path) -> _Header:
    """Return the header as pydicom reads it, which forgives much."""
    stream: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        syntax = _syntax_of(stream)
        implicit, little = syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian
        body = _inflated(stream) if syntax == DeflatedExplicitVRLittleEndian else stream
        read = read_dataset(body, implicit, little, stop_when=_at_pixels, specific_tags=_WANTED)
        return _Header({keyword: _raw(read, keyword) for keyword in _KEYWORDS}, syntax, "little" if little else "big")


def _behind_meta(tag: BaseTag, *_: Any) -> bool:
    return tag.group != 2


def _at_pixels(tag: BaseTag, *_: Any) -> bool:
    return int(tag) in _PIXELS


def _inflated(stream: BinaryIO) -> BinaryIO:
    """Return the first part of a deflated data set, inflated; *stream* stands at its beginning."""
    return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(_INFLATED_AT_MOST), _INFLATED_AT_MOST))


def _facts(header: _Header) -> InstanceFacts:
    return InstanceFacts(
        sop_uid=_uid(header, "SOPInstanceUID"),
        sop_class=_uid(header, "SOPClassUID"),
        study_uid=_uid(header, "StudyInstanceUID"),
        series_uid=_uid(header, "SeriesInstanceUID"),
        transfer_syntax=header.syntax,
        patient_id=_text(header, "PatientID"),
        accession_number=_text(header, "AccessionNumber"),
        study_date=_text(header, "StudyDate"),
        study_description=_text(header, "StudyDescription"),
        modality=_text(header, "Modality"),
        body_part=_text(header, "BodyPartExamined"),
        series_description=_text(header, "SeriesDescription"),
        series_number=_integer(header, "SeriesNumber"),
        instance_number=_integer(header, "InstanceNumber"),
        image_type=tuple(part.strip() for part in _text(header, "ImageType").split("\\") if part.strip()),
        rows=_short(header, "Rows"),
        columns=_short(header, "Columns"),
        frames=max(1, _integer(header, "NumberOfFrames") or 1),
        slice_thickness=next(iter(_numbers(header, "SliceThickness", 1)), None),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        position=_numbers(header, "ImagePositionPatient", 3),
        manufacturer=_text(header, "Manufacturer"),
    )


def _raw(header: Dataset, keyword: str) -> bytes:
    """Return the bytes of a value as they stand in the file."""
    tag = _TAGS.get(keyword) or tag_for_keyword(keyword)
    element = header.get_item(tag) if tag is not None and tag in header else None
    if isinstance(element, RawDataElement):
        return element.value or b""
    return str(element.value).encode() if element is not None and isinstance(element.value, str) else b""


def _uid(header: _Header, keyword: str) -> str:
    uid = header.raw(keyword).decode("ascii", errors="replace").rstrip("\0 ")
    if not uid:
        raise UnreadableInstance(f"the instance has no {keyword}")
    if not _is_uid(uid):
        raise UnreadableInstance(f"the {keyword} is no UID")
    return uid


def _is_uid(text: str) -> bool:
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


def _text(header: _Header, keyword: str) -> str:
    """Return one line without control characters: what goes into tables and logs."""
    raw = header.raw(keyword)[: 4 * _LONGEST_TEXT]
    text = raw.decode("ascii") if raw.isascii() and b"\x1b" not in raw else _decoded(header, raw)
    if not text.isprintable():
        text = "".join(c for c in text if c.isprintable())
    return text[:_LONGEST_TEXT].strip()


def _decoded(header: _Header, raw: bytes) -> str:
    names = header.raw("SpecificCharacterSet").decode("ascii", errors="replace").split("\\")
    try:
        with quiet():
            return str(decode_bytes(raw, convert_encodings([name.strip() for name in names]), _DELIMITERS))
    except PARSE_ERRORS:
        return raw.decode("latin-1")  # a damaged description must not refuse an image


def _integer(header: _Header, keyword: str) -> int | None:
    """Return the first number of a value of VR IS, or None where it is none."""
    numbers = _numbers(header, keyword)
    whole = bool(numbers) and numbers[0].is_integer() and abs(numbers[0]) <= _LARGEST_NUMBER
    return int(numbers[0]) if whole else None


def _short(header: _Header, keyword: str) -> int:
    """Return a value of VR US; 0 where it is none (devices write it as UL too)."""
    value = header.raw(keyword)
    if len(value) not in {2, 4}:
        return 0
    number = int.from_bytes(value, header.order)
    return number if number <= _LARGEST_NUMBER else 0


def _numbers(header: _Header, keyword: str, count: int | None = None) -> tuple[float, ...]:
    """Return the numbers of a value of VR DS or IS; none where one is damaged or there are not *count*."""
    try:
        values = tuple(float(part) for part in header.raw(keyword).strip(b"\0 ").split(b"\\"))
    except ValueError:
        return ()
    wrong = (count is not None and len(values) != count) or not all(map(math.isfinite, values))
    return () if wrong else values
