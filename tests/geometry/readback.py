"""Results read back beside their sources by arithmetic of its own: pydicom parses, the rest is written out here.

Knows nothing of the product. A Segmentation is placed by its frames' own position, orientation and spacing; a report
by the image that each outline names; how deep a slice is, by where the source's slices lie.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from scipy import ndimage

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SAME_PLACE = 0.01  # mm
_SIDES = {"7771000": "left", "24028007": "right"}  # SNOMED CT


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """One image of a source, or one frame of it."""

    sop_uid: str
    frame: int  # from 1; 0 where the image is the whole instance
    corner: Array  # (L, P, S) mm of the first pixel's centre
    to_next_row: Array  # mm
    to_next_column: Array
    frame_of_reference: str

    @property
    def normal(self) -> Array:
        """Unit vector: row direction x column direction."""
        across: Array = np.cross(self.to_next_column, self.to_next_row)
        return across / np.linalg.norm(across)

    def centres(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> Array:
        """(pixels, 3): patient positions of pixels' centres."""
        return self.corner + rows[:, None] * self.to_next_row + columns[:, None] * self.to_next_column

    def patient(self, points: Array) -> Array:
        """(points, 3): patient positions of (column, row) as an SCOORD counts: the first pixel's centre is 0.5, 0.5."""
        return self.corner + (points[:, 1:] - 0.5) * self.to_next_row + (points[:, :1] - 0.5) * self.to_next_column


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What should be said of one segment."""

    mask: Mask = field(repr=False)  # (slices, rows, columns), slices along the normal
    centroid: Array  # (L, P, S) mm
    volume_ml: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What a Segmentation says of one segment."""

    number: int
    label: str
    tracking_uid: str
    side: str  # as coded: "left", "right" or ""
    planes: dict[int, Mask] = field(repr=False)  # by slice
    centroid: Array
    volume_ml: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Outline:
    """One closed line on one image."""

    sop_uid: str
    frame: int
    points: Array = field(repr=False)  # (points, 2): column, row


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """What the groups of a report say under one tracking UID."""

    outlines: tuple[Outline, ...]
    volumes_ml: tuple[float, ...]
    segments: tuple[tuple[str, int], ...]  # SOP Instance UID and segment number


# -- the source


def source_slices(instances: Iterable[Dataset]) -> list[Slice]:
    """Return the slices of a series' images along their normal, whatever order they are given in."""
    found = [one for instance in instances for one in _slices_of(instance)]
    return sorted(found, key=lambda one: float(one.corner @ found[0].normal))


