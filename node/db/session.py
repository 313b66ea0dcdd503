"""Engines and transactions: durable, and never a silent upgrade from reading to writing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session, sessionmaker

from node.errors import SettingsError

log = logging.getLogger(__name__)

_AGAIN = 0.5  # seconds between two tries to reach the database
MIGRATIONS = Path(__file__).parent / "migrations"  # Alembic, which runs them, is large: most processes do without it
BUSY_SECONDS = 30  # how long SQLite waits for another process's write


def open_engine(url: str, *, patient: bool = False) -> Engine:
    """Return an engine whose commits survive a power cut (SQLite: WAL, synchronous=FULL, BEGIN IMMEDIATE).

    *patient*: for work that may take as long as it takes, such as migrations and copies.
    """
    if not url.startswith("sqlite"):
        from node.db.bounded import bound  # its driver is large, and SQLite needs none of it

        engine = create_engine(url, pool_pre_ping=True, hide_parameters=True)
        if not patient:
            bound(engine)
        return engine
    # Parameters may be patient data; they must not stand in error messages.
    engine = create_engine(url, connect_args={"timeout": BUSY_SECONDS}, hide_parameters=True)
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _on_sqlite_begin)
    return engine


def _on_sqlite_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves, below
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _on_sqlite_begin(connection: Connection) -> None:
    # A deferred transaction that starts to write fails at once when another one wrote meanwhile, whatever the
    # busy timeout says; one that takes the write lock at its beginning waits its turn.
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Database:
    """Transactions over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._writing = sessionmaker(engine, expire_on_commit=False)
        self._reading = sessionmaker(engine.execution_options(reading=True), expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: commits when the block ends, rolls back when it raises."""
        with self._writing.begin() as session:
            yield session

    def patiently(self, work: Callable[[Session], object], *, seconds: float) -> None:
        """Run *work* in a transaction; where the database goes away, again until it is back or *seconds* are over.

        A commit may have happened although its answer was lost: *work* is such that doing it twice does no harm, or
        its second run raises what its fence raises.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                with self.transaction() as session:
                    work(session)
            except (OperationalError, InterfaceError) as why:
                if time.monotonic() + _AGAIN > deadline:
                    raise
                log.warning("the database is away: %s", type(why).__name__)
                time.sleep(_AGAIN)
            else:
                return

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One consistent view for reading; takes no write lock."""
        with self._reading() as session:
            yield session


def check_schema(engine: Engine) -> None:
    """Refuse to work on a database whose schema is not ours."""
    with engine.connect() as connection:
        found = None
        if inspect(connection).has_table("alembic_version"):
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    wanted = max(file.name for file in (MIGRATIONS / "versions").glob("[0-9]*.py")).partition("_")[0]
    if found != wanted:
        raise SettingsError(f"the database has schema {found or 'none'}, not {wanted}: run `pacs-node migrate`")
