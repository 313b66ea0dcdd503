"""Peers: the remote application entities that the node knows, what is sent to them and what they answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

#: A destination of this name stands for the peer that sent the study.
SENDER = "sender"


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One remote application entity."""

    name: str
    ae_title: str
    host: str
    port: int
    may_send: bool = True  # it may store studies here
    timeout: float = 30.0  # seconds for connect, association and each answer
    profile: str = "default"  # in which objects it is told what was found


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
    status: str = ""  # DIMSE status as four hexadecimal digits, where there was one
    reason: str = ""
