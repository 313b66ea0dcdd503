"""What has outlived its days goes, and nothing else. On both databases."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from node.care import Care, Found
from node.db import copies, jobs
from node.db import retention as rows
from node.db.tables import DeliveryRow, GarbageRow, InstanceRow, JobInputRow, ResultRow, VerdictPendingRow
from node.domain.job import Job, JobState
from node.errors import StoreFull
from node.intake import Intake
from node.part import Part
from node.planning import decline
from node.retention import delete_what_is_over
from node.store import RESULTS_OF
from node.testing import part10, synthetic_ct
from tests.unit.node.conftest import SEG_CLASS, World

STUDY = "2.25.4711"
SEG = ("seg", SEG_CLASS, "2.25.500", b"frozen")
DAY = 86_400


def finished(world: World) -> Job:
    """Receive a study, run its job, have the peer take the result."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    job = world.start()
    world.publish(job, [SEG], ["pacs"])
    _set_deliveries(world, "verified")
    world.deliverer()._settle_job(job.id)
    assert world.job(job.id).state is JobState.DONE
    return job


def _set_deliveries(world: World, state: str) -> None:
    with world.database.transaction() as session:
        session.execute(update(DeliveryRow).values(state=state))


def care(world: World, **days: float) -> int:
    """Delete what has outlived its days."""
    settings = world.settings(**(days or {"keep_inputs_days": 30, "keep_results_days": 30}))
    return delete_what_is_over(world.database, world.store, settings, now=world.clock)


def files(world: World) -> list[str]:
    """Return the files of the store."""
    found = (path.relative_to(world.store.root).as_posix() for path in world.store.root.rglob("*") if path.is_file())
    return sorted(name for name in found if name != "care.lock")


def count(world: World, table: type) -> int:
    """Return the number of rows of a table."""
    with world.database.reading() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_finished_study_goes_when_its_days_are_over_and_not_before(world: World) -> None:
    """Files, rows and notes go; the study, its jobs and its events stay and say what went."""
    job = finished(world)
    world.clock.advance(29 * DAY)
    assert care(world) == 0
    assert len(files(world)) == 5
    world.clock.advance(2 * DAY)
    assert care(world) == 5
    assert files(world) == []
    assert [count(world, table) for table in (InstanceRow, JobInputRow, GarbageRow)] == [0, 0, 0]
    assert world.job(job.id).state is JobState.DONE
    assert [event.what for event in world.story(study_uid=STUDY)][-2:] == ["inputs deleted", "results deleted"]
    with world.database.reading() as session:
        assert session.scalar(select(func.count()).where(ResultRow.sop_uid == "2.25.500"))
    assert care(world) == 0


def test_for_ever_is_the_default(sqlite_world: World) -> None:
    """Nobody loses a study to a setting that was never made."""
    finished(sqlite_world)
    sqlite_world.clock.advance(9999 * DAY)
    assert care(sqlite_world, keep_inputs_days=0) == 0
    assert len(files(sqlite_world)) == 5


def test_inputs_and_results_have_days_of_their_own(sqlite_world: World) -> None:
    """Images go early, results stay."""
    finished(sqlite_world)
    sqlite_world.clock.advance(10 * DAY)
    assert care(sqlite_world, keep_inputs_days=7, keep_results_days=100) == 4
    assert [name.split("/")[0] for name in files(sqlite_world)] == ["results"]


def declined(world: World) -> Job:
    """Return a job that its model declined, with a picture."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    job = world.start()
    with world.database.transaction() as session:
        decline(session, job, reason="no lung", now=world.clock())
        world.store.put_declined(job.id, b"picture")
        jobs.note_picture(session, job)
    return job


def test_what_a_model_declined_is_shown_for_as_long_as_results_are_kept(world: World) -> None:
    """Its picture goes with its study's results, though there are none; then nothing is left to look for."""
    job = declined(world)
    name = f"results/{job.id}/pictures/declined.png"
    with world.database.reading() as session:
        assert copies.job_ids_with_results(session) == [job.id]
    world.clock.advance(10 * DAY)
    assert care(world, keep_inputs_days=7, keep_results_days=100) == 4
    assert files(world) == [name]
    world.clock.advance(91 * DAY)
    assert care(world, keep_results_days=100) == 1
    assert files(world) == [] and not world.store.pictures(job.id).exists()
    assert "1 pictures" in world.story(study_uid=STUDY)[-1].detail
    assert care(world, keep_results_days=100) == 0
    assert [event.what for event in world.story(study_uid=STUDY)].count("results deleted") == 1


