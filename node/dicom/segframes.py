"""The frames of a Segmentation as bytes: descriptions and pixels, written at once instead of object by object.

A hundred organs on three hundred slices are ten thousand frames and more. Their descriptions differ in a few numbers
only; building a tree of objects for each is what makes segmentations slow.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.tag import BaseTag, Tag

from models.contract import Mask

PER_FRAME = Tag("PerFrameFunctionalGroupsSequence")
_ITEM = 0xFFFEE000
_EIGHT = 8  # frames of any size fill whole bytes together


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One frame: which segment (0: all of a label map) on which source slice."""

    segment: int
    place: int


def describe_frames(
    frames: Sequence[Frame], slices: Sequence[Dataset], positions: Sequence[int]
) -> RawDataElement:
    """Return the Per-Frame Functional Groups Sequence (PS3.3 C.7.6.16) of *frames*, encoded in Explicit VR LE.

    *slices* holds for each source slice what every frame on it says (plane position and derivation), *positions* the
    index of each slice among those used, from 1.
    """
    before = {place: _encoded(slices[place], until_content=True) for place in {one.place for one in frames}}
    behind = {place: _encoded(slices[place], until_content=False) for place in before}
    items = []
    for one in frames:
        index = (one.segment, positions[one.place]) if one.segment else (positions[one.place],)
        content = _sequence(0x00209111, _element(0x00209157, b"UL", struct.pack(f"<{len(index)}L", *index)))
        named = _sequence(0x0062000A, _element(0x0062000B, b"US", struct.pack("<H", one.segment)))
        items.append(_item(before[one.place] + content + behind[one.place] + (named if one.segment else b"")))
    value = b"".join(items)
    return RawDataElement(PER_FRAME, "SQ", len(value), value, 0, False, True)


def _encoded(group: Dataset, *, until_content: bool) -> bytes:
    """The elements of *group* that come before, or behind, Frame Content (0020,9111) in a frame's item."""
    part = Dataset()
    for element in group:
        if (element.tag < BaseTag(0x00209111)) == until_content:
            part.add(element)
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = False, True
    write_dataset(stream, part)
    return stream.getvalue()


def _element(tag: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value


def _sequence(tag: int, content: bytes) -> bytes:
    value = _item(content)
    return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, b"SQ", 0, len(value)) + value


def _item(content: bytes) -> bytes:
    return struct.pack("<HHL", _ITEM >> 16, _ITEM & 0xFFFF, len(content)) + content


def touches(mask: Mask) -> NDArray[np.bool_]:
    """Return which slices (slices,) of *mask* hold a voxel; one after the other, which stops at the first of each."""
    return np.array([plane.any() for plane in mask])


def pack_bits(frames: Sequence[Frame], masks: Sequence[Mask]) -> bytes:
    """Return the pixels of *frames*, one bit each: first pixel lowest, frames not padded (PS3.5 8.1.1).

    Segment i + 1 is drawn by ``masks[i]`` (slices, rows, columns).
    """
    size = masks[0][0].size
    parts: list[memoryview] = []  # joined as they are, without a copy of each
    for several in _batches(frames, 1 if size % _EIGHT == 0 else _EIGHT):
        planes = [masks[one.segment - 1][one.place].ravel() for one in several]
        packed = np.packbits(planes[0] if len(planes) == 1 else np.concatenate(planes), bitorder="little")
        parts.append(packed.data)
    length = (len(frames) * size + 7) // 8
    parts.append(memoryview(b"\x00" * (length % 2)))
    return b"".join(parts)  # an even number of bytes


def bits_overlap(frames: Sequence[Frame], pixels: bytes, size: int) -> bool:
    """Return whether two *frames* of *size* pixels on one slice share a pixel; each fills whole bytes of *pixels*."""
    packed = np.frombuffer(pixels, np.uint8, count=len(frames) * size // 8).reshape(len(frames), -1)
    covered: dict[int, NDArray[np.uint8]] = {}
    for one, bits in zip(frames, packed, strict=True):
        before = covered.get(one.place)
        if before is None:
            covered[one.place] = bits.copy()
        elif (before & bits).any():
            return True
        else:
            before |= bits
    return False


def _batches(frames: Sequence[Frame], count: int) -> Iterator[Sequence[Frame]]:
    return (frames[start : start + count] for start in range(0, len(frames), count))


def pack_bytes(frames: Sequence[Frame], masks: Sequence[Mask], inside: int) -> bytes:
    """Return the pixels of *frames*, a byte each: *inside* where the segment's mask is, else 0."""
    room = bytearray()
    for one in frames:
        room += (masks[one.segment - 1][one.place].view(np.uint8) * np.uint8(inside)).tobytes()
    return bytes(room) + b"\x00" * (len(room) % 2)


def pack_labels(frames: Sequence[Frame], masks: Sequence[Mask]) -> tuple[bytes, int]:
    """Return the pixels of a label map and their bits: on each slice the number of the segment that covers a pixel."""
    kind = np.uint8 if len(masks) < 256 else np.uint16
    room = bytearray()
    for one in frames:
        labels: NDArray[np.unsignedinteger] = np.zeros(masks[0][0].shape, kind)
        for number, mask in enumerate(masks, start=1):
            labels[mask[one.place]] = number
        room += labels.astype(f"<u{labels.itemsize}").tobytes()
    return bytes(room) + b"\x00" * (len(room) % 2), 8 * kind().itemsize
