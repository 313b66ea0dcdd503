"""The last check of a result set before it is frozen: what would leave the node is read back and compared.

Nothing here uses the encoders' code: the bytes are parsed anew, the bits unpacked here, positions computed here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from models.contract import Detection, Findings, Mask, Segment
from node.dicom.codes import LEFT, RIGHT
from node.dicom.context import ResultContext, ResultObject
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.errors import OutputInvalid

_SAME = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
)  # fmt: skip
_DEFAULT = Profile()
_EPSILON_MM = 0.01  # decimal strings keep 16 characters: far finer than this


def check_masks(findings: Findings, context: ResultContext) -> None:
    """Refuse findings that cannot be encoded: masks off the grid of the sources, empty detections, odd numbers."""
    first = context.sources[0]
    grid = (len(context.sources), int(first.get("Rows") or 0), int(first.get("Columns") or 0))
    items: tuple[Segment | Detection, ...] = (*findings.segments, *findings.detections)
    for item in items:
        if item.mask.shape != grid or item.mask.dtype != np.bool_:
            raise OutputInvalid(f"{item.key}: mask is {item.mask.shape} {item.mask.dtype}, the sources are {grid} bool")
        if not _is_known(item.key, context):
            raise OutputInvalid(f"the model's card has no segment {item.key!r}")
    for key, numbers in _numbers(findings):
        if not all(math.isfinite(number) for number in numbers) or numbers[0] < 0:
            raise OutputInvalid(f"{key}: not a measurement: {numbers}")
    for found in findings.detections:
        if not found.mask.any():
            raise OutputInvalid(f"{found.key}: a detection without a voxel")
        if not 0 <= found.score <= 1:
            raise OutputInvalid(f"{found.key}: a score of {found.score}")
        if found.site and not _is_known(found.site, context):
            raise OutputInvalid(f"the model's card has no site {found.site!r}")


def check(
    objects: Sequence[ResultObject], context: ResultContext, findings: Findings, profile: Profile = _DEFAULT
) -> None:
    """Refuse a result set that does not say what *findings* say about the sources of *context*.

    The bytes of each object are read back; the reason names the object's role and what is wrong with it.
    """
    check_masks(findings, context)
    _check_sides(findings, context)
    for found in findings.detections:
        _check_centre(found, context)
    parsed = {obj.role: _reread(obj.dataset) for obj in objects}
    known = {str(d.SOPInstanceUID) for d in (*context.sources, *parsed.values())}
    for role, dataset in parsed.items():
        _check_identity(role, dataset, context.sources[0])
        _check_references(role, dataset, known)
    masks = [s.mask for s in findings.segments if s.mask.any()] + [d.mask for d in findings.detections]
    seg, report = parsed.get(ResultRole.SEG), parsed.get(ResultRole.SR)
    if report is None:
        raise OutputInvalid("the set has no report")
    if (seg is not None) != bool(masks):
        raise OutputInvalid(f"{len(masks)} regions, but {'a' if seg else 'no'} segmentation")
    if seg is not None:
        _check_geometry(seg, context)
        _check_voxels(seg, masks, context)
    _check_report(report, seg)


def _is_known(key: str, context: ResultContext) -> bool:
    return any(kind.key == key for kind in (*context.card.segments, *context.card.sites))


def _numbers(findings: Findings) -> Iterator[tuple[str, tuple[float, ...]]]:
    for segment in findings.segments:
        yield segment.key, (segment.volume_ml,)
    for found in findings.detections:
        yield found.key, (found.volume_ml, found.diameter_mm, found.score, *found.centre_mm)


def _reread(dataset: Dataset) -> Dataset:
    buffer = BytesIO()
    dcmwrite(buffer, dataset, enforce_file_format=True)
    buffer.seek(0)
    return dcmread(buffer)


# -- findings against the patient


def _axes(context: ResultContext) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positions (slices, LPS) of the first pixels, steps (LPS) to the next row and column (PS3.3 C.7.6.2.1.1)."""
    first = context.sources[0]
    cosines = np.array(first.ImageOrientationPatient, dtype=np.float64)
    down, across = (float(mm) for mm in first.PixelSpacing)
    corners = np.array([s.ImagePositionPatient for s in context.sources], dtype=np.float64)
    return corners, cosines[3:] * down, cosines[:3] * across


