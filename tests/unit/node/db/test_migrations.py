"""The migrated schema is the one that the code works with, on both databases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, event, select, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError

from node.db import chosen, jobs, studies
from node.db.schema import alembic_config, migrate
from node.db.session import Database, check_schema, open_engine
from node.db.tables import Base, InstanceRow
from node.domain.job import JobState
from node.errors import SettingsError


def test_the_migrated_schema_equals_the_tables(database: Database) -> None:
    """Alembic finds nothing to change between the database and the declared tables."""
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_is_fine(empty_url: str) -> None:
    """The second run finds the newest schema and changes nothing."""
    migrate(empty_url)
    migrate(empty_url)
    engine = open_engine(empty_url)
    try:
        check_schema(engine)
    finally:
        engine.dispose()


class Killed(BaseException):
    """kill -9."""


def test_a_migration_may_be_killed_before_any_statement(empty_url: str) -> None:
    """The next run begins anew and ends with the newest schema; rows that were there stay."""
    left = [0]

    def count(*_: Any, **__: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    event.listen(Engine, "before_cursor_execute", count)
    try:
        kills = 0
        for after in range(1, 500, 3):
            left[0] = after
            try:
                migrate(empty_url)
            except (Killed, PendingRollbackError):  # the latter where Alembic tidies up, as no killed process would
                kills += 1
                continue
            break
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert kills > 10
    engine = open_engine(empty_url)
    try:
        check_schema(engine)
        with engine.connect() as connection:
            context = MigrationContext.configure(connection, opts={"compare_type": True})
            assert compare_metadata(context, Base.metadata) == []
    finally:
        engine.dispose()


def test_what_an_older_node_recorded_is_kept(empty_url: str) -> None:
    """An instance of schema 0003: not set aside, not lost, and nobody says yet whom it names."""
    command.upgrade(alembic_config(empty_url), "0003")
    engine = open_engine(empty_url)
    try:
        with engine.begin() as connection:
            for statement in (_OLD_STUDY, _OLD_INSTANCE):
                connection.execute(text(statement))
        migrate(empty_url)
        with Database(engine).reading() as session:
            one = session.scalars(select(InstanceRow)).one()
            assert (one.sop_uid, one.patient_id, one.set_aside, one.lost_at) == ("2.25.1.1", None, "", None)
            assert studies.get_study(session, "2.25.1").instances == 1
    finally:
        engine.dispose()


def test_a_job_of_an_older_node_keeps_what_refers_to_it(empty_url: str) -> None:
    """Its key changes, for which SQLite copies the table: what the job read, and its results, are still its own."""
    command.upgrade(alembic_config(empty_url), "0007")
    engine = open_engine(empty_url)
    try:
        with engine.begin() as connection:
            for statement in (_OLD_STUDY, _OLD_INSTANCE, _OLD_JOB, _OLD_INPUT, _OLD_CHOICE):
                connection.execute(text(statement))
        migrate(empty_url)
        with Database(engine).reading() as session:
            assert [one.sop_uid for one in jobs.inputs(session, "j-1")] == ["2.25.1.1"]
            job, (choice,) = jobs.get(session, "j-1"), chosen.of_study(session, "2.25.1")
        assert (job.state, job.rule, job.destinations, choice.place) == (JobState.RUNNING, "lungs", ("pacs",), None)
        again = _OLD_JOB.replace("'j-1'", "'j-2'")
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text(again))
        with engine.begin() as connection:
            connection.execute(text(again.replace("'2.25.1.2'", "'2.25.1.3'")))
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text("DELETE FROM job WHERE id = 'j-1'"))
    finally:
        engine.dispose()


_OLD_JOB = """
INSERT INTO job (id, study_uid, series_uid, model, model_digest, revision, rule, priority, rank, late, state, epoch,
attempts, reason, input_digest, calling_ae, destinations, settled_at, created_at, updated_at, not_before, owner,
progress, stage)
VALUES ('j-1', '2.25.1', '2.25.1.2', 'ct-lung', 'm', 1, 'lungs', 5, 0, false, 'running', 1, 1, '', 'i', 'A', '["pacs"]',
'2026-01-15 12:00:00', '2026-01-15 12:00:00', '2026-01-15 12:00:00', '2026-01-15 12:00:00', '', 0, '')
"""
_OLD_INPUT = "INSERT INTO job_input (job_id, instance_id) VALUES ('j-1', 1)"
_OLD_CHOICE = """
INSERT INTO choice (study_uid, revision, series_uid, rule, model, reason)
VALUES ('2.25.1', 1, '2.25.1.2', 'lungs', 'ct-lung', '')
"""
_OLD_STUDY = """
INSERT INTO study (uid, patient_id, accession_number, description, study_date, calling_ae, state, revision, epoch,
reason, first_at, last_at)
VALUES ('2.25.1', 'P', '', '', '', 'A', 'open', 0, 0, '', '2026-01-15 12:00:00', '2026-01-15 12:00:00')
"""
_OLD_INSTANCE = """
INSERT INTO instance (sop_uid, content_sha, study_uid, series_uid, sop_class, transfer_syntax, is_image, path, size,
current, calling_ae, kept_at)
VALUES ('2.25.1.1', 'c', '2.25.1', '2.25.1.2', '1', '1', true, 'p', 1, true, 'A', '2026-01-15 12:00:00')
"""


def test_a_database_without_tables_is_refused_with_the_way_out(empty_url: str) -> None:
    """An unmigrated database is named, and so is the command that helps."""
    engine = open_engine(empty_url)
    try:
        with pytest.raises(SettingsError, match="schema none, not 0009: run `pacs-node migrate`"):
            check_schema(engine)
    finally:
        engine.dispose()


def test_sqlite_commits_survive_a_power_cut(sqlite_database: Database, tmp_path: Path) -> None:
    """WAL alone would lose the last commits: synchronous must be FULL (2); foreign keys are held."""
    with sqlite_database.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
