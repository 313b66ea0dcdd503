"""An instance against its sources: whose it is, and that all it refers to is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from node.dicom.context import ResultContext
from node.domain.result import ResultRole
from node.errors import OutputInvalid

_SAME = (
    "PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate",
    "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription",
)  # fmt: skip


def check_identity(role: ResultRole, dataset: Dataset, source: Dataset) -> None:
    """Patient and study are those of the source, value for value."""
    for keyword in _SAME:
        if _text(dataset, keyword) != _text(source, keyword):
            raise OutputInvalid(f"{role}: {keyword} is not that of the source")


def _text(dataset: Dataset, keyword: str) -> str:
    """An attribute's value as text; absent and empty are the same, and so are two ways to decode the same bytes."""
    value = str("" if dataset.get(keyword) is None else dataset.get(keyword)).rstrip()
    if dataset.get("SpecificCharacterSet"):
        return value
    try:  # undeclared: pydicom took it for Latin-1, whatever it was
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def check_references(
    role: ResultRole, dataset: Dataset, context: ResultContext, others: Sequence[Dataset]
) -> None:
    """Every instance, class, frame and segment that *dataset* names exists among the sources or in the set."""
    classes = {str(one.SOPInstanceUID): str(one.get("SOPClassUID") or "") for one in (*context.sources, *others)}
    for one in context.predecessors.values():
        classes[str(one.SOPInstanceUID)] = str(one.SOPClassUID)
    segments = {str(one.SOPInstanceUID): _segments(one) for one in others}
    frames = _frames(context)
    for item in _references(dataset):
        uid = str(item.ReferencedSOPInstanceUID)
        if uid not in classes:
            raise OutputInvalid(f"{role}: refers to {uid}, which is neither a source nor in the set")
        if classes[uid] and str(item.get("ReferencedSOPClassUID") or classes[uid]) != classes[uid]:
            raise OutputInvalid(f"{role}: refers to {uid} as an instance of another class than it is")
        if set(_integers(item, "ReferencedFrameNumber")) - frames.get(uid, set()) and uid not in segments:
            raise OutputInvalid(f"{role}: refers to a frame of {uid} that is no source")
        if set(_integers(item, "ReferencedSegmentNumber")) - segments.get(uid, set()):
            raise OutputInvalid(f"{role}: refers to a segment of {uid} that is not there")


def _references(dataset: Dataset) -> Iterator[Dataset]:
    """All items that name an instance; without the recursion library's cost for each of ten thousand frames."""
    for element in dataset:
        if element.VR != "SQ":
            continue
        for item in element.value:
            if "ReferencedSOPInstanceUID" in item:
                yield item
            yield from _references(item)


def _frames(context: ResultContext) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for source, frame in zip(context.sources, context.frames or (1,) * len(context.sources), strict=True):
        found.setdefault(str(source.SOPInstanceUID), set()).add(frame)
    return found


def _segments(dataset: Dataset) -> set[int]:
    return {int(one.SegmentNumber) for one in dataset.get("SegmentSequence", [])}


def _integers(item: Dataset, keyword: str) -> list[int]:
    value = item.get(keyword)
    if value is None:
        return []
    return [int(value)] if isinstance(value, int | str) else [int(one) for one in value]
