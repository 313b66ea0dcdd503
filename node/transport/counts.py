"""A peer's own count of the instances of a study, by C-FIND (PS3.4 C.6.2 and C.3.4) or as QIDO-RS tells it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from pydicom import Dataset
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated name
    StudyRootQueryRetrieveInformationModelFind,
)

from node.domain.peer import Peer
from node.errors import PeerAway, PeerBusy

#: Series -> (modality, instances); "" stands for the whole study where its series are not counted.
Counts = dict[str, tuple[str, int]]

_MOST = 5000  # series of one study; a peer that names more is not believed
_PENDING = frozenset({0xFF00, 0xFF01})
_BUSY = frozenset({0x0110, 0x0213, 0xA700})


def count_by_find(association: Any, study_uid: str, peer: Peer) -> Counts | None:
    """Ask at SERIES level, at STUDY level where that does not count; None where the peer does neither."""
    series = _find(association, peer, _query("SERIES", study_uid, "SeriesInstanceUID", "Modality",
                                             "NumberOfSeriesRelatedInstances"))  # fmt: skip
    counts: Counts = {}
    for one in series or []:
        number = _number(one.get("NumberOfSeriesRelatedInstances"))
        if number < 0:
            break
        counts[str(one.get("SeriesInstanceUID", ""))] = (str(one.get("Modality", "")), number)
    else:
        if series is not None:
            return counts
    studies = _find(association, peer, _query("STUDY", study_uid, "NumberOfStudyRelatedInstances"))
    numbers = [_number(one.get("NumberOfStudyRelatedInstances")) for one in studies or []]
    if studies is None or any(number < 0 for number in numbers):
        return None
    return {"": ("", sum(numbers))}


def patient_by_find(association: Any, study_uid: str, peer: Peer) -> str | None:
    """Return the Patient ID under which the peer has a study; None where it has none, or does not say."""
    studies = _find(association, peer, _query("STUDY", study_uid, "PatientID"))
    return _only({str(one.get("PatientID") or "").strip() for one in studies or []})


def patient_by_json(answer: list[dict[str, Any]] | None) -> str | None:
    """Read the answer to a QIDO-RS search for studies; None where it does not say."""
    return _only({str(_value(one, "00100020") or "").strip() for one in answer or []})


def _only(found: set[str]) -> str | None:
    return (found.pop() or None) if len(found) == 1 else None


def _query(level: str, study_uid: str, *wanted: str) -> Dataset:
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID = level, study_uid
    for keyword in wanted:
        setattr(query, keyword, None)
    return query


def _find(association: Any, peer: Peer, query: Dataset) -> list[Dataset] | None:
    """Return what the peer finds; None where it does not take such a query."""
    try:
        return _read(association, peer, association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    except RuntimeError as why:  # pynetdicom's word for an association that has ended
        raise PeerAway(f"{peer.where} ended the association during a query") from why


def _read(association: Any, peer: Peer, answers: Iterator[tuple[Dataset, Dataset | None]]) -> list[Dataset] | None:
    found: list[Dataset] = []
    deadline = time.monotonic() + peer.timeout
    for status, identifier in answers:
        if "Status" not in status:
            raise PeerAway(f"{peer.where} did not answer a query")
        if status.Status in _PENDING and identifier is not None:
            found.append(identifier)
        elif status.Status in _BUSY:
            raise PeerBusy(f"{peer.where} cannot be asked now: {status.Status:04X}")
        elif status.Status != 0:
            return None
        if len(found) > _MOST or time.monotonic() > deadline:
            association.abort()  # what it still says must not be taken for the answer to the next question
            raise PeerBusy(f"{peer.where} does not come to the end of its answer")
    return found


def count_by_json(answer: list[dict[str, Any]] | None) -> Counts | None:
    """Read the answer to a QIDO-RS search for series (PS3.18 10.6.3); None where it does not count."""
    counts: Counts = {}
    for one in answer or []:
        number = _number(_value(one, "00201209"))
        if number < 0:
            return None
        counts[str(_value(one, "0020000E") or "")] = (str(_value(one, "00080060") or ""), number)
    return None if answer is None else counts


def _value(item: dict[str, Any], tag: str) -> Any:
    attribute = item.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values[0] if isinstance(values, list) and values else None


def _number(value: Any) -> int:
    """Return a count, -1 where there is none."""
    try:
        return max(-1, int(value))
    except (TypeError, ValueError):
        return -1
