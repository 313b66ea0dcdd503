"""Pauses: what a person has halted, and what that holds back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

#: Halts everything that a pause can halt.
NODE = "node"


class PauseKind(StrEnum):
    """What a pause may name besides the whole node."""

    QUEUE = "queue"  #: one kind of worker: "gpu" runs models, "io" delivers
    MODEL = "model"  #: no job of it is claimed
    PEER = "peer"  #: nothing is sent to it


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """One thing that a person has halted. Receiving and settling go on whatever is paused."""

    what: str  # "node", or a kind and a name: "model:ct-lung"
    reason: str
    who: str
    at: datetime


def is_paused(paused: Collection[str], *, queue: str = "", model: str = "", peer: str = "") -> bool:
    """Return whether a pause holds back what concerns all that is named here."""
    named = ((PauseKind.QUEUE, queue), (PauseKind.MODEL, model), (PauseKind.PEER, peer))
    return NODE in paused or any(f"{kind}:{name}" in paused for kind, name in named if name)


def names_of(paused: Collection[str], kind: PauseKind) -> frozenset[str]:
    """Return the names of the paused things of that kind, e.g. for a WHERE clause."""
    return frozenset(what.partition(":")[2] for what in paused if what.startswith(f"{kind}:"))


def holds(pause: Pause, *, queue: str = "", model: str = "", peer: str = "") -> bool:
    """Return whether this one pause holds back what concerns all that is named here."""
    return is_paused((pause.what,), queue=queue, model=model, peer=peer)
