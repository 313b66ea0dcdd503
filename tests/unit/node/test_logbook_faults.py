"""A logbook over a sick disk, an absent database, damaged journals: nothing is lost, nobody waits for ever."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError, InternalError, OperationalError

from node import filing
from node.db import studies
from node.errors import StoreFull
from node.failpoints import Reached
from node.intake import Intake
from node.journal import Journal, Record
from node.part import Part
from node.store import Store, sha256_hex
from node.testing import part10, synthetic_ct
from tests.rig import wait_for
from tests.unit.node.conftest import JOURNAL, World
from tests.unit.node.journal_scene import Opened, keep, needs_of, never, rows


def test_a_failure_beside_the_filing_keeps_nobody_out(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for preparing, say: nobody's instance waits for it."""
    failed = threading.Event()

    def prepare(_: Journal) -> bool:
        failed.set()
        raise MemoryError

    monkeypatch.setattr(Journal, "prepare", prepare)
    monkeypatch.setattr(filing, "_PATIENCE", 0.1)
    intake = opened()
    assert failed.wait(10)
    threading.Event().wait(0.2)  # for what follows the failure
    keep(intake, *synthetic_ct(slices=1))
    assert intake.rest(10)


def test_while_nothing_can_be_filed_nothing_more_is_taken_and_then_all_is(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away: what was acknowledged waits, whoever comes hears of it, and then each has its row."""
    monkeypatch.setattr(filing, "_PATIENCE", 0.2)
    monkeypatch.setattr("node.intake._PATIENCE", 0.0)
    intake, images = opened(longest=0.3), synthetic_ct(slices=20)
    acked = 0
    with monkeypatch.context() as patch:
        patch.setattr(studies, "keep_instances", never)
        with pytest.raises(StoreFull, match="came before"):
            for image in images:
                keep(intake, image)
                acked += 1
                threading.Event().wait(0.05)
        assert rows(world) == []
    assert intake.rest(30)
    assert len(rows(world)) == acked > 0
    keep(intake, *images)
    assert intake.rest(30)
    assert len(rows(world)) == 20


def test_one_that_the_table_never_takes_waits_in_quarantine(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was acknowledged: it is not thrown away, and the others do not wait behind it for ever."""
    images = synthetic_ct(slices=5)
    real = studies.keep_instances

    def refused(session: Any, arrivals: Any) -> Any:
        if any(kept.facts.sop_uid == images[2].SOPInstanceUID for kept, _ in arrivals):
            raise IntegrityError("insert", {}, ValueError("no"))
        return real(session, arrivals)

    monkeypatch.setattr(studies, "keep_instances", refused)
    monkeypatch.setattr(filing, "_AGAIN", 0.01)
    monkeypatch.setattr(filing, "_LULL", 0.5)
    intake = opened()
    keep(intake, *images)
    assert intake.rest(30)
    assert len(rows(world)) == 4
    (name,) = world.store.quarantined()
    assert (world.store.quarantine / name).read_bytes() == part10(images[2])


def test_a_filing_that_stands_still_is_told(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not answer raises nothing; who sends is not told success for hours."""
    monkeypatch.setattr(filing, "_STUCK", 0.5)
    monkeypatch.setattr(filing, "_PATIENCE", 0.1)
    free = threading.Event()
    real = Store.file
    monkeypatch.setattr(Store, "file", lambda store, parts: (free.wait(30), real(store, parts))[1])
    intake, images = opened(), synthetic_ct(slices=2)
    keep(intake, images[0])
    threading.Event().wait(0.8)
    with pytest.raises(StoreFull, match="stands still"):
        keep(intake, images[1])
    free.set()
    assert intake.rest(30)
    keep(intake, images[1])


def test_a_journal_that_fails_is_replaced_and_loses_nothing(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that met the failure is refused; those before are filed, those behind go into a new journal."""
    monkeypatch.setattr(filing, "_LULL", 0.5)
    intake, images = opened(), synthetic_ct(slices=5)
    keep(intake, *images[:2])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _sick)
        with pytest.raises(StoreFull, match="Input/output error"):
            keep(intake, images[2])
    keep(intake, *images[3:])
    assert intake.rest(30)
    assert [row.sop_uid for row in rows(world)] == [images[place].SOPInstanceUID for place in (0, 1, 3, 4)]
    wait_for("the broken one to go", lambda: len(list(world.store.journals.iterdir())) == 1, limit=5)


def _sick(_: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_what_nobody_foresaw_in_the_journal_is_no_success(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the next one is taken as ever."""
    intake, images = opened(), synthetic_ct(slices=2)
    with monkeypatch.context() as patch:
        patch.setattr("node.journal.reach", _reached)
        with pytest.raises(Reached):
            keep(intake, images[0])
    keep(intake, images[1])
    assert intake.rest(30)
    assert [row.sop_uid for row in rows(world)] == [images[1].SOPInstanceUID]


def _reached(name: str) -> None:
    raise Reached(name)


def test_a_disk_without_room_for_a_journal_is_done_without(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each instance has its file and its row before success is said."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    keep(opened(), *synthetic_ct(slices=3))
    assert len(rows(world)) == 3
    assert "no journal" in caplog.text


def test_one_that_cannot_be_read_any_more_waits_in_quarantine(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A release reads more strictly than the one that took it: nothing is thrown away, the start goes on."""
    journal = Journal.create(world.store.journals, JOURNAL)
    data = b"no DICOM"
    record = Record(data=memoryview(data), sha256=sha256_hex(data), calling_ae="SCANNER", at=world.clock())
    journal.append([record])
    journal.close(remove=False)
    assert opened().rest(10)
    (name,) = world.store.quarantined()
    assert (world.store.quarantine / name).read_bytes() == data
    assert len(list(world.store.journals.iterdir())) == 1


def test_a_database_that_only_reads_for_a_while_puts_nothing_into_quarantine(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fails over: that is nobody's own fault, however long it takes and whatever it is called."""
    monkeypatch.setattr(filing, "_AGAIN", 0.01)
    monkeypatch.setattr("node.intake._PATIENCE", 0.0)
    images, calls, real = synthetic_ct(slices=3), [0], studies.keep_instances

    def keep_later(session: Any, arrivals: Any) -> Any:
        calls[0] += 1
        if calls[0] < 30:
            raise (InternalError if calls[0] % 2 else OperationalError)("insert", {}, ValueError("read-only"))
        return real(session, arrivals)

    monkeypatch.setattr(studies, "keep_instances", keep_later)
    intake = opened()
    with intake.receive(calling_ae="SCANNER") as incoming:
        incoming.write(part10(images[0]))
        incoming.keep()
    assert intake.rest(30)
    assert len(rows(world)) == 1
    assert world.store.quarantined() == []


def test_of_two_versions_in_one_batch_the_later_counts_where_the_first_needs_two_tries(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind one that cannot be kept, none is."""
    (first,) = synthetic_ct(slices=1)
    (second,) = synthetic_ct(slices=1)
    second.InstanceNumber = 77
    real, failed = Store._rename, list[int]()

    def rename(store: Store, part: Part, path: Any) -> StoreFull | None:
        if not failed:
            failed.append(1)
            return StoreFull("for a moment")
        return real(store, part, path)

    monkeypatch.setattr(Store, "_rename", rename)
    monkeypatch.setattr(filing, "_LULL", 0.3)
    intake = opened()
    keep(intake, first, second)
    assert intake.rest(30)
    assert [row.current for row in rows(world)] == [False, True]


@pytest.mark.parametrize("what", ["a mark", "the quarantine"])
def test_whatever_fails_the_filing_goes_on(
    what: str, world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its thread nobody could send until a person comes."""
    monkeypatch.setattr(filing, "_AGAIN", 0.01)
    images, real, failed = synthetic_ct(slices=3), studies.keep_instances, list[int]()

    def sick(*_: Any, **__: Any) -> None:
        failed.append(1)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refused(session: Any, arrivals: Any) -> Any:
        if not failed or len(failed) < 3:
            raise IntegrityError("insert", {}, ValueError("no"))
        return real(session, arrivals)

    if what == "a mark":
        monkeypatch.setattr(Journal, "mark", sick)
    else:
        monkeypatch.setattr(Store, "set_apart", sick)
        monkeypatch.setattr(studies, "keep_instances", refused)
    intake = opened()
    keep(intake, images[0])
    assert intake.rest(30)
    assert failed
    monkeypatch.undo()
    keep(intake, *images[1:])
    assert intake.rest(30)
    assert len(rows(world)) == 3


def test_a_journal_that_nobody_can_read_keeps_nobody_from_sending(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays as it is, and status says so."""
    journal = Journal.create(world.store.journals, JOURNAL)
    os.pwrite(journal._file, b"PACSJRN9" * 2, 0)
    journal.close(remove=False)
    keep(opened(), *synthetic_ct(slices=1))
    wait_for("the filing", lambda: len(rows(world)) == 1, limit=5)
    assert journal.path.exists()
    (need,) = needs_of(world)
    assert need.what == "journal" and "cannot be read" in need.says


def test_an_instance_that_was_damaged_in_the_journal_waits_in_quarantine(world: World, opened: Opened) -> None:
    """Nobody knows whether success was said: a person may look."""
    journal = Journal.create(world.store.journals, JOURNAL)
    data = part10(synthetic_ct(slices=1)[0])
    record = Record(data=memoryview(data), sha256=sha256_hex(data), calling_ae="SCANNER", at=world.clock())
    (entry,) = journal.append([record])
    os.pwrite(journal._file, b"?", entry.place + 1000)
    journal.close(remove=False)
    assert opened().rest(10)
    (name,) = world.store.quarantined()
    assert name.endswith(".damaged") and rows(world) == []


def test_what_is_acknowledged_is_filed_although_the_disk_is_nearly_full(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reserve is for this, too; whoever comes is refused."""
    monkeypatch.setattr(filing, "_LULL", 0.3)
    intake, images = opened(), synthetic_ct(slices=2)
    keep(intake, images[0])
    monkeypatch.setattr(world.store, "_min_free", 1 << 60)
    assert intake.rest(10)
    assert len(rows(world)) == 1
    with pytest.raises(StoreFull, match="nearly full"):
        keep(intake, images[1])


def test_a_journal_is_closed_by_the_thread_that_uses_it(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its number would be the next file's, and zeros or an old mark would go there."""
    intake, images, closed = opened(), synthetic_ct(slices=3), list[str]()
    real = Journal.close

    def close(journal: Journal, *, remove: bool) -> None:
        closed.append(threading.current_thread().name)
        real(journal, remove=remove)

    monkeypatch.setattr(Journal, "close", close)
    keep(intake, images[0])
    assert intake.rest(10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", _sick)
        with pytest.raises(StoreFull):
            keep(intake, images[1])
    keep(intake, images[2])
    wait_for("the broken one to go", lambda: len(list(world.store.journals.iterdir())) == 1, limit=5)
    assert closed == ["filing"]


def test_an_instance_that_no_half_holds_is_refused_at_once(world: World) -> None:
    """journal_mib is too small: nobody waits for room that never comes."""
    intake = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
    intake.open_logbook(1 << 20)
    (large,) = synthetic_ct(slices=1, rows=600, columns=600)
    with pytest.raises(StoreFull, match="journal_mib"):
        keep(intake, large)
    assert intake.logbook is not None
    intake.logbook.close(limit=10)