def test_the_picture_of_a_job_that_runs_again_and_is_declined_again_stays(sqlite_world: World) -> None:
    """Its time was over, its file not yet deleted: the note of that is void."""
    world = sqlite_world
    job = declined(world)
    world.clock.advance(40 * DAY)
    with world.database.transaction() as session:
        before = world.clock() - timedelta(days=30)
        assert rows.forget_results(session, STUDY, before=before, folder=RESULTS_OF, at=world.clock()) == 1
    with world.database.transaction() as session:
        jobs.note_picture(session, job)
    assert care(world, keep_inputs_days=0) == 0 and count(world, GarbageRow) == 0
    assert f"results/{job.id}/pictures/declined.png" in files(world)


def _failed(world: World) -> None:
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    job = world.start()
    with world.database.transaction() as session:
        jobs.end(session, job, JobState.FAILED, reason="boom", at=world.clock())


def _pending(world: World) -> None:
    world.keep(*synthetic_ct(slices=4))
    world.settle()


def _open(world: World) -> None:
    world.keep(*synthetic_ct(slices=4))


def _in_conflict(world: World) -> None:
    finished(world)
    world.keep(*synthetic_ct(slices=1, series_number=2, patient_id="ANOTHER"))


def _parked(world: World) -> None:
    finished(world)
    _set_deliveries(world, "parked")


def _unknown(world: World) -> None:
    finished(world)
    _set_deliveries(world, "unknown")


def _unjudged(world: World) -> None:
    finished(world)
    with world.database.transaction() as session:
        instance = session.scalars(select(InstanceRow.id).limit(1)).one()
        session.add(VerdictPendingRow(instance_id=instance, tries=0, not_before=world.clock()))


@pytest.mark.parametrize(
    "unfinished", [_failed, _pending, _open, _in_conflict, _parked, _unknown, _unjudged], ids=lambda one: one.__name__
)
def test_what_is_unfinished_stays_for_ever(world: World, unfinished: Callable[[World], None]) -> None:
    """Failed, waiting, open, in conflict, parked, unknown to the peer, not looked at: a person or time comes first."""
    unfinished(world)
    before = files(world)
    world.clock.advance(9999 * DAY)
    assert care(world) == 0
    assert files(world) == before


def test_what_a_person_cancelled_and_what_no_rule_wants_goes_too(world: World) -> None:
    """A cancelled delivery is over; a study without a job is."""
    finished(world)
    _set_deliveries(world, "cancelled")
    world.keep(*synthetic_ct(slices=2, uid_prefix="2.25.99"))
    world.settle()
    world.clock.advance(31 * DAY)
    assert care(world) == 7


