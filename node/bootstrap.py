"""The composition root: Settings in, Services out. After it nothing reads the environment or a global."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from node import __version__
from node.broker import Broker
from node.care import Care
from node.db.schema import migrate
from node.delivery import Deliverer
from node.dicom.context import NodeIdentity
from node.domain.peer import Peer
from node.errors import SettingsError
from node.foundation import Foundation, check_models, lay
from node.logs import failure
from node.processes import identity
from node.settings import Settings
from node.sweep import Sweep
from node.transport import Transport, open_transport

log = logging.getLogger(__name__)


_FILED_WITHIN = 60.0  # seconds; what is left is filed by the listener


@dataclass(frozen=True, kw_only=True, slots=True)
class Services(Foundation):
    """What the entry points work with."""

    broker: Broker
    node: NodeIdentity
    worker: str  # who this process is

    def transport_to(self, peer: Peer) -> Transport:
        """Return the way to *peer*."""
        return open_transport(peer, calling_ae=self.settings.ae_title)

    def care(self) -> Care:
        """Return what compares the table with the store."""
        return Care(self.database, self.store, self.intake(), self.now)

    def sweep(self) -> Sweep:
        """Return what time alone brings."""
        return Sweep(self.database, self.store, self.broker, self.settings, self.now, time.monotonic)

    def deliverer(self) -> Deliverer:
        """Return what sends results."""
        return Deliverer(
            database=self.database, store=self.store, settings=self.settings, transport_to=self.transport_to,
            now=self.now, worker=self.worker,
        )  # fmt: skip


def prepare(settings: Settings) -> None:
    """Make the home folder, bring the database to the newest schema, put right what a crash left; safe to run again."""
    check_models(settings)
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o750)
    node_identity(settings)
    migrate(settings.database)
    services = build(settings, "prepare")
    try:
        services.intake().file_left(_FILED_WITHIN)  # before the sweep takes their studies for complete
        services.care().reconcile()
    except (OSError, SQLAlchemyError) as why:  # the sweep tries again; better to receive than to be tidy
        log.error("the store was not compared with the table: %s", failure(why))
    finally:
        services.database.engine.dispose()


def build(settings: Settings, role: str) -> Services:
    """Return the services of one process; SettingsError where the home is not prepared."""
    base = lay(settings)
    return Services(
        settings=settings, database=base.database, store=base.store, broker=Broker(settings.broker),
        node=node_identity(settings), worker=identity(role),
    )  # fmt: skip


def node_identity(settings: Settings) -> NodeIdentity:
    """Return how this node signs its results; the node id is made once and kept in the home folder."""
    return NodeIdentity(
        node_id=settings.node_id or _kept_node_id(settings.home),
        manufacturer=settings.manufacturer,
        model_name="pacs-ai-node",
        serial=settings.device_serial,
        software_version=__version__,
        uid_root=settings.uid_root,
    )


def _kept_node_id(home: Path) -> str:
    """Return the home's node id; made whole or not at all, by whichever process comes first."""
    file = home / "node-id"
    if not file.exists():
        part = home / f"node-id.{uuid4().hex}.part"
        with part.open("w", encoding="ascii") as out:
            out.write(f"{uuid4()}\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(part, file)  # unlike a rename, it never replaces another process's
        part.unlink()
    kept = file.read_text(encoding="ascii").strip()
    if not kept:
        raise SettingsError(f"{file} is empty: put back the id from a backup, or set node_id")
    return kept
