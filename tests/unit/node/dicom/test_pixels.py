"""Decoding: every transfer syntax gives the values that went in, or a reason."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from node.dicom.pixels import check_decodable, decode_frame
from node.errors import InputInvalid

ROWS, COLUMNS = 32, 48


def values(low: int, high: int) -> NDArray[np.int64]:
    """Smooth values, unequal along both axes, that reach both ends."""
    ramp = np.add.outer(np.linspace(0, 2, ROWS) ** 2, np.linspace(0, 1, COLUMNS))
    rounded: NDArray[np.int64] = np.round(low + (high - low) * ramp / ramp.max()).astype(np.int64)
    return rounded


def image_of(
    stream: bytes | bytearray, syntax: str, *, bits: int = 16, signed: bool = False, **changes: Any
) -> Dataset:
    """A single-frame image around one codestream."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation = ROWS, COLUMNS, 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8 if bits <= 8 else 16), bits, bits - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = encapsulate([bytes(stream) or b"\0\0"])
    ds["PixelData"].is_undefined_length = True
    for name, value in changes.items():
        setattr(ds, name, value)
    return ds


ENCODERS: dict[str, Callable[[NDArray[Any]], bytes | bytearray]] = {
    JPEGLossless: imagecodecs.ljpeg_encode,
    JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="j2k"),
    JPEG2000: lambda a: imagecodecs.jpeg2k_encode(a, reversible=True, codecformat="jp2"),  # boxes, as some devices send
    HTJ2KLossless: imagecodecs.htj2k_encode,
    HTJ2KLosslessRPCL: imagecodecs.htj2k_encode,
    HTJ2K: imagecodecs.htj2k_encode,
}


