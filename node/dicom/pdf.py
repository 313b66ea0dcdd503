"""The printed report as an Encapsulated PDF: a document of the study, for people."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from node.dicom import codes
from node.dicom.context import Pictures, Region, ResultContext
from node.dicom.identity import code_item, equip, key_sources, sop_class, stamp
from node.domain.result import ResultRole
from node.errors import OutputInvalid


def encode_pdf(pictures: Pictures, drawn: Sequence[Region], context: ResultContext) -> Dataset:
    """Return the report of *pictures* as an Encapsulated PDF (PS3.3 A.45.1) that names the key images of *drawn*.

    Raises OutputInvalid where there is no report, or where it is no PDF.
    """
    if not pictures.report:
        raise OutputInvalid("pdf: the profile asks for a report, and none was printed")
    if not pictures.report.startswith(b"%PDF-"):
        raise OutputInvalid("pdf: the report is no PDF")
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.SOPClassUID = EncapsulatedPDFStorage
    document.SOPInstanceUID = context.uid(ResultRole.PDF, "instance")
    document.SeriesInstanceUID = context.uid(ResultRole.PDF, "series")
    document.SeriesNumber, document.InstanceNumber = context.series_number(ResultRole.PDF), 1
    document.Modality, document.ConversionType = "DOC", "WSD"
    document.BurnedInAnnotation = "YES"
    document.AcquisitionDateTime = None
    document.SourceInstanceSequence = [_source(place, context) for place in key_sources(drawn, context)]
    document.DocumentTitle = codes.plain(f"AI report: {context.card.title} {context.card.version}, research use", 1024)
    document.ConceptNameCodeSequence = [code_item(codes.IMAGING_MEASUREMENT_REPORT)]
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.EncapsulatedDocument = pictures.report + b"\x00" * (len(pictures.report) % 2)
    document.EncapsulatedDocumentLength = len(pictures.report)  # without the padding (PS3.3 C.24.2)
    equip(document, context)
    stamp(document, context)
    return document


def _source(place: int, context: ResultContext) -> Dataset:
    source = context.sources[place]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class(source), source.SOPInstanceUID
    return item
