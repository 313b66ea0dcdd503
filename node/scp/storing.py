"""One C-STORE from its command to its answer: the data set goes straight into the store, and is never decoded."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from dataclasses import dataclass

from node.errors import StoreFull, UnreadableInstance
from node.intake import Incoming, Intake, Mismatch
from node.scp.commands import Command

log = logging.getLogger(__name__)

#: Stands in the file meta information of what we receive; it never changes.
IMPLEMENTATION_UID = "2.25.280412371463713229371839263781923700161"
IMPLEMENTATION_NAME = b"PACS_AI_NODE"

SUCCESS, OUT_OF_RESOURCES, NOT_THE_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000  # PS3.4 B.2.3
NOT_AUTHORIZED, CLASS_NOT_SUPPORTED = 0x0124, 0x0122  # PS3.7 C.5
UNFORESEEN = 0xC211  # as pynetdicom answers where its handler fails: the peer may try again

_LONGEST_UID = 64
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_NO_GROUPS = {0x0000, 0x0002}  # a command set or file meta information where a data set has to begin


class Endless(Exception):
    """A data set went on and on behind what this node takes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """On what terms a peer's instances are taken on one presentation context."""

    calling_ae: str
    syntax: str  # the transfer syntax that was negotiated
    max_bytes: int
    refused: int = SUCCESS  # another status: whatever comes is refused with it


class Storing:
    """Takes one data set, piece by piece, and knows the status to answer at its end.

    After a refusal the rest of the data set is read and thrown away: the association lives on (PS3.7 9.1.1).
    """

    def __init__(self, intake: Intake, command: Command, terms: Terms) -> None:
        self._command, self._terms = command, terms
        self._status = SUCCESS
        self._incoming: Incoming | None = None
        self._begun = False
        self.study_uid = ""  # of the instance, once it is kept
        self._seen = 0  # bytes of the data set, taken or thrown away
        if terms.refused:
            self._refuse(terms.refused, "this peer may not store here, or not on this presentation context")
        else:
            self._do(lambda: self._open(intake))

    def write(self, data: memoryview) -> None:
        """Take the next piece; Endless where the peer does not come to an end."""
        self._seen += len(data)
        if self._seen > 2 * self._terms.max_bytes:
            raise Endless
        if self._incoming is not None:
            self._do(lambda: self._append(data))

    def end(self) -> int:
        """Keep what was written; return the status. SUCCESS only when bytes and row are safe on disk."""
        if self._incoming is not None:
            self._do(self._keep)
            self.drop()
        return self._status

    def drop(self) -> None:
        """Leave nothing of an instance that was not kept."""
        if self._incoming is not None:
            self._incoming.drop()
            self._incoming = None

    def _do(self, act: Callable[[], None]) -> None:
        """Do one step; what keeps it from being done is the status, and the rest of the instance is let pass."""
        try:
            act()
        except Mismatch as why:
            self._refuse(NOT_THE_CLASS, str(why))
        except UnreadableInstance as why:
            self._refuse(CANNOT_UNDERSTAND, str(why))  # the peer should not send this one again
        except StoreFull as why:
            self._refuse(OUT_OF_RESOURCES, str(why))  # the peer should try again later
        except Exception:  # the outermost frame of one instance: its neighbours on the association go on
            log.exception("an instance was not kept", extra={"calling_ae": self._terms.calling_ae})
            self._status = UNFORESEEN
            self.drop()

    def _refuse(self, status: int, why: str) -> None:
        extra = {"calling_ae": self._terms.calling_ae, "status": f"{status:04X}", "why": why}
        log.warning("instance refused", extra=extra)
        self._status = status
        self.drop()

    def _open(self, intake: Intake) -> None:
        sop_class, sop_uid = (_uid(raw) for raw in (self._command.sop_class, self._command.sop_uid))
        self._incoming = intake.receive(calling_ae=self._terms.calling_ae, sop_class=sop_class, sop_uid=sop_uid)
        self._incoming.write(file_head(sop_class, sop_uid, self._terms.syntax))

    def _append(self, data: memoryview) -> None:
        assert self._incoming is not None  # noqa: S101 - write() looks
        if not self._begun and len(data) >= 2:
            _check_beginning(data, self._terms.syntax)
        self._begun = True
        if self._seen > self._terms.max_bytes:
            raise StoreFull(f"an instance of more than {self._terms.max_bytes} bytes (max_instance_bytes)")
        self._incoming.write(data)

    def _keep(self) -> None:
        assert self._incoming is not None  # noqa: S101 - end() looks
        facts = self._incoming.keep()
        self.study_uid = facts.study_uid
        log.debug("instance kept", extra={"calling_ae": self._terms.calling_ae, "sop_instance_uid": facts.sop_uid})


def _uid(raw: bytes) -> str:
    """Return an announced UID; whether it is the data set's is seen later, whether it is one at all now."""
    text = raw.decode("ascii", errors="replace").rstrip("\0 ")
    if not text or len(text) > _LONGEST_UID or not set(text) <= set("0123456789."):
        raise Mismatch("what is announced as class or instance is no UID")
    return text


def _check_beginning(data: memoryview, syntax: str) -> None:
    """Refuse what would be read as file meta information: it could claim another transfer syntax (PS3.7 9.3.1)."""
    group = int.from_bytes(data[:2], "big" if syntax == _BIG_ENDIAN else "little")
    if group in _NO_GROUPS:
        raise UnreadableInstance(f"the data set begins with group {group:04X}")


def file_head(sop_class: str, sop_uid: str, syntax: str) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10 section 7.1) of an instance.

    The same data set gives the same file whoever sent it and whatever the libraries' versions are: else a repeated
    study would look like a corrected one, and its models would run again.
    """
    uids = ((0x0002, sop_class), (0x0003, sop_uid), (0x0010, syntax), (0x0012, IMPLEMENTATION_UID))
    elements = struct.pack("<HH2sxxI", 2, 0x0001, b"OB", 2) + b"\x00\x01"
    for element, uid in uids:
        elements += _short(element, b"UI", uid.encode("ascii") + b"\0" * (len(uid) % 2))
    elements += _short(0x0013, b"SH", IMPLEMENTATION_NAME)
    return b"\0" * 128 + b"DICM" + _short(0x0000, b"UL", struct.pack("<I", len(elements))) + elements


def _short(element: int, vr: bytes, value: bytes) -> bytes:
    return struct.pack("<HH2sH", 2, element, vr, len(value)) + value
