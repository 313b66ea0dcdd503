"""Coded concepts and plain text as our results write them."""

from __future__ import annotations

import re
import unicodedata

from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from models import contract

# What pydicom's dictionary has, by its name; the rest by value, with its home.
ARTIFICIAL_INTELLIGENCE = codes.DCM.ArtificialIntelligence  # CID 7162, algorithm families
FINDING = codes.DCM.Finding
COMMENT = codes.DCM.Comment
IMAGING_MEASUREMENT_REPORT = codes.DCM.ImagingMeasurementReport
IMAGING_MEASUREMENTS = codes.DCM.ImagingMeasurements
PROCEDURE_REPORTED = codes.DCM.ProcedureReported
CERTAINTY = codes.DCM.CertaintyOfFinding  # a device's own certainty about one finding, in percent
QUALITATIVE_EVALUATIONS = Code("C0034375", "UMLS", "Qualitative Evaluations")  # TID 1500
VOLUME = Code("118565006", "SCT", "Volume")
DIAMETER = Code("81827009", "SCT", "Diameter")
LONG_AXIS = Code("103339001", "SCT", "Long Axis")  # CID 7470
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")
ATTENUATION = codes.DCM.AttenuationCoefficient
DERIVATION = codes.DCM.Derivation
MEAN = Code("373098007", "SCT", "Mean")  # CID 7464
DEVIATION = Code("386136009", "SCT", "Standard Deviation")
MINIMUM = Code("255605001", "SCT", "Minimum")
MAXIMUM = Code("56851009", "SCT", "Maximum")
ANATOMICAL_STRUCTURE = "123037004"  # SCT, the category (CID 7150) of what every body has
ABSENT = Code("272519000", "SCT", "Absent")  # CID 240
LEFT = Code("7771000", "SCT", "Left")
RIGHT = Code("24028007", "SCT", "Right")
MILLILITRE = Code("ml", "UCUM", "ml")
MILLIMETRE = Code("mm", "UCUM", "mm")
HOUNSFIELD = Code("[hnsf'U]", "UCUM", "Hounsfield unit")
PERCENT = Code("%", "UCUM", "%")

#: Procedure reported: the members of CID 100 that name no body part.
_PROCEDURES = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
    "NM": Code("49118-3", "LN", "NM unspecified body region"),
    "CR": Code("43468-8", "LN", "XR unspecified body region"),
    "DX": Code("43468-8", "LN", "XR unspecified body region"),
}
_IMAGING_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")

_SPELLED = str.maketrans(
    {"≥": ">=", "≤": "<=", "–": "-", "—": "-", "’": "'", "µ": "u", "×": "x", "±": "+/-", "ß": "ss"}
)


def procedure(modality: str) -> Code:
    """Return the procedure reported (CID 100) for sources of *modality*."""
    return _PROCEDURES.get(modality, _IMAGING_PROCEDURE)


def concept(code: contract.Code) -> CodedConcept:
    """Return a model's code as a coded concept."""
    return CodedConcept(code.value, code.scheme, code.meaning)


def cielab(colour: tuple[int, int, int]) -> CIELabColor:
    """Return an sRGB colour (0 to 255 each) as PS3.3 C.10.7.1.1 writes it: three unsigned 16-bit CIELab values."""
    return CIELabColor.from_rgb(*colour)


def plain(text: str, limit: int | None = None) -> str:
    """Return *text* in printable ASCII without backslash, at most *limit* characters.

    The character set of a result is its source's, whatever that is: ASCII is the part that all of them can write.
    """
    folded = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    letters = "".join(c for c in folded if not unicodedata.combining(c))
    ascii_only = re.sub(r"[^ -~]|\\", "?", re.sub(r"\s+", " ", letters))
    return ascii_only[:limit].strip()
