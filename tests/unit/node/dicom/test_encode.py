"""The result set as a whole: identity, order, sameness."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models.contract import Card, Findings
from node.dicom.codes import plain
from node.dicom.context import NodeIdentity
from node.dicom.encode import encode
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.errors import OutputInvalid
from tests.unit.node.dicom.conftest import LUNG_CARD, NODULE_CARD, box, context_of, ct_series, nodules, two_lungs


def reread(sources: tuple[Dataset, ...], **changes: object) -> list[Dataset]:
    """Encode two lungs, pass the gate, read the bytes back."""
    context = context_of(sources, **changes)  # type: ignore[arg-type]
    findings = two_lungs(sources)
    objects = encode(findings, context)
    return [dcmread(BytesIO(obj.data)) for obj in objects]


def test_the_segmentation_comes_before_the_report_that_refers_to_it(sources: tuple[Dataset, ...]) -> None:
    """Results are sent in this order."""
    roles = [obj.role for obj in encode(two_lungs(sources), context_of(sources))]
    assert roles == [ResultRole.SEG, ResultRole.SR]


@pytest.mark.parametrize(
    ("columns", "always", "kind"), [(24, False, "BINARY"), (23, False, "FRACTIONAL"), (23, True, "BINARY")]
)
def test_frames_of_bits_end_where_bytes_do(columns: int, always: bool, kind: str) -> None:
    """Where 21 rows do not make it so, a byte for each voxel is sent, unless the peer is known to be right."""
    sources = ct_series(rows=21, columns=columns)
    seg = encode(two_lungs(sources), context_of(sources), (Profile(name="p", binary_always=always),))[0]
    assert dcmread(BytesIO(seg.data)).SegmentationType == kind


@pytest.mark.parametrize("card", [LUNG_CARD, NODULE_CARD], ids=lambda card: card.name)
def test_the_same_work_makes_the_same_bytes(card: Card) -> None:
    """From sources read twice: no clock, no chance, no order of a set shows."""
    make = two_lungs if card is LUNG_CARD else nodules
    twice = []
    for _ in range(2):
        sources = ct_series()
        twice.append([obj.data for obj in encode(make(sources), context_of(sources, card))])
    assert twice[0] == twice[1]


@pytest.mark.parametrize(
    "change", [{"revision": 2}, {"input_digest": "other"}, {"model_digest": "other"}], ids=lambda c: next(iter(c))
)
def test_other_work_makes_other_objects(sources: tuple[Dataset, ...], change: dict[str, object]) -> None:
    """Revision, input and model each give new UIDs to everything."""
    for before, after in zip(reread(sources), reread(sources, **change), strict=True):
        assert before.SOPInstanceUID != after.SOPInstanceUID and before.SeriesInstanceUID != after.SeriesInstanceUID


def test_another_node_makes_other_objects(sources: tuple[Dataset, ...]) -> None:
    """Two nodes beside one PACS do not collide; a site's own root is used."""
    node = NodeIdentity(node_id="other", serial="2", software_version="1", uid_root="1.2.3.4")
    for dataset in reread(sources, node=node):
        assert dataset.SOPInstanceUID.startswith("1.2.3.4.") and dataset.DeviceSerialNumber == "2"


def test_patient_and_study_are_those_of_the_source(sources: tuple[Dataset, ...]) -> None:
    """A derived object that differs splits or poisons the study in a PACS."""
    for dataset in reread(sources):
        for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID",
                        "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "StudyDescription",
                        "ReferringPhysicianName", "SpecificCharacterSet"):  # fmt: skip
            assert dataset.get(keyword) == sources[0].get(keyword)


def test_times_are_those_of_the_settled_study(sources: tuple[Dataset, ...]) -> None:
    """On the clock of the source, where it says one."""
    for dataset in reread(sources):
        assert (dataset.ContentDate, dataset.ContentTime) == ("20260304", "050607")
        assert (dataset.SeriesDate, dataset.InstanceCreationTime) == ("20260304", "050607")
    for source in sources:
        source.TimezoneOffsetFromUTC = "-0830"
    for dataset in reread(sources):
        assert (dataset.ContentDate, dataset.ContentTime) == ("20260303", "203607")


def test_series_sort_behind_the_acquired_ones_and_say_what_they_are(sources: tuple[Dataset, ...]) -> None:
    """The number depends on the model and the role alone; the description fits its 64 characters."""
    seg, report = reread(sources)
    assert 9000 <= seg.SeriesNumber < report.SeriesNumber < seg.SeriesNumber + 10
    assert {seg.SeriesDescription, report.SeriesDescription} == {"AI Lung segmentation 1.2.0"}
    long = context_of(sources, replace(LUNG_CARD, title="long " * 30)).series_description
    assert len(long) <= 64 and long.endswith(" 1.2.0")


@pytest.mark.parametrize("absent", ["PatientName", "PatientID", "PatientSex", "StudyID", "StudyDate"])
def test_identity_that_the_source_lacks_is_empty(sources: tuple[Dataset, ...], absent: str) -> None:
    """Type 2: there, without a value."""
    for source in sources:
        del source[absent]
    for dataset in reread(sources):
        assert absent in dataset and not dataset[absent].value