def _positions(mask: Mask, context: ResultContext) -> NDArray[np.float64]:
    """Patient positions (voxels, LPS) of the voxels in *mask*."""
    corners, to_next_row, to_next_column = _axes(context)
    slices, rows, columns = np.nonzero(mask)
    return corners[slices] + rows[:, None] * to_next_row + columns[:, None] * to_next_column


def _centroid(mask: Mask, context: ResultContext) -> NDArray[np.float64]:
    """Mean patient position (LPS) of the voxels in *mask*, from how many there are in each slice, row and column."""
    corners, to_next_row, to_next_column = _axes(context)
    slices, rows, columns = (np.count_nonzero(mask, axis=axes) for axes in ((1, 2), (0, 2), (0, 1)))
    row, column = rows @ np.arange(rows.size), columns @ np.arange(columns.size)
    total: NDArray[np.float64] = slices @ corners + row * to_next_row + column * to_next_column
    return total / int(slices.sum())


def _check_sides(findings: Findings, context: ResultContext) -> None:
    """What is called left must lie further to the patient's left (+L) than what is called right."""
    middle: dict[str, float] = {}
    for segment in (s for s in findings.segments if s.mask.any()):
        side = context.card.kind_of(segment.key).laterality
        if side is not None:
            middle[side.value] = float(_centroid(segment.mask, context)[0])
    if {LEFT.value, RIGHT.value} <= middle.keys() and middle[LEFT.value] <= middle[RIGHT.value]:
        raise OutputInvalid("the segment called left lies to the right of the one called right")


def _check_centre(found: Detection, context: ResultContext) -> None:
    """A detection's centre lies inside the bounding box of its mask, voxels counted whole."""
    places = _positions(found.mask, context)
    corners, to_next_row, to_next_column = _axes(context)
    to_next_slice = (corners[-1] - corners[0]) / max(1, len(corners) - 1)
    half = 0.5 * (np.abs(to_next_row) + np.abs(to_next_column) + np.abs(to_next_slice)) + _EPSILON_MM
    centre = np.array(found.centre_mm)
    if np.any(centre < places.min(axis=0) - half) or np.any(centre > places.max(axis=0) + half):
        raise OutputInvalid(f"{found.key}: its centre {found.centre_mm} lies outside its mask")


# -- instances against their sources


def _check_identity(role: ResultRole, dataset: Dataset, source: Dataset) -> None:
    for keyword in _SAME:
        if _text(dataset, keyword) != _text(source, keyword):
            raise OutputInvalid(f"{role}: {keyword} is not that of the source")


def _text(dataset: Dataset, keyword: str) -> bytes:
    """An attribute's value as bytes; absent and empty are the same, and so are two ways to decode the same bytes."""
    value = dataset.get(keyword)
    declared = dataset.get("SpecificCharacterSet") or "ISO_IR 100"  # what pydicom takes undeclared text for
    return str("" if value is None else value).encode(
        "latin-1" if declared == "ISO_IR 100" else "utf-8", "backslashreplace"
    ).rstrip()


def _check_references(role: ResultRole, dataset: Dataset, known: set[str]) -> None:
    for element in dataset.iterall():
        if element.keyword == "ReferencedSOPInstanceUID" and str(element.value) not in known:
            raise OutputInvalid(f"{role}: refers to {element.value}, which is neither a source nor in the set")


