"""What an encoder is given and what it gives back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.contract import Card, Detection, Findings, Mask, Measures, SegmentKind
from node.dicom.codes import plain
from node.domain.result import ResultRole
from node.domain.uid import UUID_ROOT, derive_uid

#: Stands in every result where a viewer shows text.
DISCLAIMER = "AI result, research use only, not for clinical use"

_FIRST_SERIES_NUMBER = 9000  # behind every acquired series: a lower one would steal the hanging protocol
_MODELS, _ROLES = 400, 10  # numbers kept for models, and for the roles of each


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeIdentity:
    """Which node made a result."""

    node_id: str
    manufacturer: str = "pacs-ai-node"
    model_name: str = "pacs-ai-node"
    serial: str
    software_version: str
    uid_root: str = UUID_ROOT


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResultContext:
    """All that a result says besides its findings; equal contexts and findings make equal bytes."""

    sources: tuple[Dataset, ...]  # one header per source slice, without pixels, in the order of the masks' slices
    card: Card
    model_digest: str
    node: NodeIdentity
    revision: int
    input_digest: str
    at: datetime  # aware; when the study settled: the source of every date and time that we write
    frames: tuple[int, ...] = ()  # where the sources are frames of multi-frame images: which frame (from 1) each is
    prior: tuple[Dataset, ...] = ()  # earlier segmentations, newest first: what they name keeps its identifier
    history: str = ""  # digest of which earlier results of other jobs those are
    predecessors: Mapping[str, Dataset] = field(default_factory=dict)  # by variant: the report that is replaced

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a result needs at least one source image")
        if self.at.tzinfo is None:
            raise ValueError("the time of a result must say its time zone")
        if self.frames and len(self.frames) != len(self.sources):
            raise ValueError("either every source is a frame, or none")

    @property
    def is_placed(self) -> bool:
        """Whether the sources say where they lie in the patient: projection images do not."""
        return any(source.get("ImagePositionPatient") for source in self.sources)

    def uid(self, *parts: str | int) -> str:
        """Return the UID of *parts* of this result set: the same for every rerun of the same work."""
        study = str(self.sources[0].StudyInstanceUID)
        work = (self.node.node_id, study, self.model_digest, self.revision, self.input_digest, self.history)
        return derive_uid(self.node.uid_root, *work, *parts)

    def series_number(self, role: ResultRole) -> int:
        """Return a series number of 9000 or more that depends on the model's name and the role alone."""
        digest = hashlib.sha256(self.card.name.encode()).digest()
        place = int.from_bytes(digest[:4], "big") % _MODELS
        return _FIRST_SERIES_NUMBER + _ROLES * place + list(ResultRole).index(role)

    @property
    def series_description(self) -> str:
        """What viewers show in the list of series (VR LO: 64 characters)."""
        version = plain(self.card.version, 16)
        return f"{plain('AI ' + self.card.title, 63 - len(version))} {version}"

    @property
    def local_time(self) -> datetime:
        """The time of the result on the clock of its source, where that says one (0008,0201), else as given."""
        offset = str(self.sources[0].get("TimezoneOffsetFromUTC") or "")
        if len(offset) != 5 or not offset[1:].isdigit():
            return self.at
        shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
        return self.at.astimezone(timezone(-shift if offset[0] == "-" else shift))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ResultObject:
    """One DICOM instance that we made: Explicit VR Little Endian, with its file meta information."""

    role: ResultRole
    dataset: Dataset
    data: bytes = field(repr=False)  # the DICOM file (PS3.10) that is checked, frozen and sent
    variant: str = ""  # what sets it apart from others of its role, e.g. "binary"
    profiles: frozenset[str] = frozenset()  # names of the profiles that it belongs to

    @property
    def sop_uid(self) -> str:
        """Its SOP Instance UID."""
        return str(self.dataset.SOPInstanceUID)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pictures:
    """What was drawn of the findings beside the pixels, for those who look at pictures."""

    pages: tuple[NDArray[np.uint8], ...] = ()  # (rows, columns, 3) each, sRGB
    report: bytes = b""  # a PDF file; empty where nobody asked for one


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedSeg:
    """One Segmentation and what it draws: region i is its segment i + 1."""

    dataset: Dataset
    regions: tuple[Region, ...]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """One segment of the SEG and its measurement groups in the SR, which share one tracking UID."""

    number: int  # from 1, over all regions of the result set
    label: str
    kind: SegmentKind
    mask: Mask  # (slices, rows, columns), on the grid of the sources
    volume_ml: float
    tracking_uid: str
    tracking_id: str  # its name in reports, stable with the UID
    site: SegmentKind | None = None  # where a detection lies
    measures: Measures | None = None
    detection: Detection | None = None


def regions(findings: Findings, context: ResultContext) -> tuple[Region, ...]:
    """Return what is to be drawn: organs first, then detections; an organ without a single voxel is not drawn."""
    drawn: list[Region] = []
    card = context.card
    for segment in (s for s in findings.segments if s.mask.any()):
        kind = card.kind_of(segment.key)
        drawn.append(
            Region(
                number=len(drawn) + 1, label=plain(kind.label, 64), kind=kind, mask=segment.mask,
                volume_ml=segment.volume_ml, measures=segment.measures,
                tracking_uid=context.uid("tracking", segment.key, 0), tracking_id=plain(kind.label, 64),
            )
        )  # fmt: skip
    for place, found in enumerate(findings.detections, start=1):
        kind = card.kind_of(found.key)
        drawn.append(
            Region(
                number=len(drawn) + 1, label=f"{plain(kind.label, 58)} {place}", kind=kind, mask=found.mask,
                volume_ml=found.volume_ml, measures=found.measures,
                tracking_uid=context.uid("tracking", found.key, place),
                tracking_id=f"{plain(kind.label, 58)} {place}",
                site=card.kind_of(found.site) if found.site else None, detection=found,
            )
        )  # fmt: skip
    return tuple(drawn)


def absent(findings: Findings, card: Card) -> tuple[SegmentKind, ...]:
    """Return the kinds that were looked for and not found: the report says so of each."""
    found = {s.key for s in findings.segments if s.mask.any()} | {d.key for d in findings.detections}
    return tuple(kind for kind in card.segments if kind.key not in found)
