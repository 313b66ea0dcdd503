"""The same thing keeps its tracking identifier: from one run to the next, and from one study to a later one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.dicom.context import Region, ResultContext
from node.dicom.segread import segments_on_frames

_SAME_PLACE = 0.01  # mm
_OVERLAP = 0.3  # intersection over union from which two drawings are of one thing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Known:
    """One segment of an earlier result."""

    uid: str
    identifier: str
    kind: tuple[str, str]  # property type and side
    pixels: dict[int, NDArray[np.bool_]]  # by source slice; empty where it lies in another frame of reference


def keep_identities(drawn: Sequence[Region], context: ResultContext) -> tuple[Region, ...]:
    """Return *drawn* with the tracking identifiers of what earlier results of ``context.prior`` have already named.

    In one frame of reference a region is what it overlaps most (intersection over union of at least 0.3, one to one,
    of the same coded type). In another one, as in a follow-up study, only organs are recognised, by type and side:
    which lesion is which nobody knows without a registration.
    """
    known = [one for seg in context.prior for one in _segments(seg, context)]
    pairs = sorted(
        ((score, -number, -place) for number, region in enumerate(drawn) for place, one in enumerate(known)
         if (score := _likeness(region, one)) >= _OVERLAP),
        reverse=True,
    )  # fmt: skip
    named: dict[int, int] = {}
    for _, number, place in pairs:
        if -number not in named and -place not in named.values() and _is_free(known[-place].uid, named, known):
            named[-number] = -place
    return tuple(
        replace(region, tracking_uid=known[named[number]].uid, tracking_id=known[named[number]].identifier)
        if number in named
        else region
        for number, region in enumerate(drawn)
    )


def _is_free(uid: str, named: dict[int, int], known: Sequence[_Known]) -> bool:
    """No two regions of one result may share a tracking UID."""
    return uid not in {known[place].uid for place in named.values()}


def _likeness(region: Region, one: _Known) -> float:
    """Intersection over union; 1 for the same organ in another frame of reference; 0 for what is no match."""
    if _kind(region) != one.kind:
        return 0.0
    if not one.pixels:
        return 1.0 if region.detection is None else 0.0
    common = sum(int(np.count_nonzero(region.mask[place] & pixels)) for place, pixels in one.pixels.items())
    both = int(np.count_nonzero(region.mask)) + sum(int(np.count_nonzero(p)) for p in one.pixels.values()) - common
    return common / both if both else 0.0


def _kind(region: Region) -> tuple[str, str]:
    place = region.site or region.kind
    return region.kind.type.value, place.laterality.value if place.laterality else ""


def _segments(seg: Dataset, context: ResultContext) -> Iterator[_Known]:
    """The segments of an earlier result; without pixels where they cannot be laid over the sources."""
    laid: dict[int, dict[int, NDArray[np.bool_]]] = {}
    if _lies_alike(seg, context):
        corners = np.array([source.ImagePositionPatient for source in context.sources], dtype=np.float64)
        for group, parts in segments_on_frames(seg):
            position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=np.float64)
            away = np.abs(corners - position).max(axis=1)
            if away.min() <= _SAME_PLACE:
                for number, pixels in parts:
                    laid.setdefault(number, {})[int(np.argmin(away))] = pixels
    same_frame = seg.get("FrameOfReferenceUID") == context.sources[0].get("FrameOfReferenceUID")
    for segment in seg.SegmentSequence:
        drawn = laid.get(int(segment.SegmentNumber), {})
        if not segment.get("TrackingUID") or (same_frame and not drawn):
            continue
        yield _Known(
            uid=str(segment.TrackingUID), identifier=str(segment.get("TrackingID") or segment.SegmentLabel),
            kind=_coded(segment), pixels=drawn,
        )  # fmt: skip


def _lies_alike(seg: Dataset, context: ResultContext) -> bool:
    """Whether the earlier result has the grid of these sources, whatever slices of it."""
    source = context.sources[0]
    if seg.get("FrameOfReferenceUID") != source.get("FrameOfReferenceUID"):
        return False
    shared = seg.SharedFunctionalGroupsSequence[0]
    size = (int(seg.Rows), int(seg.Columns)) == (int(source.Rows), int(source.Columns))
    ours = [*source.ImageOrientationPatient, *source.PixelSpacing]
    theirs = [
        *shared.PlaneOrientationSequence[0].ImageOrientationPatient, *shared.PixelMeasuresSequence[0].PixelSpacing
    ]  # fmt: skip
    return size and bool(np.allclose(np.array(ours, float), np.array(theirs, float), rtol=0, atol=1e-4))


def _coded(segment: Dataset) -> tuple[str, str]:
    """Type and side of a segment as our results code them."""
    kind = segment.SegmentedPropertyTypeCodeSequence[0]
    modifiers = [*kind.get("SegmentedPropertyTypeModifierCodeSequence", [])]
    for region in segment.get("AnatomicRegionSequence", []):
        modifiers += region.get("AnatomicRegionModifierSequence", [])
    return str(kind.CodeValue), str(modifiers[0].CodeValue) if modifiers else ""
