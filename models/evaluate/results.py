"""What an evaluation keeps: one run of one model over one series, all of them in one JSON file, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from models.contract import Mask, Volume
from models.evaluate.metrics import dice, iou, volume_error
from models.evaluate.scores import Mark, Scan
from models.evaluate.surfaces import surface_distances

SCHEMA = 1
PLANTED = "planted"  # variants that start so hold planted nodules


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How one structure agrees with its reference; a distance is None where one of both is empty."""

    structure: str
    dice: float
    iou: float
    hd95_mm: float | None
    surface_mm: float | None  # mean distance of the surfaces
    found_ml: float
    reference_ml: float
    volume_error: float | None  # signed share of the reference; None where that is empty


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesion:
    """One object of the reference of a detector."""

    kind: str  # "labelled", or the kind of a planted nodule
    diameter_mm: float  # of the ball of its volume


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What one model made of one series, or of one variant of it."""

    model: str
    version: str
    case: str
    variant: str = ""  # "" for the series as it is
    other_body: bool = False  # nothing that the models look for is in view
    repeats: str = ""  # the case whose patient this one shows again
    refused: str = ""  # why nothing was read, or why the model declined
    skipped: str = ""  # why the variant makes no sense for this series
    error: str = ""  # what broke
    drawn: int = 0  # segments and marks
    agreements: tuple[Agreement, ...] = ()
    marks: tuple[Mark, ...] = ()
    lesions: tuple[Lesion, ...] | None = None  # numbered from 1; None where the model has no marks or nobody has looked
    seconds: float | None = None  # of the model alone
    peak_mb: float | None = None  # of the whole process while the model ran; None where the system does not tell

    @property
    def scan(self) -> Scan | None:
        """The run as a detector's; None where its marks cannot be judged."""
        return None if self.lesions is None else Scan(lesions=len(self.lesions), marks=self.marks)


@dataclass(frozen=True, kw_only=True, slots=True)
class Passing:
    """What the gate said of one scan, asked for a chest."""

    case: str  # folder of a real scan, or region and seed of a generated one
    variant: str = ""  # "" for the scan as it is
    generated: bool = False
    learnt: bool = False  # the gate's network was trained on it
    shown: bool | None = None  # whether lung is in view; None where there is next to none, and both would be right
    admitted: bool
    reason: str = ""  # why it was refused
    error: str = ""  # what broke; then nothing else counts
    evidence: float = 0.0
    strangeness: float = 0.0
    seconds: float = 0.0
    phase_true: str = ""  # of the scan's contrast; "contrast" where it is not said which, empty where nothing is
    phase: str = ""  # that it surely is, as the gate says; empty where that is not known
    lies: Mapping[str, bool | None] = field(default_factory=dict)  # by turn, whether it surely lies so; None: not known
    turned: Mapping[str, bool | None] = field(default_factory=dict)  # the same of that axis where it was reversed
    seen: str = ""  # what the gate saw, in words

    @property
    def wrong(self) -> bool:
        """Whether a scan with lung was refused, or one without admitted."""
        return not self.error and self.shown is not None and self.shown != self.admitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A whole evaluation."""

    machine: str
    models: Mapping[str, Mapping[str, str]]  # name -> version and digest
    runs: tuple[Run, ...]
    passings: tuple[Passing, ...] = ()
    schema: int = SCHEMA


def agree(structure: str, found: Mask, reference: Mask, volume: Volume) -> Agreement:
    """Return how *found* agrees with *reference* on the grid of *volume*."""
    found_ml, reference_ml = (float(mask.sum()) * volume.voxel_ml for mask in (found, reference))
    apart = surface_distances(found, reference, volume.spacing)
    return Agreement(
        structure=structure, dice=dice(found, reference), iou=iou(found, reference), found_ml=found_ml,
        reference_ml=reference_ml, volume_error=volume_error(found_ml, reference_ml) if reference_ml else None,
        hd95_mm=None if apart is None else apart.hd95_mm, surface_mm=None if apart is None else apart.mean_mm,
    )  # fmt: skip


def ball_diameter(ml: float) -> float:
    """Return the diameter in mm of the ball that holds *ml*."""
    return float(np.cbrt(6.0 * ml * 1000.0 / np.pi))


def write(report: Report, file: Path) -> None:
    """Write *report* as JSON; `read` gives it back."""
    file.write_text(json.dumps(asdict(report), indent=1) + "\n", encoding="utf-8")


def read(file: Path) -> Report:
    """Return the report in *file*; ValueError where it is none of this schema."""
    values = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise ValueError(f"{file} is no report of an evaluation of schema {SCHEMA}")
    return Report(
        machine=values["machine"], models=values["models"], runs=tuple(map(_run, values["runs"])),
        passings=tuple(Passing(**one) for one in values.get("passings", [])),
    )  # fmt: skip


def _run(values: dict[str, Any]) -> Run:
    lesions = values.pop("lesions")
    return Run(
        agreements=tuple(Agreement(**one) for one in values.pop("agreements")),
        marks=tuple(Mark(**one) for one in values.pop("marks")),
        lesions=None if lesions is None else tuple(Lesion(**one) for one in lesions),
        **values,
    )


def scans(runs: Iterable[Run]) -> list[Scan]:
    """Return those of *runs* whose marks can be judged."""
    return [run.scan for run in runs if run.scan is not None]
