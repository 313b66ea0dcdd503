"""An oracle that cannot fail is none: each of these changes to a right result is noticed; and what the gate says."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from node.dicom import gate
from node.dicom.context import regions
from node.dicom.encode import make_object
from node.dicom.reader import read_series
from node.domain.result import ResultRole
from node.errors import OutputInvalid
from tests.geometry.product import PROFILE, Results, context_of, encoded, slices_in, true_findings, truths_of
from tests.geometry.readback import Slice, Truth, faults_of
from tests.geometry.scanner import Scan, scan_phantom

Right = tuple[Results, list[Slice], dict[str, Truth], float]  # the last in mm: the smallest spacing
Lie = Callable[[Dataset, Dataset, list[Slice]], object]  # the Segmentation, the report, the source's slices

SCANS = {
    "classic": Scan(spacing="oblong", order="shuffled"),
    "enhanced": Scan(spacing="oblong", order="lying", container="enhanced", orientation="double oblique"),
}


@pytest.fixture(scope="module", params=SCANS)
def right(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Right:
    """A right result of each kind of source."""
    seen = scan_phantom(SCANS[request.param])
    paths = seen.write(tmp_path_factory.mktemp(request.param))
    series = read_series(paths)
    made = encoded(true_findings(seen, series), context_of(series.source.headers, series.source.frames))
    return made, slices_in(paths), truths_of(seen), seen.scan.finest


# -- of pixels


def _changed(seg: Dataset, change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
    size = int(seg.NumberOfFrames) * int(seg.Rows) * int(seg.Columns)
    bits = np.unpackbits(np.frombuffer(seg.PixelData, np.uint8), bitorder="little", count=size)
    frames = change(bits.reshape(int(seg.NumberOfFrames), int(seg.Rows), int(seg.Columns)))
    packed = np.packbits(frames.ravel(), bitorder="little").tobytes()
    seg.PixelData = packed + b"\0" * (len(packed) % 2)


def rows_flipped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Every frame upside down."""
    _changed(seg, lambda frames: frames[:, ::-1])


def columns_flipped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Every frame from left to right."""
    _changed(seg, lambda frames: frames[:, :, ::-1])


def frames_reversed(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """The pixels of the last frame where the first is described."""
    _changed(seg, lambda frames: frames[::-1])


def a_pixel_late(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """All bits one place further, as if a frame were padded."""
    _changed(seg, lambda frames: np.roll(frames, 1))


def a_voxel_more(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """One voxel beside a region."""

    def add(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        row, column = np.argwhere(frames[0])[0]
        frames = frames.copy()
        frames[0, row - 1, column] = 1
        return frames

    _changed(seg, add)


# -- of descriptions


def segments_swapped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Each frame belongs to the other segment."""
    for group in seg.PerFrameFunctionalGroupsSequence:
        group.SegmentIdentificationSequence[0].ReferencedSegmentNumber ^= 3


def labels_swapped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Each segment is called what the other is."""
    first, second = seg.SegmentSequence
    first.SegmentLabel, second.SegmentLabel = second.SegmentLabel, first.SegmentLabel


def sides_swapped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """The code for left stands at what is right."""
    first, second = (item.SegmentedPropertyTypeCodeSequence[0] for item in seg.SegmentSequence)
    word = "SegmentedPropertyTypeModifierCodeSequence"
    one, other = first[word].value, second[word].value
    first[word].value, second[word].value = other, one


def frame_dropped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """The last frame is missing."""
    _changed(seg, lambda frames: frames[:-1])
    seg.NumberOfFrames = int(seg.NumberOfFrames) - 1
    seg.PerFrameFunctionalGroupsSequence = seg.PerFrameFunctionalGroupsSequence[:-1]


# -- of places


def _moved(seg: Dataset, move: Callable[[NDArray[np.float64]], NDArray[np.float64]], frames: slice) -> None:
    for group in seg.PerFrameFunctionalGroupsSequence[frames]:
        plane = group.PlanePositionSequence[0]
        corner = move(np.array([float(v) for v in plane.ImagePositionPatient]))
        plane.ImagePositionPatient = [f"{v:.6f}" for v in corner]


def a_slice_too_high(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Every frame lies where the next source slice is; it still names its own."""
    step = slices[1].corner - slices[0].corner
    _moved(seg, lambda corner: corner + step, slice(None))


