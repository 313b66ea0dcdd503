"""The report of storage commitment (PS3.4 J.3.3), as it comes by any association."""

from __future__ import annotations

from pydicom import Dataset

from node.domain.peer import CommitReport


def read_report(information: Dataset) -> CommitReport | None:
    """Return what an N-EVENT-REPORT's event information says; None where it has no transaction UID."""
    if not (transaction := str(information.get("TransactionUID", ""))):
        return None
    committed = {str(item.get("ReferencedSOPInstanceUID", "")) for item in information.get("ReferencedSOPSequence", [])}
    failed = {
        str(item.get("ReferencedSOPInstanceUID", "")): int(item.get("FailureReason", 0x0110))
        for item in information.get("FailedSOPSequence", [])
    }
    return CommitReport(transaction_uid=transaction, committed=frozenset(committed - {""} - set(failed)), failed=failed)
