"""Results, and their way to each peer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from node.errors import IllegalMove

#: Stands in the reason of a delivery: a person has to see whether both are one.
OTHER_PATIENT = "the peer has the study under another patient"


class ResultRole(StrEnum):
    """What a result instance is within its set."""

    SEG = "seg"  #: Segmentation
    PM = "pm"  #: Parametric Map
    SR = "sr"  #: Structured Report
    SC = "sc"  #: Secondary Capture
    PDF = "pdf"  #: Encapsulated PDF
    GSPS = "gsps"  #: Grayscale Softcopy Presentation State
    KOS = "kos"  #: Key Object Selection


class DeliveryState(StrEnum):
    """Where one result stands on its way to one peer."""

    QUEUED = "queued"  #: to be sent
    SENDING = "sending"  #: a worker is sending it, under a lease
    ACKED = "acked"  #: the peer answered that it has it; it is looked for there
    VERIFIED = "verified"  #: it was found there, or the peer committed itself to it: nothing is left to do
    UNKNOWN = "unknown"  #: nobody knows whether the peer has it: it is asked before the next try
    RETRY_WAIT = "retry_wait"  #: the peer was away or asked us to come back; another try follows
    PARKED = "parked"  #: the peer will not take it, or too long a time went by: a person must look
    CANCELLED = "cancelled"  #: a person ended it


_S = DeliveryState
#: The peer answered that it has the instance.
TAKEN = frozenset({_S.ACKED, _S.VERIFIED})
MOVES: dict[DeliveryState, frozenset[DeliveryState]] = {
    _S.QUEUED: frozenset({_S.SENDING, _S.CANCELLED}),
    _S.SENDING: frozenset({_S.ACKED, _S.UNKNOWN, _S.RETRY_WAIT, _S.PARKED}),
    _S.UNKNOWN: frozenset({_S.SENDING, _S.ACKED, _S.RETRY_WAIT, _S.PARKED, _S.CANCELLED}),
    _S.RETRY_WAIT: frozenset({_S.SENDING, _S.QUEUED, _S.PARKED, _S.CANCELLED}),
    _S.PARKED: frozenset({_S.QUEUED, _S.CANCELLED}),
    _S.ACKED: frozenset({_S.VERIFIED, _S.QUEUED, _S.PARKED}),
    _S.VERIFIED: frozenset(),
    _S.CANCELLED: frozenset({_S.QUEUED}),
}


def check_move(delivery_id: int, old: DeliveryState, new: DeliveryState) -> None:
    """Refuse a move that no delivery can make, naming both states."""
    if new not in MOVES[old]:
        raise IllegalMove(f"delivery {delivery_id} is {old} and cannot become {new}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One DICOM instance that we made, frozen on disk."""

    id: int
    job_id: str
    role: str
    variant: str  # what sets it apart from the others of its role, e.g. "binary"
    sop_class: str
    sop_uid: str
    path: str
    sha256: str
    size: int
    position: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One result to one peer."""

    id: int
    result_id: int
    job_id: str
    peer: str
    state: DeliveryState
    tries: int
    next_at: datetime
    created_at: datetime
    last_status: str
    reason: str
    looks: int = 0  # for it at the peer, since it was sent last