def one_frame_too_high(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """The last one alone."""
    step = slices[1].corner - slices[0].corner
    _moved(seg, lambda corner: corner + step, slice(-1, None))


def half_a_pixel_off(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """The corner of the first pixel instead of its centre."""
    _moved(seg, lambda corner: corner - (slices[0].to_next_row + slices[0].to_next_column) / 2, slice(None))


def mirrored(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Rows run to the other side."""
    plane = seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    cosines = [float(v) for v in plane.ImageOrientationPatient]
    plane.ImageOrientationPatient = [*(-v for v in cosines[:3]), *cosines[3:]]


def mirrored_whole(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Left for right in direction and position: a reader's error that is consistent with itself."""
    mirrored(seg, report, slices)
    width = (int(seg.Columns) - 1) * slices[0].to_next_column
    _moved(seg, lambda corner: corner + width, slice(None))


def spacings_exchanged(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Between columns what is between rows."""
    measures = seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = list(reversed(measures.PixelSpacing))


def other_frame_of_reference(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Positions that cannot be compared."""
    seg.FrameOfReferenceUID = "2.25.1"


def wrong_source(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """The last frame lies rightly, but names the source image, or frame, of another slice: viewers go by that."""
    named = seg.PerFrameFunctionalGroupsSequence[-1].DerivationImageSequence[0].SourceImageSequence[0]
    _name_another(named, slices)


def _name_another(named: Dataset, slices: list[Slice]) -> None:
    here = str(named.ReferencedSOPInstanceUID), int(named.get("ReferencedFrameNumber") or 0)
    place = next(n for n, one in enumerate(slices) if (one.sop_uid, one.frame) == here)
    other = slices[place - 3]
    named.ReferencedSOPInstanceUID = other.sop_uid
    if other.frame:
        named.ReferencedFrameNumber = other.frame


# -- of the report


def _items(report: Dataset, kind: str) -> list[Dataset]:
    found: list[Dataset] = []
    for item in report.get("ContentSequence", []):
        found += [item] * (item.ValueType == kind) + _items(item, kind)
    return found


def outline_on_another_slice(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Each outline three slices further down."""
    for item in _items(report, "SCOORD"):
        _name_another(item.ContentSequence[0].ReferencedSOPSequence[0], slices)


def _redrawn(report: Dataset, seg: Dataset, draw: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
    for item in _items(report, "SCOORD"):
        item.GraphicData = draw(np.array(item.GraphicData, float).reshape(-1, 2)).ravel().tolist()


def outline_mirrored(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Outlines from left to right."""
    _redrawn(report, seg, lambda points: np.stack([int(seg.Columns) - points[:, 0], points[:, 1]], axis=1))


def outline_row_first(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Row before column."""
    _redrawn(report, seg, lambda points: points[:, ::-1])


def outline_a_pixel_off(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """As if the first pixel's centre were (1.5, 1.5)."""
    _redrawn(report, seg, lambda points: points + 1)


def volumes_swapped(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Each region has the other's volume."""
    first, second = (item for item in _items(report, "NUM") if item.ConceptNameCodeSequence[0].CodeValue == "118565006")
    one, other = first.MeasuredValueSequence[0], second.MeasuredValueSequence[0]
    one.NumericValue, other.NumericValue = other.NumericValue, one.NumericValue


def volume_too_large(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """By one percent."""
    for item in _items(report, "NUM"):
        if item.ConceptNameCodeSequence[0].CodeValue == "118565006":
            value = item.MeasuredValueSequence[0]
            value.NumericValue = f"{1.01 * float(value.NumericValue):.6f}"


def other_segment(seg: Dataset, report: Dataset, slices: list[Slice]) -> None:
    """Each group refers to the other's segment."""
    for item in _items(report, "IMAGE"):
        named = item.ReferencedSOPSequence[0]
        if "ReferencedSegmentNumber" in named:
            named.ReferencedSegmentNumber = 3 - int(named.ReferencedSegmentNumber)


LIES: tuple[Lie, ...] = (
    rows_flipped, columns_flipped, frames_reversed, a_pixel_late, a_voxel_more, segments_swapped, labels_swapped,
    sides_swapped, frame_dropped, a_slice_too_high, one_frame_too_high, half_a_pixel_off, mirrored, mirrored_whole,
    spacings_exchanged, other_frame_of_reference, wrong_source, outline_on_another_slice, outline_mirrored,
    outline_row_first, outline_a_pixel_off, volumes_swapped, volume_too_large, other_segment,
)  # fmt: skip


def test_the_truth_is_no_fault(right: Right) -> None:
    """Neither to the oracle nor to the gate."""
    made, slices, truths, finest = right
    assert faults_of(made.seg, made.report, slices, truths, within_mm=0.1 * finest) == []
    assert gate_says(made, made.seg, made.report) == ""


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_each_lie_is_noticed(right: Right, lie: Lie) -> None:
    """By the oracle, and by the gate before a result leaves."""
    made, slices, truths, finest = right
    seg, report = (dcmread(BytesIO(data)) for data in made.data)
    lie(seg, report, slices)
    assert faults_of(seg, report, slices, truths, within_mm=0.1 * finest) != []
    assert gate_says(made, seg, report) != ""


def gate_says(made: Results, seg: Dataset, report: Dataset) -> str:
    """The gate's reason to hold a set of these two objects back, or nothing."""
    objects = [make_object(ResultRole.SEG, seg), make_object(ResultRole.SR, report)]
    try:
        gate.check(objects, made.context, made.findings, regions(made.findings, made.context), PROFILE)
    except OutputInvalid as why:
        return str(why)
    return ""
