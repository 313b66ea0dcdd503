"""The intake journal: one write and one sync into space that is there already, and an instance is safe.

A new file, its name and its row want three syncs one after the other, and a sender waits for all of them. Here they are
done later, for many instances at once (`node/filing.py`). What a crash left behind is read back at the next start:
what an instance needs to be filed stands in the journal, and nowhere else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import struct
import threading
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

log = logging.getLogger(__name__)

SUFFIX = ".journal"
_MAGIC = b"PACSJRN1"
# lap, number, lengths of what is said of the data and of the data, SHA-256 of the data; a CRC over all but the data
_HEAD = struct.Struct("<8sQQII32s")
_CRC = struct.Struct("<I")
_MARK = struct.Struct("<8sQQ")  # the last number that is filed, and up to where the file is prepared
_PAGE = 4096  # records begin on one: what is not overwritten whole would have to be read first
_MARKS = 2  # written in turn: one of them is whole, whenever the power goes
_HALVES = 2
_STRETCH = 4 << 20  # bytes that are prepared at once


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
    """A file of a fixed size. One thread appends, another one reads, marks and prepares; both may at once."""

    def __init__(self, path: Path, file: int, size: int) -> None:
        self.path, self.size, self._file = path, size, file
        half = (size - _MARKS * _PAGE) // _HALVES // _PAGE * _PAGE
        starts = [_MARKS * _PAGE + turn * half for turn in range(_HALVES)]
        self._halves = [_Half(start, start + half, start) for start in starts]
        self._lap, self._number, self._filed, self._marked_at = 1, 0, 0, 0
        self._prepared = _MARKS * _PAGE  # what lies before it was written once: a sync has nothing more to say of it
        self._alone = threading.Lock()  # of the place where the next record goes
        self._is_broken = False  # a write or sync failed: what lies behind it could not be found again

    @classmethod
    def create(cls, folder: Path, size: int) -> Self:
        """Make a journal of *size* bytes that survives a power cut; OSError where there is no room for it."""
        folder.mkdir(exist_ok=True)
        path = folder / f"{uuid4().hex}{SUFFIX}"
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # held for as long as this process lives
            os.posix_fallocate(file, 0, size)
            os.fsync(file)
            for one in (folder, folder.parent):
                sync_folder(one)
        except BaseException:
            os.close(file)
            path.unlink()
            raise
        return cls(path, file, size)

    def append(self, records: Sequence[Record]) -> list[Entry]:
        """Make as many of *records* durable as there is room for, in order; return their entries.

        Raises JournalFull where there is room for none. After an OSError none of them counts, and none can follow.
        """
        if self._is_broken:
            raise OSError("the journal is broken")
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
        begin = _HEAD.pack(_MAGIC, self._lap, number, len(said), len(record.data), bytes.fromhex(record.sha256)) + said
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
            if other.last > self._filed or other.start + length > other.end:
                return None
            self._halves, self._lap = [other, half], self._lap + 1
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
        page = _MARK.pack(_MAGIC, number, self._prepared)
        self._marked_at = (self._marked_at + 1) % _MARKS
        os.pwrite(self._file, page + _CRC.pack(zlib.crc32(page)), self._marked_at * _PAGE)
        if durably:
            os.fdatasync(self._file)
        self._filed = number

    def prepare(self) -> bool:
        """Write zeros where nothing was written yet, a stretch of it; return whether there is more to do.

        The first write to a place changes what the file system has to say of the file, and a sync waits for that, too:
        it takes twice as long as one over what was written before.
        """
        with self._alone:
            length = min(_STRETCH, max(half.end for half in self._halves) - self._prepared)
            if length <= 0 or self._is_broken:
                return False
            os.pwrite(self._file, bytes(length), self._prepared)
            self._prepared += length
        self.mark(self._filed, durably=True)
        return True

    def begin_anew(self) -> None:
        """Take into use what a process left that has filed everything and closed it, or died behind its last mark."""
        self._lap += 1
        for half in self._halves:
            half.at, half.last = half.start, 0

    def close(self, *, remove: bool) -> None:
        """Let go of the journal; *remove* one of which everything is filed."""
        if remove:
            self.path.unlink()
        os.close(self._file)

    @classmethod
    def left_behind(cls, folder: Path) -> Iterator[tuple[Self, list[Entry]]]:
        """Yield the journals of processes that are dead, with the entries that are not filed, in order."""
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            with suppress(FileNotFoundError):
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(file)
                    continue
                if not os.fstat(file).st_nlink:  # its process removed it just now
                    os.close(file)
                    continue
                journal = cls(path, file, os.fstat(file).st_size)
                yield journal, journal._entries(checked=True)

    @classmethod
    def waiting(cls, folder: Path) -> list[Entry]:
        """Return what is not filed yet in all journals, as it looks from outside: another process may be at it."""
        found: list[Entry] = []
        for path in folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    found += cls(path, file, os.fstat(file).st_size)._entries(checked=False)
                finally:
                    os.close(file)
        return found

    def _entries(self, *, checked: bool) -> list[Entry]:
        self._filed, self._prepared = max(self._marked(turn) for turn in range(_MARKS))
        self._number = self._filed
        found = [entry for half in self._halves for entry in self._of(half, checked=checked)]
        return sorted(found, key=lambda entry: entry.number)

    def _marked(self, turn: int) -> tuple[int, int]:
        """Return what a mark says: the last number that is filed, and up to where the file is prepared."""
        page = os.pread(self._file, _MARK.size + _CRC.size, turn * _PAGE)
        if len(page) < _MARK.size + _CRC.size or _CRC.unpack(page[_MARK.size :])[0] != zlib.crc32(page[: _MARK.size]):
            return 0, _MARKS * _PAGE
        magic, number, prepared = _MARK.unpack(page[: _MARK.size])
        return (number, prepared) if magic == _MAGIC else (0, _MARKS * _PAGE)

    def _of(self, half: _Half, *, checked: bool) -> Iterator[Entry]:
        """Yield what is not filed of the last lap through a half, *checked*: where its bytes are whole."""
        place, lap = half.start, -1
        while place + _HEAD.size <= half.end:
            begin = os.pread(self._file, _HEAD.size, place)
            magic, of_lap, number, said_length, size, sha = _HEAD.unpack(begin)
            if magic != _MAGIC or (lap >= 0 and of_lap != lap) or place + said_length + size > half.end:
                return
            rest = os.pread(self._file, said_length + _CRC.size, place + _HEAD.size)
            said = rest[:said_length]
            if rest[said_length:] != _CRC.pack(zlib.crc32(begin + said)):
                return
            data_at = place + _HEAD.size + said_length + _CRC.size
            if number > self._filed:
                told = json.loads(said)
                if not checked or hashlib.sha256(os.pread(self._file, size, data_at)).digest() == sha:
                    yield Entry(
                        number=number, place=data_at, size=size, sha256=sha.hex(), calling_ae=told["calling_ae"],
                        at=datetime.fromisoformat(told["at"]),
                    )  # fmt: skip
                else:  # as a rule one that a power cut came before: nobody was told success
                    log.error("an instance in the journal is not whole", extra={"calling_ae": told["calling_ae"]})
            lap, place = of_lap, -(-(data_at + size) // _PAGE) * _PAGE
            self._lap, self._number = max(self._lap, lap), max(self._number, number)
