"""The intake journal: one write and one sync into space that is there already, and an instance is safe.

A new file, its name and its row want three syncs one after the other, and a sender waits for all of them. Here they are
done later, for many instances at once (`node/filing.py`). What a crash left behind is read back at the next start:
what an instance needs to be filed stands in the journal, and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self
from uuid import uuid4

from node.failpoints import reach
from node.store import sync_folder

SUFFIX = ".journal"
_MAGIC = b"PACSJRN1"
# number, lengths of what is said of the data and of the data, SHA-256 of the data; a CRC over all but the data
_HEAD = struct.Struct("<8sQII32s")
_CRC = struct.Struct("<I")
_MARK = struct.Struct("<8sQQ")  # the last number that is filed, and up to where the file is prepared
_PAGE = 4096  # records begin on one: what is not overwritten whole would have to be read first
_SAID_AT_MOST = 2 * _PAGE  # bytes of a record beside its data
_MARKS = 2  # written in turn: one of them is whole, whenever the power goes
_HALVES = 2
_STRETCH = 4 << 20  # bytes that are prepared at once
_MAKING = ".making"  # suffix of one that is not whole yet


class NoJournal(ValueError):
    """A file is no journal that this release can read."""


class JournalFull(Exception):
    """What is in the journal is not filed yet, and there is no room for more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An instance that is safe in a journal."""

    number: int  # in the order in which they were taken
    place: int  # of its bytes, in the journal's file
    size: int
    sha256: str
    calling_ae: str
    at: datetime
    is_whole: bool = True  # its bytes have its hash


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """An instance that shall become an entry."""

    data: memoryview
    sha256: str
    calling_ae: str
    at: datetime


@dataclass(slots=True)
class _Half:
    """One of the two stretches that are written in turn: the one while the other is being filed."""

    start: int
    end: int
    at: int
    last: int = 0  # the number of the last entry in it


class Journal:
    """A file of a fixed size. One thread appends, another one reads, marks and prepares; both may at once.

    An entry is known by its number: what has one up to the mark is filed, whatever lies there.
    """

    def __init__(self, path: Path, file: int, size: int, *, writes: bool = True) -> None:
        self.path, self.size, self._file = path, size, file
        # The system tells of a failed write once for each time that a file was opened: the sync of a mark must not be
        # told what the sync of an instance has to hear.
        self._marks = os.open(path, (os.O_RDWR if writes else os.O_RDONLY) | os.O_CLOEXEC)
        half = (size - _MARKS * _PAGE) // _HALVES // _PAGE * _PAGE
        starts = [_MARKS * _PAGE + turn * half for turn in range(_HALVES)]
        self._halves = [_Half(start, start + half, start) for start in starts]
        self._number, self._filed, self._marked_at = 0, 0, 0
        self._prepared = _MARKS * _PAGE  # what lies before it was written once: a sync has nothing more to say of it
        self._alone = threading.Lock()  # of the place where the next record goes
        self.turns = 0  # from one half to the other
        self._is_broken = False  # a write or sync failed: what lies behind it could not be found again

    @classmethod
    def create(cls, folder: Path, size: int) -> Self:
        """Make a journal of *size* bytes that survives a power cut; OSError where there is no room for it."""
        folder.mkdir(exist_ok=True)
        name = f"{time.time_ns():020}-{uuid4().hex}"  # what an older one holds came before
        making, path = folder / f"{name}{_MAKING}", folder / f"{name}{SUFFIX}"
        file = os.open(making, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # held for as long as this process lives
            os.posix_fallocate(file, 0, size)
            os.pwrite(file, _mark(0, _MARKS * _PAGE), 0)
            os.fsync(file)
            making.rename(path)
            for one in (folder, folder.parent):
                sync_folder(one)
            return cls(path, file, size)
        except BaseException:
            os.close(file)
            for one in (making, path):
                one.unlink(missing_ok=True)
            raise

    def append(self, records: Sequence[Record]) -> list[Entry]:
        """Make as many of *records* durable as there is room for, in order; return their entries.

        Raises JournalFull where there is room for none, ValueError for one that there never is room for. After an
        OSError none of them counts, and none can follow.
        """
        if self._is_broken:
            raise OSError("the journal is broken")
        if max(len(record.data) for record in records) + _SAID_AT_MOST > self._halves[0].end - self._halves[0].start:
            raise ValueError("an instance larger than half a journal")
        entries: list[Entry] = []
        try:
            for record in records:
                entry = self._write(record)
                if entry is None:
                    break
                entries.append(entry)
            if entries:
                reach("journal.written")
                os.fdatasync(self._file)
                reach("journal.synced")
        except BaseException:
            self._is_broken = True
            raise
        if not entries:
            raise JournalFull
        return entries

    def _write(self, record: Record) -> Entry | None:
        said = json.dumps({"calling_ae": record.calling_ae, "at": record.at.isoformat()}).encode()
        head = _HEAD.size + len(said) + _CRC.size
        length = -(-(head + len(record.data)) // _PAGE) * _PAGE
        with self._alone:
            place = self._room(length)
        if place is None:
            return None
        number = self._number + 1
        begin = _HEAD.pack(_MAGIC, number, len(said), len(record.data), bytes.fromhex(record.sha256)) + said
        padding = bytes(length - head - len(record.data))
        parts: list[bytes | memoryview] = [begin + _CRC.pack(zlib.crc32(begin)), record.data, padding]
        if os.pwritev(self._file, parts, place) != length:
            raise OSError("the journal took a part of an instance only")
        self._number = self._halves[0].last = number
        return Entry(
            number=number, place=place + head, size=len(record.data), sha256=record.sha256,
            calling_ae=record.calling_ae, at=record.at,
        )  # fmt: skip

    def _room(self, length: int) -> int | None:
        """Return where so many bytes may be written, None where both halves are full of what is not filed."""
        half, other = self._halves
        if half.at + length > half.end:
            if other.last > self._filed:
                return None
            self._halves = [other, half]
            self.turns += 1
            half, other.at = other, other.start
        half.at += length
        self._prepared = max(self._prepared, half.at)  # nobody writes zeros where a record is going to be
        return half.at - length

    def read(self, entry: Entry, buffer: memoryview) -> memoryview:
        """Return an entry's bytes, in *buffer*."""
        if os.preadv(self._file, [buffer[: entry.size]], entry.place) != entry.size:
            raise OSError("the journal ends within an instance")
        return buffer[: entry.size]

    def mark(self, number: int, *, durably: bool) -> None:
        """Note that all entries up to *number* are filed; where not *durably*, the next append makes it so."""
        self._filed = number
        self._marked_at = (self._marked_at + 1) % _MARKS
        try:
            os.pwrite(self._marks, _mark(number, self._prepared), self._marked_at * _PAGE)
            if durably:
                os.fdatasync(self._marks)
        except OSError:
            self._is_broken = True
            raise

    def prepare(self) -> bool:
        """Write zeros where nothing was written yet, a stretch of it; return whether there is more to do.

        The first write to a place changes what the file system has to say of the file, and a sync waits for that, too:
        it takes twice as long as one over what was written before.
        """
        with self._alone:
            length = min(_STRETCH, max(half.end for half in self._halves) - self._prepared)
            if length <= 0 or self._is_broken:
                return False
            os.pwrite(self._marks, bytes(length), self._prepared)
            self._prepared += length
        self.mark(self._filed, durably=True)
        return True

    def begin_anew(self) -> None:
        """Take into use what a process left that has filed everything and closed it, or died behind its last mark."""
        for half in self._halves:
            half.at, half.last = half.start, 0

    def close(self, *, remove: bool) -> None:
        """Let go of the journal; *remove* one of which everything is filed."""
        try:
            if remove:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._marks)
            os.close(self._file)

    @classmethod
    def left_behind(cls, folder: Path) -> Iterator[Self]:
        """Yield the journals of processes that are dead, the oldest first, locked for this one."""
        for path in _files(folder, _MAKING):
            with suppress(FileNotFoundError):
                file = _locked(path)
                if file is not None:  # who made it died over it
                    path.unlink()
                    os.close(file)
        for path in _files(folder, SUFFIX):
            with suppress(FileNotFoundError):
                file = _locked(path)
                if file is not None:
                    yield cls(path, file, os.fstat(file).st_size)

    @classmethod
    def waiting(cls, folder: Path) -> list[Entry]:
        """Return what is not filed yet in all journals, as it looks from outside: another process may be at it.

        Raises OSError and NoJournal where one cannot be read.
        """
        found: list[Entry] = []
        for path in _files(folder, SUFFIX):
            with suppress(FileNotFoundError):
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                journal = cls(path, file, os.fstat(file).st_size, writes=False)
                try:
                    found += journal.entries(thoroughly=False)
                finally:
                    journal.close(remove=False)
        return found

    def entries(self, *, thoroughly: bool = True) -> list[Entry]:
        """Return what is not filed, in order; NoJournal where the file is none.

        *thoroughly*: hashed, and searched behind what is damaged, too. One that is not whole is as a rule one that a
        power cut came before, and nobody was told success; it may be damaged since, too.
        """
        marks = [mark for turn in range(_MARKS) if (mark := self._marked(turn)) is not None]
        if not marks:
            raise NoJournal(f"{self.path.name} is no journal of this release")
        self._filed, self._prepared = max(marks)
        self._number = self._filed
        found = [entry for half in self._halves for entry in self._of(half, thoroughly=thoroughly)]
        return sorted(found, key=lambda entry: entry.number)

    def _marked(self, turn: int) -> tuple[int, int] | None:
        """Return what a mark says: the last number that is filed, and up to where the file is prepared."""
        page = os.pread(self._file, _MARK.size + _CRC.size, turn * _PAGE)
        if len(page) < _MARK.size + _CRC.size or _CRC.unpack(page[_MARK.size :])[0] != zlib.crc32(page[: _MARK.size]):
            return None
        magic, number, prepared = _MARK.unpack(page[: _MARK.size])
        return (number, prepared) if magic == _MAGIC else None

    def _of(self, half: _Half, *, thoroughly: bool) -> Iterator[Entry]:
        place: int | None = half.start
        while place is not None and place + _HEAD.size <= half.end:
            head = self._head(place, half.end)
            if head is None:
                place = self._next_head(place + _PAGE, half.end) if thoroughly else None
                continue
            number, sha, said, data_at, size = head
            self._number = max(self._number, number)
            if number > self._filed:
                is_whole = not thoroughly or hashlib.sha256(os.pread(self._file, size, data_at)).digest() == sha
                told = json.loads(said)
                yield Entry(
                    number=number, place=data_at, size=size, sha256=sha.hex(), calling_ae=told["calling_ae"],
                    at=datetime.fromisoformat(told["at"]), is_whole=is_whole,
                )  # fmt: skip
            place = -(-(data_at + size) // _PAGE) * _PAGE

    def _head(self, place: int, end: int) -> tuple[int, bytes, bytes, int, int] | None:
        """Return number, hash, what is said, place and size of the data of the record at *place*, if any."""
        begin = os.pread(self._file, _HEAD.size, place)
        magic, number, said_length, size, sha = _HEAD.unpack(begin)
        data_at = place + _HEAD.size + said_length + _CRC.size
        if magic != _MAGIC or data_at + size > end:
            return None
        rest = os.pread(self._file, said_length + _CRC.size, place + _HEAD.size)
        if rest[said_length:] != _CRC.pack(zlib.crc32(begin + rest[:said_length])):
            return None
        return number, sha, rest[:said_length], data_at, size

    def _next_head(self, place: int, end: int) -> int | None:
        """Return where something that looks like a record begins behind *place*."""
        while place < end:
            stretch = os.pread(self._file, min(_STRETCH, end - place), place)
            for at in range(0, len(stretch), _PAGE):
                if stretch.startswith(_MAGIC, at):
                    return place + at
            place += _STRETCH
        return None


def _mark(number: int, prepared: int) -> bytes:
    page = _MARK.pack(_MAGIC, number, prepared)
    return page + _CRC.pack(zlib.crc32(page))


def _files(folder: Path, suffix: str) -> list[Path]:
    """Return the files of this kind, the oldest first; OSError where the folder cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == suffix)
    except FileNotFoundError:
        return []


def _locked(path: Path) -> int | None:
    """Return *path*, open and locked; None where a living process has it, or where it is gone by now."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file).st_nlink:
            return file
    except BlockingIOError:
        pass
    os.close(file)
    return None