def _check_geometry(seg: Dataset, context: ResultContext) -> None:
    source = context.sources[0]
    shared = seg.SharedFunctionalGroupsSequence[0]
    if seg.FrameOfReferenceUID != source.FrameOfReferenceUID:
        raise OutputInvalid("seg: another frame of reference than the source")
    claims = (
        ("orientation", shared.PlaneOrientationSequence[0].ImageOrientationPatient, source.ImageOrientationPatient),
        ("pixel spacing", shared.PixelMeasuresSequence[0].PixelSpacing, source.PixelSpacing),
    )
    for what, ours, theirs in claims:
        if not np.allclose(np.array(ours, float), np.array(theirs, float), rtol=0, atol=1e-5):
            raise OutputInvalid(f"seg: another {what} than the source")


def _check_voxels(seg: Dataset, masks: Sequence[Mask], context: ResultContext) -> None:
    """Every voxel of every mask is in the frame of its segment at its slice, and no other voxel is."""
    if len(seg.SegmentSequence) != len(masks):
        raise OutputInvalid(f"seg: {len(seg.SegmentSequence)} segments for {len(masks)} regions")
    unseen = [np.asarray(mask.any(axis=(1, 2))) for mask in masks]
    for number, place, pixels in _frames(seg, context):
        if not (1 <= number <= len(masks) and unseen[number - 1][place]):
            raise OutputInvalid(f"seg: segment {number} has a needless frame at slice {place}")
        if not np.array_equal(pixels, masks[number - 1][place]):
            raise OutputInvalid(f"seg: segment {number} differs from its mask at slice {place}")
        unseen[number - 1][place] = False
    for number, slices in enumerate(unseen, start=1):
        if slices.any():
            raise OutputInvalid(f"seg: segment {number} lacks the frame of slice {int(np.argmax(slices))}")


def _frames(seg: Dataset, context: ResultContext) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """Segment number, slice among the sources and pixels (rows, columns) of each frame."""
    rows, columns, count = int(seg.Rows), int(seg.Columns), int(seg.NumberOfFrames)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little", count=rows * columns * count)
    pixels = bits.reshape(count, rows, columns).view(np.bool_)  # PS3.5 8.1.1: first pixel in the lowest bit
    shared = seg.SharedFunctionalGroupsSequence[0]
    corners = _axes(context)[0]
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, pixels, strict=True):
        segment = (shared if "SegmentIdentificationSequence" in shared else group).SegmentIdentificationSequence[0]
        place = _slice_at(group.PlanePositionSequence[0].ImagePositionPatient, corners)
        _check_derivation(group, str(context.sources[place].SOPInstanceUID), place)
        yield int(segment.ReferencedSegmentNumber), place, frame


def _slice_at(position: Sequence[float], corners: NDArray[np.float64]) -> int:
    """The source slice whose first pixel lies at *position*."""
    away = np.linalg.norm(corners - np.array(position, dtype=np.float64), axis=1)
    if away.min() > _EPSILON_MM:
        raise OutputInvalid(f"seg: a frame at {list(position)}, where no source lies")
    return int(np.argmin(away))


def _check_derivation(group: Dataset, sop_uid: str, place: int) -> None:
    sources = [
        str(image.ReferencedSOPInstanceUID)
        for derivation in group.get("DerivationImageSequence", [])
        for image in derivation.get("SourceImageSequence", [])
    ]
    if sources != [sop_uid]:
        raise OutputInvalid(f"seg: the frame at slice {place} does not name its source image")


# -- the report


def _check_report(report: Dataset, seg: Dataset | None) -> None:
    for element in report.iterall():
        if element.keyword == "NumericValue" and not math.isfinite(float(element.value)):
            raise OutputInvalid("sr: a measurement that is no number")
    told = [str(item.UID) for item in _items(report) if _concept(item) == "112040"]  # Tracking Unique Identifier
    drawn = [str(segment.TrackingUID) for segment in seg.SegmentSequence] if seg is not None else []
    if len(set(drawn)) != len(drawn):
        raise OutputInvalid("seg: two segments share a tracking UID")
    if sorted(told) != sorted(2 * drawn):  # once with the outline, once with the volume
        raise OutputInvalid("sr: its tracking UIDs are not those of the segmentation")


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """All content items below *dataset*."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""
