"""An association on one thread: PDUs are read here, instances go straight into the store, the rest to pynetdicom.

pynetdicom negotiates, and serves every message that is no C-STORE, through its own classes; what it loses here are its
two reactors, which poll each millisecond, and its transport, which believes any length. See docs/decisions/0008.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, cast

from pynetdicom import evt
from pynetdicom._globals import APPLICATION_CONTEXT_NAME
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import N_ACTION, N_CREATE, N_SET
from pynetdicom.pdu import (
    A_ABORT_RQ,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    A_ASSOCIATE_RQ,
    A_RELEASE_RP,
    A_RELEASE_RQ,
    P_DATA_TF,
)
from pynetdicom.pdu_primitives import A_ABORT, A_ASSOCIATE, A_P_ABORT, A_RELEASE, P_DATA
from pynetdicom.presentation import PresentationContext
from pynetdicom.service_class import ServiceClass, StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class
from pynetdicom.transport import AddressInformation

from node.dicom.header import PARSE_ERRORS
from node.domain.access import Caller
from node.failpoints import reach
from node.intake import Intake
from node.logs import failure
from node.scp.commands import C_STORE_RQ, BadCommand, Command, read_command, store_answer
from node.scp.messages import BadMessage, read_message, refusal
from node.scp.places import Places
from node.scp.sendings import Sendings
from node.scp.storing import CANNOT_UNDERSTAND, CLASS_NOT_SUPPORTED, NOT_AUTHORIZED, Endless, Storing, Terms
from node.scp.wire import Gone, Silent, TooSlow, Wire
from node.tls import fingerprint

log = logging.getLogger(__name__)

P_DATA_TYPE, RELEASE_RQ, ABORT = 0x04, 0x05, 0x07  # PS3.8 9.3
_KNOWN_TYPES = range(0x01, 0x08)
UNRECOGNISED, UNEXPECTED, BAD_VALUE = 0x01, 0x02, 0x06  # PS3.8 9.3.8: why the provider aborts
PERMANENT, TRANSIENT = 0x01, 0x02  # PS3.8 9.3.4
NOT_RECOGNISED = 0x01, 0x03  # the service user: calling AE title
NO_SUCH_APPLICATION, NO_SUCH_VERSION, LIMIT_EXCEEDED = (0x01, 0x02), (0x02, 0x02), (0x03, 0x02)
_USUAL_REQUEST = 1 << 14  # bytes; larger ones are not remembered
_BEFORE_NO = 0.02  # seconds: pynetdicom takes a rejection that comes before it looks for an abort
_LONGEST_COMMAND = 1 << 16  # bytes of a command set; real ones have a few hundred
_LONGEST_MESSAGE = 1 << 25  # bytes of a data set that is no instance: e.g. a commitment request for 300,000 of them
_ANSWERED = {N_CREATE: "mpps.answered", N_SET: "mpps.answered", N_ACTION: "commitment.answered"}


def _certificate(connection: socket.socket) -> str | None:
    shown = connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None
    return None if shown is None else fingerprint(shown)


def _understood(request: bytes) -> tuple[A_ASSOCIATE_RQ, A_ASSOCIATE]:
    """Return a request for an association, decoded and as a primitive."""
    pdu = A_ASSOCIATE_RQ()
    pdu.decode(request)
    return pdu, pdu.to_primitive()


# A peer asks with the same bytes each time, and 128 presentation contexts take longer than an image. Nothing changes
# either of the two objects after this.
_known = lru_cache(maxsize=32)(_understood)


class Misbehaved(Exception):
    """The peer broke the protocol; *reason* is what its A-ABORT says."""

    def __init__(self, reason: int, what: str) -> None:
        super().__init__(what)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class House:
    """What all associations of a listener have in common."""

    ae: ApplicationEntity
    refuses: Callable[[Caller], str]  # why a caller is not let in; "" where it is
    contexts: list[PresentationContext]
    handlers: list[Any]
    intake: Intake
    sendings: Sendings
    places: Places
    no_senders: frozenset[str]
    max_bytes: int
    max_pdu: int
    idle: float
    pdu: float


class _Outlet:
    """What pynetdicom's classes take for their upper layer: a PDU that they give goes out at once."""

    _PDUS: ClassVar[dict[type, Callable[[Any], type]]] = {
        P_DATA: lambda _: P_DATA_TF,
        A_ASSOCIATE: lambda one: A_ASSOCIATE_AC if one.result == 0 else A_ASSOCIATE_RJ,
        A_RELEASE: lambda one: A_RELEASE_RQ if one.result is None else A_RELEASE_RP,
        A_ABORT: lambda _: A_ABORT_RQ,
        A_P_ABORT: lambda _: A_ABORT_RQ,
    }

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._alone = threading.Lock()  # reports on storage commitment come from a thread of their own
        self.socket = self

    def send_pdu(self, primitive: Any) -> None:
        """Send a primitive as its PDU."""
        if isinstance(primitive, A_ASSOCIATE) and primitive.result:
            time.sleep(_BEFORE_NO)
        pdu = self._PDUS[type(primitive)](primitive)()
        pdu.from_primitive(primitive)
        self.send(pdu.encode())

    def send(self, data: bytes) -> None:
        """Send a whole PDU."""
        with self._alone:
            self._wire.send(data)

    def receive_pdu(self, wait: bool = False, timeout: float | None = None) -> None:
        """Nothing waits here: PDUs are read by the association itself."""

    def peek_next_pdu(self) -> None:
        """Nothing waits here."""

    def is_alive(self) -> bool:
        """There is no second thread."""
        return False

    def _shutdown_socket(self) -> None:
        self._wire.close()


