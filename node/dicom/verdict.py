"""A radiologist's object beside our results: what it refers to, and what it says of them. Nothing is guessed.

Which object may say what, and why, stands in docs/verdicts.md.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from node.dicom.drawing import Drawing, SegmentInfo, Shared, Unreadable, check_comparable, share
from node.dicom.report import Report, differences, read_report
from node.domain.verdict import Change, Judgement, MatchedBy, SegmentVerdict, VerdictKind

_REFERENCED = 0x00081155  # Referenced SOP Instance UID
_SERIES = 0x0020000E  # Series Instance UID, in a reference
_TRACKING = Code("112040", "DCM", "")
_MODIFIER = Code("113011", "DCM", "")  # Document Title Modifier
#: Titles of a key object selection (CID 7010) that judge what they refer to. No other title does: "Of Interest" marks
#: a good result as well as a bad one, and "Signed Manifest" says that a list is whole.
_REJECTIONS = {
    Code("113001", "DCM", ""): "rejected for quality reasons",
    Code("113037", "DCM", ""): "rejected for patient safety reasons",
}
_TISSUE = (Code("85756007", "SCT", ""), Code("T-D0050", "SRT", ""))  # what viewers write that keep no code
_BY_OVERLAP = 0.5  # Dice above which two segments of different names are the same
_MOST_PAIRS = 400  # of segments that are compared by overlap


@dataclass(frozen=True, kw_only=True, slots=True)
class References:
    """What an object names."""

    instances: frozenset[str]  # SOP Instance UIDs
    predecessors: frozenset[str]  # those that a document takes the place of
    series: frozenset[str]
    tracking: frozenset[str]  # Tracking UIDs of segments and of measurement groups


def references(dataset: Dataset) -> References:
    """Return every instance, series and tracked finding that *dataset* names, in sequences of any depth."""
    instances, series, tracking = set[str](), set[str](), set[str]()
    for item in _nested(dataset):
        instances.add(str(item.get(_REFERENCED).value) if _REFERENCED in item else "")
        series.add(str(item.get(_SERIES).value) if _SERIES in item else "")
        tracking.add(str(item.get("TrackingUID") or ""))
        concept = item.get("ConceptNameCodeSequence") or ()
        if item.get("UID") and concept and concept[0].get("CodeValue") == _TRACKING.value:
            tracking.add(str(item.UID))
    before = {
        str(item.get(_REFERENCED).value)
        for document in dataset.get("PredecessorDocumentsSequence") or ()
        for item in _nested(document)
        if _REFERENCED in item
    }
    return References(
        instances=frozenset(instances - {""}), predecessors=frozenset(before), series=frozenset(series - {""}),
        tracking=frozenset(tracking - {""}),
    )  # fmt: skip


def _nested(dataset: Dataset) -> Iterator[Dataset]:
    """Yield every sequence item below *dataset*."""
    waiting = [dataset]
    while waiting:
        for element in waiting.pop():
            if element.VR == "SQ":
                yield from element.value
                waiting += element.value


# Segmentations ------------------------------------------------------------------------------------------------------


def is_by_structure(ours: SegmentInfo, theirs: SegmentInfo) -> bool:
    """Return whether *theirs*, which names neither our result nor our finding, is a person's edit of *ours*.

    What another program drew by itself is not: its word on our result is no verdict. A viewer may keep "automatic"
    and our algorithm's name from the segment that was edited; it then keeps no Tracking UID, which ours always has.
    """
    if theirs.automatic and (theirs.tracking_uid or theirs.algorithm != ours.algorithm):
        return False
    unnamed = any(theirs.type == tissue for tissue in _TISSUE)  # viewers that keep no code keep the label
    return ours.same_structure(theirs) or (unnamed and bool(ours.label) and ours.label == theirs.label)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Pair:
    """One segment of ours with its counterpart."""

    drawing: Drawing
    ours: SegmentInfo
    theirs: SegmentInfo
    by: str
    shared: Shared


def judge_seg(ours: Sequence[Drawing], theirs: Drawing, *, elsewhere: Collection[int] = ()) -> Judgement:
    """Return what the Segmentation *theirs* says of ours: the same to the voxel is accepted, all else corrected.

    Segments *elsewhere* belong to another job's results. Raises Unreadable where voxels cannot be compared.
    """
    for drawing in ours:
        check_comparable(drawing, theirs)
    mine = _distinct(ours)
    others = [info for info in theirs.segments if info.number not in elsewhere]
    pairs = _pairs(mine, theirs, others)
    paired, taken = {id(pair.ours) for pair in pairs}, {pair.theirs.number for pair in pairs}
    segments = [_of_pair(pair) for pair in pairs]
    for drawing, info in mine:
        if id(info) not in paired:
            segments.append(_removed(info, drawing.volume_ml(info.number)))
    for info in others:
        if info.number not in taken and (volume := theirs.volume_ml(info.number)):
            segments.append(SegmentVerdict(label=info.label, change=Change.ADDED, theirs_ml=volume))
    renamed = sum(not pair.ours.same_structure(pair.theirs) and not _is_unnamed(pair.theirs) for pair in pairs)
    return _sum_up(segments, sum(pair.shared.both_ml for pair in pairs), renamed)


def _is_unnamed(info: SegmentInfo) -> bool:
    return any(info.type == tissue for tissue in _TISSUE)


def _distinct(ours: Sequence[Drawing]) -> list[tuple[Drawing, SegmentInfo]]:
    """Return each of our segments once: the same ones may have been sent in several forms."""
    found: dict[str, tuple[Drawing, SegmentInfo]] = {}
    for drawing in ours:
        for info in drawing.segments:
            found.setdefault(info.tracking_uid, (drawing, info))
    return list(found.values())


def _pairs(mine: list[tuple[Drawing, SegmentInfo]], theirs: Drawing, others: list[SegmentInfo]) -> list[_Pair]:
    """Pair segments: by Tracking UID, then by structure, side and label, then by structure, then by overlap."""
    pairs: list[_Pair] = []
    left, free = list(mine), list(others)

    def take(drawing: Drawing, ours: SegmentInfo, other: SegmentInfo, by: str, shared: Shared | None = None) -> None:
        shared = shared or share(drawing, ours.number, theirs, other.number)
        pairs.append(_Pair(drawing=drawing, ours=ours, theirs=other, by=by, shared=shared))
        left.remove((drawing, ours))
        free.remove(other)

    for drawing, ours in list(left):
        if other := next((o for o in free if o.tracking_uid and o.tracking_uid == ours.tracking_uid), None):
            take(drawing, ours, other, str(MatchedBy.TRACKING))
    for drawing, ours in list(left):
        alike = [o for o in free if o.label == ours.label and (ours.same_structure(o) or _is_unnamed(o))]
        if len(alike) == 1:
            take(drawing, ours, alike[0], str(MatchedBy.STRUCTURE))
    if len(left) * len(free) <= _MOST_PAIRS:
        for drawing, ours, other, shared in _by_overlap(left, theirs, free):
            if (drawing, ours) in left and other in free:
                by = str(MatchedBy.STRUCTURE) if ours.same_structure(other) else "overlap"
                take(drawing, ours, other, by, shared)
    return pairs


def _by_overlap(
    left: list[tuple[Drawing, SegmentInfo]], theirs: Drawing, free: list[SegmentInfo]
) -> list[tuple[Drawing, SegmentInfo, SegmentInfo, Shared]]:
    """Return possible pairs, the best first: of one structure where they touch, of two where they nearly coincide."""
    found = []
    for drawing, ours in left:
        for other in free:
            shared = share(drawing, ours.number, theirs, other.number)
            alike = ours.same_structure(other)
            if shared.both_ml and (alike or shared.dice > _BY_OVERLAP):
                found.append((alike, shared.dice, drawing, ours, other, shared))
    found.sort(key=lambda one: (one[0], one[1]), reverse=True)
    return [one[2:] for one in found]


def _of_pair(pair: _Pair) -> SegmentVerdict:
    shared = pair.shared
    if not shared.theirs_ml:
        return _removed(pair.ours, shared.ours_ml)  # the segment is there without a voxel
    return SegmentVerdict(
        label=pair.ours.label, tracking_uid=pair.ours.tracking_uid, paired_by=pair.by,
        change=Change.SAME if shared.same else Change.CHANGED, dice=shared.dice, ours_ml=shared.ours_ml,
        theirs_ml=shared.theirs_ml,
    )  # fmt: skip


def _removed(info: SegmentInfo, volume: float) -> SegmentVerdict:
    return SegmentVerdict(label=info.label, tracking_uid=info.tracking_uid, change=Change.REMOVED, ours_ml=volume)


def _sum_up(segments: Sequence[SegmentVerdict], both: float, renamed: int) -> Judgement:
    ours, theirs = (sum(v or 0.0 for v in vs) for vs in zip(*((s.ours_ml, s.theirs_ml) for s in segments), strict=True))
    counts = {change: sum(one.change is change for one in segments) for change in Change}
    same = counts[Change.SAME] == len(segments)
    dice = 1.0 if same else min(1.0, 2 * both / (ours + theirs)) if ours + theirs else 0.0
    change = 0.0 if same else 100 * (theirs - ours) / ours if ours else None
    accepted = same and not renamed
    words = [f"{counts[c]} {c}" for c in (Change.CHANGED, Change.REMOVED, Change.ADDED) if counts[c]]
    words += [f"{renamed} given another name"] * bool(renamed)
    reason = f"all {len(segments)} segments are the same to the voxel" if accepted else (
        f"of {len(segments)} segments {', '.join(words)}"
    )  # fmt: skip
    return Judgement(
        kind=VerdictKind.ACCEPTED if accepted else VerdictKind.CORRECTED, reason=reason, segments=tuple(segments),
        dice=dice, volume_change=change,
    )  # fmt: skip


# Key object selections ----------------------------------------------------------------------------------------------


def judge_key_objects(dataset: Dataset, sources: Collection[str]) -> Judgement:
    """Return what a key object selection says: a rejection by its coded title, or nothing that is a judgement.

    One that refers to the *sources* of the result as well rejects the images, not what a model made of them.
    """
    titles = dataset.get("ConceptNameCodeSequence") or [Dataset()]
    title = Code(str(titles[0].get("CodeValue") or ""), str(titles[0].get("CodingSchemeDesignator") or ""), "")
    why = _REJECTIONS.get(title, "")
    if not why:
        return Judgement(kind=VerdictKind.NOTED, reason=f"marked as a key object ({_title(title)}): no judgement")
    if references(dataset).instances & frozenset(sources):
        return Judgement(kind=VerdictKind.NOTED, reason=f"the source images are {why}, not the result alone")
    return Judgement(kind=VerdictKind.REJECTED, reason=why, changes=tuple(_modifiers(dataset)))


def _title(code: Code) -> str:
    return f"{code.scheme_designator} {code.value}"[:64] if code.value else "without a title"


def _modifiers(dataset: Dataset) -> Iterator[str]:
    """The coded reasons of a rejection (CID 7011), as the standard words them."""
    for item in dataset.get("ContentSequence") or ():
        concept, value = item.get("ConceptNameCodeSequence") or (), item.get("ConceptCodeSequence") or ()
        if concept and value and concept[0].get("CodeValue") == _MODIFIER.value:
            meaning = str(value[0].get("CodeMeaning") or "")
            yield "".join(c for c in meaning if c.isprintable())[:64]


# Structured reports -------------------------------------------------------------------------------------------------


def judge_report(ours: Sequence[Dataset], known: Collection[str], theirs: Dataset, *, successor: bool) -> Judgement:
    """Return what a report says of our report and of our findings, whose Tracking UIDs are *known*.

    *successor*: it says that it takes the place of our report. Only a verified report judges (VERIFIED, PS3.3
    C.17.2.1); a draft, and one that only refers to us, are noted.
    """
    report = read_report(theirs)
    mine = _merged([read_report(one) for one in ours])
    if not report.verified:
        return Judgement(kind=VerdictKind.NOTED, reason="the report is not verified")
    tracked = set(known) | set(mine.findings)
    denied = {uid for uid in tracked if uid in report.findings and report.findings[uid].absent}
    if denied and denied == tracked:
        return Judgement(kind=VerdictKind.REJECTED, reason="every finding of the result is said to be absent")
    common = tracked & set(report.findings)
    if not ours or not (successor or common):
        return _without_ours(denied, tracked)
    changes = differences(mine, report) if successor else differences(_only(mine, common), _only(report, common))
    if changes:
        reason = f"a verified report changes {len(changes)} thing{'s' * (len(changes) > 1)}"
        return Judgement(kind=VerdictKind.CORRECTED, reason=reason, changes=tuple(changes[:100]))
    if successor:
        return Judgement(kind=VerdictKind.ACCEPTED, reason="a verified report takes its place and changes nothing")
    return Judgement(kind=VerdictKind.NOTED, reason="a verified report repeats findings of the result")


def _without_ours(denied: Collection[str], tracked: Collection[str]) -> Judgement:
    if denied:
        changes = (f"{len(denied)} of {len(tracked)} findings are said to be absent",)
        return Judgement(kind=VerdictKind.CORRECTED, reason="a verified report denies findings", changes=changes)
    return Judgement(kind=VerdictKind.NOTED, reason="a verified report refers to the result and does not judge it")


def _merged(reports: Sequence[Report]) -> Report:
    """Return our report; the same one may have been sent in several classes or languages."""
    return reports[0] if reports else Report(verified=False, findings={}, evaluations=set())


def _only(report: Report, uids: Collection[str]) -> Report:
    found = {uid: finding for uid, finding in report.findings.items() if uid in uids}
    return Report(verified=report.verified, findings=found, evaluations=set())


def same_patient(ours: Dataset, theirs: Dataset) -> None:
    """Raise Unreadable where the two name different patients."""
    if str(ours.get("PatientID") or "").strip() != str(theirs.get("PatientID") or "").strip():
        raise Unreadable("it names another patient than the result")
