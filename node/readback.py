"""Results read back as a stranger would: with pydicom's own decoding, apart from the encoders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.dicom.geometry import to_patient

_TRACKING_IDENTIFIER = "112039"  # DCM; the meaning is in the report's language


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadSegment:
    """What a received SEG says of one segment."""

    label: str
    volume_ml: float
    centre_mm: tuple[float, float, float]  # (L, P, S)


def read_segments(path: Path) -> list[ReadSegment]:
    """Return volume and centre of each segment of a DICOM SEG, from its frames' own positions."""
    seg = dcmread(path)
    shape = int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)
    frames = seg.pixel_array.reshape(shape).astype(bool)  # (frame, row, column)
    shared = seg.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    between_rows, between_columns = (float(v) for v in measures.PixelSpacing)
    voxel_mm3 = between_rows * between_columns * float(measures.SpacingBetweenSlices)
    orientation = [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    found = []
    for segment in seg.SegmentSequence:
        pairs = zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True)
        mine = [(frame, group) for frame, group in pairs if _number(group) == segment.SegmentNumber]
        counts = np.array([frame.sum() for frame, _ in mine], dtype=float)
        spacing = (between_rows, between_columns)
        centres = np.array([_centre(frame, group, orientation, spacing) for frame, group in mine])
        centre = np.average(centres, axis=0, weights=counts)
        found.append(
            ReadSegment(
                label=str(segment.SegmentLabel), volume_ml=float(counts.sum()) * voxel_mm3 / 1000.0,
                centre_mm=(float(centre[0]), float(centre[1]), float(centre[2])),
            )
        )  # fmt: skip
    return found


def _number(group: Dataset) -> int:
    return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)


def _centre(
    frame: NDArray[np.bool_], group: Dataset, orientation: list[float], spacing: tuple[float, float]
) -> tuple[float, float, float]:
    """Return the patient position (L, P, S) of the middle of one frame's voxels."""
    affine = np.eye(4)
    affine[:3, 0] = np.array(orientation[3:]) * spacing[0]
    affine[:3, 1] = np.array(orientation[:3]) * spacing[1]
    affine[:3, 3] = [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]
    rows, columns = np.nonzero(frame)
    if not len(rows):
        return to_patient(affine, (0.0, 0.0, 0.0))
    return to_patient(affine, (float(rows.mean()), float(columns.mean()), 0.0))


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadMeasure:
    """One number of a received SR."""

    tracking: str  # tracking identifier of its group
    name: str
    value: float
    unit: str


def read_measures(path: Path) -> list[ReadMeasure]:
    """Return every number of a TID 1500 report with the group that it stands in."""
    found: list[ReadMeasure] = []
    _collect(dcmread(path).ContentSequence, "", found)
    return found


def _collect(items: list[Dataset], tracking: str, found: list[ReadMeasure]) -> None:
    for item in items:
        if item.ValueType == "TEXT" and str(item.ConceptNameCodeSequence[0].CodeValue) == _TRACKING_IDENTIFIER:
            tracking = str(item.TextValue)
    for item in items:
        if item.ValueType == "NUM" and item.get("MeasuredValueSequence"):
            measured = item.MeasuredValueSequence[0]
            unit = str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
            found.append(
                ReadMeasure(tracking=tracking, name=_meaning(item), value=float(measured.NumericValue), unit=unit)
            )
        _collect(item.get("ContentSequence") or [], tracking, found)


def _meaning(item: Dataset) -> str:
    return str(item.ConceptNameCodeSequence[0].CodeMeaning)