def test_odd_values_of_the_source_are_kept(sources: tuple[Dataset, ...]) -> None:
    """A sex or an age outside the standard's terms is not ours to mend."""
    for source in sources:
        source.PatientSex, source.PatientName = "X", "ONENAME"
    for dataset in reread(sources):
        assert (dataset.PatientSex, dataset.PatientName) == ("X", "ONENAME")


@pytest.mark.parametrize(("charset", "raw", "declared"), [
    ("ISO_IR 192", "Müller^Jörg".encode(), "ISO_IR 192"),
    ("", "Müller^Jörg".encode(), "ISO_IR 192"),
    ("", "Müller^Jörg".encode("latin-1"), "ISO_IR 100"),
    ("ISO_IR 144", "Люкceмбypг".encode("iso8859_5"), "ISO_IR 144"),
])  # fmt: skip
def test_names_keep_their_bytes(sources: tuple[Dataset, ...], charset: str, raw: bytes, declared: str) -> None:
    """And text that came without a character set gets the one that it most likely is in."""
    named = tuple(_with_raw_name(source, charset, raw) for source in sources)
    for dataset in reread(named):
        buffer = dataset.get_item("PatientName")
        assert bytes(buffer.value).rstrip() == raw
        assert dataset.SpecificCharacterSet == declared


def _with_raw_name(source: Dataset, charset: str, raw: bytes) -> Dataset:
    """Return *source* as read from a file whose name has these bytes."""
    source.SpecificCharacterSet = charset or None
    source.PatientName, source.ReferringPhysicianName = "N" * len(raw), ""
    buffer = BytesIO()
    source.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue().replace(b"N" * len(raw), raw)))


def test_a_plain_name_needs_no_character_set(sources: tuple[Dataset, ...]) -> None:
    """Absent in the source, absent in the result."""
    for source in sources:
        del source.SpecificCharacterSet
        source.PatientName, source.ReferringPhysicianName = "Plain^Name", ""
    assert all("SpecificCharacterSet" not in dataset for dataset in reread(sources))


def test_scanner_and_library_are_named_as_contributors(sources: tuple[Dataset, ...]) -> None:
    """A scanner without a maker's name is left out: the standard wants one."""
    assert reread(sources)[0].ContributingEquipmentSequence[0].Manufacturer == "Maker"
    for source in sources:
        source.Manufacturer = ""
    assert len(reread(sources)[1].ContributingEquipmentSequence) == 1


def test_results_say_that_they_are_research(sources: tuple[Dataset, ...]) -> None:
    """ContentQualification, and the words in the segmentation's description."""
    seg, report = reread(sources)
    assert seg.ContentQualification == report.ContentQualification == "RESEARCH"
    assert "not for clinical use" in seg.ContentDescription


def test_a_sop_class_said_only_in_the_file_header_is_found(sources: tuple[Dataset, ...]) -> None:
    """Anonymisers are met that empty it in the data set."""
    for source in sources:
        source.file_meta.MediaStorageSOPClassUID, source.SOPClassUID = source.SOPClassUID, ""
    item = reread(sources)[0].ReferencedSeriesSequence[0].ReferencedInstanceSequence[0]
    assert item.ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing", "SOPClassUID"])
def test_sources_without_geometry_are_refused_by_name(sources: tuple[Dataset, ...], keyword: str) -> None:
    """The reason says what is missing, not where the library stumbled."""
    del sources[0][keyword]
    with pytest.raises(OutputInvalid, match=r"SOP Class|lacks " + keyword):
        encode(two_lungs(sources), context_of(sources))


def test_organs_and_detections_share_one_segmentation(sources: tuple[Dataset, ...]) -> None:
    """Organs first."""
    card = replace(NODULE_CARD, segments=(*NODULE_CARD.segments, *LUNG_CARD.segments))
    findings = Findings(segments=two_lungs(sources).segments, detections=nodules(sources).detections)
    context = context_of(sources, card)
    objects = encode(findings, context)
    labels = [segment.SegmentLabel for segment in objects[0].dataset.SegmentSequence]
    assert labels == ["Right lung", "Left lung", "Lung nodule 1", "Lung nodule 2"]


def test_masks_off_the_grid_are_refused_before_anything_is_encoded(sources: tuple[Dataset, ...]) -> None:
    """One slice short."""
    findings = two_lungs(sources[:-1])
    with pytest.raises(OutputInvalid, match="right-lung"):
        encode(findings, context_of(sources))


def test_a_context_without_a_time_zone_is_refused(sources: tuple[Dataset, ...]) -> None:
    """A naive time would depend on the machine."""
    with pytest.raises(ValueError, match="time zone"):
        context_of(sources, at=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None))


def test_our_own_text_is_ascii_without_backslash() -> None:
    """Backslash parts values in DICOM; accents are dropped, the rest is marked."""
    assert plain("Größe ≥ 4 µm\nÉcho\\日") == "Grosse >= 4 um Echo??"
    assert plain("abc  def ", 4) == "abc"


def test_boxes_are_made_as_asked(sources: tuple[Dataset, ...]) -> None:
    """The maker of test masks counts as it should."""
    assert np.count_nonzero(box(sources, slice(0, 2), slice(0, 3), slice(0, 4))) == 24
