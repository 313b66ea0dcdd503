"""The journal: what was appended is found again, in order and whole, whatever is cut short; what is filed is not."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from node import journal as module
from node.journal import Entry, Journal, JournalFull, NoJournal, Record
from node.store import sha256_hex

MIB = 1 << 20
NOON = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)


def record(data: bytes) -> Record:
    """Return what shall become an entry."""
    return Record(data=memoryview(data), sha256=sha256_hex(data), calling_ae='SCANNER "1"', at=NOON)


def killed(journal: Journal) -> None:
    """Leave a journal as a process does that is killed."""
    journal.close(remove=False)


def left(folder: Path) -> list[tuple[Entry, bytes]]:
    """Return what is left behind in the one journal of a dead process."""
    (journal,) = Journal.left_behind(folder)
    entries = [one for one in journal.entries() if one.is_whole]
    found = [(one, bytes(journal.read(one, memoryview(bytearray(one.size))))) for one in entries]
    killed(journal)
    return found


def damage(journal: Journal, place: int) -> None:
    """Change one byte."""
    (byte,) = os.pread(journal._file, 1, place)
    os.pwrite(journal._file, bytes([byte ^ 0xFF]), place)


def test_what_a_killed_process_appended_is_found_whole_and_in_order(tmp_path: Path) -> None:
    """With who sent it and when."""
    journal = Journal.create(tmp_path, MIB)
    data = [os.urandom(size) for size in (1, 4096, 100_000, 0)]
    journal.append([record(one) for one in data[:3]])
    journal.append([record(data[3])])
    killed(journal)
    found = left(tmp_path)
    assert [content for _, content in found] == data
    assert [entry.number for entry, _ in found] == [1, 2, 3, 4]
    assert {(entry.calling_ae, entry.at) for entry, _ in found} == {('SCANNER "1"', NOON)}


def test_what_is_filed_is_not_left(tmp_path: Path) -> None:
    """Whether or not the mark was synced: a killed process leaves its writes to the system."""
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(bytes([turn])) for turn in range(9)])
    journal.mark(3, durably=True)
    journal.mark(7, durably=False)
    killed(journal)
    assert [content for _, content in left(tmp_path)] == [b"\7", b"\10"]


@pytest.mark.parametrize("seed", range(20))
def test_lap_after_lap_all_that_is_not_filed_is_found(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records of all sizes through both halves, filed late or soon, prepared between, killed at any moment."""
    monkeypatch.setattr(module, "_STRETCH", 50_000)
    choice = random.Random(seed)
    journal = Journal.create(tmp_path, MIB)
    data: list[bytes] = []
    filed = 0
    for _ in range(choice.randrange(1, 120)):
        together = [choice.randbytes(choice.randrange(60_000)) for _ in range(choice.randrange(1, 4))]
        while together:
            try:
                entries = journal.append([record(one) for one in together])
            except JournalFull:
                filed = len(data)
                journal.mark(filed, durably=False)
                continue
            assert [entry.number for entry in entries] == [len(data) + turn + 1 for turn in range(len(entries))]
            data += together[: len(entries)]
            together = together[len(entries) :]
        if choice.random() < 0.3:
            journal.prepare()
        if choice.random() < 0.2:
            filed = choice.randrange(filed, len(data) + 1)
            journal.mark(filed, durably=False)
    killed(journal)
    assert [content for _, content in left(tmp_path)] == data[filed:]


