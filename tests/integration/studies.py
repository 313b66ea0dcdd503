"""Studies for viewers: the phantom of the geometry oracle, its results by the product's own encoders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from models.contract import Card, Code, Detection, Findings, MapKind, Measures, Segment, SegmentKind, ValueMap
from node.dicom.context import NodeIdentity, Pictures, ResultContext, ResultObject
from node.dicom.encode import encode
from node.domain.profile import Profile
from node.testing import part10
from tests.geometry.scanner import BALL, LETTER, Scan, Scanned, scan_phantom
from tests.unit.node.dicom.conftest import AT, LEFT, RIGHT

ORANGE, BLUE, GREEN = (230, 120, 0), (60, 150, 240), (0, 200, 90)
ANATOMY = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")
LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")


def kind(key: str, label: str, colour: tuple[int, int, int], side: Code | None) -> SegmentKind:
    """One kind of region."""
    return SegmentKind(key=key, label=label, category=ANATOMY, type=LUNG, colour=colour, laterality=side)


CARD = Card(
    name="viewer-test", title="Phantom", version="1.0.0", kind="segmentation", purpose="test", modality="CT",
    segments=(
        kind(LETTER, "Right letter", ORANGE, RIGHT), kind(BALL, "Left ball", BLUE, LEFT),
        kind("core", "Core", GREEN, None),
    ),
    sites=(), limits=(), figures=(),
    maps=(
        MapKind(
            key="likeness", label="Likeness", quantity=Code(value="113075", scheme="DCM", meaning="Probability"),
            unit=Code(value="1", scheme="UCUM", meaning="no units"),
        ),
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """One study as it lies in the PACS."""

    made: Scanned
    objects: tuple[ResultObject, ...]

    def role(self, name: str) -> list[Dataset]:
        """The results of one role."""
        return [one.dataset for one in self.objects if one.role == name]


def study(
    scan: Scan, profile: Profile | None = None, *, overlap: bool = False, empty: bool = False,
    pictures: Pictures | None = None,
) -> Case:  # fmt: skip
    """Return the phantom as *scan* sees it, with its results."""
    made = scan_phantom(scan)
    profile = profile or Profile(name="viewer", secondary_capture=False)
    context = ResultContext(
        sources=made.headers, frames=made.frames, card=CARD, model_digest="d", revision=1, input_digest="i", at=AT,
        node=NodeIdentity(node_id="viewers", serial="1", software_version="1"),
    )  # fmt: skip
    findings = Findings() if empty else _findings(made, overlap=overlap)
    if profile.parametric_map:
        values = made.masks[BALL].astype(np.float32) * 0.8
        findings = replace(findings, maps=(ValueMap(key="likeness", values=values),))
    return Case(made=made, objects=encode(findings, context, (profile,), pictures))


def _findings(made: Scanned, *, overlap: bool) -> Findings:
    segments = []
    masks = dict(made.masks)
    if overlap:
        distance = np.linalg.norm(made.centres - made.centroid(BALL), axis=-1)
        masks["core"] = distance < 6
    ends = ((30.0, 30.0), (60.0, 30.0))
    for key, mask in masks.items():
        depths = np.count_nonzero(mask, axis=(1, 2)) @ made.depths
        rows, columns = (float(v) for v in made.headers[0].PixelSpacing)
        volume = float(depths) * rows * columns / 1000
        measures = Measures(
            volume_ml=volume, long_mm=26.0, short_mm=24.0, long_ends=ends, short_ends=ends, slice=9, mean=600.0,
            deviation=0.0, least=600.0, greatest=600.0,
        )  # fmt: skip
        segments.append(Segment(key=key, mask=mask, volume_ml=volume, measures=measures))
    return Findings(segments=tuple(segments))


def with_detection(case: Case) -> Detection:
    """The ball as a detection."""
    mask = case.made.masks[BALL]
    left, posterior, superior = case.made.centroid(BALL)
    return Detection(
        key="core", mask=mask, centre_mm=(left, posterior, superior), diameter_mm=26.0, volume_ml=9.2, score=0.9
    )


def write(case: Case, folder: Path) -> Path:
    """Write sources and results as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, instance in enumerate(case.made.instances):
        (folder / f"ct-{number:03d}.dcm").write_bytes(part10(instance))
    for number, one in enumerate(case.objects):
        (folder / f"result-{number}-{one.role}.dcm").write_bytes(one.data)
    return folder
