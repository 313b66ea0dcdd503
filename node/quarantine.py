"""What lies in the quarantine: files that nobody could file. A person looks, and lets them in or drops them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from node.db import events, whole
from node.db.session import Database
from node.dicom.header import read_facts
from node.domain.study import InstanceFacts
from node.errors import NotFound, UnreadableInstance
from node.intake import Intake
from node.store import Store, sha256_hex

_PREAMBLE = 128  # bytes that are nobody's (PS3.10 7.1), where another program could hide
_CHANGED = "its bytes are not those that were received under this name: it was cut short, or changed"
_NO_INSTANCE = "it is a part of a result set whose job nobody knows"
_WHOLE = "it is whole; why it lies here can no longer be seen"


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """One file that lies apart."""

    name: str  # relative to the quarantine
    size: int
    at: datetime  # when it was written last
    reason: str
    facts: InstanceFacts | None  # where it can be read as an instance


class Quarantine:
    """Looks at the files that lie apart, lets them in, or drops them."""

    def __init__(self, database: Database, store: Store, intake: Intake, now: Callable[[], datetime]) -> None:
        self._database, self._store, self._intake, self._now = database, store, intake, now

    def all(self) -> list[Apart]:
        """Return everything that lies there, by name."""
        return [self.one(name) for name in self._store.quarantined()]

    def one(self, name: str) -> Apart:
        """Return what can be said of one file; NotFound where it does not lie there."""
        data = self._read(name)
        stat = (self._store.quarantine / name).stat()
        facts, reason = self._why(name, data)
        at = datetime.fromtimestamp(stat.st_mtime, UTC)
        return Apart(name=name, size=len(data), at=at, reason=reason, facts=facts)

    def admit(self, name: str, *, as_it_is: bool, who: str) -> InstanceFacts:
        """Keep a file as an instance that comes in now, and take it out of the quarantine.

        Raises UnreadableInstance where it is none, or, unless *as_it_is*, where its bytes are not those received.
        """
        data = self._read(name)
        facts, reason = self._why(name, data)
        if facts is None or (reason == _CHANGED and not as_it_is):
            raise UnreadableInstance(f"{name} is not let in: {reason}")
        with self._database.reading() as session:
            sender = whole.sender_of(session, facts.study_uid)
        self._intake.keep(bytes(_PREAMBLE) + data[_PREAMBLE:], calling_ae=sender)
        self._store.drop_quarantined(name)
        with self._database.transaction() as session:
            at = self._now()
            events.record(session, "let in from quarantine", who=who, at=at, detail=name, study_uid=facts.study_uid)
        return facts

    def drop(self, name: str, *, who: str) -> None:
        """Delete a file for good."""
        self._read(name)
        self._store.drop_quarantined(name)
        with self._database.transaction() as session:
            events.record(session, "dropped from quarantine", who=who, at=self._now(), detail=name)

    def _read(self, name: str) -> bytes:
        if name not in self._store.quarantined():
            raise NotFound(f"no file {name} lies in the quarantine: pacs-node quarantine list names them")
        return (self._store.quarantine / name).read_bytes()

    def _why(self, name: str, data: bytes) -> tuple[InstanceFacts | None, str]:
        try:
            facts = read_facts(data)
        except UnreadableInstance as why:
            return None, str(why)
        if name.startswith("results/"):
            return facts, _NO_INSTANCE
        meant = self._store.instance_name(sha256_hex(data), study_uid=facts.study_uid, sop_uid=facts.sop_uid)
        return facts, _WHOLE if name.startswith(meant) else _CHANGED
