"""Ways to a peer. A transport is one file; `open_transport` names it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from node.domain.peer import Answer, CommitReport, OutgoingFile, Peer
from node.transport.counts import Counts
from node.transport.cstore import CStoreTransport


class Transport(Protocol):
    """A way to one peer."""

    def echo(self) -> float:
        """Return the seconds that a verification took; PeerAway or PeerRefused where it fails."""

    def find(self, file: OutgoingFile) -> bool | None:
        """Return whether the peer has the instance; None where it cannot be asked."""

    def find_all(self, files: Sequence[OutgoingFile]) -> list[bool | None]:
        """Return the same for each of several instances, asked over one connection."""

    def count(self, study_uids: Sequence[str]) -> Iterator[Counts | None]:
        """Yield how many instances of each study the peer has, by its own count; None where it does not count."""

    def patient_of(self, study_uid: str) -> str | None:
        """Return the Patient ID under which the peer has a study; None where it has none, or does not say."""

    def commit(
        self, files: Sequence[OutgoingFile], transaction_uid: str, answered: Callable[[], bool]
    ) -> CommitReport | None:
        """Ask the peer to commit itself to the instances; return its report where it comes in the peer's time.

        None where it comes later, by another association, or *answered* says that it has come so already; PeerRefused
        where the peer does not offer storage commitment.
        """

    def send(self, files: Sequence[OutgoingFile]) -> Iterator[Answer]:
        """Send the files in order; yield the answer to each as it comes."""


def open_transport(peer: Peer, *, calling_ae: str) -> Transport:
    """Return the transport for *peer*."""
    if not peer.url:
        return CStoreTransport(peer, calling_ae=calling_ae)
    from node.transport.stow import StowTransport  # its HTTP library is large, and most nodes have no such peer

    return StowTransport(peer)
