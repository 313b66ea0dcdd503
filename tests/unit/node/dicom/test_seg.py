"""The segmentation, read back beside its source."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.contract import Card, Findings, Segment
from node.dicom.encode import encode
from node.domain.profile import Profile, SegType, Split, SrClass
from tests.unit.node.dicom.conftest import (
    LUNG_CARD,
    NODULE_CARD,
    box,
    context_of,
    ct_series,
    nodules,
    to_patient,
    two_lungs,
)  # fmt: skip


def seg_of(sources: tuple[Dataset, ...], findings: Findings, card: Card = LUNG_CARD) -> Dataset:
    """Encode and read back the segmentation alone."""
    first = encode(findings, context_of(sources, card))[0]
    return dcmread(BytesIO(first.data))


def drawn_at(seg: Dataset, number: int) -> set[tuple[float, ...]]:
    """Return the patient positions of all voxels of one segment, from the SEG's own geometry alone."""
    shared = seg.SharedFunctionalGroupsSequence[0]
    places = set()
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        identified = shared if "SegmentIdentificationSequence" in shared else group
        if identified.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        plane = Dataset()
        plane.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        plane.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
        plane.ImagePositionPatient = group.PlanePositionSequence[0].ImagePositionPatient
        for row, column in np.argwhere(frame):
            places.add(tuple(round(mm, 3) for mm in to_patient(plane, row, column)))
    return places


def test_a_mask_comes_back_where_it_was(any_sources: tuple[Dataset, ...]) -> None:
    """Axial, flipped, oblique or coronal: every voxel of each segment lies at its place in the patient."""
    findings = two_lungs(any_sources)
    seg = seg_of(any_sources, findings)
    for number, segment in enumerate(findings.segments, start=1):
        wanted = {
            tuple(round(mm, 3) for mm in to_patient(any_sources[z], y, x)) for z, y, x in np.argwhere(segment.mask)
        }
        assert drawn_at(seg, number) == wanted


def test_every_frame_names_the_image_that_it_lies_on(any_sources: tuple[Dataset, ...]) -> None:
    """Viewers paint nothing without it."""
    seg = seg_of(any_sources, two_lungs(any_sources))
    lies_on = {tuple(round(mm, 4) for mm in s.ImagePositionPatient): s.SOPInstanceUID for s in any_sources}
    for group in seg.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        position = group.PlanePositionSequence[0].ImagePositionPatient
        assert source.ReferencedSOPInstanceUID == lies_on[tuple(round(mm, 4) for mm in position)]


def test_frames_without_a_voxel_are_left_out(sources: tuple[Dataset, ...]) -> None:
    """Two boxes of four slices each make eight frames of seven slices."""
    assert seg_of(sources, two_lungs(sources)).NumberOfFrames == 8


def test_all_sources_are_listed_even_those_without_a_voxel(sources: tuple[Dataset, ...]) -> None:
    """The series reference says what was looked at."""
    series = seg_of(sources, nodules(sources), NODULE_CARD).ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID
    listed = [item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence]
    assert listed == [s.SOPInstanceUID for s in sources]


def test_slice_distance_is_that_of_the_whole_series(sources: tuple[Dataset, ...]) -> None:
    """Also where drawn slices lie further apart."""
    mask = box(sources, slice(0, 7, 3), slice(2, 5), slice(3, 9))
    seg = seg_of(sources, Findings(segments=(Segment(key="left-lung", mask=mask, volume_ml=1.0),)))
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2.5)
    assert [float(mm) for mm in measures.PixelSpacing] == [0.7, 0.9]


def test_segments_carry_names_codes_sides_and_colours(sources: tuple[Dataset, ...]) -> None:
    """What a viewer's list of segments shows comes from the card."""
    right, left = seg_of(sources, two_lungs(sources)).SegmentSequence
    assert (right.SegmentLabel, left.SegmentLabel) == ("Right lung", "Left lung")
    kind = right.SegmentedPropertyTypeCodeSequence[0]
    assert kind.CodeValue == "39607008" and kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert hd.color.CIELabColor.from_dicom_value(right.RecommendedDisplayCIELabValue).to_rgb() == (250, 120, 60)
    assert right.SegmentAlgorithmType == "AUTOMATIC" and right.SegmentAlgorithmName == "ct-lungs"
    assert right.TrackingUID != left.TrackingUID


