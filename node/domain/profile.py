"""Result profiles: in which DICOM objects a destination is told what was found, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: The profile of a peer that names none.
DEFAULT = "default"


class SegType(StrEnum):
    """How regions are drawn in a Segmentation."""

    NONE = "none"
    BINARY = "binary"  #: one bit per voxel: read by every viewer that reads any
    FRACTIONAL = "fractional"  #: 8 bits, only 0 and the maximum: for servers that fail on columns % 8 != 0
    LABELMAP = "labelmap"  #: one number per voxel: small, but painted in wrong colours by released viewers


class SrClass(StrEnum):
    """The storage class of the report; its content is the same."""

    NONE = "none"
    COMPREHENSIVE_3D = "comprehensive-3d"  #: what IHE AIR asks for
    COMPREHENSIVE = "comprehensive"  #: for systems that do not take the other


class Split(StrEnum):
    """How a large set of segments is spread over several Segmentations."""

    NONE = "none"
    ANATOMY = "anatomy"  #: one instance per category and body part of its segments


class Language(StrEnum):
    """The language of code meanings (RFC 5646); codes are the same in all."""

    ENGLISH = "en"
    GERMAN = "de"
    FRENCH = "fr"
    SPANISH = "es"
    CHINESE = "zh"


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What one kind of destination is sent."""

    name: str = DEFAULT
    seg: SegType = SegType.BINARY
    binary_always: bool = False  # also where frames end inside a byte, which OHIF 3.13 paints as stripes
    seg_split: Split = Split.NONE
    seg_max_frames: int = 0  # more are spread over several instances; a segment is never divided; 0: no limit
    sr: SrClass = SrClass.COMPREHENSIVE_3D
    secondary_capture: bool = True
    pdf: bool = False
    parametric_map: bool = False
    presentation_state: bool = False  # GSPS
    key_images: bool = False  # KOS
    language: Language = Language.ENGLISH
