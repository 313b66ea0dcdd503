"""Findings as a Structured Report, Comprehensive 3D or Comprehensive: TID 1500, with 2-D outlines that viewers draw.

Each region gives two measurement groups under one tracking UID, the one of its segment: a planar group (TID 1410)
with its outline on the slice where it is largest, and a volumetric group (TID 1411) with the segment and its
numbers. A volumetric group alone would leave common viewers black. Where no segmentation is sent, the volumetric group
holds the outlines themselves; on a projection image one planar group holds outline and numbers. What was looked for
and not found, and all remarks, stand under Qualitative Evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import highdicom as hd
import numpy as np
from highdicom.sr import CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from models.contract import Findings, Measures
from node.dicom import codes, language
from node.dicom.context import DISCLAIMER, EncodedSeg, Region, ResultContext, absent
from node.dicom.identity import skeleton, sop_class, stamp
from node.dicom.outline import largest_slice, outline
from node.domain.profile import Language, Profile, SrClass
from node.domain.result import ResultRole
from node.domain.uid import derive_uid

_CONTAINS = RelationshipTypeValues.CONTAINS


def encode_sr(
    drawn: Sequence[Region], segs: Sequence[EncodedSeg], findings: Findings, context: ResultContext, profile: Profile
) -> Dataset:
    """Return the report on *findings*; its evidence is every source and every one of the segmentations *segs*.

    The content is the same in both storage classes, but for its language.
    """
    variant = variant_of(profile)
    spoken, excuse = _language(profile.language, context)
    sources = {str(one.SOPInstanceUID): one for one in context.sources}.values()  # multi-frame images once
    evidence = [skeleton(source, placed=context.is_placed) for source in sources]
    before = context.predecessors.get(variant)
    kind = hd.sr.ComprehensiveSR if profile.sr is SrClass.COMPREHENSIVE else hd.sr.Comprehensive3DSR
    report = kind(
        evidence=[*evidence, *(seg.dataset for seg in segs)],
        content=_root(drawn, segs, replace(findings, remarks=(*findings.remarks, *excuse)), context, spoken),
        series_instance_uid=context.uid(ResultRole.SR, variant, "series"),
        series_number=context.series_number(ResultRole.SR),
        sop_instance_uid=context.uid(ResultRole.SR, variant, "instance", 0),
        instance_number=1,
        manufacturer=codes.plain(context.node.manufacturer, 64),
        manufacturer_model_name=codes.plain(context.node.model_name, 64),
        software_versions=codes.plain(context.node.software_version, 64),
        device_serial_number=codes.plain(context.node.serial, 64),
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    if before is not None and before.SOPInstanceUID != report.SOPInstanceUID:  # a rerun replaces nothing
        report.PredecessorDocumentsSequence = [_predecessor(before)]
    stamp(report, context, library=True)
    language.translate(report, spoken)
    _tell_derivations(report)
    return report


def _language(wanted: Language, context: ResultContext) -> tuple[Language, tuple[str, ...]]:
    """The language to write in, and what is to be said where it is not the one that was wanted."""
    if language.in_reach(context, wanted):
        return wanted, ()
    name = language.code_of(wanted).meaning
    return Language.ENGLISH, (f"In English, as the character set of the images cannot be extended for {name}",)


def _tell_derivations(report: Dataset) -> None:
    """Name in words what sets several numbers of one concept apart: viewers show a number's own name alone."""
    for item in report.get("ContentSequence", []):
        _tell_derivations(item)
        if item.ValueType != "NUM":
            continue
        for inner in item.get("ContentSequence", []):
            if inner.ConceptNameCodeSequence[0].CodeValue == codes.DERIVATION.value:
                name = item.ConceptNameCodeSequence[0]
                name.CodeMeaning = f"{name.CodeMeaning}, {inner.ConceptCodeSequence[0].CodeMeaning}"


def variant_of(profile: Profile) -> str:
    """Return what sets a report apart from others of the same findings: all of the profile that its content shows."""
    return f"{profile.sr} {profile.language} {profile.seg} {profile.seg_split} {profile.seg_max_frames}"


def _predecessor(before: Dataset) -> Dataset:
    """The report that this one takes the place of (PS3.3 C.17.2)."""
    instance, series, study = Dataset(), Dataset(), Dataset()
    instance.ReferencedSOPClassUID, instance.ReferencedSOPInstanceUID = before.SOPClassUID, before.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = before.SeriesInstanceUID, [instance]
    study.StudyInstanceUID, study.ReferencedSeriesSequence = before.StudyInstanceUID, [series]
    return study


