"""What an instance says, as a tree of short lines for people: identity apart, nothing is left out of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import UID


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """One line and what stands below it."""

    text: str
    below: tuple[Branch, ...] = ()

    def lines(self, depth: int = 0) -> list[str]:
        """Return the branch as indented lines."""
        return ["  " * depth + self.text, *(line for one in self.below for line in one.lines(depth + 1))]


def describe(dataset: Dataset) -> Branch:
    """Return *dataset* as a tree: its class, its series, and what it shows; no patient data."""
    series = f"series {dataset.get('SeriesNumber')}: {dataset.get('SeriesDescription')}"
    if "ContentSequence" in dataset:
        inside = tuple(_item(one) for one in dataset.ContentSequence)
    elif "SegmentSequence" in dataset:
        inside = _segments(dataset)
    elif "GraphicAnnotationSequence" in dataset:
        inside = _graphics(dataset)
    else:
        inside = tuple(Branch(text=line) for line in _facts(dataset))
    return Branch(text=f"{UID(dataset.SOPClassUID).name} ({series})", below=inside)


def _item(item: Dataset) -> Branch:
    """One content item of a report (PS3.3 C.17.3) and those below it."""
    name = _meaning(item.get("ConceptNameCodeSequence"))
    value = _VALUES.get(item.ValueType, _nothing)(item)
    text = f"{item.ValueType} {name}{': ' if name and value else ''}{value}".strip()
    return Branch(text=text, below=tuple(_item(one) for one in item.get("ContentSequence", [])))


def _nothing(_item: Dataset) -> str:
    return ""


def _number(item: Dataset) -> str:
    measured = item.get("MeasuredValueSequence")
    if not measured:
        return "not measured"
    return f"{measured[0].NumericValue} {measured[0].MeasurementUnitsCodeSequence[0].CodeValue}"


def _points(item: Dataset) -> str:
    return f"{item.GraphicType}, {len(item.GraphicData) // 2} points"


def _reference(item: Dataset) -> str:
    named = item.ReferencedSOPSequence[0]
    parts = [f"...{str(named.ReferencedSOPInstanceUID)[-12:]}"]
    parts += [f"frame {named.ReferencedFrameNumber}"] if "ReferencedFrameNumber" in named else []
    parts += [f"segment {named.ReferencedSegmentNumber}"] if "ReferencedSegmentNumber" in named else []
    return " ".join(parts)


_VALUES: dict[str, Callable[[Dataset], str]] = {
    "TEXT": lambda item: str(item.TextValue),
    "CODE": lambda item: _meaning(item.ConceptCodeSequence),
    "NUM": _number,
    "UIDREF": lambda item: str(item.UID),
    "SCOORD": _points,
    "IMAGE": _reference,
    "COMPOSITE": _reference,
    "PNAME": lambda _: "(a person)",
}


def _meaning(codes: object) -> str:
    return str(codes[0].CodeMeaning) if codes else ""  # type: ignore[index]


def _segments(dataset: Dataset) -> tuple[Branch, ...]:
    groups = dataset.PerFrameFunctionalGroupsSequence
    frames = Counter(
        int(one.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
        for one in groups
        if "SegmentIdentificationSequence" in one
    )
    found = []
    for one in dataset.SegmentSequence:
        number = int(one.SegmentNumber)
        drawn = f", {frames[number]} frames" if frames else ""
        found.append(Branch(text=f"segment {number}: {one.SegmentLabel}{drawn}"))
    head = f"{dataset.SegmentationType}, {dataset.NumberOfFrames} frames of {dataset.Rows} x {dataset.Columns}"
    return (Branch(text=head, below=tuple(found)),)


def _graphics(dataset: Dataset) -> tuple[Branch, ...]:
    return tuple(
        Branch(text=f"layer {one.get('GraphicLayer')}: {len(one.get('GraphicObjectSequence', []))} lines")
        for one in dataset.GraphicAnnotationSequence
    )


def _facts(dataset: Dataset) -> list[str]:
    lines = []
    if "Rows" in dataset:
        frames = f", {dataset.NumberOfFrames} frames" if "NumberOfFrames" in dataset else ""
        lines.append(f"{dataset.Rows} x {dataset.Columns}, {dataset.get('PhotometricInterpretation')}{frames}")
    if "MIMETypeOfEncapsulatedDocument" in dataset:
        size = dataset.get("EncapsulatedDocumentLength") or len(dataset.EncapsulatedDocument)
        lines.append(f"{dataset.MIMETypeOfEncapsulatedDocument}, {size} bytes: {dataset.get('DocumentTitle')}")
    for keyword in ("ContentLabel", "ContentDescription", "DerivationDescription", "BurnedInAnnotation"):
        if dataset.get(keyword):
            lines.append(f"{keyword}: {dataset.get(keyword)}")
    return lines
