"""Stored values of one single-frame image, through permissively licensed codecs only.

pydicom decodes what is native and RLE; the JPEG families go through imagecodecs (libjpeg-turbo, liblj92, CharLS,
OpenJPEG), since the usual plug-in for the classic one is under the GPL. A codestream is asked for its size before
anything is allocated for it. A cut stream is refused, never filled up: OpenJPH, which would, is not used.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from node.dicom.header import quiet
from node.errors import InputInvalid

_NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
_CODECS = {  # transfer syntax -> name of the decoder in imagecodecs
    JPEGBaseline8Bit: "jpeg_decode",
    JPEGExtended12Bit: "jpeg_decode",
    JPEGLossless: "ljpeg_decode",
    JPEGLosslessSV1: "ljpeg_decode",
    JPEGLSLossless: "jpegls_decode",
    JPEGLSNearLossless: "jpegls_decode",
    JPEG2000Lossless: "jpeg2k_decode",
    JPEG2000: "jpeg2k_decode",
    HTJ2KLossless: "jpeg2k_decode",
    HTJ2KLosslessRPCL: "jpeg2k_decode",
    HTJ2K: "jpeg2k_decode",
}
#: Every transfer syntax that is decoded.
DECODED = _NATIVE | {RLELossless} | set(_CODECS)

_LARGEST = 512 << 20  # bytes of one decoded image; more is none that a model takes
_RLE_GAIN = 64  # bytes that PackBits makes of one at most (PS3.5 annex G): two bytes become 128
_START_OF_FRAME = (frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}) | {0xF7}  # ISO 10918-1 table B.1, 14495-1 C.1
_END_OF_IMAGE = b"\xff\xd9"  # ISO 10918-1 table B.1
_CODESTREAM = b"\xff\x4f\xff\x51"  # SOC and SIZ, ISO 15444-1 A.4.1
_DECODE_ERRORS = (
    ValueError, RuntimeError, AttributeError, NotImplementedError, EOFError, LookupError, TypeError, struct.error,
    zlib.error, MemoryError, OverflowError, OSError,
)  # fmt: skip


def decode_frame(dataset: Dataset) -> NDArray[np.integer[Any]]:
    """Return the stored values (rows, columns) of a monochrome single-frame image, signed as its header says.

    Raises InputInvalid, naming the transfer syntax and what is wrong.
    """
    check_decodable(dataset)
    syntax = _syntax(dataset)
    try:
        with quiet():  # e.g. trailing padding; a wrong shape is refused below
            values = _decode_stream(dataset, syntax) if syntax in _CODECS else _decode_plain(dataset, syntax)
    except _DECODE_ERRORS as why:
        raise InputInvalid(f"the pixel data ({syntax.name}) does not decode: {why}") from why
    if values.shape != (dataset.Rows, dataset.Columns):
        raise InputInvalid(f"the pixel data is {values.shape}, the header says {dataset.Rows} x {dataset.Columns}")
    return values


def check_decodable(header: Dataset) -> None:
    """Refuse, by its *header* alone, an image that `decode_frame` cannot decode; InputInvalid says why."""
    syntax = _syntax(header)
    if syntax not in DECODED:
        raise InputInvalid(
            f"transfer syntax {syntax.name or 'not given'} is not decoded: have it sent in another one, "
            "e.g. Explicit VR Little Endian"
        )
    try:
        rows, columns, frames = (int(header.get(name) or 0) for name in ("Rows", "Columns", "NumberOfFrames"))
        allocated, stored = int(header.get("BitsAllocated") or 0), int(header.get("BitsStored") or 0)
        samples = int(header.get("SamplesPerPixel") or 1)
    except (ValueError, TypeError) as why:
        raise InputInvalid("the image's size or depth is no number") from why
    if frames > 1:
        raise InputInvalid("multi-frame images are not supported yet: have the classic single-frame series sent")
    if samples != 1 or header.get("PhotometricInterpretation", "MONOCHROME2") not in {"MONOCHROME1", "MONOCHROME2"}:
        raise InputInvalid("it is a colour image, whose values are no measurements")
    if rows < 1 or columns < 1 or not 1 <= stored <= allocated <= 32:
        raise InputInvalid(f"an image of {rows} x {columns} pixels of {stored} in {allocated} bits is impossible")
    if rows * columns * max(1, allocated // 8) > _LARGEST:
        raise InputInvalid(f"an image of {rows} x {columns} pixels is larger than any scanner makes")


def _syntax(header: Dataset) -> UID:
    return UID(str(getattr(header, "file_meta", Dataset()).get("TransferSyntaxUID", "")))


def _decode_plain(dataset: Dataset, syntax: UID) -> NDArray[np.integer[Any]]:
    if syntax == RLELossless and len(dataset.PixelData) * _RLE_GAIN < dataset.Rows * dataset.Columns:
        raise InputInvalid("the RLE pixel data is far too short for its rows and columns")
    size = (dataset.Rows * dataset.Columns * dataset.BitsAllocated + 7) // 8
    if syntax in _NATIVE and any(dataset.PixelData[size:]):
        # Zeros are padding; anything else says that rows or columns are not what they were, and the picture is sheared.
        raise InputInvalid("the pixel data is longer than its rows and columns say")
    values, _ = get_decoder(syntax).as_array(dataset, index=0, raw=True, decoding_plugin=_plugin(syntax))
    return np.asarray(values)


def _plugin(syntax: UID) -> str:
    """Name the decoder: what else is installed beside us must not change a value."""
    return "pydicom" if syntax == RLELossless else ""


def _decode_stream(dataset: Dataset, syntax: UID) -> NDArray[np.integer[Any]]:
    import imagecodecs  # only where models run; the node itself never decodes

    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    frame = _frame_header(stream)
    if (frame.rows, frame.columns) != (dataset.Rows, dataset.Columns):
        size, said = f"{frame.rows} x {frame.columns}", f"{dataset.Rows} x {dataset.Columns}"
        raise InputInvalid(f"the compressed image is {size}, the header says {said}")
    if frame.components != 1:
        raise InputInvalid(f"the compressed image has {frame.components} colour components, the header says one")
    if frame.bits < dataset.BitsStored and (frame.bits <= 8 or _CODECS[syntax] == "jpeg_decode"):
        lost = f"holds {frame.bits} bits of the {dataset.BitsStored} that the header says"
        raise InputInvalid(f"the compressed image {lost}: values are lost, send the original")
    if _CODECS[syntax] != "jpeg2k_decode" and _END_OF_IMAGE not in stream[-16:]:  # some devices pad
        raise InputInvalid("the compressed image is cut: its end is missing")
    values = np.asarray(getattr(imagecodecs, _CODECS[syntax])(stream))
    return _signed(values, min(frame.bits, int(dataset.BitsStored)), signed=bool(dataset.get("PixelRepresentation")))


def _signed(values: NDArray[np.integer[Any]], bits: int, *, signed: bool) -> NDArray[np.integer[Any]]:
    """Read the lowest *bits* as the header says: JPEG knows no sign, and JPEG 2000 is met with the wrong one."""
    wide: NDArray[np.int64] = values.astype(np.int64) & ((1 << bits) - 1)
    return np.where(wide >= 1 << (bits - 1), wide - (1 << bits), wide) if signed else wide


@dataclass(frozen=True, kw_only=True, slots=True)
class _Frame:
    """What the header of a codestream says."""

    rows: int
    columns: int
    bits: int
    components: int


def _frame_header(stream: bytes) -> _Frame:
    start = stream.find(_CODESTREAM, 0, 4096)  # behind the boxes of a JP2 file, which some devices send
    if start >= 0:
        return _jpeg2000_header(stream[start + 4 :])
    return _jpeg_header(stream)


def _jpeg2000_header(siz: bytes) -> _Frame:
    """Read the SIZ segment (ISO 15444-1 A.5.1), from its length on."""
    right, bottom, left, top = struct.unpack(">4I", siz[4:20])
    components, depth = struct.unpack(">HB", siz[36:39])
    return _Frame(rows=bottom - top, columns=right - left, bits=(depth & 0x7F) + 1, components=components)


def _jpeg_header(stream: bytes) -> _Frame:
    """Read the start of frame of a JPEG or JPEG-LS stream (ISO 10918-1 B.2.2, ISO 14495-1 C.2.2)."""
    at = 2
    while at + 10 <= len(stream):
        if stream[at] != 0xFF:
            raise InputInvalid("the JPEG stream is damaged")
        marker = stream[at + 1]
        if marker in _START_OF_FRAME:
            bits, rows, columns, components = struct.unpack(">BHHB", stream[at + 4 : at + 10])
            return _Frame(rows=rows, columns=columns, bits=bits, components=components)
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xD0 <= marker <= 0xD9:  # markers without a segment
            at += 2
        else:
            at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise InputInvalid("the JPEG stream has no frame")
