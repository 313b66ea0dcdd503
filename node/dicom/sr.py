"""Findings as a Comprehensive 3D Structured Report: TID 1500, with 2-D outlines that viewers draw.

Each region gives two measurement groups under one tracking UID, the one of its segment: a planar group (TID 1410)
with its outline on the slice where it is largest, and a volumetric group (TID 1411) with the segment and its
numbers. A volumetric group alone would leave common viewers black. What was looked for and not found, and all
remarks, stand under Qualitative Evaluations.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import highdicom as hd
from highdicom.sr import CodedConcept, RelationshipTypeValues
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from models.contract import Findings
from node.dicom import codes
from node.dicom.context import DISCLAIMER, EncodedSeg, Region, ResultContext, absent
from node.dicom.identity import skeleton, sop_class, stamp
from node.dicom.outline import largest_slice, outline
from node.domain.profile import Profile
from node.domain.result import ResultRole
from node.domain.uid import derive_uid

_CONTAINS = RelationshipTypeValues.CONTAINS


def encode_sr(
    drawn: Sequence[Region], segs: Sequence[EncodedSeg], findings: Findings, context: ResultContext, profile: Profile
) -> Dataset:
    """Return the report on *findings*; its evidence is every source and every one of the segmentations *segs*."""
    seg = segs[0].dataset if segs else None
    variant = f"{profile.sr} {profile.language}"
    evidence = [skeleton(source) for source in context.sources]
    report = hd.sr.Comprehensive3DSR(
        evidence=[*evidence, seg] if seg is not None else evidence,
        content=_root(drawn, seg, findings, context),
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
    stamp(report, context)
    return report


def _root(drawn: Sequence[Region], seg: Dataset | None, findings: Findings, context: ResultContext) -> Dataset:
    root = hd.sr.ContainerContentItem(name=codes.IMAGING_MEASUREMENT_REPORT, template_id="1500")
    content = hd.sr.ContentSequence()
    content.extend(hd.sr.LanguageOfContentItemAndDescendants(CodedConcept.from_code(codes.ENGLISH)))
    content.extend(_observer(context))
    content.append(
        hd.sr.CodeContentItem(
            name=codes.PROCEDURE_REPORTED,
            value=codes.procedure(str(context.sources[0].Modality)),
            relationship_type=RelationshipTypeValues.HAS_CONCEPT_MOD,
        )
    )
    if seg is not None:
        content.append(_container(codes.IMAGING_MEASUREMENTS, _groups(drawn, seg, context)))
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


def _groups(drawn: Sequence[Region], seg: Dataset, context: ResultContext) -> Iterator[hd.sr.ContentItem]:
    for region in drawn:
        yield from _planar_group(region, context)
        yield from _volume_group(region, seg, context)


def _planar_group(region: Region, context: ResultContext) -> hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    """TID 1410: the outline alone; numbers belong to the whole region."""
    place = largest_slice(region.mask)
    source = context.sources[place]
    return hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(region),
        referenced_region=hd.sr.ImageRegion(
            graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
            graphic_data=outline(region.mask[place]),
            source_image=hd.sr.SourceImageForRegion(sop_class(source), str(source.SOPInstanceUID)),
        ),
        finding_type=codes.concept(region.kind.type),
        algorithm_id=_algorithm(context),
        finding_sites=_sites(region),
    )


def _volume_group(
    region: Region, seg: Dataset, context: ResultContext
) -> hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411: the segment and its measurements."""
    series = hd.sr.SourceSeriesForSegmentation(str(context.sources[0].SeriesInstanceUID))
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=_tracking(region),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=str(seg.SOPClassUID),
            sop_instance_uid=str(seg.SOPInstanceUID),
            segment_number=region.number,
            source_series=series,
        ),
        finding_type=codes.concept(region.kind.type),
        algorithm_id=_algorithm(context),
        finding_sites=_sites(region),
        measurements=list(_measurements(region)),
    )


def _measurements(region: Region) -> Iterator[hd.sr.Measurement]:
    found = region.detection
    if found is not None:
        yield hd.sr.Measurement(codes.DIAMETER, round(found.diameter_mm, 2), codes.MILLIMETRE)
    yield hd.sr.Measurement(codes.VOLUME, round(region.volume_ml, 3), codes.MILLILITRE)
    if found is not None:
        yield hd.sr.Measurement(codes.CERTAINTY, round(100 * found.score, 1), codes.PERCENT)


def _tracking(region: Region) -> hd.sr.TrackingIdentifier:
    return hd.sr.TrackingIdentifier(uid=region.tracking_uid, identifier=region.label)


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
        if kind.laterality is None:  # "lung: absent" would be untrue where one of two is there
            yield hd.sr.CodeContentItem(codes.concept(kind.type), codes.ABSENT, relationship_type=_CONTAINS)
        yield _comment(f"No {codes.plain(kind.label).lower()} found")
    for remark in (*findings.remarks, DISCLAIMER):
        yield _comment(remark)


def _comment(text: str) -> hd.sr.TextContentItem:
    return hd.sr.TextContentItem(codes.COMMENT, codes.plain(text), relationship_type=_CONTAINS)
