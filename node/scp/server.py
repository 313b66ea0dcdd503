"""The listening application entity: every storage class, every transfer syntax, bytes kept as sent."""

from __future__ import annotations

import logging
import resource
import secrets
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pydicom.config
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    Verification,
)

from node.commitment import Reporter
from node.db import completion
from node.domain.access import refusal
from node.domain.peer import Verify
from node.intake import Intake
from node.logs import failure
from node.processes import identity
from node.scp import commitment, handlers, mpps
from node.scp.commitment import Answering
from node.scp.listener import Listener, WaitingRoom
from node.scp.places import Places
from node.scp.receiver import House, Receiver
from node.scp.sendings import Sendings
from node.settings import Settings
from node.tls import server_context

log = logging.getLogger(__name__)

_NEGOTIATING = 32  # threads beside those of associations: for requests that are being answered
_REJECTION = bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2))  # PS3.8 9.3.4: transient, presentation, local limit exceeded

_config.UNRESTRICTED_STORAGE_SERVICE = True  # private and future storage classes are stored too
_config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's own lines repeat headers


def make_ae(settings: Settings) -> AE:
    """Return the application entity as the settings describe it."""
    ae = AE(ae_title=settings.ae_title)
    for context in AllStoragePresentationContexts:
        ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
    ae.add_supported_context(Verification)
    ae.add_supported_context(ModalityPerformedProcedureStep)
    # We are asked to commit ourselves; and the peer that opens the association to report is the provider all the same:
    # PS3.4 J.3.3 by PS3.7 D.3.3.4.
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
    ae.require_called_aet = True
    if not settings.accept_unknown_senders:
        # An empty list would let every one in: where no peer may send, ask for a title that nobody can know.
        allowed = [
            peer.ae_title
            for peer in settings.peers
            if peer.ae_title and (peer.may_send or peer.verify is Verify.COMMITMENT)
        ]
        ae.require_calling_aet = allowed or [secrets.token_hex(8)]
    ae.maximum_associations = 1_000_000  # we count them ourselves, and before they are negotiated: see places.py
    ae.network_timeout = settings.network_timeout
    ae.dimse_timeout = settings.network_timeout
    ae.acse_timeout = min(30.0, settings.network_timeout)
    return ae


class Door:
    """The listening node: a listener, and the associations that it let in."""

    def __init__(self, settings: Settings, house: House, places: Places) -> None:
        self._house, self._places = house, places
        self._most = settings.max_associations + _NEGOTIATING
        self._receivers: set[Receiver] = set()
        self._alone = threading.Lock()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = WaitingRoom(
            seconds=settings.association_timeout, total=min(settings.max_waiting, descriptors // 4),
            each=settings.max_waiting_per_address, longest=settings.max_pdu_bytes,
        )  # fmt: skip
        self._listeners = [] if settings.tls and settings.tls.only else [
            Listener(settings.host, settings.port, room, self._admit)
        ]  # fmt: skip
        if settings.tls and settings.tls.port and settings.papers:
            context = server_context(settings.papers)
            self._listeners.append(Listener(settings.host, settings.tls.port, room, self._admit, context))
        for one in self._listeners:
            one.start()

    def shutdown(self) -> None:
        """Take no more associations; those that are open go on."""
        for one in self._listeners:
            one.shutdown()

    def finish(self, *, limit: float) -> None:
        """Let the peers that are sending finish, for *limit* seconds at most."""
        deadline = time.monotonic() + limit
        while self._places.taken() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _admit(self, connection: socket.socket, address: tuple[Any, ...], request: bytes) -> None:
        """Give a connection its thread; where there are too many already, a rejection."""
        with self._alone:
            self._receivers = {one for one in self._receivers if one.is_alive()}
            if len(self._receivers) < self._most:
                try:
                    receiver = Receiver(self._house, connection, address, request)
                    receiver.start()
                    self._receivers.add(receiver)
                except (OSError, RuntimeError) as why:  # the peer has left, or the system has no thread left
                    log.error("a connection found no thread: %s", failure(why))
                    connection.close()
                return
        with connection, suppress(OSError):
            connection.send(_REJECTION)


def start_scp(settings: Settings, intake: Intake, sendings: Sendings | None = None) -> Door:
    """Listen for associations until the returned door is shut down; *sendings* may be given to be waited for."""
    # Each UID of each presentation context would be looked at once more; pynetdicom has looked, and header.py does.
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    ae = make_ae(settings)
    sendings = sendings or Sendings(intake.database, intake.now, intake.latest)
    reporter = Reporter(intake.database, intake.store, settings, intake.now, identity("scp"))
    no_senders = _no_senders(settings)
    bound: list[Any] = [
        (evt.EVT_N_CREATE, handlers.readable(mpps.on_n_create), [intake.database, intake.now, no_senders]),
        (evt.EVT_N_SET, handlers.readable(mpps.on_n_set), [intake.database, intake.now, no_senders]),
        (
            evt.EVT_N_ACTION, handlers.readable(commitment.on_n_action),
            [intake, settings, Answering(reporter)],
        ),
        (
            evt.EVT_N_EVENT_REPORT, handlers.readable(handlers.on_commitment_report),
            [intake.database, settings, intake.now],
        ),
        (evt.EVT_C_ECHO, handlers.on_c_echo),
        (evt.EVT_ABORTED, handlers.on_end, [sendings]),
        (evt.EVT_RELEASED, handlers.on_released, [sendings]),
        (evt.EVT_REQUESTED, handlers.on_requested, [intake.store, settings.disk_low_percent]),
    ]  # fmt: skip
    places = Places(
        total=settings.max_associations, each=settings.max_associations_per_peer, kept=settings.urgent_associations,
        urgent=frozenset(peer.ae_title for peer in settings.peer if peer.urgent and peer.ae_title),
    )  # fmt: skip
    peers = settings.peers
    house = House(
        refuses=lambda caller: refusal(caller, peers, strangers=True),  # pynetdicom looks at titles that no peer has
        ae=ae, contexts=ae.supported_contexts, handlers=bound, intake=intake, places=places,
        sendings=sendings, no_senders=no_senders, max_bytes=settings.max_instance_bytes, max_pdu=settings.max_pdu_bytes,
        idle=settings.network_timeout, pdu=settings.pdu_timeout,
    )  # fmt: skip
    with intake.database.transaction() as session:
        completion.listens(session, owner=identity("scp"), at=intake.now())
    door = Door(settings, house, places)
    log.info("listening", extra={"ae_title": settings.ae_title, "port": settings.port})
    return door


def _no_senders(settings: Settings) -> frozenset[str]:
    """Return the peers that are let in for their reports on storage commitment, and may not store."""
    if settings.accept_unknown_senders:
        return frozenset()
    return frozenset(peer.ae_title or "" for peer in settings.peers if not peer.may_send)
