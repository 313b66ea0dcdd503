"""Results read back by arithmetic written apart from the product: pydicom for the attributes, the rest by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a Segmentation says of one segment."""

    label: str
    voxels: int
    centroid: NDArray[np.float64]  # LPS
    volume_ml: float


def read_seg(seg: Dataset, slices: Sequence[Dataset]) -> dict[str, Seen]:
    """Return what *seg* says of each segment by its label.

    *slices* are the source's slices: how far apart they lie says how much each stands for.
    """
    shared = seg.SharedFunctionalGroupsSequence[0]
    orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, right = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    along_row, along_column = orientation[:3], orientation[3:]
    normal = np.cross(along_row, along_column)
    heights = np.sort([np.array(one.ImagePositionPatient, float) @ normal for one in slices])
    sums: dict[int, tuple[int, NDArray[np.float64], float]] = {}
    for number, origin, plane in _frames(seg):
        rows, columns = np.nonzero(plane)
        total = origin * rows.size + along_column * down * rows.sum() + along_row * right * columns.sum()
        depth = _depth(float(origin @ normal), heights)
        count, centre, volume = sums.get(number, (0, np.zeros(3), 0.0))
        sums[number] = (count + rows.size, centre + total, volume + rows.size * down * right * depth / 1000)
    return {
        str(item.SegmentLabel): Seen(
            label=str(item.SegmentLabel), voxels=sums[int(item.SegmentNumber)][0],
            centroid=sums[int(item.SegmentNumber)][1] / sums[int(item.SegmentNumber)][0],
            volume_ml=sums[int(item.SegmentNumber)][2],
        )
        for item in seg.SegmentSequence
        if int(item.SegmentNumber)
    }  # fmt: skip


def _depth(height: float, heights: NDArray[np.float64]) -> float:
    """Half the way to each neighbouring slice; the usual step beyond the outermost."""
    place = int(np.argmin(np.abs(heights - height)))
    usual = float(np.median(np.diff(heights)))
    below = float(heights[place] - heights[place - 1]) if place else usual
    above = float(heights[place + 1] - heights[place]) if place + 1 < len(heights) else usual
    return (below + above) / 2


def _frames(seg: Dataset) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
    """Segment, position of the first pixel and pixels of each frame; bits counted one by one from the lowest."""
    rows, columns = int(seg.Rows), int(seg.Columns)
    raw = np.frombuffer(seg.PixelData, np.uint8)
    for place, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        places = np.arange(place * rows * columns, (place + 1) * rows * columns)
        plane = (raw[places >> 3] >> (places & 7)) & 1 if int(seg.BitsAllocated) == 1 else raw[places]
        number = int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        origin = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        yield number, origin, plane.reshape(rows, columns) > 0


@dataclass(frozen=True, kw_only=True)
class Outline:
    """One closed line of a report on one image."""

    tracking_id: str
    sop_uid: str
    frame: int
    points: NDArray[np.float64]  # (points, 2): column, row; the first pixel's centre is (0.5, 0.5)


def read_outlines(report: Dataset) -> list[Outline]:
    """Return every SCOORD of a report."""
    found = []
    for group in _groups(report):
        name = next(str(i.TextValue) for i in group.ContentSequence if _code(i) == "112039")
        for item in (i for i in group.ContentSequence if i.ValueType == "SCOORD"):
            named = item.ContentSequence[0].ReferencedSOPSequence[0]
            found.append(
                Outline(
                    tracking_id=name, sop_uid=str(named.ReferencedSOPInstanceUID),
                    frame=int(named.get("ReferencedFrameNumber") or 0),
                    points=np.array(item.GraphicData, float).reshape(-1, 2),
                )
            )  # fmt: skip
    return found


def read_volumes(report: Dataset) -> dict[str, float]:
    """Return the volume (mL) that a report says of each tracking identifier."""
    found = {}
    for group in _groups(report):
        name = next(str(i.TextValue) for i in group.ContentSequence if _code(i) == "112039")
        for item in group.ContentSequence:
            if item.ValueType == "NUM" and _code(item) == "118565006":
                found[name] = float(item.MeasuredValueSequence[0].NumericValue)
    return found


def _groups(item: Dataset) -> Iterator[Dataset]:
    for one in item.get("ContentSequence", []):
        if _code(one) == "125007":
            yield one
        else:
            yield from _groups(one)


def _code(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


def encloses(outline: NDArray[np.float64], column: float, row: float) -> bool:
    """Whether a closed line goes round a point (even-odd rule)."""
    x, y = outline[:-1].T
    x2, y2 = outline[1:].T
    crosses = (y > row) != (y2 > row)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = x + (row - y) / (y2 - y) * (x2 - x)
    return bool(np.count_nonzero(crosses & (at > column)) % 2)
