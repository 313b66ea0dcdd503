"""Two Segmentations beside each other: voxels are counted where they lie in the patient, however they are written."""

from __future__ import annotations

import json
import subprocess
import sys
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, generate_uid

from node.dicom.codes import concept
from node.dicom.drawing import Drawing, Unreadable, segment_infos, share
from node.dicom.encode import encode
from node.testing import part10
from tests.unit.node.dicom.conftest import LUNGS, box, context_of, ct_series, two_lungs

Sources = tuple[Dataset, ...]
SPACING_ML = 2.5 * 0.7 * 0.9 / 1000  # one voxel of ct_series
RIGHT = 4 * 9 * 8 + 1  # voxels of the right lung of two_lungs
LEFT = 4 * 10 * 7


def our_seg(sources: Sources) -> Dataset:
    """Return the Segmentation that we make of two lungs."""
    return encode(two_lungs(sources), context_of(sources))[0].dataset


def written(seg: Dataset) -> Dataset:
    """Return *seg* as a file holds it: nothing in it is shared with another one."""
    return dcmread(BytesIO(part10(seg)))


def redrawn(sources: Sources, *, right: NDArray[np.bool_], left: NDArray[np.bool_], **changes: Any) -> Dataset:
    """Return another writer's Segmentation of the same two lungs: new UIDs, other order, labels as they were."""
    descriptions = [
        hd.seg.SegmentDescription(
            segment_number=number, segment_label=kind.label, algorithm_type="MANUAL",
            segmented_property_category=concept(kind.category), segmented_property_type=concept(kind.type),
            anatomic_regions=None,
        )
        for number, kind in enumerate((LUNGS[1], LUNGS[0]), start=1)
    ]  # fmt: skip
    for description, kind in zip(descriptions, (LUNGS[1], LUNGS[0]), strict=True):
        assert kind.laterality is not None
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            concept(kind.laterality)
        ]
    masks = np.stack([left, right], axis=-1).astype(np.uint8)
    whole = [deepcopy(source) for source in sources]
    for source in whole:
        source.PixelData = b""
    values = {
        "segmentation_type": "BINARY", "series_instance_uid": generate_uid(), "series_number": 50,
        "sop_instance_uid": generate_uid(), "instance_number": 1, "manufacturer": "Other",
        "manufacturer_model_name": "Viewer", "software_versions": "1", "device_serial_number": "1",
        "transfer_syntax_uid": ExplicitVRLittleEndian, **changes,
    }  # fmt: skip
    return hd.seg.Segmentation(
        source_images=whole, pixel_array=masks, segment_descriptions=descriptions, **values
    )


