"""Regions as DICOM Segmentations on the grid of their source: BINARY, or as a destination's profile asks."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, SegmentationStorage

from node.dicom import codes
from node.dicom.context import DISCLAIMER, EncodedSeg, Region, ResultContext
from node.dicom.identity import check_source, code_item, equip, referenced_series, sop_class, stamp
from node.dicom.segframes import Frame, bits_overlap, describe_frames, pack_bits, pack_bytes, pack_labels, touches
from node.domain.profile import Profile, SegType, Split
from node.domain.result import ResultRole

_LABELMAP_STORAGE = UID("1.2.840.10008.5.1.4.1.1.66.7")  # Label Map Segmentation Storage
_FULL = 255  # MaximumFractionalValue: a voxel is wholly inside or wholly outside
_LOSS = ("LossyImageCompressionRatio", "LossyImageCompressionMethod")


def encode_segs(drawn: Sequence[Region], context: ResultContext, profile: Profile) -> tuple[EncodedSeg, ...]:
    """Return the Segmentations (PS3.3 A.51, C.8.20) of *drawn* as *profile* asks, in one series.

    Frames without a voxel are left out; every frame that is there names the source image that it lies on. There is
    none where nothing is drawn, or where the sources do not say where they lie in the patient.
    """
    if not drawn or not context.is_placed:
        return ()
    for source in context.sources:
        check_source(source)
    slices = [_on_slice(place, context) for place in range(len(context.sources))]
    parts = _parts(drawn, profile)
    return tuple(
        EncodedSeg(dataset=_encode(part, number, slices, context, profile), regions=part)
        for number, part in enumerate(parts, start=1)
    )


# -- which region goes where


def _parts(drawn: Sequence[Region], profile: Profile) -> list[tuple[Region, ...]]:
    """Spread the regions over instances: by anatomy, by frames, and apart where a label map cannot overlap."""
    groups: dict[tuple[str, str], list[Region]] = {}
    for region in drawn:
        key = _anatomy(region) if profile.seg_split is Split.ANATOMY else ("", "")
        groups.setdefault(key, []).append(region)
    parts = [part for group in groups.values() for part in _no_more_than(group, profile.seg_max_frames)]
    if profile.seg is SegType.LABELMAP:
        parts = [layer for part in parts for layer in _layers(part)]
    return [tuple(part) for part in parts]


def _anatomy(region: Region) -> tuple[str, str]:
    kind = region.kind
    return kind.category.value, kind.site.value if kind.site else ""


def _no_more_than(regions: Sequence[Region], most: int) -> list[list[Region]]:
    parts: list[list[Region]] = [[]]
    frames = 0
    for region in regions:
        needed = int(np.count_nonzero(touches(region.mask))) if most else 0
        if most and parts[-1] and frames + needed > most:
            parts.append([])
            frames = 0
        parts[-1].append(region)
        frames += needed
    return parts


def _layers(regions: Sequence[Region]) -> list[list[Region]]:
    """Regions such that no two of a layer share a voxel."""
    layers: list[list[Region]] = []
    for region in regions:
        free = (layer for layer in layers if not any((one.mask & region.mask).any() for one in layer))
        if (layer := next(free, None)) is not None:
            layer.append(region)
        else:
            layers.append([region])
    return layers


# -- one instance


def _encode(
    regions: tuple[Region, ...], number: int, slices: Sequence[Dataset], context: ResultContext, profile: Profile
) -> Dataset:
    variant = f"{profile.seg} {profile.seg_split} {profile.seg_max_frames}"
    seg = Dataset()
    seg.file_meta = FileMetaDataset()
    seg.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    seg.SOPClassUID = _LABELMAP_STORAGE if profile.seg is SegType.LABELMAP else SegmentationStorage
    seg.SOPInstanceUID = context.uid(ResultRole.SEG, variant, "instance", number - 1)
    seg.SeriesInstanceUID = context.uid(ResultRole.SEG, variant, "series")
    seg.SeriesNumber, seg.InstanceNumber = context.series_number(ResultRole.SEG), number
    seg.Modality, seg.ImageType = "SEG", ["DERIVED", "PRIMARY"]
    seg.FrameOfReferenceUID = context.sources[0].FrameOfReferenceUID
    seg.PositionReferenceIndicator = context.sources[0].get("PositionReferenceIndicator") or None
    seg.ReferencedSeriesSequence = [referenced_series(context)]
    seg.ContentLabel, seg.ContentDescription = "AI_RESULT", DISCLAIMER
    seg.ContentCreatorName = f"{codes.plain(context.node.model_name, 62)}^"  # one component: a device, not a person
    seg.SegmentSequence = [_segment(place, one, context) for place, one in enumerate(regions, start=1)]
    if profile.seg is SegType.LABELMAP:
        seg.SegmentSequence.insert(0, _background(context))
    equip(seg, context)
    _lossy(seg, context)
    _geometry(seg, context)
    _dimensions(seg, context.uid(ResultRole.SEG, variant, "dimensions"), labels=profile.seg is SegType.LABELMAP)
    stamp(seg, context)
    _fill(seg, regions, slices, profile.seg)
    return seg


def _fill(seg: Dataset, regions: Sequence[Region], slices: Sequence[Dataset], kind: SegType) -> None:
    """Add frames and pixels."""
    masks = [region.mask for region in regions]
    touched = np.array([touches(mask) for mask in masks])  # (segments, slices)
    used = np.flatnonzero(touched.any(axis=0))
    positions = [0] * len(slices)
    for position, place in enumerate(used, start=1):
        positions[place] = position
    seg.SamplesPerPixel, seg.PhotometricInterpretation, seg.PixelRepresentation = 1, "MONOCHROME2", 0
    seg.Rows, seg.Columns = masks[0].shape[1:]
    seg.SegmentationType = str(kind).upper()
    bits = 1 if kind is SegType.BINARY else 8
    if kind is SegType.LABELMAP:
        frames = [Frame(segment=0, place=int(place)) for place in used]
        pixels, bits = pack_labels(frames, masks)
        seg.PixelPaddingValue = 0
        seg["PixelPaddingValue"].VR = "US"
    else:
        frames = [
            Frame(segment=number, place=int(place))
            for number, row in enumerate(touched, start=1)
            for place in np.flatnonzero(row)
        ]
        pixels = pack_bits(frames, masks) if kind is SegType.BINARY else pack_bytes(frames, masks, _FULL)
        size = masks[0][0].size
        quick = kind is SegType.BINARY and size % 8 == 0  # bits are an eighth to look through
        overlap = bits_overlap(frames, pixels, size) if quick else _overlap(masks, touched)
        seg.SegmentsOverlap = "YES" if overlap else "NO"
    if kind is SegType.FRACTIONAL:
        seg.SegmentationFractionalType, seg.MaximumFractionalValue = "OCCUPANCY", _FULL
    seg.BitsAllocated, seg.BitsStored, seg.HighBit = bits, bits, bits - 1
    seg.NumberOfFrames = len(frames)
    seg[Tag("PerFrameFunctionalGroupsSequence")] = describe_frames(frames, slices, positions)
    seg.PixelData = pixels
    seg["PixelData"].VR = "OW" if bits > 8 else "OB"


def _overlap(masks: Sequence[NDArray[np.bool_]], touched: NDArray[np.bool_]) -> bool:
    """Whether any two masks share a voxel; one slice after another, so that a hundred masks cost no memory."""
    for place in np.flatnonzero(touched.sum(axis=0) > 1):
        here = [mask[place] for mask, row in zip(masks, touched, strict=True) if row[place]]
        covered = here[0].copy()
        for mask in here[1:]:
            if (covered & mask).any():
                return True
            covered |= mask
    return False


def _geometry(seg: Dataset, context: ResultContext) -> None:
    """What all frames share: one orientation, pixel spacing, the usual distance of the slices.

    Series are met whose orientation differs from slice to slice in its last digits; a segmentation says one.
    """
    first = context.sources[0]
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = first.ImageOrientationPatient
    measures.PixelSpacing = first.PixelSpacing
    cosines = np.array(first.ImageOrientationPatient, dtype=np.float64)
    corners = np.array([source.ImagePositionPatient for source in context.sources], dtype=np.float64)
    steps = np.abs(np.diff(corners @ np.cross(cosines[:3], cosines[3:])))
    thickness = float(first.get("SliceThickness") or 0)
    if len(steps):
        measures.SpacingBetweenSlices = round(float(np.median(steps)), 6)
    if thickness or len(steps):
        measures.SliceThickness = thickness or measures.SpacingBetweenSlices
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [orientation], [measures]
    seg.SharedFunctionalGroupsSequence = [shared]


def _dimensions(seg: Dataset, uid: str, *, labels: bool) -> None:
    """Frames are indexed by segment, where there are several, and by position (PS3.3 C.7.6.17)."""
    organization = Dataset()
    organization.DimensionOrganizationUID = uid
    seg.DimensionOrganizationSequence = [organization]
    pairs = [("ImagePositionPatient", "PlanePositionSequence", "Image Position Patient")]
    if not labels:
        pairs.insert(0, ("ReferencedSegmentNumber", "SegmentIdentificationSequence", "Referenced Segment Number"))
    seg.DimensionIndexSequence = []
    for pointer, group, label in pairs:
        index = Dataset()
        index.DimensionOrganizationUID = uid
        index.DimensionIndexPointer, index.FunctionalGroupPointer = Tag(pointer), Tag(group)
        index.DimensionDescriptionLabel = label
        seg.DimensionIndexSequence.append(index)


def _lossy(seg: Dataset, context: ResultContext) -> None:
    """What was made of lossy images says so (PS3.3 C.7.6.1.1.5)."""
    lossy = next((one for one in context.sources if one.get("LossyImageCompression") == "01"), None)
    seg.LossyImageCompression = "00" if lossy is None else "01"
    for keyword in _LOSS:
        if lossy is not None and lossy.get(keyword) not in (None, ""):
            seg.add(lossy[keyword])


def _on_slice(place: int, context: ResultContext) -> Dataset:
    """What each frame on one source slice says: where it lies and what it was made of."""
    source = context.sources[place]
    position, image, derivation = Dataset(), Dataset(), Dataset()
    position.ImagePositionPatient = source.ImagePositionPatient
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = sop_class(source), source.SOPInstanceUID
    if context.frames:
        image.ReferencedFrameNumber = context.frames[place]
    image.SpatialLocationsPreserved = "YES"
    image.PurposeOfReferenceCodeSequence = [code_item(dictionary.DCM.SourceImageForImageProcessingOperation)]
    derivation.SourceImageSequence = [image]
    derivation.DerivationCodeSequence = [code_item(dictionary.DCM.Segmentation)]
    made = Dataset()
    made.DerivationImageSequence, made.PlanePositionSequence = [derivation], [position]
    return made


# -- segments


def _background(context: ResultContext) -> Dataset:
    """Label maps describe what is no segment too (PS3.3 C.8.20.2.3.3)."""
    item = Dataset()
    item.SegmentNumber, item.SegmentLabel = 0, "Background"
    item.SegmentedPropertyCategoryCodeSequence = [code_item(dictionary.DCM.Background)]
    item.SegmentedPropertyTypeCodeSequence = [code_item(dictionary.DCM.Background)]
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "AUTOMATIC", codes.plain(context.card.name, 64)
    return item


def _segment(number: int, region: Region, context: ResultContext) -> Dataset:
    kind = region.kind
    place = region.site or kind
    anatomy = kind.site or (place.type if region.site else None)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=region.label,
        segmented_property_category=codes.concept(kind.category),
        segmented_property_type=codes.concept(kind.type),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=codes.plain(context.card.name, 64),
            family=codes.ARTIFICIAL_INTELLIGENCE,
            version=codes.plain(context.card.version, 64),
        ),
        tracking_uid=region.tracking_uid,
        tracking_id=region.tracking_id,
        anatomic_regions=[codes.concept(anatomy)] if anatomy else None,
        display_color=codes.cielab(kind.colour),
    )
    if place.laterality:
        side = [codes.concept(place.laterality)]
        if anatomy:
            description.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = side
        else:
            description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = side
    return description