def _root(
    drawn: Sequence[Region], segs: Sequence[EncodedSeg], findings: Findings, context: ResultContext, spoken: Language
) -> Dataset:
    root = hd.sr.ContainerContentItem(name=codes.IMAGING_MEASUREMENT_REPORT, template_id="1500")
    content = hd.sr.ContentSequence()
    content.extend(hd.sr.LanguageOfContentItemAndDescendants(CodedConcept.from_code(language.code_of(spoken))))
    content.extend(_observer(context))
    content.append(
        hd.sr.CodeContentItem(
            name=codes.PROCEDURE_REPORTED,
            value=codes.procedure(str(context.sources[0].Modality)),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    if drawn:
        content.append(_container(codes.IMAGING_MEASUREMENTS, _groups(drawn, segs, context)))
    content.append(_container(codes.QUALITATIVE_EVALUATIONS, _evaluations(findings, context)))
    root.ContentSequence = content
    return root


def _container(name: Code, items: Iterator[hd.sr.ContentItem]) -> hd.sr.ContainerContentItem:
    container = hd.sr.ContainerContentItem(name=name, relationship_type=_CONTAINS)
    container.ContentSequence = hd.sr.ContentSequence(list(items))
    return container


def _observer(context: ResultContext) -> hd.sr.ObservationContext:
    """The device observer (TID 1004): this node."""
    node = context.node
    device = hd.sr.DeviceObserverIdentifyingAttributes(
        uid=derive_uid(node.uid_root, "observer", node.node_id),
        name=codes.plain(node.node_id, 64),
        manufacturer_name=codes.plain(node.manufacturer, 64),
        model_name=codes.plain(node.model_name, 64),
        serial_number=codes.plain(node.serial, 64),
    )
    return hd.sr.ObservationContext(
        observer_device_context=hd.sr.ObserverContext(
            observer_type=CodedConcept.from_code(Code("121007", "DCM", "Device")),
            observer_identifying_attributes=device,
        )
    )


def _groups(
    drawn: Sequence[Region], segs: Sequence[EncodedSeg], context: ResultContext
) -> Iterator[hd.sr.ContentItem]:
    places = {id(one): (seg.dataset, number) for seg in segs for number, one in enumerate(seg.regions, start=1)}
    for region in drawn:
        if id(region) in places:
            yield from _planar_group(region, context)
            yield from _volume_group(region, context, segment=_segment(*places[id(region)], context))
        elif context.is_placed:
            yield from _volume_group(region, context, outlines=[_outlined(n, region, context) for n in _slices(region)])
        else:
            yield from _planar_group(region, context, list(_sizes(region, context)))


def _slices(region: Region) -> list[int]:
    return [int(place) for place in np.flatnonzero(region.mask.any(axis=(1, 2)))]


def _outlined(place: int, region: Region, context: ResultContext) -> hd.sr.ImageRegion:
    """The outline of *region* on one source slice."""
    source = context.sources[place]
    frame = [context.frames[place]] if context.frames else None
    return hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=outline(region.mask[place]),
        source_image=hd.sr.SourceImageForRegion(sop_class(source), str(source.SOPInstanceUID), frame),
    )


def _planar_group(
    region: Region, context: ResultContext, measurements: Sequence[hd.sr.Measurement] | None = None
) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410: the outline where it is largest; numbers of the whole region stand in its other group."""
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(region),
        referenced_region=_outlined(largest_slice(region.mask), region, context),
        finding_type=codes.concept(region.kind.type),
        algorithm_id=_algorithm(context),
        finding_sites=_sites(region),
        measurements=measurements or None,
    )


def _volume_group(
    region: Region,
    context: ResultContext,
    *,
    segment: hd.sr.ReferencedSegment | None = None,
    outlines: Sequence[hd.sr.ImageRegion] | None = None,
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411: the segment, or where none is sent the outlines on all its slices, and the measurements."""
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(region),
        referenced_segment=segment,
        referenced_regions=outlines,
        finding_type=codes.concept(region.kind.type),
        algorithm_id=_algorithm(context),
        finding_sites=_sites(region),
        measurements=[*_volumes(region), *_sizes(region, context)],
    )


