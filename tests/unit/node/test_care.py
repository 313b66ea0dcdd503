"""The table and the store say the same, whatever a crash or a hand in the folder did. On both databases."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from node.care import Care, Found
from node.db import jobs
from node.domain.study import StudyState
from node.intake import Intake
from node.part import PART
from node.settings import Settings
from node.testing import part10, synthetic_ct
from tests.rig import put_instance
from tests.unit.node.conftest import SEG_CLASS, World

STUDY = "2.25.4711"
SEG = ("seg", SEG_CLASS, "2.25.500", b"frozen")


def care_of(world: World) -> Care:
    """Return what compares this world's table with its store."""
    intake = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
    return Care(world.database, world.store, intake, world.clock)


def age(path: Path) -> None:
    """Make a file or folder look as if nobody had touched it for long."""
    os.utime(path, (1, 1))


def instances(world: World) -> list[Path]:
    """Return the instance files."""
    return sorted((world.store.root / "instances").rglob("*.dcm"))


def stray(world: World, data: bytes, *, sop_uid: str) -> Path:
    """Lay a file into the study's folder as a listener does that dies before the row."""
    path = world.store.path(put_instance(world.store, data, study_uid=STUDY, sop_uid=sop_uid))
    age(path)
    return path


def test_where_all_is_well_nothing_is_done(world: World) -> None:
    """And a second look finds the same."""
    world.keep(*synthetic_ct(slices=4))
    assert care_of(world).reconcile() == Found()
    assert care_of(world).reconcile() == Found()


def test_a_whole_instance_without_a_row_is_recorded(world: World) -> None:
    """The listener died between file and row, or the database is older than the store: the study has it again."""
    made = synthetic_ct(slices=4)
    world.keep(*made[:3])
    stray(world, part10(made[3]), sop_uid=made[3].SOPInstanceUID)
    assert care_of(world).reconcile() == Found(adopted=1)
    assert (world.study(STUDY).instances, world.study(STUDY).calling_ae) == (4, "SCANNER")
    assert care_of(world).reconcile() == Found()


def test_a_study_that_the_table_never_heard_of_is_recorded_too(sqlite_world: World) -> None:
    """Its folder belongs to no row at all."""
    (ds,) = synthetic_ct(slices=1)
    stray(sqlite_world, part10(ds), sop_uid=ds.SOPInstanceUID)
    assert care_of(sqlite_world).reconcile() == Found(adopted=1)
    assert sqlite_world.study(STUDY).state is StudyState.OPEN


def test_a_file_that_is_just_being_received_is_left_alone(sqlite_world: World) -> None:
    """Its row comes in a moment."""
    (ds,) = synthetic_ct(slices=1)
    os.utime(stray(sqlite_world, part10(ds), sop_uid=ds.SOPInstanceUID))
    assert care_of(sqlite_world).reconcile() == Found()


def test_what_is_no_whole_instance_is_set_apart_and_kept(world: World) -> None:
    """Cut short, or no DICOM at all: it lies in the quarantine for a person, and is not looked at again."""
    world.keep(*synthetic_ct(slices=3))
    folder = instances(world)[0].parent
    short = stray(world, part10(synthetic_ct(slices=1, series_number=7)[0]), sop_uid="2.25.7")
    (folder / "notes.txt").write_bytes(b"not an instance")
    age(folder / "notes.txt")
    assert care_of(world).reconcile() == Found(set_apart=2)
    assert len(world.store.quarantined()) == 2
    assert not short.exists()
    assert world.study(STUDY).instances == 3
    assert care_of(world).reconcile() == Found()


def test_a_row_without_its_file_is_an_alarm_once_and_heals_when_it_comes_again(world: World) -> None:
    """Deleted or cut short by a hand or a disk: the study says so until the same bytes are there again."""
    made = synthetic_ct(slices=4)
    world.keep(*made)
    first, second, *_ = instances(world)
    first.unlink()
    second.write_bytes(b"short")
    assert care_of(world).reconcile() == Found(lost=2)
    assert care_of(world).reconcile() == Found()
    assert world.study(STUDY).lost == 2
    world.keep(*made)
    assert care_of(world).reconcile() == Found(found_again=2)
    assert world.study(STUDY).lost == 0
    assert [event.what for event in world.story(study_uid=STUDY)] == ["lost", "found again"]


