"""The frames of any Segmentation, one after another, from the bytes alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


class UnreadableSeg(ValueError):
    """A Segmentation that contradicts itself; the message says how."""


def frame_pixels(seg: Dataset) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield the stored values (rows, columns) of each frame of a native *seg*; one frame in memory at a time.

    Raises UnreadableSeg where pixels or descriptions of frames are missing.
    """
    rows, columns = int(seg.Rows), int(seg.Columns)
    size, count = rows * columns, int(seg.NumberOfFrames)
    if count != len(seg.PerFrameFunctionalGroupsSequence):
        raise UnreadableSeg(f"{count} frames, but {len(seg.PerFrameFunctionalGroupsSequence)} descriptions of frames")
    if int(seg.BitsAllocated) == 1:
        packed = np.frombuffer(seg.PixelData, np.uint8)
        if packed.size < (count * size + 7) // 8:
            raise UnreadableSeg("pixels are missing")
        for frame in range(count):  # frames follow each other bit by bit, not padded to bytes (PS3.5 8.1.1)
            first, odd = divmod(frame * size, 8)
            bits = np.unpackbits(packed[first : first + (odd + size + 7) // 8], bitorder="little")
            yield bits[odd : odd + size].reshape(rows, columns)
        return
    stored = np.frombuffer(seg.PixelData, np.dtype(f"<u{int(seg.BitsAllocated) // 8}"))
    if stored.size < count * size:
        raise UnreadableSeg("pixels are missing")
    yield from stored[: count * size].reshape(count, rows, columns)


def segments_on_frames(seg: Dataset) -> Iterator[tuple[Dataset, list[tuple[int, NDArray[np.bool_]]]]]:
    """Yield for each frame its functional groups and, of each segment on it, number and pixels (rows, columns)."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    for group, values in zip(seg.PerFrameFunctionalGroupsSequence, frame_pixels(seg), strict=True):
        if seg.SegmentationType == "LABELMAP":
            yield group, [(int(number), values == number) for number in np.unique(values) if number]
            continue
        named = (shared if "SegmentIdentificationSequence" in shared else group).SegmentIdentificationSequence[0]
        yield group, [(int(named.ReferencedSegmentNumber), values > 0)]
