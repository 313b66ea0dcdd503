"""What was acknowledged by way of the journal gets its file and its row, whenever the listener dies."""

from __future__ import annotations

import threading
import time

import pytest

from node import filing, logbook
from node.intake import Intake
from node.journal import Journal
from node.store import sha256_hex
from node.testing import part10, synthetic_ct
from tests.rig import wait_for
from tests.unit.node.conftest import JOURNAL, World
from tests.unit.node.journal_scene import Opened, keep, killed, needs_of, nothing_filed, rows


def test_what_is_acknowledged_is_filed_in_order_with_its_bytes(world: World, opened: Opened) -> None:
    """The rows come in the order of the answers; files are what was sent; in the journal nothing is left."""
    intake, images = opened(), synthetic_ct(slices=130)
    keep(intake, *images)
    assert intake.rest(30)
    found = rows(world)
    assert [row.sop_uid for row in found] == [image.SOPInstanceUID for image in images]
    for row, image in zip(found, images, strict=True):
        assert world.store.path(row.path).read_bytes() == part10(image)
    assert list((world.store.root / "incoming").iterdir()) == []
    assert intake.logbook is not None
    intake.logbook.close(limit=10)
    assert Journal.waiting(world.store.journals) == []


def test_a_lull_is_enough(world: World, opened: Opened) -> None:
    """Nobody has to ask: a moment without news, and all is filed."""
    intake = opened()
    keep(intake, *synthetic_ct(slices=3))
    wait_for("the filing", lambda: len(rows(world)) == 3, limit=5)


