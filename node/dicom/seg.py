"""Regions as one DICOM Segmentation: BINARY, on the grid of its source, readable wherever it was tried."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.dicom import codes
from node.dicom.context import DISCLAIMER, EncodedSeg, Region, ResultContext
from node.dicom.identity import skeleton, stamp
from node.domain.profile import Profile
from node.domain.result import ResultRole


def encode_segs(drawn: Sequence[Region], context: ResultContext, profile: Profile) -> tuple[EncodedSeg, ...]:
    """Return the segmentations that *profile* wants of *drawn*: none where nothing is drawn."""
    if not drawn:
        return ()
    variant = str(profile.seg)
    return (EncodedSeg(dataset=encode_seg(drawn, context, variant), regions=tuple(drawn)),)


def encode_seg(drawn: Sequence[Region], context: ResultContext, variant: str) -> Dataset:
    """Return one BINARY Segmentation with a segment per region (PS3.3 A.51, C.8.20).

    Frames without a voxel are left out; every frame that is there names the source image that it lies on.
    """
    used = np.flatnonzero(np.any([region.mask.any(axis=(1, 2)) for region in drawn], axis=0))
    bare = _skeletons(context)
    seg = hd.seg.Segmentation(
        source_images=[bare[index] for index in used],
        pixel_array=_pixels(drawn, used),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(region, context) for region in drawn],
        series_instance_uid=context.uid(ResultRole.SEG, variant, "series"),
        series_number=context.series_number(ResultRole.SEG),
        sop_instance_uid=context.uid(ResultRole.SEG, variant, "instance", 0),
        instance_number=1,
        manufacturer=codes.plain(context.node.manufacturer, 64),
        manufacturer_model_name=codes.plain(context.node.model_name, 64),
        software_versions=codes.plain(context.node.software_version, 64),
        device_serial_number=codes.plain(context.node.serial, 64),
        content_label="AI_RESULT",
        content_description=DISCLAIMER,
        content_creator_name=f"{codes.plain(context.node.model_name, 62)}^",  # one component: a device, not a person
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    seg.ReferencedSeriesSequence = [_referenced_series(bare)]
    _fix_dimension_uid(seg, context.uid(ResultRole.SEG, variant, "dimensions"))
    stamp(seg, context)
    return seg


def _pixels(drawn: Sequence[Region], used: NDArray[np.intp]) -> NDArray[np.uint8 | np.uint16]:
    """The masks on the *used* slices: one label map, or a stack (z, y, x, region) where regions overlap."""
    shape = (len(used), *drawn[0].mask.shape[1:])
    labels: NDArray[np.uint8 | np.uint16] = np.zeros(shape, np.uint8 if len(drawn) < 256 else np.uint16)
    for region in drawn:
        mask = region.mask[used]
        if labels[mask].any():
            return np.stack([region.mask[used].astype(np.uint8) for region in drawn], axis=-1)
        labels[mask] = region.number
    return labels


def _skeletons(context: ResultContext) -> list[Dataset]:
    """The sources for the encoding library: one orientation, and the slice distances of the whole series.

    Series are met whose orientation differs from slice to slice in its last digits; the library wants equal ones.
    """
    bare = [skeleton(source) for source in context.sources]
    first = bare[0]
    across = np.cross(first.ImageOrientationPatient[:3], first.ImageOrientationPatient[3:])
    heights = np.array([item.ImagePositionPatient for item in bare], dtype=np.float64) @ across
    spacing = round(float(np.median(np.abs(np.diff(heights)))), 6) if len(heights) > 1 else None
    for item in bare:
        item.ImageOrientationPatient, item.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
        item.SpacingBetweenSlices = spacing
        item.SliceThickness = float(context.sources[0].get("SliceThickness") or 0) or spacing
    return bare


def _description(region: Region, context: ResultContext) -> hd.seg.SegmentDescription:
    kind = region.kind
    place = region.site or kind
    anatomy = kind.site or (place.type if region.site else None)
    description = hd.seg.SegmentDescription(
        segment_number=region.number,
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
        tracking_id=region.label,
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


def _referenced_series(bare: Sequence[Dataset]) -> Dataset:
    """All sources by name (PS3.3 C.12.4): also those without a voxel were looked at."""
    series = Dataset()
    series.SeriesInstanceUID = bare[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = []
    for source in bare:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
        series.ReferencedInstanceSequence.append(item)
    return series


def _fix_dimension_uid(seg: Dataset, uid: str) -> None:
    """Replace the random UID of the dimension organization, so that a rerun makes equal bytes."""
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid
