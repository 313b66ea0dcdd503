"""The report, read as a tree."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models import catalogue
from models.contract import Card, Findings, Segment
from node.dicom.encode import encode
from tests.unit.node.dicom.conftest import LUNG_CARD, NODULE_CARD, box, context_of, nodules, two_lungs


def set_of(sources: tuple[Dataset, ...], findings: Findings, card: Card) -> list[Dataset]:
    """Encode and read back all objects."""
    return [dcmread(BytesIO(obj.data)) for obj in encode(findings, context_of(sources, card))]


def named(item: Dataset, meaning: str) -> list[Dataset]:
    """Return the children of *item* with this concept name."""
    return [
        child
        for child in item.get("ContentSequence", [])
        if child.get("ConceptNameCodeSequence") and child.ConceptNameCodeSequence[0].CodeMeaning == meaning
    ]


def groups(report: Dataset) -> list[Dataset]:
    """Return all measurement groups."""
    return named(named(report, "Imaging Measurements")[0], "Measurement Group")


def numbers(group: Dataset) -> dict[str, tuple[float, str]]:
    """Return value and unit of each measurement of a group."""
    return {
        item.ConceptNameCodeSequence[0].CodeMeaning: (
            float(item.MeasuredValueSequence[0].NumericValue),
            item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for item in group.ContentSequence
        if item.ValueType == "NUM"
    }


def comments(report: Dataset) -> list[str]:
    """Return the free text of a report."""
    return [item.TextValue for item in named(named(report, "Qualitative Evaluations")[0], "Comment")]


def walk(item: Dataset) -> Iterator[Dataset]:
    """All items below *item*."""
    for child in item.get("ContentSequence", []):
        yield child
        yield from walk(child)


def test_each_nodule_has_an_outline_and_numbers_under_the_uid_of_its_segment(sources: tuple[Dataset, ...]) -> None:
    """A planar and a volumetric group share the tracking UID: without the planar one viewers stay black."""
    seg, report = set_of(sources, nodules(sources), NODULE_CARD)
    uids = [named(group, "Tracking Unique Identifier")[0].UID for group in groups(report)]
    first, second = (segment.TrackingUID for segment in seg.SegmentSequence)
    assert uids == [first, first, second, second]
    kinds = [bool(named(group, "Image Region")) for group in groups(report)]
    assert kinds == [True, False, True, False]


def test_a_nodule_says_diameter_volume_and_certainty(sources: tuple[Dataset, ...]) -> None:
    """With UCUM units; the score is told in percent."""
    report = set_of(sources, nodules(sources), NODULE_CARD)[-1]
    assert numbers(groups(report)[1]) == {
        "Diameter": (4.31, "mm"), "Volume": (0.05, "ml"), "Certainty of Finding": (87.4, "%")
    }  # fmt: skip
    assert numbers(groups(report)[0]) == {}


def test_a_nodule_says_on_which_side_it_lies(sources: tuple[Dataset, ...]) -> None:
    """Finding site lung, with laterality."""
    report = set_of(sources, nodules(sources), NODULE_CARD)[-1]
    sides = [
        named(named(group, "Finding Site")[0], "Laterality")[0].ConceptCodeSequence[0].CodeMeaning
        for group in groups(report)
    ]
    assert sides == ["Right", "Right", "Left", "Left"]


def test_an_outline_lies_on_the_slice_where_the_region_is_largest(sources: tuple[Dataset, ...]) -> None:
    """Closed, in the pixels of the image that it names, around the middle of the mask there."""
    report = set_of(sources, two_lungs(sources), LUNG_CARD)[-1]
    region = named(groups(report)[0], "Image Region")[0]
    image = region.ContentSequence[0].ReferencedSOPSequence[0]
    points = np.array(region.GraphicData).reshape(-1, 2)
    assert image.ReferencedSOPInstanceUID == sources[2].SOPInstanceUID
    assert region.GraphicType == "POLYLINE" and np.array_equal(points[0], points[-1])
    assert (points.min(axis=0), points.max(axis=0)) == (pytest.approx((1, 3)), pytest.approx((9, 13)))


def test_the_volume_group_refers_to_its_segment(sources: tuple[Dataset, ...]) -> None:
    """By SOP Instance UID and segment number, with the source series."""
    seg, report = set_of(sources, two_lungs(sources), LUNG_CARD)
    for number, group in enumerate(groups(report)[1::2], start=1):
        segment = named(group, "Referenced Segment")[0].ReferencedSOPSequence[0]
        assert segment.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert segment.ReferencedSegmentNumber == number
    assert numbers(groups(report)[1]) == {"Volume": (1234.568, "ml")}


def test_the_evidence_is_every_source_and_the_segmentation(sources: tuple[Dataset, ...]) -> None:
    """Some viewers find the segmentation nowhere else."""
    seg, report = set_of(sources, two_lungs(sources), LUNG_CARD)
    listed = {
        item.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert listed == {s.SOPInstanceUID for s in sources} | {seg.SOPInstanceUID}


def test_nothing_found_is_said_in_code_and_in_words(sources: tuple[Dataset, ...]) -> None:
    """No segmentation is made; the report names what was looked for."""
    (report,) = set_of(sources, Findings(), NODULE_CARD)
    evaluations = named(report, "Qualitative Evaluations")[0]
    assert named(evaluations, "Nodule")[0].ConceptCodeSequence[0].CodeValue == "272519000"
    assert "No lung nodule found" in comments(report)
    assert named(report, "Imaging Measurements") == []


def test_a_lung_without_a_voxel_is_reported_as_not_found(sources: tuple[Dataset, ...]) -> None:
    """In words only: "lung absent" as a code would deny the other one too."""
    nothing = np.zeros_like(two_lungs(sources).segments[0].mask)
    there = box(sources, slice(2, 4), slice(3, 9), slice(14, 20))
    findings = Findings(
        segments=(
            Segment(key="right-lung", mask=nothing, volume_ml=0.0), Segment(key="left-lung", mask=there, volume_ml=9.0)
        )
    )  # fmt: skip
    seg, report = set_of(sources, findings, LUNG_CARD)
    assert [s.SegmentLabel for s in seg.SegmentSequence] == ["Left lung"]
    assert "No right lung found" in comments(report)
    assert not any(item.ValueType == "CODE" for item in named(report, "Qualitative Evaluations")[0].ContentSequence)


def test_an_organ_that_is_not_drawn_is_not_called_absent(sources: tuple[Dataset, ...]) -> None:
    """Trachea and bronchi are in every body, drawn or not: in words only, though there is but one of them."""
    lungs = catalogue.card("ct-lung")
    (airways,) = (kind for kind in lungs.segments if kind.key == "airways")
    assert airways.laterality is None
    report = set_of(sources, two_lungs(sources), lungs)[-1]
    assert "No airways found" in comments(report)
    assert not any(item.ValueType == "CODE" for item in named(report, "Qualitative Evaluations")[0].ContentSequence)


def test_remarks_and_the_disclaimer_are_in_the_report(sources: tuple[Dataset, ...]) -> None:
    """In ASCII, which every character set of a source can write."""
    assert comments(set_of(sources, two_lungs(sources), LUNG_CARD)[-1]) == [
        "Right lung cut at the lower border - see image",
        "AI result, research use only, not for clinical use",
    ]


def test_the_report_names_its_template_its_algorithm_and_its_state(sources: tuple[Dataset, ...]) -> None:
    """TID 1500, TID 4019, and a document that nobody has verified."""
    report = set_of(sources, nodules(sources), NODULE_CARD)[-1]
    assert report.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    for group in groups(report):
        assert named(group, "Algorithm Name")[0].TextValue == "ct-lung-nodule"
        assert named(group, "Algorithm Version")[0].TextValue == "1.2.0"
        assert named(group, "Algorithm Family")[0].ConceptCodeSequence[0].CodeValue == "123110"
    assert named(report, "Device Observer Name")[0].TextValue == "node-7"
    assert named(report, "Procedure reported")[0].ConceptCodeSequence[0].CodeValue == "25045-6"


def test_no_item_is_a_3d_coordinate(sources: tuple[Dataset, ...]) -> None:
    """Common viewers do not draw SCOORD3D."""
    report = set_of(sources, nodules(sources), NODULE_CARD)[-1]
    kinds = {item.ValueType for item in walk(report)}
    assert kinds == {"CODE", "UIDREF", "TEXT", "CONTAINER", "SCOORD", "IMAGE", "NUM"}
