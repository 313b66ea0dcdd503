"""Verdicts: what a radiologist's own object says of a result of ours."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from statistics import median
from typing import Any

#: Storage classes of the objects in which a verdict may come (PS3.6 table A-1). No model reads any of them.
SEGMENTATIONS = frozenset({"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"})
REPORTS = frozenset(f"1.2.840.10008.5.1.4.1.1.88.{end}" for end in (11, 22, 33, 34, 35))
KEY_OBJECTS = "1.2.840.10008.5.1.4.1.1.88.59"
BEARERS = SEGMENTATIONS | REPORTS | {KEY_OBJECTS}


class VerdictKind(StrEnum):
    """What a radiologist's object says of a result."""

    ACCEPTED = "accepted"  #: the same again, or a verified report that changes nothing
    CORRECTED = "corrected"  #: the same with changes, which are measured
    REJECTED = "rejected"  #: a coded refusal
    NOTED = "noted"  #: it refers to the result and says nothing that is a judgement
    UNREADABLE = "unreadable"  #: it is about the result, and cannot be compared with it; the reason says why


#: Kinds that judge; of several on one job the newest of these counts.
JUDGEMENTS = frozenset({VerdictKind.ACCEPTED, VerdictKind.CORRECTED, VerdictKind.REJECTED})


class MatchedBy(StrEnum):
    """How an object was found to be about a result, the surest first."""

    REFERENCE = "reference"  #: it names the SOP Instance UID of a result
    TRACKING = "tracking identifier"  #: it names the Tracking UID of one of its findings
    STRUCTURE = "structure"  #: same source series, and the same structure on the same side of the body


class Change(StrEnum):
    """What became of one segment."""

    SAME = "same"  #: every voxel
    CHANGED = "changed"
    REMOVED = "removed"
    ADDED = "added"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentVerdict:
    """One segment of ours, of theirs, or of both; volumes in ml."""

    label: str
    change: Change
    tracking_uid: str = ""
    paired_by: str = ""  # how the two were found to be the same: "tracking identifier", "structure" or "overlap"
    dice: float | None = None  # 0 to 1; None where only one side has it
    ours_ml: float | None = None
    theirs_ml: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What one object says of the results of one job."""

    kind: VerdictKind
    reason: str  # a sentence for people
    segments: tuple[SegmentVerdict, ...] = ()
    changes: tuple[str, ...] = ()  # a report's changes, one line each
    dice: float | None = None  # over all segments together, weighted by volume
    volume_change: float | None = None  # of all segments together, percent of ours


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """One judgement as its row says. Who gave it is the calling AE alone: no name is kept."""

    id: int
    job_id: str
    study_uid: str
    model: str
    model_digest: str
    sop_uid: str  # of the object that bears it
    content_sha: str
    kind: VerdictKind
    matched_by: MatchedBy
    at: datetime  # when the object was received
    calling_ae: str
    dice: float | None
    volume_change: float | None
    reason: str
    detail: dict[str, Any]  # {"segments": [...], "changes": [...]}, see `detail_of`


def dice_text(value: float) -> str:
    """Return a Dice coefficient with three decimals; only equal voxels are "1.000"."""
    return f"{value if value == 1 else min(value, 0.999):.3f}"


def detail_of(judgement: Judgement) -> dict[str, Any]:
    """Return what is kept as JSON of *judgement*: each segment with its figures, each change of a report."""
    segments = [
        {
            "label": one.label, "change": str(one.change), "tracking_uid": one.tracking_uid,
            "paired_by": one.paired_by, "dice": one.dice, "volume_ml_ours": one.ours_ml,
            "volume_ml_theirs": one.theirs_ml,
        }
        for one in judgement.segments
    ]  # fmt: skip
    return {"segments": segments, "changes": list(judgement.changes)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFigures:
    """How the results of one model, as it was under one digest, fared with radiologists."""

    model: str
    model_digest: str
    delivered: int  # jobs of which a peer took at least one result
    counts: dict[VerdictKind, int]  # jobs by the verdict that counts
    dice: float | None  # median over those jobs that have one
    volume_change: float | None  # median, percent, signed

    @property
    def judged(self) -> int:
        """Jobs with a judgement."""
        return sum(self.counts.get(kind, 0) for kind in JUDGEMENTS)


def standing(verdicts: list[Verdict]) -> dict[str, Verdict]:
    """Return, for each job, the verdict that counts: the newest judgement, else the newest of the others."""
    found: dict[str, Verdict] = {}
    for one in sorted(verdicts, key=lambda v: (v.kind in JUDGEMENTS, v.at, v.id)):
        found[one.job_id] = one
    return found


def figures(model: str, model_digest: str, delivered: int, counting: list[Verdict]) -> ModelFigures:
    """Return the figures of one model over the verdicts that count, one for each job."""
    dices = [one.dice for one in counting if one.dice is not None and one.kind in JUDGEMENTS]
    changes = [one.volume_change for one in counting if one.volume_change is not None and one.kind in JUDGEMENTS]
    counts = {kind: sum(one.kind is kind for one in counting) for kind in VerdictKind}
    return ModelFigures(
        model=model, model_digest=model_digest, delivered=delivered, counts=counts,
        dice=median(dices) if dices else None, volume_change=median(changes) if changes else None,
    )  # fmt: skip