def _slices_of(instance: Dataset) -> Iterator[Slice]:
    uid, reference = str(instance.SOPInstanceUID), str(instance.get("FrameOfReferenceUID"))
    groups = instance.get("PerFrameFunctionalGroupsSequence")
    if not groups:
        yield _slice(uid, 0, reference, instance, instance, instance)
        return
    shared = (instance.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for number, group in enumerate(groups, start=1):
        position, orientation, measures = (
            (group if name in group else shared)[name].value[0]
            for name in ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
        )
        yield _slice(uid, number, reference, position, orientation, measures)


def _slice(uid: str, frame: int, reference: str, position: Dataset, orientation: Dataset, measures: Dataset) -> Slice:
    cosines = np.array([float(v) for v in orientation.ImageOrientationPatient])
    between_rows, between_columns = (float(v) for v in measures.PixelSpacing)
    return Slice(
        sop_uid=uid, frame=frame, frame_of_reference=reference,
        corner=np.array([float(v) for v in position.ImagePositionPatient]),
        to_next_row=cosines[3:] * between_rows, to_next_column=cosines[:3] * between_columns,
    )  # fmt: skip


def depths_of(slices: Sequence[Slice]) -> Array:
    """(slices,): mm that each stands for: half the way to each neighbour, the usual (median) step beyond the ends."""
    heights = np.array([one.corner @ slices[0].normal for one in slices])
    steps = np.diff(heights)
    around = np.concatenate([[np.median(steps)], steps, [np.median(steps)]])
    depths: Array = (around[:-1] + around[1:]) / 2
    return depths


def truth_of(mask: Mask, slices: Sequence[Slice]) -> Truth:
    """Return what should be said of *mask* (slices, rows, columns) on these *slices*."""
    planes = {int(place): mask[place] for place in np.flatnonzero(mask.any(axis=(1, 2)))}
    centroid, volume = _summed(((slices[place], plane) for place, plane in planes.items()), slices)
    return Truth(mask=mask, centroid=centroid, volume_ml=volume)


def _summed(planes: Iterable[tuple[Slice, Mask]], slices: Sequence[Slice]) -> tuple[Array, float]:
    """Mean position (LPS) of all pixels, and their volume in mL, each as deep as the source slice at its height."""
    heights = np.array([one.corner @ slices[0].normal for one in slices])
    depths = depths_of(slices)
    count, total, cubic_mm = 0, np.zeros(3), 0.0
    for where, plane in planes:
        rows, columns = np.nonzero(plane)
        area = float(np.linalg.norm(np.cross(where.to_next_row, where.to_next_column)))
        place = int(np.argmin(np.abs(heights - where.corner @ slices[0].normal)))
        count += rows.size
        total += rows.size * where.corner + rows.sum() * where.to_next_row + columns.sum() * where.to_next_column
        cubic_mm += rows.size * area * depths[place]
    return total / max(count, 1), cubic_mm / 1000


# -- the Segmentation


def read_seg(seg: Dataset, slices: Sequence[Slice], faults: list[str]) -> list[Seen]:
    """Return what *seg* says of each of its segments; what contradicts itself or the source goes to *faults*."""
    drawn: dict[int, list[tuple[Slice, int, Mask]]] = {}
    for number, where, plane in _frames(seg):
        place = _place_of(where, slices)
        if place is None:
            faults.append(f"segment {number}: a frame at {where.corner.round(2)}, where no source lies")
            place = int(np.argmin([np.linalg.norm(one.corner - where.corner) for one in slices]))
        elif (where.sop_uid, where.frame) != (slices[place].sop_uid, slices[place].frame):
            faults.append(f"segment {number}: the frame on slice {place} names another source image")
        if where.frame_of_reference != slices[place].frame_of_reference:
            faults.append(f"segment {number}: another frame of reference than the source")
        drawn.setdefault(number, []).append((where, place, plane))
    return [_seen(item, drawn.get(int(item.SegmentNumber), []), slices, faults) for item in seg.SegmentSequence]


def _seen(
    item: Dataset, drawn: list[tuple[Slice, int, Mask]], slices: Sequence[Slice], faults: list[str]
) -> Seen:
    planes: dict[int, Mask] = {}
    for _, place, plane in drawn:
        if place in planes:
            faults.append(f"segment {item.SegmentNumber}: two frames on slice {place}")
        planes[place] = plane
    centroid, volume = _summed(((where, plane) for where, _, plane in drawn), slices)
    codes = {
        str(code.CodeValue)
        for kind in (*item.SegmentedPropertyTypeCodeSequence, *item.get("AnatomicRegionSequence", []))
        for word in ("SegmentedPropertyTypeModifierCodeSequence", "AnatomicRegionModifierSequence")
        for code in kind.get(word, [])
    }
    return Seen(
        number=int(item.SegmentNumber), label=str(item.SegmentLabel), tracking_uid=str(item.get("TrackingUID")),
        side="".join(_SIDES[code] for code in sorted(codes & _SIDES.keys())), planes=planes, centroid=centroid,
        volume_ml=volume,
    )  # fmt: skip


def _place_of(where: Slice, slices: Sequence[Slice]) -> int | None:
    """The slice that begins where the frame begins."""
    away = [float(np.linalg.norm(one.corner - where.corner)) for one in slices]
    nearest = int(np.argmin(away))
    return nearest if away[nearest] < _SAME_PLACE else None


def _frames(seg: Dataset) -> Iterator[tuple[int, Slice, Mask]]:
    """Segment number, place and pixels (rows, columns) of each frame of a one-bit image."""
    rows, columns = int(seg.Rows), int(seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    stored = np.frombuffer(seg.PixelData, dtype=np.uint8)
    for number, group in enumerate(seg.PerFrameFunctionalGroupsSequence):
        bits = np.arange(rows * columns) + number * rows * columns  # frames follow each other without a gap
        plane = ((stored[bits // 8] >> (bits % 8).astype(np.uint8)) & 1).astype(bool).reshape(rows, columns)
        position, orientation, measures, segment = (
            (group if name in group else shared)[name].value[0]
            for name in (
                "PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence",
                "SegmentIdentificationSequence",
            )
        )  # fmt: skip
        named = group.DerivationImageSequence[0].SourceImageSequence[0]
        where = _slice(
            str(named.ReferencedSOPInstanceUID), int(named.get("ReferencedFrameNumber") or 0),
            str(seg.FrameOfReferenceUID), position, orientation, measures,
        )  # fmt: skip
        yield int(segment.ReferencedSegmentNumber), where, plane


# -- the report


def read_report(report: Dataset) -> dict[str, Told]:
    """Return what a TID 1500 report says under each tracking UID."""
    found: dict[str, Told] = {}
    for group in _groups(report):
        uid = next(str(item.UID) for item in group.ContentSequence if _concept(item) == "112040")
        before = found.get(uid, Told(outlines=(), volumes_ml=(), segments=()))
        found[uid] = Told(
            outlines=(*before.outlines, *_outlines(group)), volumes_ml=(*before.volumes_ml, *_volumes(group)),
            segments=(*before.segments, *_segments(group)),
        )
    return found


def _outlines(group: Dataset) -> Iterator[Outline]:
    for item in (item for item in _below(group) if item.ValueType == "SCOORD" and item.GraphicType == "POLYLINE"):
        named = item.ContentSequence[0].ReferencedSOPSequence[0]
        yield Outline(
            sop_uid=str(named.ReferencedSOPInstanceUID), frame=int(named.get("ReferencedFrameNumber") or 0),
            points=np.array(item.GraphicData, dtype=float).reshape(-1, 2),
        )


def _volumes(group: Dataset) -> Iterator[float]:
    to_ml = {"ml": 1.0, "mL": 1.0, "cm3": 1.0, "mm3": 1e-3}
    for item in (item for item in _below(group) if item.ValueType == "NUM" and _concept(item) == "118565006"):
        value = item.MeasuredValueSequence[0]
        yield float(value.NumericValue) * to_ml[value.MeasurementUnitsCodeSequence[0].CodeValue]


def _segments(group: Dataset) -> Iterator[tuple[str, int]]:
    for item in (item for item in _below(group) if item.ValueType == "IMAGE"):
        named = item.ReferencedSOPSequence[0]
        if "ReferencedSegmentNumber" in named:
            yield str(named.ReferencedSOPInstanceUID), int(named.ReferencedSegmentNumber)


def _groups(item: Dataset) -> Iterator[Dataset]:
    return (one for one in _below(item) if _concept(one) == "125007")  # Measurement Group


def _below(item: Dataset) -> Iterator[Dataset]:
    for one in item.get("ContentSequence", []):
        yield one
        yield from _below(one)


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""


# -- what is wrong


def faults_of(
    seg: Dataset, report: Dataset, slices: Sequence[Slice], truths: Mapping[str, Truth], *, within_mm: float
) -> list[str]:
    """Return every way in which a result contradicts the truth about each label, its sources or itself.

    Middles may be off by *within_mm*, volumes by a thousandth; voxels and outlines by nothing.
    """
    faults: list[str] = []
    told = read_report(report)
    seen = read_seg(seg, slices, faults)
    if sorted(one.label for one in seen) != sorted(truths):
        return [*faults, f"segments {[one.label for one in seen]} instead of {sorted(truths)}"]
    for one in seen:
        faults += [f"{one.label}: {what}" for what in _segment_faults(one, truths[one.label], within_mm)]
        said = told.pop(one.tracking_uid, None)
        if said is None:
            faults.append(f"{one.label}: the report does not speak of it")
            continue
        faults += [f"{one.label}: {what}" for what in _report_faults(one, said, str(seg.SOPInstanceUID), slices)]
    faults += [f"the report speaks of {uid}, which is no segment" for uid in told]
    return [*faults, *_side_faults(seen)]


def _segment_faults(one: Seen, truth: Truth, within_mm: float) -> Iterator[str]:
    away = float(np.linalg.norm(one.centroid - truth.centroid))
    if not away <= within_mm:
        yield f"its middle lies {away:.2f} mm from where it should"
    if not abs(one.volume_ml - truth.volume_ml) <= 1e-3 * truth.volume_ml:
        yield f"{one.volume_ml:.4f} mL instead of {truth.volume_ml:.4f}"
    for place, plane in enumerate(truth.mask):
        there = one.planes.get(place)
        if there is None and plane.any():
            yield f"nothing on slice {place}"
        elif there is not None and (there.shape != plane.shape or (there != plane).any()):
            yield f"other pixels on slice {place}"


def _report_faults(one: Seen, told: Told, seg_uid: str, slices: Sequence[Slice]) -> Iterator[str]:
    if told.segments != ((seg_uid, one.number),):
        yield f"the report refers to {told.segments}, not once to segment {one.number}"
    if len(told.volumes_ml) != 1 or abs(told.volumes_ml[0] - one.volume_ml) > 1e-3 * one.volume_ml + 5e-4:
        yield f"{told.volumes_ml} mL in the report, {one.volume_ml:.4f} in the segmentation"
    if not told.outlines:
        yield "no outline"
    for line in told.outlines:
        places = [n for n, s in enumerate(slices) if (s.sop_uid, s.frame) == (line.sop_uid, line.frame)]
        if len(places) != 1 or places[0] not in one.planes:
            yield "its outline lies on an image without it"
        elif not goes_round(line, one.planes[places[0]], slices[places[0]]):
            yield f"its outline on slice {places[0]} does not go round its pixels"


def _side_faults(seen: Sequence[Seen]) -> Iterator[str]:
    """What is coded left lies further to the patient's left (L grows) than what is coded right, and is called so."""
    for one in seen:
        words = {word for word in re.findall("[a-z]+", one.label.lower()) if word in ("left", "right")}
        if words - {one.side}:
            yield f"{one.label}: coded as {one.side or 'no side'}"
    left, right = ([float(one.centroid[0]) for one in seen if one.side == side] for side in ("left", "right"))
    if left and right and min(left) <= max(right):
        yield "what is called left lies to the right"


def goes_round(line: Outline, plane: Mask, where: Slice) -> bool:
    """Whether *line*, in patient space, has inside it the centres of all pixels of the largest part, and no others."""
    rows, columns = np.nonzero(np.ones_like(plane))
    u, v = where.to_next_column, np.cross(where.normal, where.to_next_column)
    flat = np.stack([u / np.linalg.norm(u), v / np.linalg.norm(v)], axis=1)  # (3, 2): LPS to two axes in the plane
    corners = (where.patient(line.points) - where.corner) @ flat
    near = ndimage.binary_dilation(plane.any(axis=0), iterations=2)[columns]
    near &= ndimage.binary_dilation(plane.any(axis=1), iterations=2)[rows]
    centres = (where.centres(rows[near], columns[near]) - where.corner) @ flat
    within = np.zeros(plane.shape, dtype=bool)
    within[rows[near], columns[near]] = _enclosed(centres, corners)
    parts, count = ndimage.label(plane)
    # The line goes round the whole of a part: what lies within it and touches the outside not even at a corner.
    filled = [ndimage.binary_fill_holes(parts == number, np.ones((3, 3))) for number in range(1, count + 1)]
    most = max(int(part.sum()) for part in filled)
    return any(part.sum() == most and np.array_equal(part, within) for part in filled)


def _enclosed(points: Array, corners: Array) -> Mask:
    """(points,): whether a closed line goes round each point: an odd number of its edges lies to the right."""
    x, y = corners[:-1].T
    x_next, y_next = corners[1:].T
    found = np.zeros(len(points), dtype=bool)
    for start in range(0, len(points), 1000):
        across, up = points[start : start + 1000, :1], points[start : start + 1000, 1:]
        crosses = (y > up) != (y_next > up)
        with np.errstate(divide="ignore", invalid="ignore"):
            at = x + (up - y) / (y_next - y) * (x_next - x)
        found[start : start + 1000] = np.count_nonzero(crosses & (at > across), axis=1) % 2 == 1
    return found
