"""The way of an instance that is safe before it has its file: into the journal, and from there into store and table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

from node.db.studies import Kept
from node.dicom.header import read_facts
from node.domain.study import InstanceFacts
from node.errors import StoreFull, UnreadableInstance
from node.filing import LONGEST, Filing, Logged
from node.journal import Entry, Journal, JournalFull, Record
from node.logs import failure
from node.part import Part
from node.store import Store
from node.together import Together, Waiting

log = logging.getLogger(__name__)

LARGEST = 1 << 20  # bytes of an instance that goes this way; a larger one has a file at once
_ROOM_SECONDS = 15.0  # for what came before to be filed, before a sender is asked to come again

#: Keeps instances whose data is synced in files; says of each why it could not be.
KeepAll = Callable[[Sequence[tuple[Part, Kept]]], list[Exception | None]]
#: What the row of an instance will say: of these facts, hash, size, calling AE title, time.
AsKept = Callable[[InstanceFacts, str, int, str, datetime], Kept]


@dataclass(kw_only=True, slots=True, eq=False)
class _Note(Waiting):
    """An instance in memory that waits for its place in the journal."""

    data: memoryview
    kept: Kept


class Logbook:
    """Takes instances of a usual size, from `open` until `close`; a thread of its own files them.

    A disk without room for a journal is told and done without, as is a *size* of 0: then `memory` is None, and every
    instance has its file and its row before success is said.
    """

    def __init__(
        self, store: Store, keep_all: KeepAll, as_kept: AsKept, *, size: int, longest: float = LONGEST
    ) -> None:
        """*size* in bytes; no instance waits longer than *longest* seconds for a moment in which nobody sends."""
        self._store, self._keep_all, self._as_kept, self._size = store, keep_all, as_kept, size
        self._notes = Together(self._append)
        self._filing = Filing(self._file, _is_hopeless, self._set_apart, self._prepare, longest=longest)
        self._journal: Journal | None = None
        self._memories: list[memoryview] = []  # that nobody uses

    def open(self) -> None:
        """Begin: first with what dead listeners left in their journals."""
        for journal in self._take_over():
            if self._journal is not None or journal.size != self._size:
                self._filing.retire(journal)
            else:
                journal.begin_anew()
                self._journal = journal
        self._filing.start()
        if self._journal is None:
            self._renew()
        else:
            self._filing.find_work()

    def file_left(self, limit: float) -> None:
        """In place of `open`: file what dead listeners left, *limit* seconds at most, and let go of it."""
        for journal in self._take_over():
            journal.close(remove=False)
        self._filing.start()
        self._filing.finish(limit)

    def _take_over(self) -> Iterator[Journal]:
        """Have what dead listeners left filed; yield the journals in which nothing is left."""
        try:
            for journal in Journal.left_behind(self._store.journals):
                if self._is_empty(journal):
                    yield journal
        except OSError as why:  # a person has to look; who sends shall not wait for that
            log.error("the journals of dead listeners cannot be read: %s", failure(why))

    def _is_empty(self, journal: Journal) -> bool:
        """Return whether a journal holds nothing; have filed what it holds."""
        try:
            entries = journal.entries()
            if entries:
                log.warning("a listener left instances in its journal", extra={"count": len(entries)})
                self._filing.add(self._left(journal, entries))
                self._filing.retire(journal)
            return not entries
        except (OSError, ValueError, LookupError, StoreFull) as why:  # it stays as it is, for a person
            log.error("a journal cannot be read: %s", failure(why), extra={"journal": journal.path.name})
            journal.close(remove=False)
            return False

    def close(self, limit: float) -> None:
        """File what is in the journal, *limit* seconds at most; what is left is filed at the next start."""
        with self._notes.nobody():
            journal, self._journal = self._journal, None
        if self._filing.finish(limit) and journal is not None:  # else it goes with the process
            journal.close(remove=False)  # the next listener takes it into use, prepared as it is

    def rest(self, limit: float = _ROOM_SECONDS) -> bool:
        """Wait until all that was noted is in the table, *limit* seconds at most; return whether it is."""
        return self._filing.rest(limit)

    def latest(self) -> Callable[[float], bool]:
        """Return what waits until all that is noted now is in the table, so many seconds at most; nobody is hurried."""
        return self._filing.latest()

    def put_off(self) -> None:
        """Leave disk and processor, for a moment, to an instance that has a file of its own."""
        self._filing.put_off()

    def memory(self) -> memoryview | None:
        """Return memory for one instance; StoreFull where what came before cannot be filed, or no room is left."""
        self._filing.admit()
        if self._journal is None:
            return None
        self._store.check_room()
        try:
            return self._memories.pop()
        except IndexError:
            return memoryview(bytearray(LARGEST))

    def take_back(self, memory: memoryview) -> None:
        """Keep memory for the next instance."""
        self._memories.append(memory)

    def note(self, data: memoryview, kept: Kept) -> None:
        """Return when an instance is safe in the journal; StoreFull where it cannot be."""
        self._notes.join(_Note(data=data, kept=kept))

    def _append(self, together: list[_Note]) -> None:
        """Make all durable, in the order in which they came; those who find no room wait for it."""
        while together:
            journal = self._journal
            if journal is None:
                raise StoreFull("the journal is closed")
            turns = journal.turns
            try:
                entries = journal.append([_record(one) for one in together])
            except ValueError as why:
                raise StoreFull(f"{why} (journal_mib)") from why
            except JournalFull as why:
                if not self._filing.make_room(_ROOM_SECONDS):
                    raise StoreFull("the journal is full: the disk or the database is slower than the senders") from why
                continue
            except OSError as why:
                self._give_up(journal)
                raise StoreFull(f"the journal could not keep an instance: {why.strerror or why}") from why
            except Exception:
                self._give_up(journal)
                raise
            if journal.turns != turns:  # the half that is full has to be filed before this one is
                self._filing.hurry()
            self._filing.add([
                Logged(journal=journal, entry=entry, kept=one.kept)
                for entry, one in zip(entries, together, strict=False)
            ])  # fmt: skip
            for one in together[: len(entries)]:
                one.done = True
            together = together[len(entries) :]

    def _give_up(self, journal: Journal) -> None:
        """Begin a new journal: what follows a failed write in the old one could not be found again after a crash."""
        log.error("the journal took no more; a new one is made")
        self._filing.retire(journal)
        self._renew()

    def _prepare(self) -> bool:
        """Make the journal ready where nothing was written yet; return whether there is more to do."""
        journal = self._journal
        try:
            return journal is not None and journal.prepare()
        except OSError as why:  # whoever appends will hear of it
            log.error("the journal could not be prepared: %s", failure(why))
            return False

    def _renew(self) -> None:
        self._journal = None
        if not self._size:
            return
        try:
            self._store.check_room(self._size)
            self._journal = Journal.create(self._store.journals, self._size)
            self._filing.find_work()
        except (OSError, StoreFull) as why:
            log.error("no journal: every instance is filed by itself", extra={"why": str(why)})

    def _left(self, journal: Journal, entries: Sequence[Entry]) -> list[Logged]:
        """Return what a dead listener left, ready to be filed."""
        left: list[Logged] = []
        for entry in entries:
            data = journal.read(entry, memoryview(bytearray(entry.size)))
            if not entry.is_whole:
                name = self._store.set_apart_bytes(f"journal/{entry.sha256}.damaged", data)
                # As a rule the power went before it was, and nobody was told success.
                extra = {"calling_ae": entry.calling_ae, "quarantined": name}
                log.error("an instance in the journal is not whole: it went into the quarantine", extra=extra)
                continue
            try:
                facts = read_facts(data)
            except UnreadableInstance as why:  # it was readable when it came
                name = self._store.set_apart_bytes(f"journal/{entry.sha256}.dcm", data)
                log.error("an acknowledged instance went into the quarantine: %s", why, extra={"quarantined": name})
                continue
            kept = self._as_kept(facts, entry.sha256, entry.size, entry.calling_ae, entry.at)
            left.append(Logged(journal=journal, entry=entry, kept=kept))
        return left

    def _file(self, batch: Sequence[Logged]) -> list[Exception | None]:
        """Give instances files, names and rows; return of each why it has none."""
        parts: list[Part] = []
        try:
            memory = memoryview(bytearray(max(one.entry.size for one in batch)))
            for one in batch:
                parts.append(self._store.open_part(reserve=True))
                parts[-1].fill(one.journal.read(one.entry, memory), one.entry.sha256)
            for part in parts:
                part.hasten()
            for part in parts:
                part.sync()
            return self._keep_all([(part, one.kept) for part, one in zip(parts, batch, strict=True)])
        finally:
            for part in parts:
                part.drop()

    def _set_apart(self, logged: Logged, why: Exception) -> None:
        """Put the file of one that nobody can file where a person finds it."""
        name = logged.kept.path
        if self._store.size_of(name) >= 0:
            self._store.set_apart(name)
        else:
            size = logged.entry.size
            data = logged.journal.read(logged.entry, memoryview(bytearray(size)))
            self._store.set_apart_bytes(f"journal/{logged.entry.sha256}.dcm", data)
        extra = {"calling_ae": logged.kept.calling_ae, "sop_instance_uid": logged.kept.facts.sop_uid}
        log.error("an acknowledged instance went into the quarantine: %s", failure(why), extra=extra)


def _record(note: _Note) -> Record:
    kept = note.kept
    return Record(data=note.data, sha256=kept.content_sha, calling_ae=kept.calling_ae, at=kept.at)


def _is_hopeless(why: Exception) -> bool:
    """Whether an instance cannot be filed for its own sake: not now, and not when disk and database are well."""
    if isinstance(why, StoreFull):
        return isinstance(why.__cause__, IntegrityError | DataError)
    return not isinstance(why, OSError | SQLAlchemyError)