@pytest.mark.parametrize("syntax", ENCODERS, ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("bits", [12, 16])
def test_lossless_streams_give_back_what_went_in(syntax: str, signed: bool, bits: int) -> None:
    """Signed values are two's complement of BitsStored bits in a stream that knows no sign."""
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    stored = values(low, high)
    stream = ENCODERS[syntax]((stored & ((1 << bits) - 1)).astype(np.uint16))
    np.testing.assert_array_equal(decode_frame(image_of(stream, syntax, bits=bits, signed=signed)), stored)


def test_a_signed_jpeg_2000_stream_keeps_its_sign() -> None:
    """Most devices say the sign in the stream as well."""
    stored = values(-2000, 3000)
    stream = imagecodecs.jpeg2k_encode(stored.astype(np.int16), reversible=True, codecformat="j2k")
    np.testing.assert_array_equal(decode_frame(image_of(stream, JPEG2000Lossless, signed=True)), stored)


def test_lossy_jpeg_comes_close() -> None:
    """8 and 12 bits, the two depths of the DCT processes."""
    eight = imagecodecs.jpeg8_encode(values(0, 255).astype(np.uint8), level=95)
    decoded = decode_frame(image_of(eight, JPEGBaseline8Bit, bits=8))
    assert np.abs(decoded.astype(int) - values(0, 255)).max() <= 4


def test_matrix_of_one_slice_in_every_syntax(data_dir: Path) -> None:
    """Lossless ones are identical to the original, near-lossless ones as close as they say."""
    folder = data_dir / "transfer-syntax-matrix"
    original = decode_frame(dcmread(folder / "implicit-vr-le-original.dcm")).astype(int)
    expected = {
        "BigEndianExplicit": 0, "DeflatedExplicitVRLittleEndian": 0, "JPEG2000LosslessOnly": 0, "JPEGLSLossless": 0,
        "JPEGProcess14": 0, "JPEGProcess14SV1": 0, "LittleEndianExplicit": 0, "RLELossless": 0, "JPEG2000": 5,
        "JPEGLSLossy": 1,
    }  # fmt: skip
    found = {name: int(np.abs(decode_frame(dcmread(folder / f"{name}.dcm")) - original).max()) for name in expected}
    assert found == expected


def test_12_bit_lossy_jpeg_holds_hounsfield_units(data_dir: Path) -> None:
    """The 12-bit copy of the slice was scaled: its own slope brings the same values back, within its loss."""
    folder = data_dir / "transfer-syntax-matrix"
    original, copy = dcmread(folder / "implicit-vr-le-original.dcm"), dcmread(folder / "JPEGProcess2_4.dcm")
    units = decode_frame(copy) * float(copy.RescaleSlope) + float(copy.RescaleIntercept)
    error = np.abs(units - (decode_frame(original) + float(original.RescaleIntercept)))
    assert np.mean(error) < 8
    assert np.percentile(error, 99.9) < 60


@pytest.mark.parametrize("name", ["JPEGProcess10_12", "JPEGProcess6_8"])
def test_retired_processes_are_refused_by_name(data_dir: Path, name: str) -> None:
    """Nothing decodes them; a person reads which syntax to avoid."""
    with pytest.raises(InputInvalid, match=r"transfer syntax JPEG .* is not decoded"):
        decode_frame(dcmread(data_dir / "transfer-syntax-matrix" / f"{name}.dcm"))


def test_a_stream_with_the_wrong_sign_is_read_as_its_header_says(data_dir: Path) -> None:
    """A head CT whose JPEG 2000 stream says unsigned, its header signed: air is below zero."""
    stored = decode_frame(dcmread(data_dir / "malformed" / "J2K_pixelrep_mismatch.dcm"))
    assert (int(stored.min()), int(stored.max())) == (-2000, 1896)


@pytest.mark.parametrize("syntax", [*ENCODERS, JPEGBaseline8Bit], ids=lambda syntax: syntax.name)
def test_a_stream_of_another_size_is_refused_before_it_is_decoded(
    syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few bytes may claim a huge image: the claim is compared, not allocated."""
    encode = ENCODERS.get(syntax, imagecodecs.jpeg8_encode)
    stream = encode(values(0, 255).astype(np.uint8 if syntax == JPEGBaseline8Bit else np.uint16))
    for name in ("ljpeg_decode", "jpegls_decode", "jpeg2k_decode", "jpeg_decode"):
        monkeypatch.setattr(imagecodecs, name, None)
    with pytest.raises(InputInvalid, match=f"compressed image is {ROWS} x {COLUMNS}, the header says 31 x {COLUMNS}"):
        decode_frame(image_of(stream, syntax, bits=8 if syntax == JPEGBaseline8Bit else 16, Rows=31))


def test_a_stream_with_fewer_bits_than_the_header_says_is_refused() -> None:
    """An 8-bit lossy stream cannot hold 12-bit values."""
    stream = imagecodecs.jpeg8_encode(values(0, 255).astype(np.uint8))
    for syntax in (JPEGBaseline8Bit, JPEGExtended12Bit):
        with pytest.raises(InputInvalid, match="holds 8 bits of the 12"):
            decode_frame(image_of(stream, syntax, bits=12))


def test_a_colour_stream_is_refused() -> None:
    """Three components where the header says one."""
    stream = imagecodecs.jpeg8_encode(np.zeros((ROWS, COLUMNS, 3), np.uint8))
    with pytest.raises(InputInvalid, match="3 colour components"):
        decode_frame(image_of(stream, JPEGBaseline8Bit, bits=8))


@pytest.mark.parametrize("syntax", [*ENCODERS, JPEGBaseline8Bit, RLELossless], ids=lambda syntax: syntax.name)
@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.9])
def test_a_cut_stream_is_refused(syntax: str, kept: float) -> None:
    """However much is left: a reason, never a picture with its lower part made up."""
    depth = np.uint16 if syntax in ENCODERS else np.uint8
    stream = ENCODERS.get(syntax, imagecodecs.jpeg8_encode)(values(0, 250).astype(depth))
    with pytest.raises(InputInvalid):
        decode_frame(image_of(stream[: int(len(stream) * kept)], syntax, bits=16 if syntax in ENCODERS else 8))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Rows": 30000, "Columns": 30000}, "larger than any scanner makes"),
        ({"Rows": 0}, "impossible"),
        ({"BitsStored": 17}, "impossible"),
        ({"NumberOfFrames": 2}, "multi-frame images are not supported yet"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour image"),
    ],
)
def test_a_header_can_be_enough_to_refuse(changes: dict[str, Any], words: str) -> None:
    """What no volume is made of is seen without its pixels."""
    with pytest.raises(InputInvalid, match=words):
        check_decodable(image_of(b"", RLELossless, **changes))


def test_what_is_no_image_syntax_is_refused() -> None:
    """Video, or no syntax at all."""
    for syntax, name in ((MPEG2MPML, "MPEG2"), ("", "not given")):
        with pytest.raises(InputInvalid, match=name):
            check_decodable(image_of(b"", syntax))


def test_no_copyleft_codec_is_loaded(data_dir: Path) -> None:
    """pylibjpeg-libjpeg (GPL) and GDCM stay out, even where somebody installed them."""
    for path in sorted((data_dir / "transfer-syntax-matrix").glob("JPEGProcess14*.dcm")):
        decode_frame(dcmread(path))
    assert not {"libjpeg", "_libjpeg", "gdcm"} & set(sys.modules)