def test_a_steady_stream_is_filed_too(world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any lull an instance waits no longer than was said."""
    monkeypatch.setattr(filing, "_LULL", 3600.0)
    intake = opened(longest=1.0)
    keep(intake, *synthetic_ct(slices=3))
    wait_for("the filing", lambda: len(rows(world)) == 3, limit=5)


def test_senders_are_not_in_the_way_of_filing(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While somebody sends, nothing is filed; who waits for it without hurry sees it come with the lull."""
    monkeypatch.setattr(filing, "_LULL", 1.0)
    intake = opened()
    *images, last = synthetic_ct(slices=12)
    for image in images:
        keep(intake, image)
        time.sleep(0.15)
    is_there = intake.latest()
    assert rows(world) == [] and not is_there(0.2)
    keep(intake, last)
    assert is_there(10)
    wait_for("the last", lambda: len(rows(world)) == 12, limit=5)


def test_the_journal_is_prepared_while_nobody_sends(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An instance that is too large for it has the disk for itself while it comes."""
    monkeypatch.setattr(filing, "_IDLE", 0.5)
    prepared: list[float] = []
    monkeypatch.setattr(Journal, "prepare", lambda _: bool(prepared.append(time.monotonic())))
    intake = opened()
    with intake.receive(calling_ae="SCANNER") as incoming:
        incoming.write(bytes(logbook.LARGEST))
        for _ in range(6):
            time.sleep(0.15)
            incoming.write(bytes(1))
        assert prepared == []
        wait_for("the preparing", lambda: prepared, limit=5)


def test_a_full_half_of_the_journal_is_filed_at_once(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Senders who bring more than the journal holds shall not find it full."""
    monkeypatch.setattr(filing, "_LULL", 3600.0)
    intake = opened(longest=3600.0)
    *images, last = synthetic_ct(slices=8, rows=512, columns=512)  # half of the journal holds seven
    keep(intake, *images)
    assert rows(world) == []
    keep(intake, last)
    wait_for("the filing", lambda: len(rows(world)) >= 7, limit=10)


def test_of_two_versions_the_later_one_counts_whichever_way_it_came(world: World, opened: Opened) -> None:
    """Small by the journal, large by a file of its own, small again: one after the other."""
    intake = opened()
    (small,) = synthetic_ct(slices=1)
    (large,) = synthetic_ct(slices=1, rows=800, columns=800)
    large.SOPInstanceUID = small.SOPInstanceUID
    assert len(part10(large)) > logbook.LARGEST > len(part10(small))
    keep(intake, small, large)
    assert [row.current for row in rows(world)] == [False, True]
    small.InstanceNumber = 77
    keep(intake, small)
    assert intake.rest(30)
    assert [row.current for row in rows(world)] == [False, False, True]


def test_what_a_killed_listener_left_is_filed_by_the_next(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sender and time stay those of the answer; a second start finds nothing more to do."""
    images = synthetic_ct(slices=5)
    with nothing_filed(monkeypatch):
        intake = opened()
        came = world.clock()
        for image in images:
            with intake.receive(calling_ae="SCANNER") as incoming:
                incoming.write(part10(image))
                incoming.keep()
        killed(intake)
    assert rows(world) == []
    world.clock.advance(3600)
    assert [(need.what, need.count) for need in needs_of(world)] == [("journal", 5)]
    assert opened().rest(30)
    assert needs_of(world) == []
    assert [(row.sop_uid, row.calling_ae, row.kept_at) for row in rows(world)] == [
        (image.SOPInstanceUID, "SCANNER", came) for image in images
    ]
    assert opened().rest(30)
    assert len(rows(world)) == 5
    assert len(list(world.store.journals.iterdir())) == 2  # of the two that live


def test_the_next_listener_takes_the_journal_into_use(world: World, opened: Opened) -> None:
    """It is prepared once, not at every start; one of another size goes."""
    for turn, image in enumerate(synthetic_ct(slices=3)):
        intake = opened()
        keep(intake, image)
        assert intake.logbook is not None
        intake.logbook.close(limit=10)
        assert len(rows(world)) == turn + 1
        assert len(list(world.store.journals.iterdir())) == 1
    smaller = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
    smaller.open_logbook(JOURNAL // 2)
    assert [path.stat().st_size for path in world.store.journals.iterdir()] == [JOURNAL // 2]
    assert smaller.logbook is not None
    smaller.logbook.close(limit=10)


def test_up_leaves_an_empty_journal_to_the_listener(world: World, opened: Opened) -> None:
    """Else it would be made and prepared again at each start."""
    intake = opened()
    assert intake.logbook is not None
    intake.logbook.close(limit=10)
    (before,) = world.store.journals.iterdir()
    Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node").file_left(10)
    opened()
    assert list(world.store.journals.iterdir()) == [before]


def test_what_up_cannot_file_the_listener_files(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up lets go of it: its process lives on."""
    with nothing_filed(monkeypatch):
        intake = opened()
        keep(intake, *synthetic_ct(slices=1))
        killed(intake)
        Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node").file_left(0.5)
    assert rows(world) == []
    assert opened().rest(10)
    assert len(rows(world)) == 1


def test_without_a_journal_of_its_own_a_listener_files_what_others_left(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """journal_mib was set to 0 since."""
    with nothing_filed(monkeypatch):
        intake = opened()
        keep(intake, *synthetic_ct(slices=1))
        killed(intake)
    none = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
    none.open_logbook(0)
    keep(none, *synthetic_ct(slices=2, uid_prefix="2.25.88"))
    assert len(rows(world)) == 3
    assert list(world.store.journals.iterdir()) == []
    assert none.logbook is not None
    none.logbook.close(limit=10)


def test_what_was_filed_before_the_kill_is_not_filed_again(world: World, opened: Opened) -> None:
    """One that was deleted since would come back from the dead, and its study be opened again."""
    intake, images = opened(), synthetic_ct(slices=4)
    keep(intake, *images)
    assert intake.rest(30)
    killed(intake)
    path = rows(world)[2].path
    world.store.delete([path])
    assert opened().rest(30)
    assert world.store.size_of(path) == -1


def test_a_full_journal_makes_the_sender_wait_not_fail(
    world: World, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times what it holds, from four senders at once."""
    monkeypatch.setattr(filing, "_LULL", 3600.0)
    intake = opened(longest=3600.0)
    series = [synthetic_ct(slices=16, rows=512, columns=512, uid_prefix=f"2.25.9{turn}") for turn in range(4)]
    threads = [threading.Thread(target=keep, args=(intake, *images)) for images in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert intake.rest(60)
    assert len(rows(world)) == 64
    for row in rows(world)[::9]:
        assert sha256_hex(world.store.path(row.path).read_bytes()) == row.content_sha
