"""Every kind of object that a profile can ask for, past every validator; on slices, on frames, on an X-ray."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import DigitalXRayImageStorageForPresentation

from models.contract import Findings, ValueMap
from node.dicom.context import Pictures
from node.dicom.encode import encode
from node.domain.profile import Language, Profile, SegType, Split, SrClass
from tests.geometry.scanner import BALL, LETTER, Scan
from tests.integration.studies import CARD, Case, study, write
from tests.integration.test_validators import PIXELMED, PIXELMED_LIMITS, faults, missing, said, tool
from tests.unit.node.dicom.conftest import NODULE_CARD, box, context_of, ct_series, nodules

PICTURES = Pictures(pages=(np.full((64, 48, 3), 90, np.uint8),) * 2, report=b"%PDF-1.4\n%%EOF\n")
PROFILES = {
    "everything": Profile(name="p", parametric_map=True, pdf=True, presentation_state=True, key_images=True),
    "fractional": Profile(name="p", seg=SegType.FRACTIONAL, sr=SrClass.COMPREHENSIVE),
    "split": Profile(name="p", seg_split=Split.ANATOMY, seg_max_frames=10),
    "labelmap": Profile(name="p", seg=SegType.LABELMAP),
    "words": Profile(name="p", seg=SegType.NONE, secondary_capture=False),
    **{str(spoken): Profile(name="p", language=spoken) for spoken in Language},
}
SCANS = {
    "classic": Scan(spacing="oblong"),
    "enhanced": Scan(spacing="oblong", container="enhanced", order="shuffled"),
    "legacy": Scan(spacing="oblong", container="legacy", tilt="15"),
}
#: What a tool of 2022 says of objects that it does not know.
LABELMAP = ("SegmentNumber not monotonically", "Information Object Not found", "Referenced SOP Class that is n")


def case_of(scan: str, profile: str) -> Case:
    """One study with its results."""
    return study(SCANS[scan], PROFILES[profile], pictures=PICTURES)


COMBINED = [(scan, profile) for scan in SCANS for profile in PROFILES if scan == "classic" or len(profile) > 2]


@pytest.mark.parametrize(("scan", "profile"), COMBINED)
def test_validators_find_no_fault(scan: str, profile: str, tmp_path: Path) -> None:
    """dciodvfy on each, dcentvfy on sources and results together, and the tools for reports and presentations."""
    case = case_of(scan, profile)
    folder = write(case, tmp_path / "study")
    wrong = []
    for path in sorted(folder.glob("result-*.dcm")):
        wrong += [f"{path.name}: {line}" for line in faults("dciodvfy", said(tool("dciodvfy"), "-new", path))]
        if path.stem.endswith(("-sr", "-kos")) and profile != "labelmap":
            wrong += faults("dsrdump", said(tool("dsrdump"), path))
        if path.stem.endswith("-gsps"):
            wrong += faults("dcmpschk", said(tool("dcmpschk"), path))
    wrong += faults("dcentvfy", said(tool("dcentvfy"), *sorted(folder.iterdir())))
    if profile == "labelmap":
        wrong = [line for line in wrong if not any(part in line for part in LABELMAP)]
    assert wrong == []


@pytest.mark.parametrize("profile", ["everything", "fractional", "labelmap", "split", "zh"])
def test_each_object_is_made_of_the_same_bytes_again(profile: str) -> None:
    """No clock, no chance."""
    first, second = (case_of("enhanced", profile) for _ in range(2))
    assert [one.data for one in first.objects] == [one.data for one in second.objects]


def test_the_order_is_that_in_which_things_refer_to_each_other() -> None:
    """What is referred to is sent before what refers to it."""
    roles = [str(one.role) for one in case_of("classic", "everything").objects]
    assert roles == ["seg", "pm", "sr", "sc", "sc", "pdf", "gsps", "kos"]


def test_a_map_holds_the_numbers_on_its_slices() -> None:
    """Read back: the value inside the ball, nothing outside, each frame on its source image."""
    case = case_of("classic", "everything")
    made = dcmread(BytesIO(next(one.data for one in case.objects if one.role == "pm")))
    values = made.pixel_array
    mask = case.made.masks[BALL]
    assert len(values) == len(mask)
    places = {str(header.SOPInstanceUID): place for place, header in enumerate(case.made.headers)}
    for frame, group in zip(values, made.PerFrameFunctionalGroupsSequence, strict=True):
        named = group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        place = places.pop(str(named))
        np.testing.assert_allclose(frame, mask[place] * np.float32(0.8))
        position = np.array(group.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(position, np.array(case.made.headers[place].ImagePositionPatient, float), atol=1e-4)
    assert made.ContentQualification == "RESEARCH"


def test_a_map_has_every_slice() -> None:
    """In the order of the slices: readers stack frames as they come, whatever positions they name."""
    sources = ct_series()
    values = np.zeros((len(sources), int(sources[0].Rows), int(sources[0].Columns)), np.float32)
    values[1, 2, 3], values[4, 5, 6] = 0.3, 0.9
    card = replace(NODULE_CARD, maps=CARD.maps)
    profile = Profile(name="p", parametric_map=True, secondary_capture=False, sr=SrClass.COMPREHENSIVE)
    found = replace(nodules(sources), maps=(ValueMap(key="likeness", values=values),))
    made = next(one for one in encode(found, context_of(sources, card), (profile,)) if one.role == "pm")
    frames = dcmread(BytesIO(made.data))
    np.testing.assert_array_equal(frames.pixel_array, values)
    for group, source in zip(frames.PerFrameFunctionalGroupsSequence, sources, strict=True):
        assert group.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient


def test_a_presentation_draws_each_region_on_its_image() -> None:
    """One layer for each kind, its name beside the line, on the slice where it is largest."""
    case = case_of("enhanced", "everything")
    (state,) = case.role("gsps")
    assert [item.GraphicLayerDescription for item in state.GraphicLayerSequence] == ["Right letter", "Left ball"]
    for item, key in zip(state.GraphicAnnotationSequence, (LETTER, BALL), strict=True):
        place = int(np.argmax(np.count_nonzero(case.made.masks[key], axis=(1, 2))))
        assert item.ReferencedImageSequence[0].ReferencedFrameNumber == case.made.frames[place]
        assert item.TextObjectSequence[0].UnformattedTextValue.startswith("AI: ")


def test_a_detection_is_drawn_on_every_slice_that_it_touches() -> None:
    """And named once."""
    sources = ct_series()
    profile = Profile(name="p", presentation_state=True, secondary_capture=False)
    made = encode(nodules(sources), context_of(sources, NODULE_CARD), (profile,))
    items = made[-1].dataset.GraphicAnnotationSequence
    assert len(items) == 3 and sum("TextObjectSequence" in item for item in items) == 2


def test_key_images_name_slices_and_results() -> None:
    """Of interest: where each region is largest, then the segmentation, the map and the report."""
    case = case_of("classic", "everything")
    (document,) = case.role("kos")
    named = [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in document.ContentSequence
        if item.ValueType in ("IMAGE", "COMPOSITE")
    ]
    assert named[2:] == [case.role(role)[0].SOPInstanceUID for role in ("seg", "pm", "sr")]
    assert set(named[:2]) <= {header.SOPInstanceUID for header in case.made.headers}


def test_an_x_ray_gets_everything_but_what_needs_a_place_in_the_patient(tmp_path: Path) -> None:
    """Report, pages, presentation and key images; no segmentation and no map."""
    (source,) = ct_series(slices=1)
    source.SOPClassUID, source.Modality = DigitalXRayImageStorageForPresentation, "DX"
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID", "SliceThickness"):
        del source[keyword]
    found = replace(nodules(ct_series()).detections[0], mask=box((source,), slice(0, 1), slice(3, 9), slice(4, 8)))
    context = context_of((source,), NODULE_CARD)
    made = encode(Findings(detections=(found,)), context, (PROFILES["everything"],), PICTURES)
    assert [str(one.role) for one in made] == ["sr", "sc", "sc", "pdf", "gsps", "kos"]
    wrong = []
    for number, one in enumerate(made):
        (tmp_path / f"{number}.dcm").write_bytes(one.data)
        wrong += faults("dciodvfy", said(tool("dciodvfy"), "-new", tmp_path / f"{number}.dcm"))
    assert wrong == []


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.parametrize("profile", ["everything", "fractional", "words", "de", "zh"])
def test_pixelmed_finds_no_error_in_reports(profile: str, tmp_path: Path) -> None:
    """The validator that IHE's tests use, on reports and key image documents."""
    if not PIXELMED.is_file():
        missing("PixelMed")
    case = case_of("classic", profile)
    wrong: list[str] = []
    for one in case.objects:
        if one.role in ("sr", "kos"):
            (tmp_path / "document.dcm").write_bytes(one.data)
            line = ["java", *PIXELMED_LIMITS, "-cp", PIXELMED, "com.pixelmed.validate.DicomSRValidator"]
            wrong += [text for text in said(*line, tmp_path / "document.dcm") if "Error" in text]
    assert wrong == []


def test_a_dataset_is_what_its_bytes_say() -> None:
    """The data set beside the bytes is the same object."""
    for one in case_of("classic", "fractional").objects:
        again: Dataset = dcmread(BytesIO(one.data))
        assert again.SOPInstanceUID == one.sop_uid
