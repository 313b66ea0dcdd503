"""The migrated schema is the one that the code works with, on both databases."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from node.db.session import Database, check_schema, migrate, open_engine
from node.db.tables import Base
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
        check_schema(engine, empty_url)
    finally:
        engine.dispose()


def test_a_database_without_tables_is_refused_with_the_way_out(empty_url: str) -> None:
    """An unmigrated database is named, and so is the command that helps."""
    engine = open_engine(empty_url)
    try:
        with pytest.raises(SettingsError, match="schema none, not 0004: run `pacs-node migrate`"):
            check_schema(engine, empty_url)
    finally:
        engine.dispose()


def test_sqlite_commits_survive_a_power_cut(sqlite_database: Database, tmp_path: Path) -> None:
    """WAL alone would lose the last commits: synchronous must be FULL (2); foreign keys are held."""
    with sqlite_database.engine.connect() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys")
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas}
    assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
