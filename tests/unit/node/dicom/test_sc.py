"""Secondary Captures: the pages, pixel by pixel, in a form that every PACS shows."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.contract import Findings
from node.dicom.context import Pictures, regions
from node.dicom.encode import encode
from node.dicom.sc import encode_sc
from node.domain.profile import Profile
from node.domain.result import ResultRole
from tests.unit.node.dicom.conftest import LUNG_CARD, NODULE_CARD, context_of, ct_series, nodules, two_lungs


def pages(count: int) -> Pictures:
    """So many pages of noise, of an odd number of bytes each."""
    rng = np.random.default_rng(3)
    return Pictures(pages=tuple(rng.integers(0, 256, (9, 11, 3), np.uint8) for _ in range(count)))


def reread(dataset: Dataset) -> Dataset:
    """Write and read back."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


def captures(findings: Findings, count: int = 1, **changes: object) -> list[Dataset]:
    """Encode pages of *findings* and read them back."""
    context = context_of(ct_series(), NODULE_CARD if findings.detections else LUNG_CARD, **changes)
    return [reread(one) for one in encode_sc(pages(count), regions(findings, context), context)]


def test_pixels_are_those_of_the_pages() -> None:
    """8 bit RGB, red first; the padding byte is not shown."""
    for dataset, page in zip(captures(two_lungs(ct_series()), 3), pages(3).pages, strict=True):
        assert (dataset.pixel_array == page).all()
        assert (dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PlanarConfiguration) == ("RGB", 8, 0)
        assert len(dataset.PixelData) % 2 == 0


def test_pages_are_one_series_in_their_order() -> None:
    """Numbered from 1, behind the acquired series."""
    made = captures(two_lungs(ct_series()), 3)
    assert [int(one.InstanceNumber) for one in made] == [1, 2, 3]
    assert len({one.SeriesInstanceUID for one in made}) == 1 and len({one.SOPInstanceUID for one in made}) == 3
    assert made[0].SeriesNumber > 9000 and made[0].SeriesDescription == "AI Lung segmentation 1.2.0"


def test_a_page_says_that_it_is_drawn_by_an_ai_and_has_words_burned_in() -> None:
    """In the attributes that viewers show."""
    (one,) = captures(two_lungs(ct_series()))
    assert (one.ConversionType, one.Modality, one.BurnedInAnnotation) == ("WSD", "OT", "YES")
    assert "not for clinical use; ct-lungs 1.2.0" in one.DerivationDescription
    assert one.ContentQualification == "RESEARCH" and one.ImageType[0] == "DERIVED"
    assert "PatientOrientation" in one and not one.PatientOrientation
    assert (one.PatientName, one.StudyInstanceUID, one.StudyDescription) == ("Müller^Jörg", "2.25.77", "Thorax")
    assert (one.ContentDate, one.DateOfSecondaryCapture) == ("20260304", "20260304")


def test_each_page_refers_to_the_images_that_show_what_it_shows() -> None:
    """The first to all key images, each further one to that of its detection, the highest score first."""
    found = nodules(ct_series())
    first, second = found.detections
    turned = replace(found, detections=(replace(first, score=0.2), second))
    numbers = [
        [int(source.ReferencedSOPInstanceUID.rsplit(".")[-1]) for source in page.SourceImageSequence]
        for page in captures(turned, 3)
    ]
    assert numbers == [[3, 5], [5], [3]]


def test_frames_of_a_multi_frame_source_are_named() -> None:
    """The instance alone would not lead to the slice."""
    (one,) = captures(nodules(ct_series()), frames=tuple(range(11, 18)))
    assert [int(source.ReferencedFrameNumber) for source in one.SourceImageSequence] == [13, 15]


def test_nothing_found_refers_to_the_middle() -> None:
    """A page is of some image always."""
    (one,) = captures(Findings())
    assert [source.ReferencedSOPInstanceUID for source in one.SourceImageSequence] == ["2.25.77.1.4"]


@pytest.mark.parametrize(("part", "side", "wanted"), [
    ("CHEST", None, None), ("CHEST", "L", None), ("KNEE", "R", "R"), ("KNEE", None, ""), (None, None, ""),
])  # fmt: skip
def test_only_a_paired_body_part_has_a_side(part: str | None, side: str | None, wanted: str | None) -> None:
    """Laterality (2C): the source's own, empty where nobody knows, absent where there is one of it."""
    sources = ct_series()
    for source in sources:
        source.BodyPartExamined = part
        if side:
            source.Laterality = side
    (one,) = (reread(made) for made in encode_sc(pages(1), [], context_of(sources)))
    assert ("Laterality" in one) is (wanted is not None)
    assert wanted is None or (one.Laterality or "") == wanted


def test_pages_follow_the_report_where_a_profile_wants_them() -> None:
    """And the same bytes each time."""
    twice = []
    for _ in range(2):
        sources = ct_series()
        both = [Profile(), Profile(name="words", secondary_capture=False)]
        twice.append(encode(nodules(sources), context_of(sources, NODULE_CARD), both, pages(2)))
    roles = [one.role for one in twice[0]]
    assert roles == [ResultRole.SEG, ResultRole.SR, ResultRole.SC, ResultRole.SC]
    assert all(one.profiles == {"default"} for one in twice[0] if one.role is ResultRole.SC)
    assert [one.dataset for one in twice[0]] == [one.dataset for one in twice[1]]