def test_a_nodule_carries_the_side_on_which_it_lies(sources: tuple[Dataset, ...]) -> None:
    """Anatomic region lung, modified by the site of the detection."""
    first, second = seg_of(sources, nodules(sources), NODULE_CARD).SegmentSequence
    sides = [s.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning for s in (first, second)]
    assert sides == ["Right", "Left"]
    assert [first.SegmentLabel, second.SegmentLabel] == ["Lung nodule 1", "Lung nodule 2"]


def test_overlapping_segments_both_keep_all_their_voxels(sources: tuple[Dataset, ...]) -> None:
    """A label map could hold only one of them; the object says that they overlap."""
    one = box(sources, slice(1, 4), slice(2, 9), slice(10, 20))
    two = box(sources, slice(3, 6), slice(5, 12), slice(5, 14))
    findings = Findings(
        segments=(
            Segment(key="right-lung", mask=two, volume_ml=1.0), Segment(key="left-lung", mask=one, volume_ml=1.0)
        )
    )  # fmt: skip
    seg = seg_of(sources, findings)
    assert seg.SegmentsOverlap == "YES"
    assert (len(drawn_at(seg, 1)), len(drawn_at(seg, 2))) == (two.sum(), one.sum())
    assert seg_of(sources, two_lungs(sources)).SegmentsOverlap == "NO"


@pytest.mark.parametrize("columns", [21, 23, 8, 9])
def test_widths_that_fill_no_whole_byte_come_back(columns: int) -> None:
    """Bits run on from row to row and frame to frame (PS3.5 section 8.1.1); the library's reader agrees."""
    sources = ct_series(columns=columns, rows=7)
    mask = np.random.default_rng(columns).random((7, 7, columns)) < 0.4
    seg = seg_of(sources, Findings(segments=(Segment(key="left-lung", mask=mask, volume_ml=1.0),)))
    heights = [g.PlanePositionSequence[0].ImagePositionPatient[2] for g in seg.PerFrameFunctionalGroupsSequence]
    frames = hd.seg.Segmentation.from_dataset(seg).pixel_array.astype(bool)
    assert np.array_equal(frames[np.argsort(heights)], mask)


def test_slices_whose_orientation_differs_in_the_last_digits_are_one_grid(sources: tuple[Dataset, ...]) -> None:
    """Scanners write such series."""
    sources[3].ImageOrientationPatient = [1.0, 0.0000004, 0.0, 0.0, 1.0, 0.0]
    assert seg_of(sources, two_lungs(sources)).NumberOfFrames == 8


def test_a_single_slice_without_thickness_is_no_obstacle() -> None:
    """Nothing is invented: the segmentation then leaves the thickness out too."""
    sources = ct_series(slices=1)
    del sources[0].SliceThickness
    mask = box(sources, slice(0, 1), slice(2, 5), slice(3, 9))
    seg = seg_of(sources, Findings(segments=(Segment(key="left-lung", mask=mask, volume_ml=1.0),)))
    assert "SliceThickness" not in seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def test_lossy_sources_are_said_to_be_lossy(sources: tuple[Dataset, ...]) -> None:
    """Ratio and method go with it."""
    for source in sources:
        source.LossyImageCompression, source.LossyImageCompressionRatio = "01", 12.5
        source.LossyImageCompressionMethod = "ISO_15444_1"
    seg = seg_of(sources, two_lungs(sources))
    assert (seg.LossyImageCompression, seg.LossyImageCompressionMethod) == ("01", "ISO_15444_1")
    assert float(seg.LossyImageCompressionRatio) == 12.5


def test_the_kinds_say_the_same_to_an_independent_reader(sources: tuple[Dataset, ...]) -> None:
    """BINARY, FRACTIONAL and LABELMAP hold the same voxels under the same labels."""
    findings = two_lungs(sources)
    for kind in (SegType.BINARY, SegType.FRACTIONAL, SegType.LABELMAP):
        profile = Profile(name="p", seg=kind, secondary_capture=False)
        (made,) = [one for one in encode(findings, context_of(sources), (profile,)) if one.role == "seg"]
        seg = hd.seg.Segmentation.from_dataset(dcmread(BytesIO(made.data)))
        uids = [source.SOPInstanceUID for source in sources]
        stack = seg.get_pixels_by_source_instance(
            uids, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
        )
        for number, segment in enumerate(findings.segments):
            np.testing.assert_array_equal(stack[..., number] > 0, segment.mask)
        labels = [item.SegmentLabel for item in seg.SegmentSequence if item.SegmentNumber]
        assert labels == ["Right lung", "Left lung"]


