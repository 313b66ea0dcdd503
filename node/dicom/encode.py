"""From findings to DICOM instances: for each profile the objects it asks for, in the order in which they are sent."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from models.contract import Findings
from node.dicom.context import NodeIdentity, Pictures, Region, ResultContext, ResultObject, regions
from node.dicom.gate import check, check_findings
from node.dicom.gsps import encode_gsps
from node.dicom.kos import encode_kos
from node.dicom.pdf import encode_pdf
from node.dicom.pm import encode_pm
from node.dicom.sc import encode_sc
from node.dicom.seg import encode_segs
from node.dicom.segframes import PER_FRAME
from node.dicom.sr import encode_sr, variant_of
from node.dicom.tracking import keep_identities
from node.domain.profile import Profile, SegType, SrClass
from node.domain.result import ResultRole

__all__ = ["NodeIdentity", "Pictures", "ResultContext", "ResultObject", "encode", "make_object"]


def encode(
    findings: Findings,
    context: ResultContext,
    profiles: Sequence[Profile] = (Profile(),),
    pictures: Pictures | None = None,
) -> tuple[ResultObject, ...]:
    """Return the checked result set of *findings* for all *profiles*: what two of them share is made once.

    Masks lie on the grid of the sources. The same findings and context give the same bytes. Without *pictures* the
    set has no Secondary Capture and no printed report, whatever the profiles say.
    Raises OutputInvalid where the set of one profile does not say what *findings* say about the sources.
    """
    check_findings(findings, context)
    drawn = keep_identities(regions(findings, context), context)
    made: dict[str, ResultObject] = {}
    for asked in profiles:
        profile = _suited(asked, context, pictures)
        objects = tuple(_encode_one(findings, drawn, context, profile, pictures or Pictures()))
        check(objects, context, findings, drawn, profile)
        for one in objects:
            known = made.setdefault(one.sop_uid, one)
            made[one.sop_uid] = replace(known, profiles=known.profiles | {profile.name})
    return tuple(sorted(made.values(), key=lambda one: list(ResultRole).index(one.role)))


def _suited(profile: Profile, context: ResultContext, pictures: Pictures | None) -> Profile:
    """Return what is really made: no pages without pictures, no frames of bits that end inside a byte."""
    if pictures is None:
        profile = replace(profile, secondary_capture=False, pdf=False)
    if profile.seg is not SegType.BINARY or profile.binary_always or not context.is_placed:
        return profile
    first = context.sources[0]
    return replace(profile, seg=SegType.FRACTIONAL) if int(first.Rows) * int(first.Columns) % 8 else profile


def _encode_one(
    findings: Findings, drawn: Sequence[Region], context: ResultContext, profile: Profile, pictures: Pictures
) -> Iterator[ResultObject]:
    """The objects of one profile; what is referred to comes before what refers to it."""
    segs = encode_segs(drawn, context, profile) if profile.seg is not SegType.NONE else ()
    for seg in segs:
        yield make_object(ResultRole.SEG, seg.dataset, str(profile.seg))
    made = [seg.dataset for seg in segs]
    for one in encode_pm(findings, context) if profile.parametric_map else ():
        made.append(one)
        yield make_object(ResultRole.PM, one)
    if profile.sr is not SrClass.NONE:
        made.append(encode_sr(drawn, segs, findings, context, profile))
        yield make_object(ResultRole.SR, made[-1], variant_of(profile))
    if profile.secondary_capture:
        for page in encode_sc(pictures, drawn, context):
            yield make_object(ResultRole.SC, page)
    if profile.pdf:
        yield make_object(ResultRole.PDF, encode_pdf(pictures, drawn, context))
    if profile.presentation_state and drawn:
        yield make_object(ResultRole.GSPS, encode_gsps(drawn, context))
    if profile.key_images and drawn:
        yield make_object(ResultRole.KOS, encode_kos(drawn, made, context))


def make_object(role: ResultRole, dataset: Dataset, variant: str = "") -> ResultObject:
    """Return *dataset* with its bytes as a DICOM file (PS3.10), the same each time."""
    buffer = BytesIO()
    frames = dataset.get_item(PER_FRAME) if PER_FRAME in dataset else None
    if not isinstance(frames, RawDataElement):
        dcmwrite(buffer, dataset, enforce_file_format=True)
        return ResultObject(role=role, dataset=dataset, data=buffer.getvalue(), variant=variant)
    # Frames that are bytes already are not parsed only to be written again; behind them come the pixels alone.
    head = Dataset()
    head.update({tag: one for tag, one in dataset.items() if tag < PER_FRAME})
    head.file_meta = dataset.file_meta
    dcmwrite(buffer, head, enforce_file_format=True)
    pixels = dataset["PixelData"]
    parts = [buffer.getvalue()]
    for tag, vr, value in ((PER_FRAME, b"SQ", frames.value), (pixels.tag, pixels.VR.encode(), pixels.value)):
        parts += [struct.pack("<HH2sHL", tag.group, tag.element, vr, 0, len(value or b"")), value or b""]
    return ResultObject(role=role, dataset=dataset, data=b"".join(parts), variant=variant)
