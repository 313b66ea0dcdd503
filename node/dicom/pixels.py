"""Stored values of one single-frame image, through permissively licensed codecs only.

pydicom decodes native, RLE, JPEG-LS (pyjpegls), JPEG 2000 and HTJ2K (pylibjpeg-openjpeg); the classic JPEG family
goes through imagecodecs (libjpeg-turbo, liblj92), since the usual plug-in for it is under the GPL.
"""

from __future__ import annotations

import struct
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import (
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
from pydicom.uid import HTJ2K as HTJ2KLossy

from node.errors import InputInvalid

_CLASSIC = frozenset({JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1})
_NATIVE = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)
#: Every transfer syntax that is decoded.
DECODED = _CLASSIC | _NATIVE | {
    RLELossless, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL,
    HTJ2KLossy,
}  # fmt: skip
_LARGEST = 512 << 20  # bytes of one decoded frame; more is no image that a model takes
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # ISO 10918-1 table B.1: start of frame
_DECODE_ERRORS = (ValueError, RuntimeError, AttributeError, NotImplementedError, EOFError, KeyError, IndexError,
                  TypeError, struct.error, MemoryError, OverflowError)  # fmt: skip


def decode_frame(dataset: Dataset) -> NDArray[np.integer[Any]]:
    """Return the stored values (rows, columns) of a monochrome single-frame image.

    Raises InputInvalid, naming the transfer syntax and what is wrong.
    """
    syntax = UID(str(dataset.file_meta.get("TransferSyntaxUID", "")))
    _check_header(dataset, syntax)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # e.g. trailing padding; a wrong shape is refused below
            values = _decode_classic(dataset) if syntax in _CLASSIC else _decode(dataset, syntax)
    except InputInvalid:
        raise
    except _DECODE_ERRORS as why:
        raise InputInvalid(f"the pixel data ({syntax.name}) does not decode: {why}") from why
    if values.shape != (dataset.Rows, dataset.Columns):
        raise InputInvalid(f"the pixel data is {values.shape}, the header says {dataset.Rows} x {dataset.Columns}")
    return values


def _check_header(dataset: Dataset, syntax: UID) -> None:
    if syntax not in DECODED:
        raise InputInvalid(f"transfer syntax {syntax.name or 'not given'} is not decoded; send it in another one")
    if dataset.get("SamplesPerPixel", 1) != 1:
        raise InputInvalid("colour images are no volume")
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise InputInvalid("multi-frame images are not supported yet; send the classic single-frame series")
    if "PixelData" not in dataset or not dataset.get("Rows") or not dataset.get("Columns"):
        raise InputInvalid("an image has no pixel data, no rows or no columns")
    if dataset.Rows * dataset.Columns * max(1, int(dataset.get("BitsAllocated") or 0) // 8) > _LARGEST:
        raise InputInvalid(f"an image of {dataset.Rows} x {dataset.Columns} pixels is larger than any scanner makes")


def _decode(dataset: Dataset, syntax: UID) -> NDArray[np.integer[Any]]:
    if syntax == RLELossless:
        _check_rle(dataset)
    values, _ = get_decoder(syntax).as_array(dataset, index=0, raw=True)
    return np.asarray(values)


def _check_rle(dataset: Dataset) -> None:
    """Refuse a frame that cannot hold its pixels: PackBits expands at most 64 to 1 (PS3.5 annex G)."""
    if len(dataset.PixelData) * 128 < dataset.Rows * dataset.Columns:
        raise InputInvalid("the RLE pixel data is far too short for its rows and columns")


def _decode_classic(dataset: Dataset) -> NDArray[np.integer[Any]]:
    import imagecodecs  # only where models run; the node itself never decodes

    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    process, precision, rows, columns = _start_of_frame(stream)
    if (rows, columns) != (dataset.Rows, dataset.Columns):
        raise InputInvalid(f"the JPEG stream is {rows} x {columns}, the header says {dataset.Rows} x {dataset.Columns}")
    if precision < dataset.BitsStored:
        raise InputInvalid(f"the JPEG stream holds {precision} bits, the image needs {dataset.BitsStored}: values are lost")
    lossless = process == 0xC3
    decoded = imagecodecs.ljpeg_decode(stream) if lossless else imagecodecs.jpeg_decode(stream)
    return _signed(np.asarray(decoded), dataset)


def _signed(values: NDArray[Any], dataset: Dataset) -> NDArray[np.integer[Any]]:
    """JPEG knows no sign: read BitsStored bits as two's complement where the header says so."""
    if not dataset.get("PixelRepresentation"):
        return values
    bits = int(dataset.BitsStored)
    wide = values.astype(np.int32) & ((1 << bits) - 1)
    return np.where(wide >= 1 << (bits - 1), wide - (1 << bits), wide).astype(np.int16)


def _start_of_frame(stream: bytes) -> tuple[int, int, int, int]:
    """Return (marker, precision, rows, columns) of a JPEG stream (ISO 10918-1 B.2.2)."""
    at = 2
    while at + 9 < len(stream):
        if stream[at] != 0xFF:
            raise InputInvalid("the JPEG stream is damaged")
        marker = stream[at + 1]
        if marker in _SOF:
            precision, rows, columns = struct.unpack(">BHH", stream[at + 4 : at + 9])
            return marker, precision, rows, columns
        at += 2 if marker == 0xFF or 0xD0 <= marker <= 0xD9 else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    raise InputInvalid("the JPEG stream has no frame")
