"""From findings to DICOM instances: for each profile the objects it asks for, in the order in which they are sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from models.contract import Findings
from node.dicom.context import NodeIdentity, Pictures, Region, ResultContext, ResultObject, regions
from node.dicom.gate import check, check_masks
from node.dicom.pdf import encode_pdf
from node.dicom.sc import encode_sc
from node.dicom.seg import encode_segs
from node.dicom.sr import encode_sr
from node.domain.profile import Profile, SegType, SrClass
from node.domain.result import ResultRole

__all__ = ["NodeIdentity", "Pictures", "ResultContext", "ResultObject", "encode", "write_bytes"]


def encode(
    findings: Findings,
    context: ResultContext,
    profiles: Sequence[Profile] = (Profile(),),
    pictures: Pictures = Pictures(),  # noqa: B008  # frozen
) -> tuple[ResultObject, ...]:
    """Return the checked result set of *findings* for all *profiles*: what two of them share is made once.

    Masks lie on the grid of the sources. The same findings and context give the same bytes.
    Raises OutputInvalid where the set of one profile does not say what *findings* say about the sources.
    """
    check_masks(findings, context)
    drawn = regions(findings, context)
    made: dict[str, ResultObject] = {}
    for profile in profiles:
        objects = tuple(_encode_one(findings, drawn, context, profile, pictures))
        check(objects, context, findings, profile)
        for one in objects:
            known = made.setdefault(str(one.dataset.SOPInstanceUID), one)
            made[str(one.dataset.SOPInstanceUID)] = replace(known, profiles=known.profiles | {profile.name})
    return tuple(sorted(made.values(), key=lambda one: list(ResultRole).index(one.role)))


def _encode_one(
    findings: Findings, drawn: Sequence[Region], context: ResultContext, profile: Profile, pictures: Pictures
) -> Iterator[ResultObject]:
    """The objects of one profile; what is referred to comes before what refers to it."""
    segs = encode_segs(drawn, context, profile) if profile.seg is not SegType.NONE else ()
    for seg in segs:
        yield _object(ResultRole.SEG, seg.dataset, str(profile.seg))
    if profile.sr is not SrClass.NONE:
        variant = f"{profile.sr} {profile.language}"
        yield _object(ResultRole.SR, encode_sr(drawn, segs, findings, context, profile), variant)
    if profile.secondary_capture:
        for page in encode_sc(pictures, drawn, context):
            yield _object(ResultRole.SC, page, "")
    if profile.pdf:
        yield _object(ResultRole.PDF, encode_pdf(pictures, drawn, context), "")


def _object(role: ResultRole, dataset: Dataset, variant: str) -> ResultObject:
    return ResultObject(role=role, dataset=dataset, variant=variant)


def write_bytes(obj: ResultObject) -> bytes:
    """Return *obj* as a DICOM file (PS3.10), the same bytes each time."""
    buffer = BytesIO()
    dcmwrite(buffer, obj.dataset, enforce_file_format=True)
    return buffer.getvalue()