def test_a_crash_behind_the_rows_leaves_notes_that_the_next_round_clears(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file goes after its row and its note last: nothing looks lost, nothing is taken for new."""
    finished(world)
    world.clock.advance(31 * DAY)

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as crash:
        crash.setattr(world.store, "delete", fail)
        with pytest.raises(KeyboardInterrupt):
            care(world, keep_inputs_days=30)
    assert (count(world, InstanceRow), count(world, GarbageRow), len(files(world))) == (0, 4, 5)
    assert care(world, keep_inputs_days=30) == 4
    assert (count(world, GarbageRow), len(files(world))) == (0, 1)


def test_a_study_that_comes_again_before_its_files_are_gone_keeps_them(world: World) -> None:
    """Its rows are back when the files' turn comes."""
    finished(world)
    world.clock.advance(31 * DAY)
    with world.database.transaction() as session:
        before = world.clock() - timedelta(days=30)
        assert rows.forget_inputs(session, STUDY, before=before, at=world.clock()) == 4
    world.keep(*synthetic_ct(slices=2))
    assert care(world, keep_inputs_days=30) == 2
    assert len([name for name in files(world) if name.startswith("instances")]) == 2
    world.settle()
    assert world.study(STUDY).instances == 2


def test_an_instance_whose_file_went_while_it_came_is_not_acknowledged(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its file and its row the old file's time was over: the peer hears 0xA700 and sends it again."""
    world, (ds,) = sqlite_world, synthetic_ct(slices=1)
    file = world.store.file

    def file_and_lose(parts: Sequence[tuple[Part, str]]) -> list[StoreFull | None]:
        whys = file(parts)
        world.store.delete([name for _, name in parts])
        return whys

    intake = world.sweep()._care_of._intake
    monkeypatch.setattr(world.store, "file", file_and_lose)
    with pytest.raises(StoreFull, match="once more"):
        intake.keep(part10(ds), calling_ae="SCANNER")
    assert count(world, InstanceRow) == 0


def test_a_job_that_runs_again_keeps_its_folder(world: World) -> None:
    """Retried between the note and the deletion: the note is dropped, the folder stays."""
    world.keep(*synthetic_ct(slices=4))
    world.settle()
    job = world.start()
    world.publish(job, [SEG], ["pacs"])
    with world.database.transaction() as session:
        jobs.cancel(session, job.id, who="admin", at=world.clock())
    _set_deliveries(world, "cancelled")
    world.clock.advance(31 * DAY)
    with world.database.transaction() as session:
        before = world.clock() - timedelta(days=30)
        folder = "results/{}"
        assert rows.forget_results(session, STUDY, before=before, folder=folder, at=world.clock()) == 1
        jobs.retry(session, job.id, model_digest="d" * 64, who="admin", at=world.clock())
    assert care(world, keep_results_days=30) == 0
    assert count(world, GarbageRow) == 0
    assert len([name for name in files(world) if name.startswith("results")]) == 1


def test_kept_results_can_be_sent_again_and_deleted_ones_not(sqlite_world: World) -> None:
    """Whoever retries a cancelled job asks this first."""
    job = finished(sqlite_world)
    for days, kept in ((0, True), (31, False)):
        sqlite_world.clock.advance(days * DAY)
        care(sqlite_world)
        with sqlite_world.database.reading() as session:
            assert rows.has_results(session, job.id) is kept


_CARE = """
import sys
from datetime import datetime
from pathlib import Path
from node.db.session import Database, open_engine
from node.retention import delete_what_is_over
from node.part import Part
from node.settings import Settings
from node.store import Store
home, now = Path(sys.argv[1]), datetime.fromisoformat(sys.argv[2])
settings = Settings(home=home, keep_inputs_days=30, database_url=sys.argv[3])
print("begins", flush=True)
while delete_what_is_over(Database(open_engine(settings.database)), Store(home / "store"), settings, now=lambda: now):
    pass
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_nothing_that_looks_lost_or_new(sqlite_world: World) -> None:
    """Killed again and again while it deletes forty studies: table and store agree, and in the end all is gone."""
    world = sqlite_world
    for number in range(40):
        world.keep(*synthetic_ct(slices=10, rows=2, columns=2, uid_prefix=f"2.25.{number}", modality="OT"))
    world.settle()
    world.settle()
    world.clock.advance(31 * DAY)
    words = [str(world.home), world.clock().isoformat(), str(world.database.engine.url)]
    for path in (world.store.root / "instances").rglob("*"):
        os.utime(path, (1, 1))  # a file without a row would be adopted at once
    kills, turn, left = 0, 0, 400
    while left or count(world, GarbageRow):  # the last kill may fall between files and rows
        turn += 1
        with subprocess.Popen([sys.executable, "-c", _CARE, *words], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begins\n"
            time.sleep(0.04 * turn)
            kills += process.poll() is None
            process.kill()
        intake = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
        assert Care(world.database, world.store, intake, world.clock).reconcile() == Found()
        left = len(files(world))
    assert (count(world, InstanceRow), count(world, GarbageRow)) == (0, 0)
    assert kills


def test_nothing_goes_while_a_backup_reads(sqlite_world: World) -> None:
    """The copied database names these files."""
    finished(sqlite_world)
    sqlite_world.clock.advance(31 * DAY)
    with sqlite_world.store.undisturbed() as undisturbed:
        assert undisturbed
        assert care(sqlite_world) == 0
    assert care(sqlite_world) == 5


def test_the_sweep_does_it(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a part of its care."""
    finished(sqlite_world)
    sqlite_world.clock.advance(31 * DAY)
    sweep = sqlite_world.sweep()
    sweep.settings = sqlite_world.settings(keep_inputs_days=30)
    sweep.round()
    assert count(sqlite_world, InstanceRow) == 0


def test_results_are_marked_and_not_forgotten(sqlite_world: World) -> None:
    """Their rows say when their files went."""
    finished(sqlite_world)
    sqlite_world.clock.advance(31 * DAY)
    care(sqlite_world)
    with sqlite_world.database.reading() as session:
        assert session.scalars(select(ResultRow.deleted_at)).one() == sqlite_world.clock()
