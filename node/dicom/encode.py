"""From findings to DICOM instances: a table of encoders, in the order in which their results are sent."""

from __future__ import annotations

from io import BytesIO

from pydicom.filewriter import dcmwrite

from models.contract import Findings
from node.dicom.context import NodeIdentity, ResultContext, ResultObject, regions
from node.dicom.gate import check_masks
from node.dicom.seg import encode_seg
from node.dicom.sr import encode_sr
from node.domain.result import ResultRole

__all__ = ["NodeIdentity", "ResultContext", "ResultObject", "encode", "write_bytes"]


def encode(findings: Findings, context: ResultContext) -> tuple[ResultObject, ...]:
    """Return the result set of *findings*: the segmentation, where anything is drawn, then the report about it.

    Masks lie on the grid of the sources. The same findings and context give the same bytes.
    """
    check_masks(findings, context)
    drawn = regions(findings, context)
    seg = encode_seg(drawn, context) if drawn else None
    report = ResultObject(role=ResultRole.SR, dataset=encode_sr(drawn, seg, findings, context))
    return (report,) if seg is None else (ResultObject(role=ResultRole.SEG, dataset=seg), report)


def write_bytes(obj: ResultObject) -> bytes:
    """Return *obj* as a DICOM file (PS3.10), the same bytes each time."""
    buffer = BytesIO()
    dcmwrite(buffer, obj.dataset, enforce_file_format=True)
    return buffer.getvalue()
