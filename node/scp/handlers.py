"""What the node answers to C-STORE and C-ECHO."""

from __future__ import annotations

import logging
from typing import Any

from pynetdicom.events import Event

from node.errors import StoreFull, UnreadableInstance
from node.intake import Intake, Mismatch

log = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, NOT_THE_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3


def on_c_store(event: Event, intake: Intake, max_bytes: int) -> int:
    """Keep one instance. We say SUCCESS only when its bytes and its row are safe on disk.

    What we did not foresee is left to pynetdicom: it logs the traceback and answers 0xC211.
    """
    calling_ae = event.assoc.requestor.ae_title.strip()
    request: Any = event.request
    try:
        data = event.encoded_dataset()
        if len(data) > max_bytes:
            raise StoreFull(f"an instance of {len(data)} bytes is larger than max_instance_bytes")
        facts = intake.keep(
            data,
            calling_ae=calling_ae,
            sop_class=str(request.AffectedSOPClassUID),
            sop_uid=str(request.AffectedSOPInstanceUID),
        )
    except Mismatch as why:
        return _refuse(NOT_THE_CLASS, calling_ae, why)
    except UnreadableInstance as why:
        return _refuse(CANNOT_UNDERSTAND, calling_ae, why)  # the peer should not send this one again
    except StoreFull as why:
        return _refuse(OUT_OF_RESOURCES, calling_ae, why)  # the peer should try again later
    log.debug("instance kept", extra={"calling_ae": calling_ae, "sop_instance_uid": facts.sop_uid})
    return SUCCESS


def _refuse(status: int, calling_ae: str, why: Exception) -> int:
    log.warning("instance refused", extra={"calling_ae": calling_ae, "status": f"{status:04X}", "why": str(why)})
    return status


def on_c_echo(event: Event) -> int:
    """Answer a verification."""
    log.debug("echo", extra={"calling_ae": event.assoc.requestor.ae_title.strip()})
    return SUCCESS


def on_end(event: Event) -> None:
    """Note that an association ended before its time."""
    log.warning("association aborted", extra={"calling_ae": event.assoc.requestor.ae_title.strip()})
