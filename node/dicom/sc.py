"""Pages as Secondary Capture images: what every PACS shows, whatever else it does not."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from node.dicom import codes
from node.dicom.context import DISCLAIMER, Pictures, Region, ResultContext
from node.dicom.identity import code_item, equip, key_sources, say_side, sop_class, stamp
from node.domain.result import ResultRole


def encode_sc(pictures: Pictures, drawn: Sequence[Region], context: ResultContext) -> tuple[Dataset, ...]:
    """Return one Secondary Capture (PS3.3 A.8.1) for each page: RGB, the warning burned in, one series.

    The first page refers to the key image of every region in *drawn*, each further one to that of its detection.
    """
    return tuple(_page(number, pictures, drawn, context) for number in range(1, len(pictures.pages) + 1))


def _page(number: int, pictures: Pictures, drawn: Sequence[Region], context: ResultContext) -> Dataset:
    pixels = pictures.pages[number - 1]  # (rows, columns, 3)
    page = Dataset()
    page.file_meta = FileMetaDataset()
    page.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    page.SOPClassUID = SecondaryCaptureImageStorage
    page.SOPInstanceUID = context.uid(ResultRole.SC, "instance", number)
    page.SeriesInstanceUID = context.uid(ResultRole.SC, "series")
    page.SeriesNumber, page.InstanceNumber = context.series_number(ResultRole.SC), number
    page.Modality, page.ConversionType = "OT", "WSD"
    page.ImageType = ["DERIVED", "SECONDARY"]
    page.PatientOrientation = None  # several planes stand on one page
    page.BurnedInAnnotation = "YES"
    page.ImageComments = DISCLAIMER
    page.DerivationDescription = codes.plain(f"{DISCLAIMER}; {context.card.name} {context.card.version}", 1024)
    page.SourceImageSequence = [_source(place, context) for place in key_sources(_shown(number, drawn), context)]
    page.SamplesPerPixel, page.PhotometricInterpretation, page.PlanarConfiguration = 3, "RGB", 0
    page.Rows, page.Columns = pixels.shape[:2]
    page.BitsAllocated, page.BitsStored, page.HighBit, page.PixelRepresentation = 8, 8, 7, 0
    raw = pixels.tobytes()
    page.PixelData = raw + b"\x00" * (len(raw) % 2)
    equip(page, context)
    stamp(page, context)
    say_side(page)
    page.DateOfSecondaryCapture, page.TimeOfSecondaryCapture = page.ContentDate, page.ContentTime
    return page


def _shown(number: int, drawn: Sequence[Region]) -> Sequence[Region]:
    """The regions of a page: all on the first, then one detection on each, the highest score first."""
    if number == 1:
        return drawn
    found = sorted((one for one in drawn if one.detection), key=lambda one: -_score(one))
    return found[number - 2 : number - 1]


def _score(region: Region) -> float:
    return region.detection.score if region.detection else 0.0


def _source(place: int, context: ResultContext) -> Dataset:
    source = context.sources[place]
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class(source), source.SOPInstanceUID
    if context.frames:
        item.ReferencedFrameNumber = context.frames[place]
    item.PurposeOfReferenceCodeSequence = [code_item(dictionary.DCM.SourceImageForImageProcessingOperation)]
    return item
