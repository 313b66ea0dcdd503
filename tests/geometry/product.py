"""The phantom on its way through the product: files, reader, a model that thresholds, encoders; and dcmqi behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from scipy import ndimage

from models.contract import Card, Code, Findings, Segment, SegmentKind, Volume
from node.dicom.context import NodeIdentity, ResultContext
from node.dicom.encode import encode
from node.dicom.measure import measure
from node.dicom.reader import LoadedSeries
from node.domain.profile import Profile
from tests.geometry.readback import Slice, Truth, source_slices
from tests.geometry.scanner import AIR_HU, BALL, BALL_HU, CENTRE, LETTER, LETTER_HU, Scanned
from tests.unit.node.dicom.conftest import ANATOMY, AT, LEFT, RIGHT

PROFILE = Profile(name="oracle", secondary_capture=False, binary_always=True)
LABELS = {LETTER: "Right letter", BALL: "Left ball"}
CARD = Card(
    name="oracle", title="Phantom", version="1", kind="segmentation", purpose="test", modality="CT", sites=(),
    limits=(), figures=(),
    segments=tuple(
        SegmentKind(
            key=key, label=LABELS[key], category=ANATOMY, colour=(200, 120, 10), laterality=side,
            type=Code(value="39607008", scheme="SCT", meaning="Lung"),
        )
        for key, side in ((LETTER, RIGHT), (BALL, LEFT))
    ),
)  # fmt: skip


class ThresholdModel:
    """Finds letter and ball by how bright they are, and fails where the volume is not turned as models are promised."""

    def run(self, volume: Volume) -> Findings:
        """Return both as segments."""
        self._check_turned(volume)
        masks = self._masks(volume.voxels)
        self._check_sides(volume, masks)
        return Findings(
            segments=tuple(
                Segment(key=key, mask=mask, volume_ml=float(mask.sum()) * volume.voxel_ml)
                for key, mask in masks.items()
            )
        )

    @staticmethod
    def _check_turned(volume: Volume) -> None:
        """Axes z, y, x run nearest to head, back and left; which is which follows from the affine's largest parts."""
        steps = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)  # (patient axis, z y x)
        for axis, patient in ((0, 2), (1, 1), (2, 0)):
            assert steps[patient, axis] > 0.7, f"axis {axis} runs along {steps[:, axis]}"

    @staticmethod
    def _masks(voxels: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
        """Above half the way from air to each; a resampled ball has a rim as bright as the letter: by component."""
        parts, count = ndimage.label(voxels > (AIR_HU + LETTER_HU) / 2)
        brightest = ndimage.maximum(voxels, parts, range(1, count + 1))
        bright = np.isin(parts, 1 + np.flatnonzero(np.array(brightest) > (LETTER_HU + BALL_HU) / 2))
        return {LETTER: (parts > 0) & ~bright, BALL: bright & (voxels > (AIR_HU + BALL_HU) / 2)}

    @staticmethod
    def _check_sides(volume: Volume, masks: dict[str, NDArray[np.bool_]]) -> None:
        """The ball lies to the left of the letter, further back and lower: by index, and in mm by the affine."""
        letter, ball = (np.argwhere(masks[key]).mean(axis=0) for key in (LETTER, BALL))
        assert ball[2] > letter[2], "a higher x is not further to the left"
        steps = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0)
        if min(steps[2, 0], steps[1, 1]) > 0.99:  # upright: else up and back are not along the axes
            assert ball[0] < letter[0], "a higher z is not further up"
            assert ball[1] > letter[1], "a higher y is not further back"
        to_left, to_back, to_head = np.subtract(volume.to_patient(tuple(ball)), volume.to_patient(tuple(letter)))
        assert to_left > 15 and to_back > 3 and to_head < -5, (to_left, to_back, to_head)
        assert volume.to_patient(tuple(ball))[0] > CENTRE[0] > volume.to_patient(tuple(letter))[0]


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """A result set as it would be sent, parsed, beside what it was made of."""

    data: tuple[bytes, bytes]
    seg: Dataset
    report: Dataset
    findings: Findings
    context: ResultContext

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write both as files, as they would be sent."""
        for name, data in zip(("seg.dcm", "sr.dcm"), self.data, strict=True):
            (folder / name).write_bytes(data)
        return folder / "seg.dcm", folder / "sr.dcm"


def context_of(sources: tuple[Dataset, ...], frames: tuple[int, ...], card: Card = CARD) -> ResultContext:
    """Return a context around *sources*."""
    node = NodeIdentity(node_id="oracle", serial="1", software_version="1")
    return ResultContext(
        sources=sources, frames=frames, card=card, model_digest="d", node=node, revision=1, input_digest="i", at=AT
    )


def encoded(findings: Findings, context: ResultContext) -> Results:
    """Return what the product makes of *findings*, parsed anew from its bytes."""
    first, second = (one.data for one in encode(findings, context, (PROFILE,)))
    seg, report = dcmread(BytesIO(first)), dcmread(BytesIO(second))
    return Results(data=(first, second), seg=seg, report=report, findings=findings, context=context)


def true_findings(seen: Scanned, series: LoadedSeries) -> Findings:
    """The phantom's own masks, measured by the product."""
    return Findings(
        segments=tuple(
            Segment(key=key, mask=mask, volume_ml=found.volume_ml, measures=found)
            for key, mask in seen.masks.items()
            for found in [measure(mask, series.values, series.source.stack)]
        )
    )