def test_what_is_not_filed_is_never_written_over(tmp_path: Path) -> None:
    """Full is full, until a mark makes a half free."""
    journal = Journal.create(tmp_path, MIB)
    data = bytes(200_000)
    for _ in range(4):  # two in each half
        journal.append([record(data)])
    with pytest.raises(JournalFull):
        journal.append([record(data)])
    journal.mark(1, durably=False)
    with pytest.raises(JournalFull):
        journal.append([record(data)])
    journal.mark(2, durably=False)
    assert journal.append([record(data)])[0].number == 5
    with pytest.raises(ValueError, match="half a journal"):
        journal.append([record(bytes(MIB // 2))])  # there is never room


def test_an_instance_that_is_not_whole_is_told_of_and_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Its head stands for the place of the next one."""
    journal = Journal.create(tmp_path, MIB)
    entries = journal.append([record(b"first"), record(b"second"), record(b"third")])
    damage(journal, entries[1].place)
    assert [(entry.number, entry.is_whole) for entry in journal.entries()] == [(1, True), (2, False), (3, True)]
    killed(journal)
    assert [content for _, content in left(tmp_path)] == [b"first", b"third"]


def test_behind_a_damaged_head_the_search_goes_on(tmp_path: Path) -> None:
    """A record begins on a page, and its number says whether it was filed."""
    journal = Journal.create(tmp_path, MIB)
    entries = journal.append([record(b"first"), record(b"second"), record(b"third")])
    damage(journal, entries[1].place - 10)
    killed(journal)
    assert [content for _, content in left(tmp_path)] == [b"first", b"third"]


def test_a_journal_of_another_release_is_left_alone(tmp_path: Path) -> None:
    """It may hold what nobody has filed."""
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(b"first")])
    os.pwrite(journal._file, b"PACSJRN9", 0)
    os.pwrite(journal._file, b"PACSJRN9", 4096)
    killed(journal)
    (found,) = Journal.left_behind(tmp_path)
    with pytest.raises(NoJournal):
        found.entries()
    killed(found)
    with pytest.raises(NoJournal):
        Journal.waiting(tmp_path)


def test_nobody_sees_a_journal_that_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second listener that starts just then takes nothing away."""
    real, seen = fcntl.flock, list[list[str]]()

    def flock(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        seen.append([one.path.name for one in Journal.left_behind(tmp_path / "other")])
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(b"mine")])
    assert seen == [[]]
    assert journal.path.exists() and list(Journal.left_behind(tmp_path)) == []
    assert len(Journal.waiting(tmp_path)) == 1
    killed(journal)


def test_one_that_was_never_made_whole_goes(tmp_path: Path) -> None:
    """Its maker died over it; no record can be in it."""
    (tmp_path / "00-dead.making").write_bytes(b"")
    assert list(Journal.left_behind(tmp_path)) == []
    assert list(tmp_path.iterdir()) == []


def test_a_sick_mark_is_not_the_end_of_a_sync_of_an_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk said to the mark it will not say again to whoever appends: nothing more is taken."""
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(b"first")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _sick)
        with pytest.raises(OSError, match="Input/output error"):
            journal.mark(1, durably=True)
    with pytest.raises(OSError, match="broken"):
        journal.append([record(b"second")])
    killed(journal)


def _sick(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_mark_that_was_cut_short_leaves_the_one_before(tmp_path: Path) -> None:
    """Two places take turns."""
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(b"first"), record(b"second"), record(b"third")])
    journal.mark(1, durably=False)
    journal.mark(2, durably=False)
    damage(journal, 8)  # the second mark stands in the first place
    killed(journal)
    assert [content for _, content in left(tmp_path)] == [b"second", b"third"]


def test_what_is_prepared_while_records_come_never_goes_over_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread appends as fast as it can, another one writes zeros all the while."""
    monkeypatch.setattr(module, "_STRETCH", 8192)
    journal = Journal.create(tmp_path, 8 * MIB)
    over = threading.Event()

    def prepare() -> None:
        while journal.prepare() and not over.is_set():
            pass

    thread = threading.Thread(target=prepare)
    thread.start()
    data = [bytes([turn]) * (turn * 37 % 9000) for turn in range(250)]
    for one in data:
        journal.append([record(one)])
    over.set()
    thread.join()
    killed(journal)
    assert [content for _, content in left(tmp_path)] == data


def test_a_journal_is_prepared_to_its_end_once(tmp_path: Path) -> None:
    """Who takes it into use later knows."""
    journal = Journal.create(tmp_path, 10 * MIB)
    assert [journal.prepare() for _ in range(4)] == [True, True, True, False]
    killed(journal)
    (again,) = Journal.left_behind(tmp_path)
    assert again.entries() == []
    assert not again.prepare()
    killed(again)


@pytest.mark.parametrize("rounds", [1, 2, 3, 7])
def test_a_journal_is_taken_into_use_anew_and_what_was_in_it_stays_forgotten(rounds: int, tmp_path: Path) -> None:
    """Start after start: numbers and laps go on, nothing of before comes back."""
    journal = Journal.create(tmp_path, MIB)
    number = 0
    for turn in range(rounds):
        for _ in range(turn + 2):
            number = journal.append([record(bytes(150_000))])[0].number
            journal.mark(number, durably=False)
        killed(journal)
        (journal,) = Journal.left_behind(tmp_path)
        assert journal.entries() == []
        journal.begin_anew()
    assert journal.append([record(b"new")])[0].number == number + 1
    assert [entry.number for entry in Journal.waiting(tmp_path)] == [number + 1]
    killed(journal)
    assert [content for _, content in left(tmp_path)] == [b"new"]


def test_a_living_process_keeps_its_journal(tmp_path: Path) -> None:
    """Another listener on the same store leaves it alone."""
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(b"mine")])
    assert list(Journal.left_behind(tmp_path)) == []
    journal.close(remove=True)
    assert list(tmp_path.glob("*")) == []


def test_after_a_failed_sync_the_journal_says_that_it_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second sync would say that all is well (fsyncgate)."""
    journal = Journal.create(tmp_path, MIB)
    journal.append([record(b"first")])

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        with pytest.raises(OSError, match="Input/output error"):
            journal.append([record(b"second")])
    with pytest.raises(OSError, match="broken"):
        journal.append([record(b"third")])


def test_without_room_there_is_no_journal_and_no_piece_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is asked for the space when the journal is made."""

    def full(_file: int, _start: int, _length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space"):
        Journal.create(tmp_path, MIB)
    assert list(tmp_path.glob("*")) == []
