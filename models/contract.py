"""What a model is given and what it gives back.

A model knows no DICOM, no database and no queue: it sees a volume in one fixed orientation and returns findings
on that same grid. Turning source images into the volume, and findings back onto the source grid, is the node's work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

#: Called with the fraction done (0 to 1) and a few words on the stage, e.g. ``(0.4, "splitting left from right")``.
Progress = Callable[[float, str], None]

Mask = NDArray[np.bool_]  # (z, y, x)
Picture = NDArray[np.uint8]  # (y, x, 3), sRGB


class NotApplicable(Exception):
    """The volume is not of the kind that this model is made for; the message is the reason, for people.

    *picture* shows what was seen, where there is something to show.
    """

    def __init__(self, reason: str, *, picture: Picture | None = None) -> None:
        super().__init__(reason)
        self.picture = picture


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Volume:
    """A regular grid of values in patient space, oriented the same way for every model.

    The axes run nearest to: z towards the head, y towards the back, x towards the patient's left.
    An oblique source stays oblique: only flips and swaps of axes are applied, never resampling.
    """

    voxels: NDArray[np.float32]  # (z, y, x); Hounsfield units for CT
    affine: NDArray[np.float64]  # (4, 4): index (z, y, x, 1) -> (L, P, S, 1) in mm
    modality: str = "CT"

    def __post_init__(self) -> None:
        if self.voxels.ndim != 3 or self.voxels.dtype != np.float32:
            raise ValueError(f"voxels must be 3-D float32, not {self.voxels.ndim}-D {self.voxels.dtype}")
        if self.affine.shape != (4, 4):
            raise ValueError(f"affine must be 4 x 4, not {self.affine.shape}")

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (z, y, x), in mm."""
        dz, dy, dx = (float(np.linalg.norm(self.affine[:3, axis])) for axis in range(3))
        return dz, dy, dx

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def to_patient(self, index: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return the patient position (L, P, S) in mm of a voxel *index* (z, y, x)."""
        left, posterior, superior = (self.affine @ np.array([*index, 1.0]))[:3]
        return float(left), float(posterior), float(superior)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """What was measured of one region on the grid of its source images; the node measures, not the model."""

    volume_ml: float
    long_mm: float  # longest in-plane diameter on the slice where that is greatest
    short_mm: float  # longest diameter at right angles to it on the same slice
    long_ends: tuple[tuple[float, float], tuple[float, float]]  # (column, row) on that slice, as an SCOORD counts
    short_ends: tuple[tuple[float, float], tuple[float, float]]
    slice: int  # of the source stack, from 0
    mean: float | None = None  # of the source's values inside; None where these have no unit
    deviation: float | None = None
    least: float | None = None
    greatest: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Segment:
    """One labelled region."""

    key: str  # a ``[[segment]]`` key of the model's card, e.g. "left-lung"
    mask: Mask  # (z, y, x), on the grid of the volume
    volume_ml: float
    measures: Measures | None = None  # set by the node, on the source grid


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Detection:
    """One found object, e.g. a lung nodule, with the region that it fills."""

    key: str  # a ``[[segment]]`` key of the model's card, e.g. "nodule"
    mask: Mask  # (z, y, x), on the grid of the volume
    centre_mm: tuple[float, float, float]  # (L, P, S)
    diameter_mm: float  # longest in-plane diameter on the slice of its largest area
    volume_ml: float
    score: float  # 0 to 1: the model's own confidence, not a probability of disease
    site: str = ""  # a ``[[site]]`` key of the model's card: where it lies, e.g. "left-lung"
    measures: Measures | None = None  # set by the node, on the source grid


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ValueMap:
    """One number for each voxel, e.g. how much a place looks like a nodule; NaN nowhere."""

    key: str  # a ``[[map]]`` key of the model's card
    values: NDArray[np.float32]  # (z, y, x), on the grid of the volume


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Findings:
    """All that one run of a model found; nothing found is a result too."""

    segments: tuple[Segment, ...] = ()
    detections: tuple[Detection, ...] = ()
    maps: tuple[ValueMap, ...] = ()
    remarks: tuple[str, ...] = ()  # sentences that the report repeats, e.g. "right lung cut at the lower border"


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """A coded concept: value, coding scheme designator, meaning (PS3.3 section 8.8)."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentKind:
    """What a segment or detection of this key is called, coded and coloured."""

    key: str
    label: str
    category: Code
    type: Code
    colour: tuple[int, int, int]  # sRGB, 0 to 255
    site: Code | None = None  # anatomic site, where the type itself is not anatomy
    laterality: Code | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class MapKind:
    """What the values of a map mean."""

    key: str
    label: str
    quantity: Code
    unit: Code  # UCUM


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """A model's card: who it is, what it needs, what it gives and where its limits are."""

    name: str
    title: str
    version: str
    kind: str  # "segmentation" or "detection"
    purpose: str
    modality: str
    segments: tuple[SegmentKind, ...]
    sites: tuple[SegmentKind, ...]
    limits: tuple[str, ...]  # one sentence each, for people
    figures: tuple[tuple[str, str, float], ...]  # (data set, measure, value), as measured
    maps: tuple[MapKind, ...] = ()
    qualification: str = "RESEARCH"  # ContentQualification (0018,9004)
    window: tuple[float, float] | None = None  # centre and width of the values that pictures show
    builds_on: tuple[str, ...] = ()  # models whose code and weights it runs too
    processor: bool = True  # it may run without a GPU, where the GPU has not enough memory for it
    regions: frozenset[str] = frozenset()  # a scan that shows none of these is refused by the gate; empty: no gate
    phases: frozenset[str] = frozenset()  # a scan that is surely of none of these is refused; empty: any is taken

    def kind_of(self, key: str) -> SegmentKind:
        """Return the segment kind of *key*; KeyError where the card has none."""
        for kind in (*self.segments, *self.sites):
            if kind.key == key:
                return kind
        raise KeyError(f"the card of {self.name} has no segment or site {key!r}")


class Model(Protocol):
    """A loaded model, ready to run."""

    def run(self, volume: Volume, progress: Progress) -> Findings:
        """Return what is found in *volume*; raise NotApplicable where it is not this model's kind of input."""
