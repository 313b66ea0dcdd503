"""The report against the regions and the segmentations: template, tracking, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from node.dicom.context import Region, ResultContext
from node.dicom.gate.outlines import check_outline, places_of
from node.errors import OutputInvalid

_TRACKING_ID, _TRACKING_UID, _FINDING, _VOLUME = "112039", "112040", "121071", "118565006"
_NEEDED = {_TRACKING_ID: "tracking identifier", _TRACKING_UID: "tracking UID", _FINDING: "finding"}
_GROUP = "125007"  # Measurement Group
_TITLE = "126000"  # Imaging Measurement Report


def check_report(report: Dataset, segs: Sequence[Dataset], drawn: Sequence[Region], context: ResultContext) -> None:
    """The report is a TID 1500 whose groups are the regions *drawn*, each with its outline and its segment."""
    _check_template(report)
    regions, places = {region.tracking_uid: region for region in drawn}, places_of(context)
    segments = {
        (str(seg.SOPInstanceUID), int(one.SegmentNumber)): str(one.get("TrackingUID") or "")
        for seg in segs
        for one in seg.SegmentSequence
    }
    outlined: list[str] = []
    referred: list[str] = []
    for group in (item for item in _items(report) if _concept(item) == _GROUP):
        uid = _check_group(group)
        for item in (item for item in _items(group) if item.ValueType == "SCOORD"):
            if uid not in regions:
                raise OutputInvalid("sr: an outline of what is no region")
            check_outline(item, regions[uid], places)
            outlined.append(uid)
        for item in (item for item in _items(group) if item.ValueType == "IMAGE"):
            reference = item.ReferencedSOPSequence[0]
            if "ReferencedSegmentNumber" not in reference:
                continue
            named = str(reference.ReferencedSOPInstanceUID), int(reference.ReferencedSegmentNumber)
            if segments.get(named) != uid:
                raise OutputInvalid("sr: a group's tracking UID is not that of the segment it refers to")
            referred.append(uid)
    expected = sorted(region.tracking_uid for region in drawn)
    if sorted(set(outlined)) != expected:  # a region without an outline leaves common viewers black
        raise OutputInvalid("sr: its tracking UIDs with an outline are not those of the regions")
    if segs and sorted(referred) != expected:
        raise OutputInvalid("sr: its tracking UIDs with a segment are not those of the segmentation")
    _check_volumes(report, drawn)


def _check_template(report: Dataset) -> None:
    templates = [str(item.TemplateIdentifier) for item in report.get("ContentTemplateSequence", [])]
    if templates != ["1500"] or _concept(report) != _TITLE or report.ValueType != "CONTAINER":
        raise OutputInvalid("sr: not an Imaging Measurement Report by template 1500")
    for item in _items(report):
        if item.ValueType == "NUM":
            _check_number(item)
        if item.ValueType == "SCOORD3D":
            raise OutputInvalid("sr: coordinates in 3-D, which viewers do not draw")


def _check_number(item: Dataset) -> None:
    measured = item.get("MeasuredValueSequence") or []
    if len(measured) != 1 or not math.isfinite(float(measured[0].NumericValue)):
        raise OutputInvalid("sr: a measurement that is no number")
    if not measured[0].get("MeasurementUnitsCodeSequence"):
        raise OutputInvalid("sr: a measurement without a unit")


def _check_group(group: Dataset) -> str:
    """Return the tracking UID of a group that says what it is about."""
    there = {_concept(item): item for item in group.get("ContentSequence", [])}
    for concept, what in _NEEDED.items():
        if concept not in there:
            raise OutputInvalid(f"sr: a measurement group without {what}")
    return str(there[_TRACKING_UID].UID)


def _check_volumes(report: Dataset, drawn: Sequence[Region]) -> None:
    """The volume told of each region is the one measured."""
    volumes = {region.tracking_uid: region.volume_ml for region in drawn}
    for group in (item for item in _items(report) if _concept(item) == _GROUP):
        uid = _check_group(group)
        for item in group.ContentSequence:
            if item.ValueType != "NUM" or _concept(item) != _VOLUME:
                continue
            told = float(item.MeasuredValueSequence[0].NumericValue)
            if uid not in volumes or abs(told - volumes[uid]) > 0.001 + 1e-4 * volumes[uid]:
                raise OutputInvalid(f"sr: a volume of {told:g} mL that no region has")


def _items(dataset: Dataset) -> Iterator[Dataset]:
    """All content items below *dataset*."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _concept(item: Dataset) -> str:
    names = item.get("ConceptNameCodeSequence")
    return str(names[0].CodeValue) if names else ""
