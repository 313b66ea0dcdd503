"""Just enough of an instance's header to file it and to plan; hostile input is expected, pixel data never touched."""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydicom import Dataset, dcmread
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.domain.study import InstanceFacts
from node.errors import UnreadableInstance

_KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID",
    "AccessionNumber", "StudyDate", "StudyDescription", "Modality", "BodyPartExamined", "SeriesDescription",
    "SeriesNumber", "InstanceNumber", "ImageType", "Rows", "Columns", "NumberOfFrames", "SliceThickness",
    "ImageOrientationPatient", "ImagePositionPatient", "Manufacturer",
)  # fmt: skip
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5 9.1, lenient on leading zeros, which real devices send
_PIXEL_DATA = 0x7FE00010
_INFLATED_AT_MOST = 1 << 20  # bytes of a deflated data set that are inflated: its header, never a bomb
_LONGEST_TEXT = 256  # characters kept of a text value
_PARSE_ERRORS = (
    InvalidDicomError, BytesLengthException, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError,
    IndexError, NotImplementedError, RecursionError, struct.error, zlib.error, OverflowError, LookupError,
)  # fmt: skip  # all that pydicom has been seen to raise on damaged input

_T = TypeVar("_T")


def read_facts(source: bytes | Path) -> InstanceFacts:
    """Return the facts of one Part-10 encoded instance (PS3.10 section 7).

    Raises UnreadableInstance, saying what is missing or damaged; never anything else, whatever the bytes are.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a value that breaks its VR is read as absent below
            header, syntax = _read_header(source)
            return _facts(header, syntax)
    except _PARSE_ERRORS as why:
        raise UnreadableInstance(f"not a readable DICOM instance ({type(why).__name__})") from why


def _read_header(source: bytes | Path) -> tuple[Dataset, str]:
    stream: Any = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream:
        read_preamble(stream, force=False)
        stream.seek(0)
        syntax = str(_meta_of(stream).get("TransferSyntaxUID", ""))
        if syntax == DeflatedExplicitVRLittleEndian:
            return _inflated_header(stream), syntax
        stream.seek(0)
        return dcmread(stream, stop_before_pixels=True, specific_tags=list(_KEYWORDS)), syntax


def _meta_of(stream: Any) -> Dataset:
    """Return the file meta information and leave *stream* at the data set."""
    read_preamble(stream, force=False)
    return read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=lambda tag, *_: tag.group != 2)


def _inflated_header(stream: Any) -> Dataset:
    """Parse the first part of a deflated data set; *stream* stands at its beginning."""
    inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.read(), _INFLATED_AT_MOST)
    return read_dataset(
        io.BytesIO(inflated), is_implicit_VR=False, is_little_endian=True,
        stop_when=lambda tag, *_: tag >= _PIXEL_DATA,
    )  # fmt: skip


def _facts(header: Dataset, syntax: str) -> InstanceFacts:
    return InstanceFacts(
        sop_uid=_uid(header, "SOPInstanceUID"),
        sop_class=_uid(header, "SOPClassUID"),
        study_uid=_uid(header, "StudyInstanceUID"),
        series_uid=_uid(header, "SeriesInstanceUID"),
        transfer_syntax=syntax,
        patient_id=_text(header, "PatientID"),
        accession_number=_text(header, "AccessionNumber"),
        study_date=_text(header, "StudyDate"),
        study_description=_text(header, "StudyDescription"),
        modality=_text(header, "Modality"),
        body_part=_text(header, "BodyPartExamined"),
        series_description=_text(header, "SeriesDescription"),
        series_number=_number(header, "SeriesNumber", int),
        instance_number=_number(header, "InstanceNumber", int),
        image_type=tuple(_texts(header, "ImageType")),
        rows=_number(header, "Rows", int) or 0,
        columns=_number(header, "Columns", int) or 0,
        frames=_number(header, "NumberOfFrames", int) or 1,
        slice_thickness=_number(header, "SliceThickness", float),
        orientation=_numbers(header, "ImageOrientationPatient", 6),
        position=_numbers(header, "ImagePositionPatient", 3),
        manufacturer=_text(header, "Manufacturer"),
    )


def _value(header: Dataset, keyword: str) -> Any:
    """Return a value, or None where it is absent or breaks its VR: one bad field must not refuse an image."""
    try:
        return header.get(keyword)
    except _PARSE_ERRORS:
        return None


def _uid(header: Dataset, keyword: str) -> str:
    uid = _text(header, keyword)
    if not uid:
        raise UnreadableInstance(f"the instance has no {keyword}")
    if not _UID.fullmatch(uid):
        raise UnreadableInstance(f"the {keyword} is no UID")
    return uid


def _texts(header: Dataset, keyword: str) -> list[str]:
    value = _value(header, keyword)
    if value is None:
        return []
    values = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)
    return [_printable(str(one)) for one in values]


def _printable(text: str) -> str:
    """One line without control characters: what goes into tables and logs."""
    return "".join(c for c in text[:_LONGEST_TEXT] if c.isprintable()).strip()


def _text(header: Dataset, keyword: str) -> str:
    values = _texts(header, keyword)
    return values[0] if len(values) == 1 else "\\".join(values)


def _number(header: Dataset, keyword: str, kind: Callable[[str], _T]) -> _T | None:
    values = _texts(header, keyword)
    try:
        return kind(values[0]) if values else None
    except ValueError:
        return None


def _numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    try:
        values = tuple(float(one) for one in _texts(header, keyword))
    except ValueError:
        return ()
    return values if len(values) == count else ()
