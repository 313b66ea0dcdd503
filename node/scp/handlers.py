"""What the node answers to C-STORE, C-ECHO and reports on storage commitment."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from datetime import datetime
from typing import Any

from pydicom.dataset import FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom.events import Event
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # generated name

from node.db.session import Database
from node.delivery import take_report
from node.dicom.commitment import read_report
from node.errors import StoreFull, UnreadableInstance
from node.failpoints import reach
from node.intake import Intake, Mismatch
from node.scp.sendings import Sendings
from node.settings import Settings
from node.store import Store

log = logging.getLogger(__name__)

#: Stands in the file meta information of what we receive; it never changes.
IMPLEMENTATION_UID = UID("2.25.280412371463713229371839263781923700161")

SUCCESS, OUT_OF_RESOURCES, NOT_THE_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
NOT_AUTHORIZED = 0x0124  # PS3.7 C.5
INVALID_ARGUMENT, NO_SUCH_EVENT = 0x0115, 0x0113  # PS3.7 C.4.2

TRANSIENT, CONGESTED = 0x02, (0x03, 0x01)  # PS3.8 Table 9-21


def on_c_store(
    event: Event, intake: Intake, max_bytes: int, no_senders: frozenset[str], sendings: Sendings
) -> int:
    """Keep one instance. We say SUCCESS only when its bytes and its row are safe on disk.

    What we did not foresee is left to pynetdicom: it logs the traceback and answers 0xC211.
    """
    calling_ae = event.assoc.requestor.ae_title.strip()
    request: Any = event.request
    if calling_ae in no_senders:
        return _refuse(NOT_AUTHORIZED, calling_ae, PermissionError("this peer may not store here (may_send)"))
    try:
        data = as_file(event)
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
    sendings.brought(event.assoc, facts.study_uid, calling_ae=calling_ae)
    log.debug("instance kept", extra={"calling_ae": calling_ae, "sop_instance_uid": facts.sop_uid})
    return SUCCESS


def as_file(event: Event) -> bytes:
    """Return the instance as a DICOM file (PS3.10 section 7.1): the data set byte for byte as it was sent.

    The same data set gives the same bytes whoever sent it and whatever the libraries' versions are: else a repeated
    study would look like a corrected one, and its models would run again.
    """
    request: Any = event.request
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = request.AffectedSOPClassUID
    meta.MediaStorageSOPInstanceUID = request.AffectedSOPInstanceUID
    meta.TransferSyntaxUID = UID(event.context.transfer_syntax)
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "PACS_AI_NODE"
    head = DicomBytesIO()
    head.write(b"\x00" * 128 + b"DICM")
    write_file_meta_info(head, meta)
    return head.getvalue() + event.encoded_dataset(include_meta=False)


def _refuse(status: int, calling_ae: str, why: Exception, what: str = "instance refused") -> int:
    log.warning(what, extra={"calling_ae": calling_ae, "status": f"{status:04X}", "why": str(why)})
    return status


def on_open(event: Event, silence: float) -> None:
    """Give up a connection whose peer falls silent in the middle of a PDU.

    pynetdicom's own timer runs between PDUs only: inside of one it would wait, and keep the place, for ever.
    """
    limit = struct.pack("@ll", int(silence), int(silence % 1 * 1e6))
    connection: Any = event.assoc.dul.socket
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)


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


def on_sent(event: Event) -> None:
    """Note for tests that an answer has left."""
    p_data = 0x04  # PS3.8 9.3.5
    if event.data[0] == p_data:
        reach("intake.rsp_sent")


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
