"""Modality Performed Procedure Step as a provider (PS3.4 F.7.2): what a modality says of its own work.

Only what tells whether a study is complete is kept: its UIDs and how far the step is. Nothing of the patient.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any
from uuid import uuid4

from pydicom import Dataset
from pynetdicom.events import Event
from sqlalchemy.exc import SQLAlchemyError

from node.db import steps
from node.db.session import Database
from node.domain.step import READ, StepState
from node.domain.uid import UUID_ROOT, is_uid
from node.errors import IllegalMove, NotFound
from node.failpoints import reach

log = logging.getLogger(__name__)

#: PS3.7 annex C; a step that has ended: PS3.4 table F.7.2-2, with error ID 0xA710.
SUCCESS, INVALID_VALUE, PROCESSING_FAILURE, DUPLICATE = 0x0000, 0x0106, 0x0110, 0x0111
NO_SUCH_INSTANCE, MISSING_ATTRIBUTE, MISSING_VALUE, NOT_AUTHORIZED = 0x0112, 0x0120, 0x0121, 0x0124
ENDED = 0xA710

MOST_SERIES, MOST_INSTANCES = 5_000, 200_000  # that one step names; more is no step of one study
_REFERENCES = ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence")


class _Refused(Exception):
    """A request is not taken; *status* is the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def on_n_create(
    event: Event, database: Database, now: Callable[[], datetime], no_senders: frozenset[str]
) -> tuple[int | Dataset, Dataset | None]:
    """Record a step that begins; we say success only when it is in the table."""
    calling_ae = event.assoc.requestor.ae_title.strip()
    request: Any = event.request
    given = request.AffectedSOPInstanceUID
    try:
        _admit(calling_ae, no_senders)
        sop_uid = _uid(given) if given else f"{UUID_ROOT}.{uuid4().int}"
        _check_begun(event.attribute_list)
        with database.transaction() as session:
            studies = sorted(set(_studies(event.attribute_list)))
            if not steps.begin(session, sop_uid, studies, calling_ae=calling_ae, at=now()):
                raise _Refused(DUPLICATE, "there is a step of this UID")
            reach("mpps.written")
        reach("mpps.recorded")
    except _Refused as why:
        return _refuse(why.status, calling_ae, str(why)), None
    except SQLAlchemyError as why:
        return _refuse(PROCESSING_FAILURE, calling_ae, type(why).__name__), None
    log.info("step begun", extra={"calling_ae": calling_ae, "sop_instance_uid": sop_uid})
    answer = Dataset()
    if not given:
        answer.AffectedSOPInstanceUID = sop_uid  # PS3.7 10.1.5.1.4: whoever names it tells its name
    return SUCCESS, answer


def on_n_set(
    event: Event, database: Database, now: Callable[[], datetime], no_senders: frozenset[str]
) -> tuple[int | Dataset, Dataset | None]:
    """Record how far a step is and what it made; we say success only when that is in the table."""
    calling_ae = event.assoc.requestor.ae_title.strip()
    request: Any = event.request
    sop_uid, changes = str(request.RequestedSOPInstanceUID), event.modification_list
    try:
        _admit(calling_ae, no_senders)
        state, series = _state(changes), _series(changes)
        with database.transaction() as session:
            steps.change(session, sop_uid, state, series, calling_ae=calling_ae, at=now())
            reach("mpps.written")
        reach("mpps.recorded")
    except _Refused as why:
        return _refuse(why.status, calling_ae, str(why)), None
    except NotFound as why:
        return _refuse(NO_SUCH_INSTANCE, calling_ae, str(why)), None
    except IllegalMove as why:
        return _refuse(PROCESSING_FAILURE, calling_ae, str(why), error_id=ENDED), None
    except SQLAlchemyError as why:
        return _refuse(PROCESSING_FAILURE, calling_ae, type(why).__name__), None
    log.info("step changed", extra={"calling_ae": calling_ae, "sop_instance_uid": sop_uid, "state": str(state or "")})
    return SUCCESS, Dataset()


def _admit(calling_ae: str, no_senders: frozenset[str]) -> None:
    if calling_ae in no_senders:
        raise _Refused(NOT_AUTHORIZED, "this peer may not send here (may_send)")


def _check_begun(attributes: Dataset) -> None:
    """A step begins in progress (PS3.4 F.7.2.1.2)."""
    if "PerformedProcedureStepStatus" not in attributes:
        raise _Refused(MISSING_ATTRIBUTE, "no Performed Procedure Step Status")
    if _state(attributes) is not StepState.IN_PROGRESS:
        raise _Refused(INVALID_VALUE, "a step begins IN PROGRESS")


def _state(attributes: Dataset) -> StepState | None:
    if not (word := str(attributes.get("PerformedProcedureStepStatus", "") or "").strip()):
        return None
    if word not in READ:
        raise _Refused(INVALID_VALUE, "no Performed Procedure Step Status that the standard knows")
    return READ[word]


def _studies(attributes: Dataset) -> Iterator[str]:
    """Yield of which studies a step is (PS3.3 C.4.13)."""
    scheduled = attributes.get("ScheduledStepAttributesSequence")
    if not scheduled:
        raise _Refused(MISSING_ATTRIBUTE, "no Scheduled Step Attributes Sequence")
    for item in scheduled:
        if not item.get("StudyInstanceUID"):
            raise _Refused(MISSING_VALUE, "a scheduled step names no study")
        yield _uid(item.StudyInstanceUID)


def _series(attributes: Dataset) -> dict[str, list[str]] | None:
    """Return what a step has made (PS3.3 C.4.15), series by series; None where it says nothing of it."""
    if "PerformedSeriesSequence" not in attributes:
        return None
    made: dict[str, list[str]] = {}
    count = 0
    for item in attributes.PerformedSeriesSequence or []:
        named = made.setdefault(_uid(item.get("SeriesInstanceUID", "")), [])
        for keyword in _REFERENCES:
            named += [_uid(one.get("ReferencedSOPInstanceUID", "")) for one in item.get(keyword) or []]
        count += len(named)
        if len(made) > MOST_SERIES or count > MOST_INSTANCES:
            raise _Refused(INVALID_VALUE, "a step names more than any study has")
    return made


def _uid(value: object) -> str:
    if not is_uid(text := str(value)):
        raise _Refused(INVALID_VALUE, "a UID is malformed")
    return text


def _refuse(status: int, calling_ae: str, why: str, *, error_id: int = 0) -> int | Dataset:
    log.warning("step refused", extra={"calling_ae": calling_ae, "status": f"{status:04X}", "why": why})
    if not error_id:
        return status
    answer = Dataset()
    answer.Status, answer.ErrorID, answer.ErrorComment = status, error_id, "the step has ended"
    return answer
