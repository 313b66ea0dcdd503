"""Which SOP classes the results of a profile have: what a peer has to take."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    EncapsulatedPDFStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from node.domain.profile import Profile, SegType, SrClass

#: The transfer syntax of every result.
WRITTEN_IN = ExplicitVRLittleEndian

LABEL_MAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")  # newer than the dictionary


def classes_of(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield (SOP Class UID, name) of every object that results of this profile may be."""
    if profile.seg is SegType.LABELMAP:
        yield LABEL_MAP_STORAGE, "Label Map Segmentation"
    elif profile.seg is not SegType.NONE:
        yield SegmentationStorage, "Segmentation"
    wanted = (
        (profile.sr is SrClass.COMPREHENSIVE_3D, Comprehensive3DSRStorage, "Comprehensive 3D SR"),
        (profile.sr is SrClass.COMPREHENSIVE, ComprehensiveSRStorage, "Comprehensive SR"),
        (profile.parametric_map, ParametricMapStorage, "Parametric Map"),
        (profile.secondary_capture, SecondaryCaptureImageStorage, "Secondary Capture"),
        (profile.pdf, EncapsulatedPDFStorage, "Encapsulated PDF"),
        (profile.presentation_state, GrayscaleSoftcopyPresentationStateStorage, "Presentation State"),
        (profile.key_images, KeyObjectSelectionDocumentStorage, "Key Object Selection"),
    )
    yield from ((str(uid), name) for sent, uid, name in wanted if sent)
