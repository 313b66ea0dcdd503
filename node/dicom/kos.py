"""The images to look at as a Key Object Selection (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage

from node.dicom import codes
from node.dicom.context import DISCLAIMER, Region, ResultContext
from node.dicom.identity import check_source, code_item, equip, key_sources, sop_class, stamp
from node.domain.result import ResultRole


def encode_kos(drawn: Sequence[Region], made: Sequence[Dataset], context: ResultContext) -> Dataset:
    """Return a selection "Of Interest": where each region is largest, and the results *made* of the same findings."""
    for source in context.sources:
        check_source(source, ())
    document = Dataset()
    document.file_meta = FileMetaDataset()
    document.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    document.SOPClassUID = KeyObjectSelectionDocumentStorage
    variant = ",".join(str(one.SOPInstanceUID) for one in made)  # what it names is part of it
    document.SOPInstanceUID = context.uid(ResultRole.KOS, variant, "instance")
    document.SeriesInstanceUID = context.uid(ResultRole.KOS, variant, "series")
    document.SeriesNumber, document.InstanceNumber = context.series_number(ResultRole.KOS), 1
    document.Modality = "KO"
    document.ReferencedPerformedProcedureStepSequence = []
    places = key_sources(drawn, context)
    document.CurrentRequestedProcedureEvidenceSequence = [_evidence(places, made, context)]
    document.ValueType, document.ContinuityOfContent = "CONTAINER", "SEPARATE"
    document.ConceptNameCodeSequence = [code_item(dictionary.DCM.OfInterest)]
    template = Dataset()
    template.MappingResource, template.TemplateIdentifier = "DCMR", "2010"
    document.ContentTemplateSequence = [template]
    said = codes.plain(f"{DISCLAIMER}. {context.card.title}, {context.card.name} {context.card.version}", 1024)
    document.ContentSequence = [_text(said), *(_image(place, context) for place in places), *map(_result, made)]
    equip(document, context)
    stamp(document, context)
    return document


def _text(words: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", words
    item.ConceptNameCodeSequence = [code_item(dictionary.DCM.KeyObjectDescription)]
    return item


def _image(place: int, context: ResultContext) -> Dataset:
    source = context.sources[place]
    frame = context.frames[place] if context.frames else None
    return _reference("IMAGE", sop_class(source), str(source.SOPInstanceUID), frame)


def _result(made: Dataset) -> Dataset:
    """Images are referred to as images, reports as composite objects."""
    kind = "IMAGE" if "Rows" in made else "COMPOSITE"
    return _reference(kind, str(made.SOPClassUID), str(made.SOPInstanceUID), None)


def _reference(kind: str, sop: str, uid: str, frame: int | None) -> Dataset:
    named = Dataset()
    named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID = sop, uid
    if frame is not None:
        named.ReferencedFrameNumber = frame
    item = Dataset()
    item.RelationshipType, item.ValueType, item.ReferencedSOPSequence = "CONTAINS", kind, [named]
    return item


def _evidence(places: Sequence[int], made: Sequence[Dataset], context: ResultContext) -> Dataset:
    """Every instance that the document names, by series (PS3.3 C.17.6.2.1)."""
    study = Dataset()
    study.StudyInstanceUID = context.sources[0].StudyInstanceUID
    by_series: dict[str, dict[str, str]] = {}
    for source in (context.sources[place] for place in places):
        by_series.setdefault(str(source.SeriesInstanceUID), {})[str(source.SOPInstanceUID)] = sop_class(source)
    for one in made:
        by_series.setdefault(str(one.SeriesInstanceUID), {})[str(one.SOPInstanceUID)] = str(one.SOPClassUID)
    study.ReferencedSeriesSequence = []
    for uid, instances in by_series.items():
        series = Dataset()
        series.SeriesInstanceUID, series.ReferencedSOPSequence = uid, []
        for instance, kind in instances.items():
            named = Dataset()
            named.ReferencedSOPClassUID, named.ReferencedSOPInstanceUID = kind, instance
            series.ReferencedSOPSequence.append(named)
        study.ReferencedSeriesSequence.append(series)
    return study
