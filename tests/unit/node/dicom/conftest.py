"""Synthetic sources, a card and findings for the tests of the encoders: no real data, no reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from models.contract import Card, Code, Detection, Findings, Segment, SegmentKind
from node.dicom.context import NodeIdentity, ResultContext

AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
LEFT = Code(value="7771000", scheme="SCT", meaning="Left")
RIGHT = Code(value="24028007", scheme="SCT", meaning="Right")
ANATOMY = Code(value="123037004", scheme="SCT", meaning="Anatomical Structure")
ABNORMAL = Code(value="49755003", scheme="SCT", meaning="Morphologically Altered Structure")
NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")


def lung(key: str, laterality: Code, colour: tuple[int, int, int]) -> SegmentKind:
    """One lung as a kind."""
    label = key.replace("-", " ").capitalize()
    return SegmentKind(key=key, label=label, category=ANATOMY, type=LUNG, colour=colour, laterality=laterality)


LUNGS = (lung("right-lung", RIGHT, (250, 120, 60)), lung("left-lung", LEFT, (60, 160, 250)))
LUNG_CARD = Card(
    name="ct-lungs", title="Lung segmentation", version="1.2.0", kind="segmentation", purpose="test", modality="CT",
    segments=LUNGS, sites=(), limits=(), figures=(),
)  # fmt: skip
NODULE_CARD = replace(
    LUNG_CARD, name="ct-lung-nodule", title="Lung nodule detection", kind="detection", sites=LUNGS,
    segments=(
        SegmentKind(
            key="nodule", label="Lung nodule", category=ABNORMAL, type=NODULE, colour=(255, 220, 0), site=LUNG
        ),
    ),
)  # fmt: skip


def ct_series(
    *, slices: int = 7, rows: int = 20, columns: int = 24, spacing: tuple[float, float, float] = (2.5, 0.7, 0.9),
    orientation: tuple[float, ...] = (1, 0, 0, 0, 1, 0), corner: tuple[float, float, float] = (-11.0, -7.5, 30.25),
) -> tuple[Dataset, ...]:  # fmt: skip
    """Return the headers of a CT series, sorted along its normal; *spacing* is between slices, rows and columns."""
    cosines = np.array(orientation, dtype=np.float64)
    normal = np.cross(cosines[:3], cosines[3:])
    made = []
    for index in range(slices):
        ds = _ct_header(index, rows, columns)
        ds.ImageOrientationPatient = [float(c) for c in cosines]
        position = np.array(corner) + index * spacing[0] * normal
        ds.ImagePositionPatient = [round(float(mm), 6) for mm in position]
        ds.PixelSpacing = [spacing[1], spacing[2]]
        ds.SliceThickness = spacing[0]
        made.append(ds)
    return tuple(made)


def _ct_header(index: int, rows: int, columns: int) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"2.25.77.1.{index + 1}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "2.25.77", "2.25.77.1", "2.25.77.9"
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Müller^Jörg", "P-0042", "19580311", "M"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260304", "040000", "S1", "A100"
    ds.SeriesDate, ds.SeriesTime, ds.ContentDate, ds.ContentTime = "20260304", "040100", "20260304", "040200"
    ds.AcquisitionDate, ds.AcquisitionTime, ds.AcquisitionNumber = "20260304", "040200", 1
    ds.ReferringPhysicianName, ds.StudyDescription, ds.PatientAge = "Weiß^A", "Thorax", "067Y"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber, ds.BodyPartExamined = "CT", 3, index + 1, "CHEST"
    ds.Manufacturer, ds.ManufacturerModelName, ds.PositionReferenceIndicator = "Maker", "Scanner", ""
    ds.Rows, ds.Columns, ds.KVP = rows, columns, 120
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.RescaleIntercept, ds.RescaleSlope = 16, 16, 15, -1024, 1
    return ds


def context_of(sources: tuple[Dataset, ...], card: Card = LUNG_CARD, **changes: object) -> ResultContext:
    """Return a context around *sources*."""
    node = NodeIdentity(node_id="node-7", serial="0001", software_version="0.1.0")
    basis = ResultContext(
        sources=sources, card=card, model_digest="d" * 64, node=node, revision=1, input_digest="i" * 64, at=AT
    )
    return replace(basis, **changes)  # type: ignore[arg-type]


def to_patient(source: Dataset, row: float, column: float) -> tuple[float, float, float]:
    """Return the patient position (L, P, S) of a pixel (PS3.3 C.7.6.2.1.1)."""
    corner, cosines = np.array(source.ImagePositionPatient, float), np.array(source.ImageOrientationPatient, float)
    down, across = (float(mm) for mm in source.PixelSpacing)
    left, posterior, superior = corner + cosines[:3] * across * column + cosines[3:] * down * row
    return float(left), float(posterior), float(superior)


def box(sources: tuple[Dataset, ...], z: slice, y: slice, x: slice) -> NDArray[np.bool_]:
    """Return a mask on the grid of *sources* with one box filled."""
    mask = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), np.bool_)
    mask[z, y, x] = True
    return mask


def two_lungs(sources: tuple[Dataset, ...]) -> Findings:
    """Two unequal boxes, each called what its side of the patient is."""
    low = box(sources, slice(1, 5), slice(3, 12), slice(1, 9))
    low[2, 12, 4] = True  # a corner that a flip would move
    high = box(sources, slice(2, 6), slice(4, 14), slice(13, 20))
    flipped = sources[0].ImageOrientationPatient[0] < 0
    right, left = (high, low) if flipped else (low, high)
    return Findings(
        segments=(
            Segment(key="right-lung", mask=right, volume_ml=1234.5678),
            Segment(key="left-lung", mask=left, volume_ml=987.0),
        ),
        remarks=("Right lung cut at the lower border – see image",),
    )


def nodules(sources: tuple[Dataset, ...]) -> Findings:
    """Two small detections, of which one is a single voxel."""
    first = box(sources, slice(2, 4), slice(5, 9), slice(4, 8))
    second = box(sources, slice(4, 5), slice(15, 16), slice(17, 18))
    places = (to_patient(sources[2], 6.5, 5.5), to_patient(sources[4], 15, 17))
    return Findings(
        detections=(
            Detection(
                key="nodule", mask=first, centre_mm=places[0], diameter_mm=4.31, volume_ml=0.05, score=0.874,
                site="right-lung",
            ),
            Detection(
                key="nodule", mask=second, centre_mm=places[1], diameter_mm=1.1, volume_ml=0.0016, score=0.51,
                site="left-lung",
            ),
        )
    )  # fmt: skip


@pytest.fixture
def sources() -> tuple[Dataset, ...]:
    """An axial series, unequal along all three axes."""
    return ct_series()


@pytest.fixture(params=["axial", "flipped", "oblique", "coronal"])
def any_sources(request: pytest.FixtureRequest) -> tuple[Dataset, ...]:
    """Series in several orientations."""
    oblique = (0.96, 0.0, 0.28, 0.0, 1.0, 0.0)
    orientations = {
        "axial": (1, 0, 0, 0, 1, 0), "flipped": (-1, 0, 0, 0, -1, 0), "oblique": oblique, "coronal": (1, 0, 0, 0, 0, -1)
    }  # fmt: skip
    return ct_series(orientation=orientations[request.param])


Maker = Callable[[tuple[Dataset, ...]], Findings]
