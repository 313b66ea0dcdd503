"""The gate: each lie that it must catch."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from pydicom.dataset import Dataset

from models.contract import Findings, Measures, Segment, Volume
from node.dicom import gate
from node.dicom.context import ResultContext, ResultObject, regions
from node.dicom.encode import encode, make_object
from node.dicom.gate.findings import check_body_side
from node.domain.profile import Profile
from node.errors import OutputInvalid
from tests.unit.node.dicom.conftest import LUNG_CARD, NODULE_CARD, context_of, nodules, two_lungs

PLAIN = Profile(secondary_capture=False)


def check(objects: tuple[ResultObject, ...], context: ResultContext, findings: Findings) -> None:
    """Pass the set, with its bytes written anew, through the gate."""
    written = [make_object(one.role, one.dataset) for one in objects]
    gate.check(written, context, findings, regions(findings, context), PLAIN)


def lungs(sources: tuple[Dataset, ...]) -> tuple[tuple[ResultObject, ...], ResultContext, Findings]:
    """An honest set."""
    context, findings = context_of(sources, LUNG_CARD), two_lungs(sources)
    return encode(findings, context), context, findings


def test_an_honest_set_passes(any_sources: tuple[Dataset, ...]) -> None:
    """In every orientation; with organs, nodules or nothing."""
    check(*lungs(any_sources))
    for findings in (nodules(any_sources), Findings()):
        context = context_of(any_sources, NODULE_CARD)
        check(encode(findings, context), context, findings)


def _other_patient(seg: Dataset) -> None:
    seg.PatientID = "P-0043"


def _other_name(seg: Dataset) -> None:
    seg.PatientName = "Muller^Jorg"


def _other_study(seg: Dataset) -> None:
    seg.StudyInstanceUID = "2.25.78"


def _stranger(seg: Dataset) -> None:
    seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = "2.25.1"


def _other_frame_of_reference(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "2.25.1"


def _turned(seg: Dataset) -> None:
    plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    plane.ImageOrientationPatient = [-1, 0, 0, 0, 1, 0]


def _stretched(seg: Dataset) -> None:
    seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = [0.9, 0.7]


def _no_derivation(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence[3].DerivationImageSequence


def _wrong_derivation(seg: Dataset) -> None:
    groups = seg.PerFrameFunctionalGroupsSequence
    groups[0].DerivationImageSequence = deepcopy(groups[1].DerivationImageSequence)


def _moved_frame(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient = [-11, -7.5, 31]


def _swapped_segments(seg: Dataset) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence:
        item = group.SegmentIdentificationSequence[0]
        item.ReferencedSegmentNumber = 3 - item.ReferencedSegmentNumber


def _one_bit(seg: Dataset) -> None:
    pixels = bytearray(seg.PixelData)
    pixels[7] ^= 4
    seg.PixelData = bytes(pixels)


def _frames_mirrored(seg: Dataset) -> None:
    groups = seg.PerFrameFunctionalGroupsSequence
    count, rows, columns = int(seg.NumberOfFrames), seg.Rows, seg.Columns
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little", count=count * rows * columns)
    mirrored = bits.reshape(count, rows, columns)[:, :, ::-1]
    seg.PixelData = np.packbits(mirrored.ravel(), bitorder="little").tobytes()
    assert len(groups) == count


def _frame_lost(seg: Dataset) -> None:
    seg.PerFrameFunctionalGroupsSequence = list(seg.PerFrameFunctionalGroupsSequence)[:-1]
    seg.NumberOfFrames -= 1
    seg.PixelData = seg.PixelData[: seg.NumberOfFrames * seg.Rows * seg.Columns // 8]


def _one_tracking_uid(seg: Dataset) -> None:
    seg.SegmentSequence[1].TrackingUID = seg.SegmentSequence[0].TrackingUID


def _other_tracking_uid(seg: Dataset) -> None:
    seg.SegmentSequence[1].TrackingUID = "2.25.5"


@pytest.mark.parametrize(("lie", "reason"), [
    (_other_patient, "PatientID"), (_other_name, "PatientName"), (_other_study, "StudyInstanceUID"),
    (_stranger, "neither a source"), (_other_frame_of_reference, "frame of reference"), (_turned, "orientation"),
    (_stretched, "pixel spacing"), (_no_derivation, "source image"), (_wrong_derivation, "source image"),
    (_moved_frame, "no source lies"), (_swapped_segments, "segment"), (_one_bit, "differs"),
    (_frames_mirrored, "differs"), (_frame_lost, "lacks the frame"), (_one_tracking_uid, "tracking UIDs"),
    (_other_tracking_uid, "tracking UIDs"),
])  # fmt: skip
def test_a_segmentation_that_lies_is_refused(
    sources: tuple[Dataset, ...], lie: Callable[[Dataset], None], reason: str
) -> None:
    """One change after encoding, and the gate names it, without the patient's name."""
    objects, context, findings = lungs(sources)
    lie(objects[0].dataset)
    with pytest.raises(OutputInvalid, match=reason) as refusal:
        check(objects, context, findings)
    assert "ller" not in str(refusal.value)


