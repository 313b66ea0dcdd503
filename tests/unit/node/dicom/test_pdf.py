"""The printed report as a DICOM document."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from node.dicom.context import Pictures, regions
from node.dicom.encode import encode
from node.dicom.pdf import encode_pdf
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.errors import OutputInvalid
from tests.unit.node.dicom.conftest import LUNG_CARD, context_of, ct_series, two_lungs

PDF = b"%PDF-1.4 odd"


def document(report: bytes = PDF) -> Dataset:
    """Encode *report* and read it back."""
    sources = ct_series()
    context = context_of(sources, LUNG_CARD)
    made = encode_pdf(Pictures(report=report), regions(two_lungs(sources), context), context)
    buffer = BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return dcmread(BytesIO(buffer.getvalue()))


@pytest.mark.parametrize("report", [PDF, PDF + b"d"])
def test_the_document_is_the_report(report: bytes) -> None:
    """Padded to an even length; its true length is said."""
    read = document(report)
    assert read.EncapsulatedDocument[: read.EncapsulatedDocumentLength] == report
    assert len(read.EncapsulatedDocument) % 2 == 0
    assert read.MIMETypeOfEncapsulatedDocument == "application/pdf"


def test_the_document_belongs_to_the_study_and_says_what_it_is() -> None:
    """A blank study date in a document has made a PACS blank that of the study."""
    read, source = document(), ct_series()[0]
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
                    "AccessionNumber", "ReferringPhysicianName", "StudyDescription"):  # fmt: skip
        assert read.get(keyword) == source.get(keyword)
    assert (read.Modality, read.ConversionType, read.BurnedInAnnotation) == ("DOC", "WSD", "YES")
    assert read.DocumentTitle == "AI report: Lung segmentation 1.2.0, research use"
    assert read.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert read.SeriesNumber > 9000 and "BodyPartExamined" not in read
    assert [one.ReferencedSOPInstanceUID for one in read.SourceInstanceSequence] == ["2.25.77.1.3"]


@pytest.mark.parametrize("report", [b"", b"<html>"])
def test_a_missing_report_is_refused(report: bytes) -> None:
    """A profile asks for one; an empty document would look like an empty result."""
    sources = ct_series()
    with pytest.raises(OutputInvalid, match="pdf"):
        encode(two_lungs(sources), context_of(sources), (Profile(pdf=True),), Pictures(report=report))


def test_the_document_comes_last_where_a_profile_wants_it() -> None:
    """Only there."""
    sources = ct_series()
    made = encode(
        two_lungs(sources), context_of(sources), (Profile(), Profile(name="paper", pdf=True, secondary_capture=False)),
        Pictures(pages=(np.zeros((4, 4, 3), np.uint8),), report=PDF),
    )  # fmt: skip
    assert [(one.role, one.profiles) for one in made][-1] == (ResultRole.PDF, {"paper"})