class Receiver(Association):
    """One association with a peer that opened it."""

    def __init__(self, house: House, connection: socket.socket, address: tuple[Any, ...], request: bytes) -> None:
        super().__init__(house.ae, "acceptor")
        self.certificate = _certificate(connection)
        self.name = f"receiver-{address[0]}:{address[1]}"
        self._house, self._request = house, request
        self._wire = Wire(
            connection, buffer=house.max_pdu, idle=house.idle, pdu=house.pdu, ended=lambda: self._kill
        )
        self._outlet = _Outlet(self._wire)
        self.dul = cast(Any, self._outlet)  # what negotiates and serves asks no more of it than this
        self._place: str | None = None
        self._partial = bytearray()  # of a command set, or of a message for pynetdicom
        self._command: Command | None = None  # its data set is coming
        self._raw_command = b""
        self._context_id = 0
        self._storing: Storing | None = None
        self._terms: dict[int, Terms] = {}
        self._introduce(connection, address)

    def _introduce(self, connection: socket.socket, address: tuple[Any, ...]) -> None:
        """Tell pynetdicom who is who."""
        ae = self._house.ae
        self.acceptor.maximum_length = self._house.max_pdu
        self.acceptor.ae_title = ae.ae_title
        self.acceptor.address_info = AddressInformation.from_tuple(connection.getsockname())
        self.acceptor.implementation_class_uid = ae.implementation_class_uid
        self.acceptor.implementation_version_name = ae.implementation_version_name
        self.acceptor.supported_contexts = self._house.contexts
        self.requestor.address_info = AddressInformation.from_tuple(address)
        for one in self._house.handlers:
            self.bind(*one)

    def run_reactor(self) -> None:
        """Negotiate, receive until the peer has enough, and leave nothing behind."""
        try:
            if self._negotiate():
                self._is_paused = True  # whoever sends a request from another thread need not wait for us
                while self.is_established and not self._kill:
                    self._next()
        except (Gone, Endless, Silent, TooSlow, Misbehaved) as why:
            self._broken(why)
        except Exception as why:
            log.error("association ended by a failure: %s", failure(why), exc_info=True)
            self._broken(Misbehaved(0, "failure"))
        finally:
            if self._storing is not None:
                self._storing.drop()
            if self._place is not None:
                self._house.places.leave(self._place)
            if self.is_rejected or self.is_released:
                self._wire.last_word()
            self._wire.close()

    def _negotiate(self) -> bool:
        try:
            understood = _known if len(self._request) <= _USUAL_REQUEST else _understood
            request, self.requestor.primitive = understood(self._request)
            calling_ae = str(self.requestor.primitive.calling_ae_title).strip()
        except Exception as why:
            raise Misbehaved(BAD_VALUE, "no A-ASSOCIATE-RQ") from why
        self._request = b""
        self.requestor.ae_title = calling_ae
        refused = self._is_refused(request)
        if refused is not None:
            self.acse.send_reject(PERMANENT, *refused)
            return False
        evt.trigger(self, evt.EVT_REQUESTED, {})
        if not (self.is_rejected or self.is_aborted):
            self._place = self._house.places.take(calling_ae)
            if self._place is None:
                log.warning("association put off: no place is free", extra={"calling_ae": calling_ae})
                self.acse.send_reject(TRANSIENT, *LIMIT_EXCEEDED)
            else:
                self._agree()
        return bool(self.is_established)

    def _agree(self) -> None:
        try:
            self.acse.negotiate_association()
        except PARSE_ERRORS as why:
            if isinstance(why, Gone):
                raise
            raise Misbehaved(BAD_VALUE, "an A-ASSOCIATE-RQ that asks for what cannot be") from why

    def _is_refused(self, request: A_ASSOCIATE_RQ) -> tuple[int, int] | None:
        """Return source and reason of a rejection where the request is not one that pynetdicom can negotiate."""
        primitive: Any = self.requestor.primitive
        if why := self._house.refuses(self.caller):
            extra = {"calling_ae": self.caller.ae_title, "address": self.caller.address}
            log.warning("association refused: %s", why, extra=extra)
            return NOT_RECOGNISED
        if not request.protocol_version & 1:
            return NO_SUCH_VERSION
        if primitive.application_context_name != APPLICATION_CONTEXT_NAME:
            return NO_SUCH_APPLICATION
        contexts = primitive.presentation_context_definition_list
        if not contexts or not all(one.abstract_syntax and one.transfer_syntax for one in contexts):
            raise Misbehaved(BAD_VALUE, "an A-ASSOCIATE-RQ without a presentation context, or one without syntax")
        return None

    def _next(self) -> None:
        """Take one PDU."""
        kind, length = self._wire.next_pdu()
        if length > self._house.max_pdu:
            raise Misbehaved(BAD_VALUE, "a PDU longer than was agreed")
        if kind == P_DATA_TYPE:
            self._p_data(length)
            return
        if kind not in (RELEASE_RQ, ABORT) or length != 4:
            raise Misbehaved(UNEXPECTED if kind in _KNOWN_TYPES else UNRECOGNISED, f"a PDU of type {kind:02X}")
        self._wire.take(length)
        self.is_established = False
        if kind == RELEASE_RQ:
            self.acse.send_release(is_response=True)
            self.is_released = True
            evt.trigger(self, evt.EVT_RELEASED, {})
        else:
            self.is_aborted = True
            evt.trigger(self, evt.EVT_ABORTED, {})

    def _broken(self, why: Exception) -> None:
        """End what cannot go on; the peer is told where it still listens."""
        try:
            if isinstance(why, Misbehaved):
                self.acse.send_ap_abort(why.reason)
            elif not isinstance(why, Gone):
                self.acse.send_abort(0x00)
            self._wire.last_word()
        except Gone:
            log.debug("the peer did not wait for our A-ABORT")
        if not self._kill:
            what = str(why) or type(why).__name__
            log.warning("association ended", extra={"calling_ae": self.requestor.ae_title, "why": what})
            self.is_aborted, self.is_established = True, False
            evt.trigger(self, evt.EVT_ABORTED, {})

    def _p_data(self, left: int) -> None:
        """Take the presentation data values of one P-DATA-TF PDU (PS3.8 9.3.5, annex E)."""
        while left:
            if left < 6:
                raise Misbehaved(BAD_VALUE, "a presentation data value is cut short")
            head = self._wire.take(6)
            size, context_id, control = int.from_bytes(head[:4], "big") - 2, head[4], head[5]
            left -= size + 6
            if size < 0 or left < 0:
                raise Misbehaved(BAD_VALUE, "a presentation data value longer than its PDU")
            if context_id not in self._accepted_cx:
                raise Misbehaved(BAD_VALUE, "a presentation context that was not accepted")
            self._fragment(context_id, size, of_command=bool(control & 1), last=bool(control & 2))

    def _fragment(self, context_id: int, size: int, *, of_command: bool, last: bool) -> None:
        if of_command is (self._command is not None) or (self._context_id or context_id) != context_id:
            raise Misbehaved(BAD_VALUE, "a fragment out of order")
        self._context_id = context_id
        limit = _LONGEST_COMMAND if of_command else _LONGEST_MESSAGE
        while size:
            piece = self._wire.some(size)
            size -= len(piece)
            if self._storing is not None:
                self._storing.write(piece)
                continue
            self._partial += piece
            if len(self._partial) > limit:
                raise Misbehaved(BAD_VALUE, "a message longer than any real one")
        if last and of_command:
            self._commanded(bytes(self._partial))
        elif last:
            self._complete()

    def _commanded(self, raw: bytes) -> None:
        """Look at a whole command set; what it commands may need its data set first."""
        self._partial.clear()
        try:
            command = read_command(raw)
        except BadCommand as why:
            raise Misbehaved(BAD_VALUE, str(why)) from why
        self._command, self._raw_command = command, raw
        if command.field == C_STORE_RQ and command.has_data_set:
            self._storing = Storing(self._house.intake, command, self._terms_on(self._context_id))
        elif not command.has_data_set:
            self._complete()

    def _complete(self) -> None:
        """Answer a whole message."""
        command, storing, context_id = self._command, self._storing, self._context_id
        data, self._partial = bytes(self._partial), bytearray()
        self._command, self._storing, self._context_id = None, None, 0
        if command is None:
            raise Misbehaved(BAD_VALUE, "a data set without its command")
        if command.field == C_STORE_RQ:
            status = storing.end() if storing else CANNOT_UNDERSTAND  # without a data set there is no instance
            if storing and storing.study_uid:
                self._house.sendings.brought(self, storing.study_uid, calling_ae=self.requestor.ae_title.strip())
            self._outlet.send(store_answer(context_id, command, status))
            reach("intake.rsp_sent")
        else:
            self._hand_over(command, context_id, data if command.has_data_set else None)

    def _hand_over(self, command: Command, context_id: int, data: bytes | None) -> None:
        """Let pynetdicom serve a message; what this node does not serve is answered here."""
        if command.is_request:
            status = refusal(command, str(self._accepted_cx[context_id].abstract_syntax))
            if status:
                extra = {"calling_ae": self.requestor.ae_title.strip(), "status": f"{status:04X}"}
                log.warning("request refused: command %04X is not served here", command.field, extra=extra)
                self._outlet.send(store_answer(context_id, command, status))
                return
        try:
            message = read_message(context_id, self._raw_command, data)
        except BadMessage as why:
            raise Misbehaved(BAD_VALUE, str(why)) from why
        if not command.is_request:
            if not self._reactor_checkpoint.is_set() and self.dimse.msg_queue.empty():  # else nobody waits for it
                self.dimse.msg_queue.put((context_id, message))
            return
        if not message.is_valid_request:
            raise Misbehaved(BAD_VALUE, "a request without what it must have")
        self._serve_request(message, context_id)
        self._is_paused = True
        if (place := _ANSWERED.get(type(message))) is not None:
            reach(place)

    @property
    def caller(self) -> Caller:
        """Who asks for the association."""
        address = str(self.requestor.address_info.address) if self.requestor.address_info else ""
        return Caller(ae_title=self.requestor.ae_title.strip(), address=address, certificate=self.certificate)

    def _terms_on(self, context_id: int) -> Terms:
        """Return on what terms instances are taken on a presentation context; they hold for the association."""
        terms = self._terms.get(context_id)
        if terms is None:
            context, calling_ae = self._accepted_cx[context_id], self.requestor.ae_title.strip()
            refused = 0
            if calling_ae in self._house.no_senders:
                refused = NOT_AUTHORIZED
            elif uid_to_service_class(str(context.abstract_syntax)) not in (StorageServiceClass, ServiceClass):
                refused = CLASS_NOT_SUPPORTED
            terms = self._terms[context_id] = Terms(
                calling_ae=calling_ae, syntax=str(context.transfer_syntax[0]),
                max_bytes=self._house.max_bytes, refused=refused,
            )  # fmt: skip
        return terms
