"""Segmentations against the masks: every voxel of each, and no other, on the slice that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.dicom.context import Region, ResultContext
from node.dicom.gate.findings import axes
from node.dicom.segread import UnreadableSeg, segments_on_frames
from node.errors import OutputInvalid

_EPSILON_MM = 0.01
Bits = NDArray[np.bool_]


def check_segmentations(segs: Sequence[Dataset], drawn: Sequence[Region], context: ResultContext) -> None:
    """The segments of *segs* together are the regions *drawn*, each once, with its voxels, label and codes."""
    by_tracking = {region.tracking_uid: region for region in drawn}
    if len(by_tracking) != len(drawn):
        raise OutputInvalid("seg: two regions share a tracking UID")
    told = [str(one.get("TrackingUID") or "") for seg in segs for one in _drawn(seg)]
    if sorted(told) != sorted(by_tracking):
        raise OutputInvalid(f"seg: the tracking UIDs of {len(told)} segments are not those of {len(drawn)} regions")
    for seg in segs:
        _check_geometry(seg, context)
        regions = {int(one.SegmentNumber): by_tracking[str(one.TrackingUID)] for one in _drawn(seg)}
        for segment in _drawn(seg):
            _check_description(segment, regions[int(segment.SegmentNumber)])
        _check_voxels(seg, regions, context)


def _drawn(seg: Dataset) -> list[Dataset]:
    """The segments that are regions: label maps describe their background as segment 0."""
    return [one for one in seg.SegmentSequence if int(one.SegmentNumber) > 0]


def _check_description(segment: Dataset, region: Region) -> None:
    kind = region.kind
    if str(segment.SegmentLabel) != region.label:
        raise OutputInvalid(f"seg: segment {segment.SegmentNumber} is not called {region.label}")
    codes = segment.SegmentedPropertyTypeCodeSequence[0], segment.SegmentedPropertyCategoryCodeSequence[0]
    for item, code in zip(codes, (kind.type, kind.category), strict=True):
        if (str(item.CodeValue), str(item.CodingSchemeDesignator)) != (code.value, code.scheme):
            raise OutputInvalid(f"seg: segment {segment.SegmentNumber} is coded as another thing than {region.label}")
    said = {str(code) for code in _modifiers(segment)}
    side = (region.site or kind).laterality
    if side is not None and side.value not in said:
        raise OutputInvalid(f"seg: segment {segment.SegmentNumber} does not say on which side {region.label} lies")


def _modifiers(segment: Dataset) -> Iterator[str]:
    """Values of the codes that say on which side a segment lies."""
    for item in segment.SegmentedPropertyTypeCodeSequence:
        yield from (str(code.CodeValue) for code in item.get("SegmentedPropertyTypeModifierCodeSequence", []))
    for item in segment.get("AnatomicRegionSequence", []):
        yield from (str(code.CodeValue) for code in item.get("AnatomicRegionModifierSequence", []))


def _check_geometry(seg: Dataset, context: ResultContext) -> None:
    source = context.sources[0]
    shared = seg.SharedFunctionalGroupsSequence[0]
    if seg.FrameOfReferenceUID != source.FrameOfReferenceUID:
        raise OutputInvalid("seg: another frame of reference than the source")
    if (int(seg.Rows), int(seg.Columns)) != (int(source.Rows), int(source.Columns)):
        raise OutputInvalid("seg: another extent than the source")
    claims = (
        ("orientation", shared.PlaneOrientationSequence[0].ImageOrientationPatient, source.ImageOrientationPatient),
        ("pixel spacing", shared.PixelMeasuresSequence[0].PixelSpacing, source.PixelSpacing),
    )
    for what, ours, theirs in claims:
        if not np.allclose(np.array(ours, float), np.array(theirs, float), rtol=0, atol=1e-5):
            raise OutputInvalid(f"seg: another {what} than the source")


def _check_voxels(seg: Dataset, regions: dict[int, Region], context: ResultContext) -> None:
    """Every voxel of every mask is in the frame of its segment at its slice, and no other voxel is."""
    unseen = {number: np.asarray(region.mask.any(axis=(1, 2))) for number, region in regions.items()}
    for place, parts in _frames(seg, context):
        for number, pixels in parts:
            if number not in unseen or not unseen[number][place]:
                raise OutputInvalid(f"seg: segment {number} has a needless frame at slice {place}")
            if not np.array_equal(pixels, regions[number].mask[place]):
                raise OutputInvalid(f"seg: segment {number} differs from its mask at slice {place}")
            unseen[number][place] = False
    for number, slices in unseen.items():
        if slices.any():
            raise OutputInvalid(f"seg: segment {number} lacks the frame of slice {int(np.argmax(slices))}")


def _frames(seg: Dataset, context: ResultContext) -> Iterator[tuple[int, list[tuple[int, Bits]]]]:
    """For each frame its slice among the sources and, of each segment in it, number and pixels (rows, columns)."""
    corners = axes(context)[0]
    if seg.SegmentationType == "FRACTIONAL" and set(np.unique(np.frombuffer(seg.PixelData, np.uint8)).tolist()) - {
        0, int(seg.MaximumFractionalValue)
    }:  # fmt: skip
        raise OutputInvalid("seg: a mask holds values between nothing and everything")
    try:
        for group, parts in segments_on_frames(seg):
            place = _slice_at(group.PlanePositionSequence[0].ImagePositionPatient, corners)
            _check_derivation(group, context, place)
            yield place, parts
    except UnreadableSeg as why:
        raise OutputInvalid(f"seg: {why}") from why


def _slice_at(position: Sequence[float], corners: NDArray[np.float64]) -> int:
    """The source slice whose first pixel lies at *position*."""
    away = np.abs(corners - np.array(position, dtype=np.float64)).max(axis=1)
    place = int(np.argmin(away))
    if away[place] > _EPSILON_MM:
        raise OutputInvalid(f"seg: a frame at {list(position)}, where no source lies")
    return place


def _check_derivation(group: Dataset, context: ResultContext, place: int) -> None:
    named = [
        (str(image.ReferencedSOPInstanceUID), int(image.get("ReferencedFrameNumber") or 0))
        for derivation in group.get("DerivationImageSequence", [])
        for image in derivation.get("SourceImageSequence", [])
    ]
    frame = context.frames[place] if context.frames else 0
    if named != [(str(context.sources[place].SOPInstanceUID), frame)]:
        raise OutputInvalid(f"seg: the frame at slice {place} does not name its source image")