def _segment(seg: Dataset, number: int, context: ResultContext) -> hd.sr.ReferencedSegment:
    return hd.sr.ReferencedSegment(
        sop_class_uid=str(seg.SOPClassUID),
        sop_instance_uid=str(seg.SOPInstanceUID),
        segment_number=number,
        source_series=hd.sr.SourceSeriesForSegmentation(str(context.sources[0].SeriesInstanceUID)),
    )


def _volumes(region: Region) -> Iterator[hd.sr.Measurement]:
    yield hd.sr.Measurement(codes.VOLUME, round(region.volume_ml, 3), codes.MILLILITRE)


def _sizes(region: Region, context: ResultContext) -> Iterator[hd.sr.Measurement]:
    """Diameters and certainty of a detection; Hounsfield units of everything; nothing in mm without a scale."""
    found, measures = region.detection, region.measures
    scaled = context.is_placed or _is_calibrated(context.sources[0])
    if found is not None and scaled:
        yield hd.sr.Measurement(codes.DIAMETER, round(found.diameter_mm, 2), codes.MILLIMETRE)
    if found is not None and scaled and measures is not None:
        yield hd.sr.Measurement(codes.LONG_AXIS, round(measures.long_mm, 2), codes.MILLIMETRE)
        yield hd.sr.Measurement(codes.SHORT_AXIS, round(measures.short_mm, 2), codes.MILLIMETRE)
    if measures is not None:
        yield from _attenuation(measures)
    if found is not None:
        yield hd.sr.Measurement(codes.CERTAINTY, round(100 * found.score, 1), codes.PERCENT)


def _is_calibrated(source: Dataset) -> bool:
    """Return whether the PixelSpacing of a projection *source* is that in the patient (PS3.3 10.7.1.3).

    Equal to that at the detector, or without a word on it, it may be larger than the patient by some tenths.
    """
    spacing, detector = source.get("PixelSpacing"), source.get("ImagerPixelSpacing")
    if not spacing:
        return False
    differs = bool(detector) and not np.allclose(np.array(spacing, float), np.array(detector, float))
    return differs or source.get("PixelSpacingCalibrationType") in ("GEOMETRY", "FIDUCIAL")


def _attenuation(measures: Measures) -> Iterator[hd.sr.Measurement]:
    values = (
        (codes.MEAN, measures.mean), (codes.DEVIATION, measures.deviation),
        (codes.MINIMUM, measures.least), (codes.MAXIMUM, measures.greatest),
    )  # fmt: skip
    for derivation, value in values:
        if value is not None:
            yield hd.sr.Measurement(
                codes.ATTENUATION, round(value, 1), codes.HOUNSFIELD, derivation=CodedConcept.from_code(derivation)
            )


def _tracking(region: Region) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=region.tracking_uid, identifier=region.tracking_id)


def _algorithm(context: ResultContext) -> hd.sr.AlgorithmIdentification:
    """TID 4019."""
    return hd.sr.AlgorithmIdentification(
        name=codes.plain(context.card.name, 64),
        version=codes.plain(context.card.version, 64),
        family=codes.ARTIFICIAL_INTELLIGENCE,
    )


def _sites(region: Region) -> list[hd.sr.FindingSite]:
    """Where it lies: a detection's own site, else the anatomy of its kind, with the side where there is one."""
    place = region.site or region.kind
    anatomy = place.site or (place.type if region.site or place.laterality else None)
    if anatomy is None:
        return []
    side = codes.concept(place.laterality) if place.laterality else None
    return [hd.sr.FindingSite(codes.concept(anatomy), laterality=side)]


def _evaluations(findings: Findings, context: ResultContext) -> Iterator[hd.sr.ContentItem]:
    """What was looked for and is not there, coded and in words; then the remarks and the disclaimer."""
    for kind in absent(findings, context.card):
        if kind.category.value != codes.ANATOMICAL_STRUCTURE:  # an organ that is not drawn is not absent from the body
            yield hd.sr.CodeContentItem(codes.concept(kind.type), codes.ABSENT, relationship_type=_CONTAINS)
        yield _comment(f"No {codes.plain(kind.label).lower()} found")
    for remark in (*findings.remarks, DISCLAIMER):
        yield _comment(remark)


def _comment(text: str) -> hd.sr.TextContentItem:
    return hd.sr.TextContentItem(codes.COMMENT, codes.plain(text), relationship_type=_CONTAINS)