def truths_of(seen: Scanned) -> dict[str, Truth]:
    """What should be said of the phantom: by formula, on its source's grid."""
    return {
        LABELS[key]: Truth(mask=mask, centroid=seen.centroid(key), volume_ml=seen.volume_ml(key))
        for key, mask in seen.masks.items()
    }


def slices_in(paths: Iterable[Path]) -> list[Slice]:
    """The source's slices, from the files alone."""
    return source_slices(dcmread(path, stop_before_pixels=True) for path in paths)


# -- dcmqi


def tool(name: str) -> str:
    """Return the path of a tool; without it the test skips, but fails where CI promises all tools."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if not found and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Elsewhere:
    """One segment as dcmqi writes it."""

    voxels: int
    centroid: NDArray[np.float64]  # (L, P, S) mm
    volume_ml: float


def seen_by_dcmqi(seg: Path, folder: Path) -> dict[str, Elsewhere]:
    """Return the segments as dcmqi, C++ over ITK, places them, by label."""
    line = [tool("segimage2itkimage"), "--inputDICOM", str(seg), "--outputDirectory", str(folder), "-t", "nifti"]
    subprocess.run(line, check=True, capture_output=True, timeout=60)
    (described,) = folder.glob("*.json")
    found = {}
    for group in json.loads(described.read_text())["segmentAttributes"]:
        for one in group:
            image = nibabel.Nifti1Image.from_filename(folder / f"{one['labelID']}.nii.gz")
            index = np.argwhere(np.asarray(image.dataobj) != 0)
            middle = (image.affine @ np.append(index.mean(axis=0), 1.0))[:3] * (-1, -1, 1)  # RAS to LPS
            voxel = abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
            found[one["SegmentLabel"]] = Elsewhere(voxels=len(index), centroid=middle, volume_ml=len(index) * voxel)
    return found


def told_to_dcmqi(report: Path, folder: Path) -> dict[str, tuple[int, float]]:
    """Return segment number and volume (mL) of each measurement group that dcmqi reads, by tracking identifier."""
    line = [tool("tid1500reader"), "--inputDICOM", str(report), "--outputMetadata", str(folder / "sr.json")]
    subprocess.run(line, check=True, capture_output=True, timeout=60)
    found = {}
    for group in json.loads((folder / "sr.json").read_text())["Measurements"]:
        for item in group.get("measurementItems", []):
            if item["quantity"]["CodeValue"] == "118565006":
                found[group["TrackingIdentifier"]] = (int(group["ReferencedSegment"]), float(item["value"]))
    return found
