"""Whose result it is and who made it: what every result copies from its source or from the node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

from highdicom import __version__ as highdicom_version
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import PersonName

from node.dicom.codes import plain
from node.dicom.context import Region, ResultContext
from node.dicom.outline import largest_slice
from node.errors import OutputInvalid

#: Type 2: present in every result, empty where the source does not say.
REQUIRED_IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
#: Patient, General Study, Patient Study and Clinical Trial modules (PS3.3 C.7.1 and C.7.2), copied where present as
#: they stand, even where a value breaks a rule: a PACS takes any difference between instances for another patient.
IDENTITY = (
    "StudyInstanceUID", *REQUIRED_IDENTITY, "TimezoneOffsetFromUTC", "StudyDescription", "PatientAge",
    "IssuerOfPatientID", "IssuerOfPatientIDQualifiersSequence", "TypeOfPatientID", "PatientBirthTime",
    "OtherPatientIDsSequence", "OtherPatientNames", "EthnicGroup", "PatientComments",
    "PatientSpeciesDescription", "PatientSpeciesCodeSequence", "PatientBreedDescription", "ResponsiblePerson",
    "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence",
    "LongitudinalTemporalInformationModified",
    "IssuerOfAccessionNumberSequence", "PhysiciansOfRecord", "ProcedureCodeSequence",
    "PatientSize", "PatientWeight", "PatientSexNeutered", "AdmittingDiagnosesDescription",
    "AdditionalPatientHistory", "PregnancyStatus", "SmokingStatus", "Occupation", "AdmissionID", "ServiceEpisodeID",
    "ClinicalTrialSponsorName", "ClinicalTrialProtocolID", "ClinicalTrialProtocolName", "ClinicalTrialSiteID",
    "ClinicalTrialSiteName", "ClinicalTrialSubjectID", "ClinicalTrialSubjectReadingID", "ClinicalTrialTimePointID",
    "ClinicalTrialTimePointDescription",
)  # fmt: skip
_NAMED = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
_SIZE = ("Rows", "Columns")
_GEOMETRY = (
    *_SIZE, "FrameOfReferenceUID", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing",
)  # fmt: skip
_LOSS = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
_EQUIPMENT = (
    "Manufacturer", "ManufacturerModelName", "SoftwareVersions", "DeviceSerialNumber", "InstitutionName", "StationName",
)  # fmt: skip
_DOCUMENTS = frozenset({"SR", "DOC", "KO"})  # modalities of what has no body part
#: Defined terms of Body Part Examined (PS3.16 annex L) of which the body has one.
_UNPAIRED = frozenset({
    "ABDOMEN", "ABDOMENPELVIS", "AORTA", "BACK", "BLADDER", "BRAIN", "CEREBELLUM", "CERVIX", "CHEST", "CHESTABDOMEN",
    "CHESTABDPELVIS", "CIRCLEOFWILLIS", "COCCYX", "COLON", "CORONARYARTERY", "CSPINE", "CTSPINE", "DUODENUM",
    "ESOPHAGUS", "FACE", "GALLBLADDER", "HEAD", "HEADNECK", "HEART", "ILEUM", "JAW", "JEJUNUM", "LARYNX", "LIVER",
    "LSPINE", "LSSPINE", "MEDIASTINUM", "MOUTH", "NECK", "NECKCHEST", "NECKCHESTABDOMEN", "NECKCHESTABDPELV", "NOSE",
    "PANCREAS", "PELVIS", "PENIS", "PHARYNX", "PROSTATE", "RECTUM", "SCALP", "SKULL", "SPINE", "SPLEEN", "SSPINE",
    "STERNUM", "STOMACH", "THYMUS", "THYROID", "TLSPINE", "TONGUE", "TRACHEA", "TSPINE", "URETHRA", "UTERUS",
    "VAGINA", "VULVA", "WHOLEBODY",
})  # fmt: skip
_TEXT = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # what Specific Character Set governs (PS3.5 6.1.2.3)


def sop_class(source: Dataset) -> str:
    """Return the SOP Class of *source*, from its file meta information where the data set itself leaves it out."""
    meta = getattr(source, "file_meta", Dataset())
    found = str(source.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
    if not found:
        raise OutputInvalid(f"source {source.SOPInstanceUID} does not say its SOP Class")
    return found


def check_source(source: Dataset, needed: Sequence[str] = _GEOMETRY) -> None:
    """Refuse a *source* that lacks what a result about it has to say."""
    sop_class(source)
    for keyword in (*_NAMED, *needed):
        if source.get(keyword) in (None, ""):
            raise OutputInvalid(f"source {source.get('SOPInstanceUID')} lacks {keyword}")


def skeleton(source: Dataset, *, placed: bool = True) -> Dataset:
    """Return the part of *source* that the encoding library looks at, with an empty identity.

    The library fails on absent type 2 attributes and on odd values; the true identity is written by `stamp`.
    Without *placed* the source need not say where it lies in the patient.
    """
    needed = _GEOMETRY if placed else _SIZE
    check_source(source, needed)
    bare = Dataset()
    bare.SOPClassUID = sop_class(source)
    for keyword in (*_NAMED, *needed):
        bare.add(deepcopy(source[keyword]))
    for keyword in (*_LOSS, "PositionReferenceIndicator"):
        if source.get(keyword) not in (None, ""):
            bare.add(deepcopy(source[keyword]))
    for keyword in REQUIRED_IDENTITY:
        setattr(bare, keyword, None)
    return bare


def stamp(result: Dataset, context: ResultContext, *, library: bool = False) -> None:
    """Give *result* the patient and study of its source, its contributors, and times that a rerun repeats.

    *library*: highdicom made the content, and is named.
    """
    source = context.sources[0]
    _copy_identity(source, result)
    for keyword in ("BodyPartExamined", "Laterality"):
        if result.Modality not in _DOCUMENTS and source.get(keyword) not in (None, ""):
            result.add(deepcopy(source[keyword]))
    date, time = f"{context.local_time:%Y%m%d}", f"{context.local_time:%H%M%S}"
    for moment in ("Content", "Series", "InstanceCreation"):
        setattr(result, f"{moment}Date", date)
        setattr(result, f"{moment}Time", time)
    result.SeriesDescription = context.series_description
    result.ContentQualification = context.card.qualification  # (0018,9004): Standard Extended in SEG and SR
    result.ContributingEquipmentSequence = [*_scanner(source), *([_library(context)] if library else [])]
    if not result.ContributingEquipmentSequence:
        del result.ContributingEquipmentSequence


def equip(result: Dataset, context: ResultContext) -> None:
    """Name the node as the equipment that made *result* (PS3.3 C.7.5.1, C.7.5.2)."""
    result.Manufacturer = plain(context.node.manufacturer, 64)
    result.ManufacturerModelName = plain(context.node.model_name, 64)
    result.SoftwareVersions = plain(context.node.software_version, 64)
    result.DeviceSerialNumber = plain(context.node.serial, 64)


def key_sources(drawn: Sequence[Region], context: ResultContext) -> tuple[int, ...]:
    """Return the slices to look at: where each region is largest; the middle one where nothing is drawn."""
    largest = {largest_slice(region.mask) for region in drawn}
    return tuple(sorted(largest)) or (len(context.sources) // 2,)


def referenced_series(context: ResultContext) -> Dataset:
    """Return all sources by name (PS3.3 C.12.4): what was looked at, drawn on or not; multi-frame images once."""
    series = Dataset()
    series.SeriesInstanceUID = context.sources[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for uid, source in {str(one.SOPInstanceUID): one for one in context.sources}.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class(source), uid
        series.ReferencedInstanceSequence.append(item)
    return series


def say_side(result: Dataset) -> None:
    """Let *result* have Laterality as General Series wants it (PS3.3 C.7.3.1, type 2C): of a paired body part only.

    It is empty, which is to say unknown, where the source names neither a side nor a body part that is single. Not for
    classes that say it per frame, such as Segmentation.
    """
    if str(result.get("BodyPartExamined") or "").upper() in _UNPAIRED:
        if "Laterality" in result:
            del result.Laterality
    elif "Laterality" not in result:
        result.Laterality = None


def _copy_identity(source: Dataset, result: Dataset) -> None:
    for keyword in IDENTITY:
        if keyword in result:
            del result[keyword]
        if keyword in source:
            result.add(deepcopy(source[keyword]))
        elif keyword in REQUIRED_IDENTITY:
            setattr(result, keyword, None)
    stated = "DeidentificationMethod" in result or "DeidentificationMethodCodeSequence" in result
    if result.get("PatientIdentityRemoved") == "YES" and not stated:
        result.DeidentificationMethod = "Not stated by the source"  # type 1C (PS3.3 C.7.1.1): one of both must stand
    if source.get("SpecificCharacterSet"):
        result.add(deepcopy(source["SpecificCharacterSet"]))
    else:
        _declare_character_set(result)


def _declare_character_set(result: Dataset) -> None:
    """Where the source wrote non-ASCII text without saying how, say what it most likely is; its bytes stay.

    The library has read such text as Latin-1, which keeps every byte. Bytes that are valid UTF-8 are taken for
    that, all others for Latin-1.
    """
    if "SpecificCharacterSet" in result:
        del result.SpecificCharacterSet
    foreign = [element for element in _texts(result) if not _joined(element).isascii()]
    if not foreign:
        return
    result.SpecificCharacterSet = "ISO_IR 100"
    try:
        decoded = [_joined(element).encode("latin-1").decode("utf-8") for element in foreign]
    except UnicodeError:
        return
    result.SpecificCharacterSet = "ISO_IR 192"
    for element, text in zip(foreign, decoded, strict=True):
        values = text.split("\\") if element.VR in ("LO", "SH", "PN", "UC") else [text]
        made = [PersonName(v, ["utf-8"]) if element.VR == "PN" else v for v in values]
        element.value = made if len(made) > 1 else made[0]


def _texts(dataset: Dataset) -> Iterator[DataElement]:
    return (element for element in dataset.iterall() if element.VR in _TEXT and element.value)


def _joined(element: DataElement) -> str:
    """The element's text as one string, its values parted by backslashes as in the file."""
    values = element.value if element.VM > 1 else [element.value]
    return "\\".join(str(value) for value in values)


def _scanner(source: Dataset) -> Iterator[Dataset]:
    """The scanner as a contributor, where it has a name (PS3.3 C.12.1)."""
    if source.get("Manufacturer"):
        scanner = Dataset()
        for keyword in _EQUIPMENT:
            if source.get(keyword):
                scanner.add(deepcopy(source[keyword]))
        scanner.ContributionDescription = "Acquisition equipment of the source images"
        scanner.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.AcquisitionEquipment)]
        yield scanner


def _library(context: ResultContext) -> Dataset:
    library = Dataset()
    library.Manufacturer, library.ManufacturerModelName = "Highdicom open-source contributors", "highdicom"
    library.SoftwareVersions = highdicom_version
    library.ContributionDateTime = f"{context.at:%Y%m%d%H%M%S%z}"
    library.ContributionDescription = "Software library that encoded this instance"
    library.PurposeOfReferenceCodeSequence = [code_item(codes.DCM.ProcessingEquipment)]
    return library


def code_item(code: object) -> Dataset:
    """Return a code as an item of a code sequence (PS3.3 section 8.8)."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = (
        getattr(code, name) for name in ("value", "scheme_designator", "meaning")
    )
    return item