def test_a_result_that_is_gone_is_an_alarm_on_its_job(world: World) -> None:
    """Before its delivery finds out."""
    job_id = world.add_job()
    (made,) = world.publish(world.start(), [SEG], ["pacs"])
    world.store.path(made.path).unlink()
    found = care_of(world).reconcile()
    assert found.lost == 2  # the made-up instance of the job's study has no file either
    assert "lost" in [event.what for event in world.story(job_id=job_id)]
    world.store.put_results(job_id, 1, [("seg.dcm", b"frozen")])
    assert care_of(world).reconcile() == Found(found_again=1)


def test_sets_that_no_row_names_go_and_those_of_unknown_jobs_are_set_apart(world: World) -> None:
    """An attempt lost its lease after it froze its set; a job is known to another database."""
    job_id = world.add_job()
    world.publish(world.start(), [SEG], ["pacs"])
    world.store.put_results(job_id, 7, [("seg.dcm", b"void")])
    world.store.put_results("unknown-job", 1, [("seg.dcm", b"somebody's")])
    for path in [*(world.store.root / "results").rglob("*")]:
        age(path)
    found = care_of(world).reconcile()
    assert (found.removed, found.set_apart) == (1, 1)
    assert sorted(path.name for path in (world.store.root / "results" / job_id).iterdir()) == ["1"]
    assert (world.store.quarantine / "results" / "unknown-job" / "1" / "seg.dcm").read_bytes() == b"somebody's"


def test_no_set_goes_while_a_backup_reads(sqlite_world: World) -> None:
    """Its copy of the table may name what the live one no longer does."""
    world = sqlite_world
    world.store.put_results(world.add_job(), 7, [("seg.dcm", b"void")])
    for path in [*(world.store.root / "results").rglob("*")]:
        age(path)
    with world.store.undisturbed():
        assert care_of(world).reconcile().removed == 0
    assert care_of(world).reconcile().removed == 1


def test_the_set_and_scratch_of_a_running_attempt_stay(sqlite_world: World) -> None:
    """However long it takes: the table says that a worker is at it."""
    world = sqlite_world
    world.add_job()
    job = world.start()
    scratch = world.store.scratch(job.id, job.epoch)
    old = world.store.scratch(job.id, job.epoch + 1)
    world.store.put_results(job.id, job.epoch, [("seg.dcm", b"frozen")])
    for path in (scratch, old, *(world.store.root / "results").rglob("*")):
        age(path)
    assert care_of(world).reconcile().removed == 1
    assert scratch.is_dir()
    assert not old.exists()
    assert world.store.path(f"results/{job.id}/{job.epoch}/seg.dcm").is_file()


def test_part_files_of_results_go_too(sqlite_world: World) -> None:
    """Left by a worker that died while it froze a set."""
    part = sqlite_world.store.root / "results" / "j" / "1" / f"seg.dcm.x{PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"")
    age(part)
    assert care_of(sqlite_world).reconcile().removed == 1
    assert not part.exists()


def test_verify_hashes_everything_that_a_row_names(world: World) -> None:
    """Same size, other bytes: only the hash tells."""
    world.keep(*synthetic_ct(slices=4))
    assert care_of(world).verify().files == 4
    first, second, *_ = instances(world)
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    second.unlink()
    found = care_of(world).verify()
    assert [len(found.damaged), len(found.missing)] == [1, 1]


def test_a_node_puts_itself_right_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`prepare` runs it, and a store that cannot be read does not keep the node from receiving."""
    from node import bootstrap

    settings = Settings(home=tmp_path / "home")
    bootstrap.prepare(settings)
    part = settings.home / "store" / "instances" / "ab" / "cd" / f"x{PART}"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"")
    age(part)
    bootstrap.prepare(settings)
    assert not part.exists()

    def fail(_: Care) -> Found:
        raise PermissionError("store")

    monkeypatch.setattr(Care, "reconcile", fail)
    bootstrap.prepare(settings)


def test_an_adopted_instance_wakes_its_study(sqlite_world: World) -> None:
    """It is planned as if it had come just now: a late instance."""
    world = sqlite_world
    made = synthetic_ct(slices=4)
    world.keep(*made[:3])
    world.settle()
    stray(world, part10(made[3]), sop_uid=made[3].SOPInstanceUID)
    care_of(world).reconcile()
    assert world.study(STUDY).state is StudyState.OPEN
    world.settle()
    assert [job.revision for job in world.jobs()] == [1, 2]
    with world.database.reading() as session:
        assert len(jobs.inputs(session, world.jobs()[1].id)) == 4
