"""Storage commitment's data sets (PS3.4 J.3): questions and reports, whichever association they come by."""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import Dataset

from node.domain.peer import CommitReport

ALL_COMMITTED, SOME_FAILED = 1, 2  # event types: PS3.4 J.3.3.1


def read_report(information: Dataset) -> CommitReport | None:
    """Return what an N-EVENT-REPORT's event information says; None where it has no transaction UID."""
    if not (transaction := str(information.get("TransactionUID", ""))):
        return None
    committed = {str(item.get("ReferencedSOPInstanceUID", "")) for item in information.get("ReferencedSOPSequence", [])}
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason") or 0x0110)
        for item in information.get("FailedSOPSequence", [])
    }
    return CommitReport(transaction_uid=transaction, committed=frozenset(committed - {""} - set(failed)), failed=failed)


def read_request(information: Dataset) -> tuple[str, list[tuple[str, str]]]:
    """Return the transaction UID of a question and its (SOP class, SOP instance), "" and nothing where they lack."""
    named = [
        (str(item.get("ReferencedSOPClassUID", "")), str(item.get("ReferencedSOPInstanceUID", "")))
        for item in information.get("ReferencedSOPSequence") or []
    ]
    return str(information.get("TransactionUID", "") or ""), named


def make_report(transaction_uid: str, instances: Mapping[str, str], failed: Mapping[str, int]) -> tuple[int, Dataset]:
    """Return the event type and event information of a report; *instances*: SOP instance -> class, *failed*: reason."""
    report = Dataset()
    report.TransactionUID = transaction_uid
    there: list[Dataset] = []
    lacking: list[Dataset] = []
    for sop_uid, sop_class in instances.items():
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
        if sop_uid in failed:
            item.FailureReason = failed[sop_uid]
        (lacking if sop_uid in failed else there).append(item)
    if there:
        report.ReferencedSOPSequence = there
    if lacking:
        report.FailedSOPSequence = lacking
    return (SOME_FAILED if lacking else ALL_COMMITTED), report
