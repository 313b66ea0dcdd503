"""Reports on storage commitment over an association of our own: we call, and are the provider (PS3.7 D.3.3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom import build_context, build_role
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.domain.peer import Peer
from node.errors import PeerAway, PeerRefused
from node.transport.cstore import associated


@contextmanager
def report_to(peer: Peer, *, calling_ae: str) -> Iterator[Callable[[int, Dataset], int]]:
    """Yield what tells the peer a report and returns its answer; PeerAway or PeerRefused where there is no way."""
    role = build_role(StorageCommitmentPushModel, scp_role=True)
    contexts = [build_context(StorageCommitmentPushModel)]
    with associated(peer, calling_ae=calling_ae, contexts=contexts, roles=[role]) as association:
        yield lambda kind, report: tell(association, kind, report, peer.where)


def tell(association: Any, kind: int, report: Dataset, where: str) -> int:
    """Put one N-EVENT-REPORT and return the status of the answer."""
    try:
        status, _ = association.send_n_event_report(
            report, kind, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
    except RuntimeError as why:  # pynetdicom's word for an association that has ended
        raise PeerAway(f"{where} ended the association before the report") from why
    except ValueError as why:  # the roles were not reversed
        raise PeerRefused(f"{where} does not take reports on storage commitment from us") from why
    if "Status" not in status:
        raise PeerAway(f"{where} did not answer to the report")
    return int(status.Status)
