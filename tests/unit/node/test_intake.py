"""Instances that come at the same time share their syncs and their transaction, and nothing else."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from sqlalchemy.exc import IntegrityError, OperationalError

from node import intake as intake_module
from node.db import studies
from node.errors import StoreFull, UnreadableInstance
from node.intake import Intake, Mismatch, _Arrival
from node.part import PART, Part
from node.store import Store
from node.testing import part10, synthetic_ct
from tests.unit.node.conftest import World

Outcomes = dict[str, Exception | None]


def intake_of(world: World) -> Intake:
    """Return what keeps instances in this world."""
    return Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")


def keep_at_once(intake: Intake, images: Sequence[Dataset], monkeypatch: pytest.MonkeyPatch) -> Outcomes:
    """Keep the first image and, while it is being filed, all the others; return what became of each."""
    outcomes: Outcomes = {}
    begun, waiting = threading.Event(), threading.Event()
    real = intake.store.file

    def file(parts: list[tuple[Part, str]]) -> list[StoreFull | None]:
        if not begun.is_set():
            begun.set()
            assert waiting.wait(20)
        return real(parts)

    def keep(image: Dataset) -> None:
        try:
            intake.keep(part10(image), calling_ae="SCANNER")
            outcomes[image.SOPInstanceUID] = None
        except Exception as why:  # noqa: BLE001 - the test looks at it
            outcomes[image.SOPInstanceUID] = why

    monkeypatch.setattr(intake.store, "file", file)
    threads = [threading.Thread(target=keep, args=(image,)) for image in images]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    while len(intake._arrivals) < len(images) - 1:
        threading.Event().wait(0.01)
    waiting.set()
    for thread in threads:
        thread.join()
    return outcomes


def test_who_waits_is_kept_together_with_one_sync_and_one_commit(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine come while one is being kept: two transactions and two syncs of the folder, not ten."""
    images, commits, folders = synthetic_ct(slices=10), list[int](), list[Path]()
    real_keep, real_sync = studies.keep_instances, os.fsync

    def keep(session: Any, arrivals: Any) -> Any:
        commits.append(len(arrivals))
        return real_keep(session, arrivals)

    def sync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if path.suffix != PART:
            folders.append(path)
        real_sync(handle)

    intake = intake_of(sqlite_world)
    intake.keep(part10(synthetic_ct(slices=11)[10]), calling_ae="SCANNER")  # makes the study's folder
    monkeypatch.setattr(studies, "keep_instances", keep)
    monkeypatch.setattr(os, "fsync", sync)
    outcomes = keep_at_once(intake, images, monkeypatch)
    assert list(outcomes.values()) == [None] * 10
    assert commits == [1, 9]
    assert len(folders) == 2
    assert sqlite_world.study("2.25.4711").instances == 11


def test_one_that_cannot_be_filed_fails_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its folder cannot be made: A700 for it, its neighbours are kept."""
    good, bad = synthetic_ct(slices=3), synthetic_ct(slices=1, uid_prefix="2.25.66")[0]
    real = Store._room

    def room(store: Store, folder: Path) -> None:
        if folder.name == studies_folder(bad):
            raise OSError(28, "No space left on device")
        real(store, folder)

    monkeypatch.setattr(Store, "_room", room)
    outcomes = keep_at_once(intake_of(world), [*good, bad], monkeypatch)
    assert isinstance(outcomes.pop(bad.SOPInstanceUID), StoreFull)
    assert list(outcomes.values()) == [None] * 3
    assert world.study("2.25.4711").instances == 3
    assert list((world.store.root / "incoming").iterdir()) == []


def studies_folder(image: Dataset) -> str:
    """Return the last part of the name of a study's folder."""
    from node.store import study_folder

    return Path(study_folder(image.StudyInstanceUID)).name