def test_a_label_map_parts_what_overlaps(sources: tuple[Dataset, ...]) -> None:
    """One pixel holds one number: what overlaps goes into an instance of its own."""
    card = replace(NODULE_CARD, segments=(*NODULE_CARD.segments, *LUNG_CARD.segments))
    findings = Findings(segments=two_lungs(sources).segments, detections=nodules(sources).detections)
    profile = Profile(name="p", seg=SegType.LABELMAP, secondary_capture=False)
    made = [one.dataset for one in encode(findings, context_of(sources, card), (profile,)) if one.role == "seg"]
    assert [[item.SegmentLabel for item in seg.SegmentSequence] for seg in made] == [
        ["Background", "Right lung", "Left lung", "Lung nodule 2"], ["Background", "Lung nodule 1"],
    ]  # fmt: skip
    assert [seg.InstanceNumber for seg in made] == [1, 2]
    assert len({seg.SeriesInstanceUID for seg in made}) == 1


@pytest.mark.parametrize(("options", "labels"), [
    ({"seg_split": Split.ANATOMY}, [["Right lung", "Left lung"], ["Lung nodule 1", "Lung nodule 2"]]),
    ({"seg_max_frames": 7}, [["Right lung"], ["Left lung", "Lung nodule 1", "Lung nodule 2"]]),
    ({"seg_max_frames": 1}, [["Right lung"], ["Left lung"], ["Lung nodule 1"], ["Lung nodule 2"]]),
    ({}, [["Right lung", "Left lung", "Lung nodule 1", "Lung nodule 2"]]),
])  # fmt: skip
def test_large_sets_are_spread_and_the_report_follows(
    sources: tuple[Dataset, ...], options: dict[str, Any], labels: list[list[str]]
) -> None:
    """By anatomy or frames; a segment is never divided; each is numbered from one in its instance."""
    card = replace(NODULE_CARD, segments=(*NODULE_CARD.segments, *LUNG_CARD.segments))
    findings = Findings(segments=two_lungs(sources).segments, detections=nodules(sources).detections)
    profile = Profile(name="p", secondary_capture=False, **options)
    made = [one.dataset for one in encode(findings, context_of(sources, card), (profile,)) if one.role == "seg"]
    assert [[item.SegmentLabel for item in seg.SegmentSequence] for seg in made] == labels
    for seg in made:
        assert [item.SegmentNumber for item in seg.SegmentSequence] == list(range(1, len(seg.SegmentSequence) + 1))


def test_a_hundred_segments_with_overlap_come_back(sources: tuple[Dataset, ...]) -> None:
    """Each under its number; the gate inside encode() has compared every voxel."""
    lung = replace(LUNG_CARD.segments[0], laterality=None)
    kinds = tuple(replace(lung, key=f"part-{n}", label=f"Part {n}") for n in range(104))
    masks = [np.random.default_rng(n).random((7, 20, 24)) > 0.9 for n in range(104)]
    findings = Findings(
        segments=tuple(Segment(key=kind.key, mask=mask, volume_ml=1.0) for kind, mask in zip(kinds, masks, strict=True))
    )
    seg = seg_of(sources, findings, replace(LUNG_CARD, segments=kinds))
    assert (seg.NumberOfFrames, seg.SegmentsOverlap) == (104 * 7, "YES")
    pixels = seg.pixel_array.reshape(104, 7, 20, 24)
    np.testing.assert_array_equal(pixels[57], masks[57])


def test_frames_of_a_multi_frame_image_are_named_by_number(sources: tuple[Dataset, ...]) -> None:
    """One source instance, listed once; each frame of ours says which frame of it it was made of."""
    for source in sources:
        source.SOPInstanceUID = "2.25.77.1.1"
    context = context_of(sources, frames=tuple(range(7, 0, -1)))
    made = encode(two_lungs(sources), context, (Profile(secondary_capture=False, sr=SrClass.NONE),))
    seg = dcmread(BytesIO(made[0].data))
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 1
    named = [
        group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        for group in seg.PerFrameFunctionalGroupsSequence
    ]
    assert named == [6, 5, 4, 3, 5, 4, 3, 2]
