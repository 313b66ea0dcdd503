"""The last check of a result set before it is frozen: what would leave the node is read back and compared.

Nothing here uses the encoders' code: the bytes are parsed anew, the bits unpacked here, positions computed here.
A set that fails is held: its job ends with the reason, and nothing of it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from pydicom import dcmread
from pydicom.dataset import Dataset

from models.contract import Findings
from node.dicom.context import Region, ResultContext, ResultObject
from node.dicom.gate.findings import check_findings, check_numbers, check_sides
from node.dicom.gate.iod import check_iod
from node.dicom.gate.references import check_identity, check_references
from node.dicom.gate.report import check_report
from node.dicom.gate.voxels import check_segmentations
from node.domain.profile import Profile, SegType, SrClass
from node.domain.result import ResultRole
from node.errors import OutputInvalid

__all__ = ["check", "check_findings"]

#: Longer ones cannot be written with a defined length (PS3.5 7.1.1), and few systems read them.
_LARGEST = (1 << 31) - 2


def check(
    objects: Sequence[ResultObject],
    context: ResultContext,
    findings: Findings,
    drawn: Sequence[Region],
    profile: Profile,
) -> None:
    """Refuse the result set of *profile* that does not say what *findings* say about the sources of *context*.

    *drawn* is what was to be drawn of the findings. Raises OutputInvalid; its reason names the object's role and what
    is wrong with it, in words without patient data.
    """
    check_findings(findings, context)
    check_sides(findings, context)
    check_numbers(drawn, context)
    _check_whole(objects, context, findings, drawn, profile)
    parsed = [(one.role, _reread(one)) for one in objects]
    for role, dataset in parsed:
        check_iod(role, dataset)
        check_identity(role, dataset, context.sources[0])
        check_references(role, dataset, context, [other for _, other in parsed])
    segs = [dataset for role, dataset in parsed if role is ResultRole.SEG]
    if segs:
        check_segmentations(segs, drawn, context)
    for role, dataset in parsed:
        if role is ResultRole.SR:
            check_report(dataset, segs, drawn, context)


def _check_whole(
    objects: Sequence[ResultObject],
    context: ResultContext,
    findings: Findings,
    drawn: Sequence[Region],
    profile: Profile,
) -> None:
    """The set holds every kind of object that the profile asks for and that can be made, and no other."""
    placed = context.is_placed
    wanted = {
        ResultRole.SEG: profile.seg is not SegType.NONE and bool(drawn) and placed,
        ResultRole.PM: profile.parametric_map and placed and any(one.values.any() for one in findings.maps),
        ResultRole.SR: profile.sr is not SrClass.NONE,
        ResultRole.SC: profile.secondary_capture,
        ResultRole.PDF: profile.pdf,
        ResultRole.GSPS: profile.presentation_state and bool(drawn),
        ResultRole.KOS: profile.key_images and bool(drawn),
    }
    there = {one.role for one in objects}
    for role, due in wanted.items():
        if due != (role in there):
            raise OutputInvalid(f"profile {profile.name} {'lacks its' if due else 'has a needless'} {role}")


def _reread(one: ResultObject) -> Dataset:
    if len(one.data) > _LARGEST:
        raise OutputInvalid(
            f"{one.role}: {len(one.data)} bytes are more than an instance can hold: set seg_split or seg_max_frames"
        )
    return dcmread(BytesIO(one.data))