def masks(sources: Sources) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the right and the left lung of two_lungs on the grid of *sources*."""
    found = two_lungs(sources)
    return found.segments[0].mask.copy(), found.segments[1].mask.copy()


def test_a_copy_is_the_same_to_the_voxel(any_sources: Sources) -> None:
    """In every orientation; the volumes are those of the boxes."""
    ours = Drawing(our_seg(any_sources))
    one = share(ours, 1, Drawing(our_seg(any_sources)), 1)
    assert one.same and one.dice == 1.0
    assert sorted([one.ours_ml, share(ours, 2, ours, 2).ours_ml]) == pytest.approx(
        sorted([RIGHT * SPACING_ML, LEFT * SPACING_ML])
    )
    assert share(ours, 1, ours, 2).both_ml == 0


def test_an_eroded_segment_has_the_dice_that_counting_gives(any_sources: Sources) -> None:
    """One row of nine and the corner voxel taken away: 4 x 8 x 8 of 289 voxels are left."""
    right, left = masks(any_sources)
    rows = np.flatnonzero(right.any(axis=(0, 2)))
    eroded = right.copy()
    eroded[:, rows[-1]] = False
    kept, before = int(eroded.sum()), int(right.sum())
    ours, theirs = Drawing(our_seg(any_sources)), Drawing(
        redrawn(any_sources, right=eroded, left=left)
    )
    one = share(ours, 1, theirs, 2)
    assert one.dice == pytest.approx(2 * kept / (kept + before)) and not one.same
    assert one.theirs_ml == pytest.approx(kept * SPACING_ML)
    assert share(ours, 2, theirs, 1).same


def test_a_moved_segment_is_compared_where_it_lies(sources: Sources) -> None:
    """Two columns to the side: six of eight columns lie on ours, and the corner voxel does not."""
    right, left = masks(sources)
    moved = np.roll(right, 2, axis=2)
    ours, theirs = Drawing(our_seg(sources)), Drawing(redrawn(sources, right=moved, left=left))
    one = share(ours, 1, theirs, 2)
    both = int((right & moved).sum())
    assert both == 4 * 9 * 6  # worked out by hand
    assert one.dice == pytest.approx(2 * both / (2 * RIGHT))


def flipped(seg: Dataset) -> Dataset:
    """Return *seg* with its rows upside down and its columns from right to left, in the same place of the patient."""
    other = written(seg)
    frames = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little")
    count = int(seg.NumberOfFrames)
    frames = frames[: count * seg.Rows * seg.Columns].reshape(count, seg.Rows, seg.Columns)
    other.PixelData = np.packbits(frames[:, ::-1, ::-1].ravel(), bitorder="little").tobytes()
    other.PixelData += b"\0" * (len(other.PixelData) % 2)
    shared = other.SharedFunctionalGroupsSequence[0]
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = [float(-c) for c in cosines]
    down, right = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
    way = cosines[:3] * right * (seg.Columns - 1) + cosines[3:] * down * (seg.Rows - 1)
    for group in other.PerFrameFunctionalGroupsSequence:
        place = group.PlanePositionSequence[0]
        place.ImagePositionPatient = [round(float(v), 6) for v in np.array(place.ImagePositionPatient, float) + way]
    return other


def test_a_flipped_grid_is_the_same_grid(any_sources: Sources) -> None:
    """Both directions reversed: every voxel is found where it lies."""
    ours = our_seg(any_sources)
    one = share(Drawing(ours), 1, Drawing(flipped(ours)), 1)
    assert one.same


def test_frames_in_any_order_are_the_same_frames(sources: Sources) -> None:
    """The last frame first: where a frame lies is what it says, not its number."""
    ours, other = our_seg(sources), written(our_seg(sources))
    count, size = int(ours.NumberOfFrames), ours.Rows * ours.Columns
    bits = np.unpackbits(np.frombuffer(ours.PixelData, np.uint8), bitorder="little")[: count * size]
    turned = np.packbits(bits.reshape(count, size)[::-1].ravel(), bitorder="little").tobytes()
    other.PixelData = turned + b"\0" * (len(turned) % 2)
    other.PerFrameFunctionalGroupsSequence = list(reversed(list(ours.PerFrameFunctionalGroupsSequence)))
    for number in (1, 2):
        assert share(Drawing(ours), number, Drawing(other), number).same


def test_a_cropped_segmentation_is_the_same_where_nothing_was_cut(sources: Sources) -> None:
    """Two rows and three columns fewer, nothing drawn in them."""
    ours, other = our_seg(sources), written(our_seg(sources))
    count = int(ours.NumberOfFrames)
    frames = np.unpackbits(np.frombuffer(ours.PixelData, np.uint8), bitorder="little")[: count * 20 * 24]
    cut = np.packbits(frames.reshape(count, 20, 24)[:, 2:, 1:-2].ravel(), bitorder="little").tobytes()
    other.PixelData, other.Rows, other.Columns = cut + b"\0" * (len(cut) % 2), 18, 21
    for group in other.PerFrameFunctionalGroupsSequence:
        left, back, up = (float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient)
        group.PlanePositionSequence[0].ImagePositionPatient = [left + 0.9, back + 2 * 0.7, up]
    assert share(Drawing(ours), 1, Drawing(other), 1).same
    assert share(Drawing(other), 2, Drawing(ours), 2).same


def test_a_finer_grid_is_compared_at_the_nearest_voxel_and_is_never_the_same(sources: Sources) -> None:
    """Each pixel in two by two: the same body, so Dice is one within rounding, but not the same voxels."""
    fine = ct_series(rows=40, columns=48, spacing=(2.5, 0.35, 0.45), corner=(-11.0 - 0.225, -7.5 - 0.175, 30.25))
    right, left = (np.repeat(np.repeat(mask, 2, axis=1), 2, axis=2) for mask in masks(sources))
    theirs = Drawing(redrawn(fine, right=right, left=left))
    one = share(Drawing(our_seg(sources)), 1, theirs, 2)
    assert one.dice == pytest.approx(1.0, abs=1e-9) and not one.same
    assert one.theirs_ml == pytest.approx(RIGHT * SPACING_ML)


def test_slices_that_they_drew_and_we_did_not_count(sources: Sources) -> None:
    """One slice more at each end: the union is found though our Segmentation has no frame there."""
    right, left = masks(sources)
    grown = right.copy()
    grown[0], grown[5] = right[1], right[4]
    one = share(Drawing(our_seg(sources)), 1, Drawing(redrawn(sources, right=grown, left=left)), 2)
    assert one.theirs_ml == pytest.approx((RIGHT + 144) * SPACING_ML)
    assert one.dice == pytest.approx(2 * RIGHT / (2 * RIGHT + 144))


@pytest.mark.parametrize("form", ["FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_other_forms_are_read_too(sources: Sources, form: str, syntax: str, tmp_path: Path) -> None:
    """Fractions of one, and label maps, plain and in run lengths: the same voxels."""
    right, left = masks(sources)
    extra = {"segmentation_type": form, "transfer_syntax_uid": syntax}
    theirs = redrawn(sources, right=right, left=left, **extra)
    (tmp_path / "theirs.dcm").write_bytes(part10(theirs))
    read = Drawing(dcmread(tmp_path / "theirs.dcm"))
    ours = Drawing(our_seg(sources))
    assert share(ours, 1, read, 2).same and share(ours, 2, read, 1).same
    assert share(read, 2, ours, 1).same


def test_what_a_foreign_writer_makes_of_our_voxels_is_the_same(sources: Sources, tmp_path: Path) -> None:
    """dcmqi, which 3D Slicer writes with, over a mask that nibabel wrote: Dice as counted, codes and sides kept."""
    right, left = masks(sources)
    eroded = right.copy()
    eroded[1] = False
    theirs = dcmqi_seg(sources, {1: left, 2: eroded}, tmp_path)
    assert [(info.label, info.laterality, info.tracking_uid) for info in segment_infos(theirs)] == [
        ("Left lung", "left", ""), ("Right lung", "right", "")
    ]  # fmt: skip
    ours = Drawing(our_seg(sources))
    assert share(ours, 2, Drawing(theirs), 1).same
    kept = int(eroded.sum())
    one = share(ours, 1, Drawing(theirs), 2)
    assert one.dice == pytest.approx(2 * kept / (kept + RIGHT))
    assert one.theirs_ml == pytest.approx(kept * SPACING_ML)


def dcmqi_seg(sources: Sources, drawn: dict[int, NDArray[np.bool_]], folder: Path, number: int = 300) -> Dataset:
    """Return the Segmentation that dcmqi writes of masks (z, y, x) by label; label 1 is the left, 2 the right lung."""
    (folder / "ct").mkdir(exist_ok=True)
    for index, source in enumerate(sources):
        whole = deepcopy(source)
        whole.PixelData = bytes(2 * source.Rows * source.Columns)
        (folder / "ct" / f"{index}.dcm").write_bytes(part10(whole))
    labels = np.zeros((len(sources), sources[0].Rows, sources[0].Columns), np.uint8)
    for label, mask in drawn.items():
        labels[mask] = label
    nibabel.save(nibabel.Nifti1Image(labels.transpose(2, 1, 0), _ras_affine(sources)), folder / "labels.nii.gz")
    meta = {
        "ContentCreatorName": "Reader^A", "ClinicalTrialSeriesID": "1", "ClinicalTrialTimePointID": "1",
        "SeriesDescription": "Segmentation", "SeriesNumber": str(number), "InstanceNumber": "1",
        "segmentAttributes": [[_meta(label) for label in sorted(drawn)]],
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    command = [str(Path(sys.executable).with_name("itkimage2segimage")), "--inputDICOMDirectory", str(folder / "ct")]
    command += ["--inputImageList", str(folder / "labels.nii.gz"), "--inputMetadata", str(folder / "meta.json")]
    made = folder / f"dcmqi-{number}.dcm"
    subprocess.run([*command, "--outputDICOM", str(made), "--skip"], check=True, capture_output=True, timeout=60)
    return dcmread(made)


def _ras_affine(sources: Sources) -> NDArray[np.float64]:
    """NIfTI counts towards right and front where DICOM counts towards left and back."""
    first, last = sources[0], sources[-1]
    cosines = np.array(first.ImageOrientationPatient, float)
    down, right = (float(v) for v in first.PixelSpacing)
    corner = np.array(first.ImagePositionPatient, float)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = cosines[:3] * right, cosines[3:] * down
    affine[:3, 2] = (np.array(last.ImagePositionPatient, float) - corner) / (len(sources) - 1)
    affine[:3, 3] = corner
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _meta(label: int) -> dict[str, Any]:
    side = ("7771000", "Left") if label == 1 else ("24028007", "Right")
    return {
        "labelID": label, "SegmentDescription": "Lung", "SegmentLabel": f"{side[1]} lung",
        "SegmentAlgorithmType": "MANUAL",
        "SegmentedPropertyCategoryCodeSequence": _coded("123037004", "Anatomical Structure"),
        "SegmentedPropertyTypeCodeSequence": _coded("39607008", "Lung"),
        "SegmentedPropertyTypeModifierCodeSequence": _coded(*side),
    }  # fmt: skip


def _coded(value: str, meaning: str) -> dict[str, str]:
    return {"CodeValue": value, "CodingSchemeDesignator": "SCT", "CodeMeaning": meaning}


def _without(keyword: str) -> Any:
    def spoil(seg: Dataset) -> None:
        delattr(seg, keyword)

    return spoil


def _elsewhere(seg: Dataset) -> None:
    seg.FrameOfReferenceUID = "2.25.78.9"


def _tilted(seg: Dataset) -> None:
    item = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    item.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _short(seg: Dataset) -> None:
    seg.PixelData = seg.PixelData[:20]


def _jpeg(seg: Dataset) -> None:
    seg.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.90"


def _nowhere(seg: Dataset) -> None:
    del seg.PerFrameFunctionalGroupsSequence[3].PlanePositionSequence


def _without_spacing(seg: Dataset) -> None:
    del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_elsewhere, "another frame of reference"),
        (_without("FrameOfReferenceUID"), "does not say its frame of reference"),
        (_tilted, "planes of another orientation"),
        (_short, "shorter than its frames"),
        (_jpeg, "have it sent uncompressed"),
        (_nowhere, "do not say where in the patient"),
        (_without_spacing, "pixel spacing"),
        (_without("PerFrameFunctionalGroupsSequence"), "describe each of its frames"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_the_reason(sources: Sources, spoil: Any, why: str) -> None:
    """Never a guess."""
    theirs = written(our_seg(sources))
    spoil(theirs)
    with pytest.raises(Unreadable, match=why):
        share(Drawing(our_seg(sources)), 1, Drawing(theirs), 1)


def test_overlapping_thick_slices_are_as_far_apart_as_they_lie(sources: Sources) -> None:
    """A writer that states the thickness as the spacing makes no volume larger."""
    theirs = written(our_seg(sources))
    measures = theirs.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SpacingBetweenSlices = measures.SliceThickness = 5.0
    assert Drawing(theirs).slice_spacing == pytest.approx(2.5)
    assert share(Drawing(our_seg(sources)), 1, Drawing(theirs), 1).same


def test_old_codes_are_the_new_ones(sources: Sources) -> None:
    """SNOMED RT, as older viewers write it: T-28000 is the lung, G-A100 the right side."""
    theirs = written(our_seg(sources))
    kind = theirs.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0]
    kind.CodeValue, kind.CodingSchemeDesignator = "T-28000", "SRT"
    side = kind.SegmentedPropertyTypeModifierCodeSequence[0]
    side.CodeValue, side.CodingSchemeDesignator = "G-A100", "SRT"
    assert segment_infos(our_seg(sources))[0].same_structure(segment_infos(theirs)[0])
    assert not segment_infos(our_seg(sources))[1].same_structure(segment_infos(theirs)[0])


def test_a_box_beside_the_lungs_shares_nothing(sources: Sources) -> None:
    """No overlap is a Dice of nothing, not a division by it."""
    beside = box(sources, slice(6, 7), slice(0, 2), slice(0, 2))
    theirs = Drawing(redrawn(sources, right=beside, left=beside))
    assert share(Drawing(our_seg(sources)), 1, theirs, 2).dice == 0.0
