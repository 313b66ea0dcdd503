"""What the node answers to association requests, C-ECHO and reports on storage commitment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any

from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # generated name

from node.db.session import Database
from node.delivery import take_report
from node.dicom.commitment import read_report
from node.dicom.header import PARSE_ERRORS
from node.logs import failure
from node.scp.sendings import Sendings
from node.settings import Settings
from node.store import Store

log = logging.getLogger(__name__)

SUCCESS = 0x0000
PROCESSING_FAILURE, INVALID_ARGUMENT, NO_SUCH_EVENT = 0x0110, 0x0115, 0x0113  # PS3.7 annex C

TRANSIENT, CONGESTED = 0x02, (0x03, 0x01)  # PS3.8 Table 9-21


def _refuse(status: int, calling_ae: str, why: Exception, what: str) -> int:
    log.warning(what, extra={"calling_ae": calling_ae, "status": f"{status:04X}", "why": str(why)})
    return status


def readable(handler: Callable[..., tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    """Return *handler* as one that refuses a data set that cannot be read: pydicom says so where a value is looked at.

    What it says may quote the value, and with it a patient: it does not reach the log.
    """

    @wraps(handler)
    def careful(event: Event, *given: Any) -> tuple[Any, Any]:
        try:
            return handler(event, *given)
        except PARSE_ERRORS as why:
            calling_ae = event.assoc.requestor.ae_title.strip()
            log.warning("a data set that cannot be read: %s", failure(why), extra={"calling_ae": calling_ae})
            return PROCESSING_FAILURE, None

    return careful


def on_requested(event: Event, store: Store, low_percent: float) -> None:
    """Put off an association that would store while the disk is nearly full: transient, temporary congestion.

    PS3.8 9.3.4. One that only verifies is taken: whoever watches the node sees that it lives.
    """
    request: Any = event.assoc.requestor.primitive
    asked = request.presentation_context_definition_list
    if store.free_percent() >= low_percent or all(one.abstract_syntax == Verification for one in asked):
        return
    calling_ae = str(request.calling_ae_title).strip()
    log.error("association put off: the disk is nearly full", extra={"calling_ae": calling_ae})
    event.assoc.acse.send_reject(TRANSIENT, *CONGESTED)
    event.assoc.kill()  # as pynetdicom does where it rejects by itself


def on_c_echo(event: Event) -> int:
    """Answer a verification."""
    log.debug("echo", extra={"calling_ae": event.assoc.requestor.ae_title.strip()})
    return SUCCESS


def on_commitment_report(
    event: Event, database: Database, settings: Settings, now: Callable[[], datetime]
) -> tuple[int, None]:
    """Take a report on storage commitment (PS3.4 J.3.3). Its transaction UID, which nobody can guess, says of what."""
    calling_ae = event.assoc.requestor.ae_title.strip()
    if event.event_type not in (1, 2):  # PS3.4 J.3.3.1: all committed, or failures among them
        return _refuse(NO_SUCH_EVENT, calling_ae, ValueError("no such event"), "report refused"), None
    report = read_report(event.event_information)
    if report is None or not take_report(database, settings, report, who=f"scp:{calling_ae}", at=now()):
        return _refuse(INVALID_ARGUMENT, calling_ae, ValueError("no such transaction"), "report refused"), None
    log.info("commitment reported", extra={"calling_ae": calling_ae, "failed": len(report.failed)})
    return SUCCESS, None


def on_released(event: Event, sendings: Sendings) -> None:
    """Note that an association ended as it should."""
    sendings.ended(event.assoc, broke_off=False)


def on_end(event: Event, sendings: Sendings) -> None:
    """Note that an association ended before its time."""
    sendings.ended(event.assoc, broke_off=True)
    log.warning("association aborted", extra={"calling_ae": event.assoc.requestor.ae_title.strip()})
