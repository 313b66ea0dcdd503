"""The report as profiles and sources ask for it: classes, without a segmentation, on an X-ray, as a successor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, DigitalXRayImageStorageForPresentation

from models.contract import Detection, Findings, Measures
from node.dicom.encode import encode
from node.domain.profile import Profile, SegType, SrClass
from tests.unit.node.dicom.conftest import NODULE_CARD, box, context_of, ct_series, nodules, two_lungs

WORDS = Profile(name="words", seg=SegType.NONE, secondary_capture=False)
VOLUME, AXIS = "118565006", "103339001"


def report_of(findings: Findings, sources: tuple[Dataset, ...], profile: Profile, **changes: object) -> Dataset:
    """Encode and read the report back."""
    context = context_of(sources, NODULE_CARD if findings.detections else context_of(sources).card, **changes)
    made = [one for one in encode(findings, context, (profile,)) if one.role == "sr"]
    return dcmread(BytesIO(made[0].data))


def items(dataset: Dataset) -> Iterator[Dataset]:
    """All content items."""
    for item in dataset.get("ContentSequence", []):
        yield item
        yield from items(item)


def numbers(report: Dataset) -> dict[str, list[tuple[float, str]]]:
    """Value and unit of each measurement by the code of its name."""
    found: dict[str, list[tuple[float, str]]] = {}
    for item in items(report):
        if item.ValueType == "NUM":
            measured = item.MeasuredValueSequence[0]
            pair = float(measured.NumericValue), str(measured.MeasurementUnitsCodeSequence[0].CodeValue)
            found.setdefault(str(item.ConceptNameCodeSequence[0].CodeValue), []).append(pair)
    return found


def measured(findings: Findings) -> Findings:
    """The same with measures, as the node takes them."""
    ends = ((1.0, 2.0), (3.0, 2.0))
    made = []
    for found in findings.detections:
        volume = float(np.count_nonzero(found.mask)) * 2.5 * 0.7 * 0.9 / 1000
        measures = Measures(
            volume_ml=volume, long_mm=4.4, short_mm=3.3, long_ends=ends, short_ends=ends, slice=2,
            mean=-101.26, deviation=20.0, least=-800.0, greatest=95.0,
        )  # fmt: skip
        made.append(replace(found, volume_ml=volume, measures=measures))
    return replace(findings, detections=tuple(made))


def test_a_detection_says_axes_and_hounsfield_units(sources: tuple[Dataset, ...]) -> None:
    """Each with its unit; the four of attenuation are told apart by their derivation."""
    report = report_of(measured(nodules(sources)), sources, Profile(secondary_capture=False))
    told = numbers(report)
    assert told[AXIS] == [(4.4, "mm")] * 2
    assert told["103340004"] == [(3.3, "mm")] * 2
    assert told["112031"][:4] == [(-101.3, "[hnsf'U]"), (20.0, "[hnsf'U]"), (-800.0, "[hnsf'U]"), (95.0, "[hnsf'U]")]
    derived = [
        item.ContentSequence[0].ConceptCodeSequence[0].CodeMeaning
        for item in items(report)
        if item.ValueType == "NUM" and item.ConceptNameCodeSequence[0].CodeValue == "112031"
    ]
    assert derived[:4] == ["Mean", "Standard Deviation", "Minimum", "Maximum"]


def test_both_classes_say_the_same(sources: tuple[Dataset, ...]) -> None:
    """Only the class and the UIDs differ."""
    reports = [
        report_of(two_lungs(sources), sources, replace(WORDS, seg=SegType.BINARY, sr=kind))
        for kind in (SrClass.COMPREHENSIVE_3D, SrClass.COMPREHENSIVE)
    ]
    assert reports[1].SOPClassUID == ComprehensiveSRStorage
    assert reports[0].SOPInstanceUID != reports[1].SOPInstanceUID
    texts = [[(i.ValueType, str(i.get("TextValue") or i.get("UID") or "")) for i in items(one)] for one in reports]
    assert texts[0] == texts[1]


def test_without_a_segmentation_the_volume_has_its_outlines(sources: tuple[Dataset, ...]) -> None:
    """On every slice that the region touches, and its volume stays."""
    findings = two_lungs(sources)
    report = report_of(findings, sources, WORDS)
    drawn = sum(int(np.count_nonzero(one.mask.any(axis=(1, 2)))) for one in findings.segments)
    assert sum(item.ValueType == "SCOORD" for item in items(report)) == drawn == 8
    assert [value for value, _ in numbers(report)[VOLUME]] == [1234.568, 987.0]


def x_ray() -> tuple[Dataset, ...]:
    """One projection image, which does not say where it lies in the patient."""
    (source,) = ct_series(slices=1)
    source.SOPClassUID, source.Modality = DigitalXRayImageStorageForPresentation, "DX"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SliceThickness"):
        del source[keyword]
    return (source,)


@pytest.mark.parametrize("scaled", [True, False])
def test_an_x_ray_gets_an_outline_with_numbers_and_no_segmentation(scaled: bool) -> None:
    """Viewers fail on segmentations of projections. Without a calibrated scale nothing is said in millimetres."""
    sources = x_ray()
    sources[0].ImagerPixelSpacing = [0.7 * 1.1, 0.9 * 1.1] if scaled else sources[0].PixelSpacing
    mask = box(sources, slice(0, 1), slice(3, 9), slice(4, 8))
    found = Detection(
        key="nodule", mask=mask, centre_mm=(0, 0, 0), diameter_mm=6.0, volume_ml=0.0, score=0.9, site="left-lung"
    )
    context = context_of(sources, NODULE_CARD)
    made = encode(Findings(detections=(found,)), context, (Profile(secondary_capture=False),))
    assert [one.role for one in made] == ["sr"]
    report = dcmread(BytesIO(made[0].data))
    assert [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in items(report) if i.ValueType == "IMAGE"] == [
        sources[0].SOPInstanceUID
    ]
    assert VOLUME not in numbers(report)
    assert ("81827009" in numbers(report)) is scaled
    assert numbers(report)["111012"] == [(90.0, "%")]


def test_a_successor_names_the_report_that_it_replaces(sources: tuple[Dataset, ...]) -> None:
    """By variant: a report of another profile replaces nothing here."""
    first = report_of(two_lungs(sources), sources, WORDS)
    (variant,) = [one.variant for one in encode(two_lungs(sources), context_of(sources), (WORDS,))]
    for known, replaced in ((variant, True), ("another", False)):
        second = report_of(two_lungs(sources), sources, WORDS, revision=2, predecessors={known: first})
        assert ("PredecessorDocumentsSequence" in second) is replaced
    again = report_of(two_lungs(sources), sources, WORDS, predecessors={variant: first})
    assert "PredecessorDocumentsSequence" not in again  # the same work made anew replaces nothing
    assert again == first


def test_outlines_on_frames_name_the_frame(sources: tuple[Dataset, ...]) -> None:
    """The one where the region is largest."""
    for source in sources:
        source.SOPInstanceUID = "2.25.77.1.1"
    report = report_of(two_lungs(sources), sources, replace(WORDS, seg=SegType.BINARY), frames=(9, 8, 7, 6, 5, 4, 3))
    outlines = [i for i in items(report) if i.ValueType == "SCOORD"]
    named = [i.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber for i in outlines]
    assert named == [7, 7]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert sorted(len(series.ReferencedSOPSequence) for series in evidence) == [1, 1]
