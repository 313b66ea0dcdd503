"""Peers: the remote application entities that the node knows, what is sent to them and what they answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

#: A destination of this name stands for the peer that sent the study.
SENDER = "sender"


class Verify(StrEnum):
    """How the node makes sure that a peer which took a result has it."""

    QUERY = "query"  #: it is asked for each instance by C-FIND or QIDO-RS
    COMMITMENT = "commitment"  #: it is asked to commit itself to the set (DICOM storage commitment)
    NONE = "none"  #: its answer to the sending is enough


class Counts(StrEnum):
    """How a peer is asked how many instances of a study it has."""

    NONE = "none"  #: not at all
    CFIND = "c-find"  #: by C-FIND at SERIES level, else at STUDY level
    QIDO = "qido"  #: by QIDO-RS


@dataclass(frozen=True, kw_only=True, slots=True)
class Papers:
    """The files with which the node shows who it is, and knows others."""

    certificate: Path  # PEM: ours, and those between it and a root
    key: Path  # PEM
    authorities: Path | None = None  # PEM: who vouches for peers
    revoked: Path | None = None  # PEM: revocation lists of those authorities
    mutual: bool = True  # a peer without a certificate of theirs is not let in


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One remote application entity, or DICOMweb server."""

    name: str
    ae_title: str = ""
    host: str = ""
    port: int = 0
    url: str = ""  # of a DICOMweb server: then results go there by STOW-RS
    token: str = field(default="", repr=False)  # what it knows us by, sent as a bearer token
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    may_send: bool = True  # it may store studies here
    addresses: tuple[str, ...] = ()  # networks that it calls from; none: any
    certificate: str = ""  # SHA-256 of the one that it shows; "": any that an authority vouches for
    papers: Papers | None = None  # it is called over TLS, and shown these; none: it is called in the clear
    timeout: float = 30.0  # seconds for connect, association and each answer
    profile: str = "default"  # in which objects it is told what was found
    verify: Verify = Verify.QUERY
    count: Counts = Counts.NONE  # whether its own count says that a study which it sends is complete
    count_after: timedelta = timedelta(seconds=3)  # without a new instance, before it is asked

    @property
    def where(self) -> str:
        """Return name and address as a person looks for them."""
        return f"{self.name} ({self.url or f'{self.ae_title} at {self.host}:{self.port}'})"


@dataclass(frozen=True, kw_only=True, slots=True)
class OutgoingFile:
    """One instance file to be sent as it lies on disk."""

    path: Path
    sop_class: str
    sop_uid: str
    transfer_syntax: str
    study_uid: str = ""


class AnswerKind(StrEnum):
    """What a peer's answer means for the sender."""

    ACCEPTED = "accepted"  #: it has the instance
    LATER = "later"  #: it does not, and may take it another time
    REFUSED = "refused"  #: it will never take it
    UNKNOWN = "unknown"  #: it did not answer: it may or may not have it


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A peer's answer to one instance."""

    kind: AnswerKind
    status: str = ""  # DIMSE status as four hexadecimal digits, or e.g. "HTTP 503", where there was one
    reason: str = ""
    retry_after: float = 0.0  # seconds that the peer asks us to wait


@dataclass(frozen=True, kw_only=True, slots=True)
class CommitReport:
    """What a peer says about one question for storage commitment (PS3.4 J.3.3)."""

    transaction_uid: str
    committed: frozenset[str]  # SOP Instance UIDs
    failed: dict[str, int]  # SOP Instance UID -> failure reason (PS3.3 C.14.1.1)


class BreakerState(StrEnum):
    """Whether anything is sent to a peer."""

    CLOSED = "closed"  #: yes
    OPEN = "open"  #: no: it was away too often in a row
    HALF_OPEN = "half_open"  #: one worker is looking whether it is back


@dataclass(frozen=True, kw_only=True, slots=True)
class Breaker:
    """What is known of the way to one peer."""

    peer: str
    state: BreakerState
    failures: int
    opened_at: datetime | None
    until: datetime | None
    reason: str

    @property
    def words(self) -> str:
        """Return what a person reads on everything that waits for this peer."""
        since = f" since {_utc(self.opened_at)}" if self.opened_at else ""
        look = "a look is under way" if self.state is BreakerState.HALF_OPEN else f"next look at {_utc(self.until)}"
        return f"peer {self.peer} is away{since}; {look} ({self.reason})"


def _utc(at: datetime | None) -> str:
    return at.strftime("%Y-%m-%d %H:%M:%S UTC") if at else "once"
