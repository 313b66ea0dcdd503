"""A number for each voxel as a Parametric Map (PS3.3 A.75): what a model thought of every place."""

from __future__ import annotations

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes as dictionary
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from models.contract import Findings, MapKind, ValueMap
from node.dicom import codes
from node.dicom.context import DISCLAIMER, ResultContext
from node.dicom.identity import code_item, referenced_series, say_side, skeleton, sop_class, stamp
from node.domain.result import ResultRole


def encode_pm(findings: Findings, context: ResultContext) -> tuple[Dataset, ...]:
    """Return one Parametric Map for each map of *findings* that holds anything but zeros.

    A frame for every slice of the sources, in their order: readers stack frames as they come (OHIF, Slicer), whatever
    positions they name. There is none where the sources do not say where they lie in the patient.
    """
    if not context.is_placed:
        return ()
    kinds = {kind.key: kind for kind in context.card.maps}
    filled = [one for one in findings.maps if one.values.any()]
    return tuple(_encode(one, kinds[one.key], place, context) for place, one in enumerate(filled))


def _encode(one: ValueMap, kind: MapKind, place: int, context: ResultContext) -> Dataset:
    low, high = float(min(one.values.min(), 0.0)), float(one.values.max())
    window = hd.VOILUTTransformation(  # the usual function allows no width below 1
        window_center=(low + high) / 2, window_width=max(high - low, 1e-6), voi_lut_function="LINEAR_EXACT"
    )
    made: Dataset = hd.pm.ParametricMap(
        source_images=[_alone(number, context) for number in range(len(context.sources))],
        pixel_array=one.values.astype(np.float32),
        series_instance_uid=context.uid(ResultRole.PM, "series"),
        series_number=context.series_number(ResultRole.PM),
        sop_instance_uid=context.uid(ResultRole.PM, "instance", place),
        instance_number=place + 1,
        manufacturer=codes.plain(context.node.manufacturer, 64),
        manufacturer_model_name=codes.plain(context.node.model_name, 64),
        software_versions=codes.plain(context.node.software_version, 64),
        device_serial_number=codes.plain(context.node.serial, 64),
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[_mapping(kind, low, high)],
        voi_lut_transformations=[window],
        content_label="AI_RESULT",
        content_description=DISCLAIMER,
        content_creator_name=f"{codes.plain(context.node.model_name, 62)}^",
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    _in_order_of_slices(made, context)
    _name_sources(made, context)
    uid = context.uid(ResultRole.PM, "dimensions", place)
    for item in (*made.DimensionOrganizationSequence, *made.DimensionIndexSequence):
        item.DimensionOrganizationUID = uid  # the library's is random
    made.BurnedInAnnotation = "NO"
    stamp(made, context, library=True)
    say_side(made)
    return made


def _mapping(kind: MapKind, low: float, high: float) -> hd.pm.RealWorldValueMapping:
    return hd.pm.RealWorldValueMapping(
        lut_label=codes.plain(kind.label.upper(), 16),
        lut_explanation=codes.plain(kind.label, 64),
        unit=codes.concept(kind.unit),
        value_range=(low, high),
        slope=1.0,
        intercept=0.0,
        quantity_definition=codes.concept(kind.quantity),
    )


def _alone(place: int, context: ResultContext) -> Dataset:
    """A slice as the library takes it: as an image of its own, with the distances of the whole series.

    It takes no frames of a multi-frame image; `_name_sources` names the true sources afterwards.
    """
    first, bare = context.sources[0], skeleton(context.sources[place])
    bare.SOPClassUID, bare.SOPInstanceUID = CTImageStorage, f"2.25.{place + 1}"
    cosines = np.array(first.ImageOrientationPatient, dtype=np.float64)
    corners = np.array([source.ImagePositionPatient for source in context.sources], dtype=np.float64)
    steps = np.abs(np.diff(corners @ np.cross(cosines[:3], cosines[3:])))
    spacing = round(float(np.median(steps)), 6) if len(steps) else None
    bare.ImageOrientationPatient, bare.PixelSpacing = first.ImageOrientationPatient, first.PixelSpacing
    bare.SpacingBetweenSlices = spacing
    bare.SliceThickness = float(first.get("SliceThickness") or 0) or spacing
    return bare


def _in_order_of_slices(made: Dataset, context: ResultContext) -> None:
    """Put frames in the order of the slices: the library begins at the other end, and OHIF does not look."""
    corners = np.array([source.ImagePositionPatient for source in context.sources], dtype=np.float64)
    groups = list(made.PerFrameFunctionalGroupsSequence)
    here = np.array([group.PlanePositionSequence[0].ImagePositionPatient for group in groups], dtype=np.float64)
    order = np.argmin(np.linalg.norm(corners[:, None] - here[None], axis=-1), axis=1)
    frames = np.frombuffer(made.FloatPixelData, "<f4").reshape(len(groups), -1)
    made.PerFrameFunctionalGroupsSequence = [groups[place] for place in order]
    made.FloatPixelData = frames[order].tobytes()


def _name_sources(made: Dataset, context: ResultContext) -> None:
    """Each frame names its own source image, and where that is a frame, which."""
    made.ReferencedSeriesSequence = [referenced_series(context)]
    for keyword in ("SourceImageSequence", "ReferencedImageSequence"):
        if keyword in made:
            del made[keyword]
    for place, (group, source) in enumerate(zip(made.PerFrameFunctionalGroupsSequence, context.sources, strict=True)):
        image, derivation = Dataset(), Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = sop_class(source), source.SOPInstanceUID
        if context.frames:
            image.ReferencedFrameNumber = context.frames[place]
        image.PurposeOfReferenceCodeSequence = [
            code_item(dictionary.DCM.SourceImageForImageProcessingOperation)
        ]
        derivation.SourceImageSequence = [image]
        derivation.DerivationCodeSequence = [code_item(dictionary.DCM.Segmentation)]
        derivation.DerivationDescription = codes.plain(f"{context.card.name} {context.card.version}", 64)
        group.DerivationImageSequence = [derivation]