def _groups(report: Dataset) -> list[Dataset]:
    """The measurement groups of a report."""
    found = [item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return list(found[0].ContentSequence)


def _other_title(report: Dataset) -> None:
    report.ConceptNameCodeSequence[0].CodeValue = "126001"


def _no_outline(report: Dataset) -> None:
    group = _groups(report)[0]
    group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "SCOORD"]


def _segments_swapped(report: Dataset) -> None:
    for group in _groups(report):
        for item in group.ContentSequence:
            if item.ValueType == "IMAGE" and "ReferencedSegmentNumber" in item.ReferencedSOPSequence[0]:
                item.ReferencedSOPSequence[0].ReferencedSegmentNumber ^= 3


def _segment_three(report: Dataset) -> None:
    for group in _groups(report):
        for item in group.ContentSequence:
            if item.ValueType == "IMAGE" and "ReferencedSegmentNumber" in item.ReferencedSOPSequence[0]:
                item.ReferencedSOPSequence[0].ReferencedSegmentNumber = 3


def _numbers(report: Dataset) -> list[Dataset]:
    return [item for group in _groups(report) for item in group.ContentSequence if item.ValueType == "NUM"]


def _other_volume(report: Dataset) -> None:
    for item in _numbers(report):
        item.MeasuredValueSequence[0].NumericValue *= 10


def _no_unit(report: Dataset) -> None:
    del _numbers(report)[0].MeasuredValueSequence[0].MeasurementUnitsCodeSequence


def _no_tracking(report: Dataset) -> None:
    group = _groups(report)[0]
    group.ContentSequence = [item for item in group.ContentSequence if item.ValueType != "UIDREF"]


def _other_class(report: Dataset) -> None:
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    evidence[0].ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.4"


def _frame_nine(report: Dataset) -> None:
    for group in _groups(report):
        for item in group.ContentSequence:
            if item.ValueType == "SCOORD":
                item.ContentSequence[0].ReferencedSOPSequence[0].ReferencedFrameNumber = 9


def _not_complete(report: Dataset) -> None:
    del report.CompletionFlag


@pytest.mark.parametrize(("lie", "reason"), [
    (_other_title, "template 1500"), (_no_outline, "with an outline"), (_segments_swapped, "segment it refers to"),
    (_segment_three, "segment of .* not there"), (_other_volume, "volume of"), (_no_unit, "without a unit"),
    (_no_tracking, "without tracking UID"), (_other_class, "another class"), (_frame_nine, "frame of .* no source"),
    (_not_complete, "CompletionFlag is missing"), (_other_patient, "PatientID"),
])  # fmt: skip
def test_a_report_that_lies_is_refused(
    sources: tuple[Dataset, ...], lie: Callable[[Dataset], None], reason: str
) -> None:
    """One change after encoding, and the gate names it."""
    objects, context, findings = lungs(sources)
    lie(objects[1].dataset)
    with pytest.raises(OutputInvalid, match=reason):
        check(objects, context, findings)


def test_a_volume_that_is_not_that_of_the_voxels_is_refused(sources: tuple[Dataset, ...]) -> None:
    """Measures are counted anew: 2.5 mm slices of 0.7 mm rows and 0.9 mm columns."""
    found = two_lungs(sources).segments[0]
    true_ml = float(np.count_nonzero(found.mask)) * 2.5 * 0.7 * 0.9 / 1000
    nowhere = ((0.0, 0.0), (1.0, 1.0))
    for told, fits in ((true_ml, True), (true_ml * 1.02, False)):
        measures = Measures(volume_ml=told, long_mm=1, short_mm=1, long_ends=nowhere, short_ends=nowhere, slice=2)
        findings = Findings(segments=(replace(found, volume_ml=told, measures=measures),))
        if fits:
            encode(findings, context_of(sources))
        else:
            with pytest.raises(OutputInvalid, match="mL drawn"):
                encode(findings, context_of(sources))


def test_a_card_whose_words_and_codes_differ_is_refused(sources: tuple[Dataset, ...]) -> None:
    """A left lung that is coded right."""
    right, left = LUNG_CARD.segments
    card = replace(LUNG_CARD, segments=(right, replace(left, laterality=right.laterality)))
    with pytest.raises(OutputInvalid, match="called left, coded right"):
        encode(two_lungs(sources), context_of(sources, card))


@pytest.mark.parametrize("flip", [1.0, -1.0], ids=["as scanned", "mirrored"])
def test_what_lies_on_the_other_side_of_the_body_is_refused(flip: float) -> None:
    """One lung alone, in a body that lies off the middle of the image; mirrored source geometry is found out."""
    voxels = np.full((6, 40, 100), -1000, np.float32)
    voxels[:, 5:35, 10:70] = 40  # the body's middle is at x = 39.5
    lung = np.zeros(voxels.shape, np.bool_)
    lung[1:5, 12:28, 46:64] = True
    voxels[lung] = -850
    affine = np.diag([5.0, 4.0, 4.0 * flip, 1.0])[[2, 1, 0, 3]]  # (z, y, x) -> (L, P, S)
    found = Findings(segments=(Segment(key="left-lung", mask=lung, volume_ml=1.0),))
    volume = Volume(voxels=voxels, affine=affine)
    if flip > 0:
        check_body_side(volume, found, LUNG_CARD)
    else:
        with pytest.raises(OutputInvalid, match="62 mm on the other side"):
            check_body_side(volume, found, LUNG_CARD)


def test_left_and_right_cannot_be_swapped(any_sources: tuple[Dataset, ...]) -> None:
    """Masks of two lungs under each other's keys: what is called left lies to the right."""
    right, left = two_lungs(any_sources).segments
    swapped = Findings(
        segments=(
            Segment(key="right-lung", mask=left.mask, volume_ml=1.0),
            Segment(key="left-lung", mask=right.mask, volume_ml=1.0),
        )
    )
    if abs(any_sources[0].ImageOrientationPatient[0]) > 0.5:
        context = context_of(any_sources, LUNG_CARD)
        with pytest.raises(OutputInvalid, match="called left"):
            check(encode(swapped, context), context, swapped)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_centre_outside_its_mask_is_refused(any_sources: tuple[Dataset, ...], axis: int) -> None:
    """Ten millimetres along any axis of the patient is too far."""
    found = nodules(any_sources)
    left, posterior, superior = np.array(found.detections[0].centre_mm) + 10.0 * np.eye(3)[axis]
    moved = replace(found, detections=(replace(found.detections[0], centre_mm=(left, posterior, superior)),))
    context = context_of(any_sources, NODULE_CARD)
    with pytest.raises(OutputInvalid, match="outside its mask"):
        check(encode(moved, context), context, moved)


@pytest.mark.parametrize(("field", "value", "reason"), [
    ("diameter_mm", float("nan"), "not a measurement"), ("volume_ml", float("inf"), "not a measurement"),
    ("volume_ml", -1.0, "not a measurement"), ("score", 1.5, "score"), ("centre_mm", (0.0, float("nan"), 0.0), "not a"),
    ("key", "mass", "no segment"), ("site", "spleen", "no site"), ("mask", np.zeros((7, 20, 24), np.bool_), "without"),
    ("mask", np.ones((7, 20, 24), np.uint8), "uint8"), ("mask", np.ones((7, 24, 20), np.bool_), "24, 20"),
])  # fmt: skip
def test_findings_that_make_no_sense_are_refused(
    sources: tuple[Dataset, ...], field: str, value: object, reason: str
) -> None:
    """Numbers, keys and masks are checked before anything is encoded, and by the gate again."""
    found = nodules(sources)
    context = context_of(sources, NODULE_CARD)
    wrong = replace(found, detections=(replace(found.detections[0], **{field: value}), found.detections[1]))  # type: ignore[arg-type]
    for refuse in (encode, gate.check_findings):
        with pytest.raises(OutputInvalid, match=reason):
            refuse(wrong, context)


def test_a_set_must_be_whole(sources: tuple[Dataset, ...]) -> None:
    """The report without the segmentation refers to what is not there; the other way round nothing is reported."""
    objects, context, findings = lungs(sources)
    with pytest.raises(OutputInvalid, match="lacks its seg"):
        check(objects[1:], context, findings)
    with pytest.raises(OutputInvalid, match="lacks its sr"):
        check(objects[:1], context, findings)


def test_a_segmentation_of_nothing_is_refused(sources: tuple[Dataset, ...]) -> None:
    """Where nothing was found, nothing may be drawn."""
    objects, context, _ = lungs(sources)
    with pytest.raises(OutputInvalid, match="needless seg"):
        check(objects, context, Findings())
