"""The listening application entity: every storage class, every transfer syntax, bytes kept as sent."""

from __future__ import annotations

import logging
import secrets
from typing import Any, cast

from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    Verification,
)
from pynetdicom.transport import ThreadedAssociationServer

from node.commitment import Reporter
from node.domain.peer import Verify
from node.failpoints import armed
from node.intake import Intake
from node.processes import identity
from node.scp import commitment, handlers, mpps
from node.scp.commitment import Answering
from node.scp.sendings import Sendings
from node.settings import Settings

log = logging.getLogger(__name__)

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
    ae.maximum_associations = settings.max_associations
    ae.network_timeout = settings.network_timeout
    ae.dimse_timeout = settings.network_timeout
    ae.acse_timeout = min(30.0, settings.network_timeout)
    return ae


def start_scp(settings: Settings, intake: Intake, sendings: Sendings | None = None) -> ThreadedAssociationServer:
    """Listen for associations until the returned server is shut down; *sendings* may be given to be waited for."""
    ae = make_ae(settings)
    sendings = sendings or Sendings(intake.database, intake.now)
    reporter = Reporter(intake.database, intake.store, settings, intake.now, identity("scp"))
    no_senders = _no_senders(settings)
    bound: list[Any] = [
        (evt.EVT_C_STORE, handlers.on_c_store, [intake, settings.max_instance_bytes, no_senders, sendings]),
        (evt.EVT_N_CREATE, mpps.on_n_create, [intake.database, intake.now, no_senders]),
        (evt.EVT_N_SET, mpps.on_n_set, [intake.database, intake.now, no_senders]),
        (evt.EVT_N_ACTION, commitment.on_n_action, [intake.database, settings, intake.now, Answering(reporter)]),
        (evt.EVT_N_EVENT_REPORT, handlers.on_commitment_report, [intake.database, settings, intake.now]),
        (evt.EVT_C_ECHO, handlers.on_c_echo),
        (evt.EVT_ABORTED, handlers.on_end, [sendings]),
        (evt.EVT_RELEASED, handlers.on_released, [sendings]),
        (evt.EVT_CONN_OPEN, handlers.on_open, [settings.network_timeout]),
        (evt.EVT_REQUESTED, handlers.on_requested, [intake.store, settings.disk_low_percent]),
    ]
    if armed():
        bound.append((evt.EVT_DATA_SENT, handlers.on_sent))
    server = ae.start_server((settings.host, settings.port), block=False, evt_handlers=bound)
    log.info("listening", extra={"ae_title": settings.ae_title, "port": settings.port})
    return cast(ThreadedAssociationServer, server)  # pynetdicom returns none only where it blocks


def _no_senders(settings: Settings) -> frozenset[str]:
    """Return the peers that are let in for their reports on storage commitment, and may not store."""
    if settings.accept_unknown_senders:
        return frozenset()
    return frozenset(peer.ae_title for peer in settings.peers if not peer.may_send)