@pytest.mark.parametrize("mine", ["a row that the table refuses", "a file that was deleted meanwhile"])
def test_one_that_cannot_be_recorded_fails_alone(mine: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others of its transaction are recorded each by itself."""
    images = synthetic_ct(slices=5)
    bad = images[2].SOPInstanceUID
    real_keep, intake = studies.keep_instances, intake_of(world)

    def keep(session: Any, arrivals: Any) -> Any:
        for kept, _ in arrivals:
            if kept.facts.sop_uid == bad and mine.startswith("a row"):
                raise IntegrityError("insert", {}, ValueError("no"))
            if kept.facts.sop_uid == bad:
                world.store.delete([kept.path])
        return real_keep(session, arrivals)

    monkeypatch.setattr(studies, "keep_instances", keep)
    outcomes = keep_at_once(intake, images, monkeypatch)
    assert isinstance(outcomes.pop(bad), StoreFull)
    assert list(outcomes.values()) == [None] * 4
    assert world.study("2.25.4711").instances == 4


def test_the_databases_own_trouble_is_everybodys_and_is_waited_for_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is away: each hears A700 after one wait, not after one for each neighbour."""
    calls: list[int] = []

    def keep(_: Any, arrivals: Any) -> Any:
        calls.append(len(arrivals))
        raise OperationalError("insert", {}, ValueError("database is locked"))

    monkeypatch.setattr(studies, "keep_instances", keep)
    monkeypatch.setattr(intake_module, "_PATIENCE", 0.0)
    outcomes = keep_at_once(intake_of(world), synthetic_ct(slices=4), monkeypatch)
    assert all(isinstance(why, StoreFull) for why in outcomes.values())
    assert calls == [1, 3]


def test_a_connection_that_was_lost_is_made_anew_for_all_who_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database threw it out: nobody hears of it, and each instance has one row."""
    real, calls = studies.keep_instances, list[int]()

    def keep(session: Any, arrivals: Any) -> Any:
        calls.append(len(arrivals))
        if len(calls) == 2:
            raise OperationalError("insert", {}, ValueError("terminating connection"))
        return real(session, arrivals)

    monkeypatch.setattr(studies, "keep_instances", keep)
    outcomes = keep_at_once(intake_of(world), images := synthetic_ct(slices=4), monkeypatch)
    assert all(why is None for why in outcomes.values())
    assert calls == [1, 3, 3]
    assert world.study(images[0].StudyInstanceUID).instances == 4


def test_what_nobody_foresaw_reaches_everybody_who_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No one hangs, and no one hears success."""
    intake = intake_of(world)
    monkeypatch.setattr(intake, "_transact", _break)
    outcomes = keep_at_once(intake, synthetic_ct(slices=4), monkeypatch)
    assert [str(why) for why in outcomes.values()] == ["unforeseen"] * 4


def _break(_: Sequence[_Arrival]) -> None:
    raise RuntimeError("unforeseen")


def test_one_instance_twice_in_one_transaction_is_one_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """And two patients in one are a conflict, as they are one after the other."""
    (image,) = synthetic_ct(slices=1)
    (other,) = synthetic_ct(slices=1, series_number=2, patient_id="SOMEBODY-ELSE")
    keep_at_once(intake_of(world), [image, image, image, other, other], monkeypatch)
    study = world.study("2.25.4711")
    assert (study.instances, study.state) == (2, "conflict")


def test_pieces_make_the_same_instance_as_the_whole(world: World) -> None:
    """Another name for it would be another version."""
    (image,) = synthetic_ct(slices=1)
    data, intake = part10(image), intake_of(world)
    intake.keep(data, calling_ae="SCANNER")
    with intake.receive(calling_ae="SCANNER", sop_uid=image.SOPInstanceUID) as incoming:
        for start in range(0, len(data), 1000):
            incoming.write(data[start : start + 1000])
        assert incoming.size == len(data)
        incoming.keep()
    assert world.study("2.25.4711").instances == 1
    assert len(list((world.store.root / "instances").rglob("*.dcm"))) == 1


def test_what_is_not_kept_leaves_nothing(world: World) -> None:
    """Broken off, unreadable, another than announced."""
    (image,) = synthetic_ct(slices=1)
    intake = intake_of(world)
    with intake.receive(calling_ae="SCANNER") as incoming:
        incoming.write(part10(image))
    with pytest.raises(UnreadableInstance):
        intake.keep(b"no DICOM", calling_ae="SCANNER")
    with pytest.raises(Mismatch):
        intake.keep(part10(image), calling_ae="SCANNER", sop_uid="1.2.3")
    assert [path for path in world.store.root.rglob("*") if path.is_file()] == []


def test_a_part_that_cannot_be_read_back_is_the_disks_fault(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor, a sick disk: the peer shall come again, not drop its copy."""

    def no_descriptor(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    (image,) = synthetic_ct(slices=1)
    with intake_of(world).receive(calling_ae="SCANNER") as incoming:
        incoming.write(part10(image))
        monkeypatch.setattr(Path, "open", no_descriptor)
        with pytest.raises(StoreFull, match="Too many open files"):
            incoming.keep()
