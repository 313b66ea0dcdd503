"""A consistent copy of the whole database while others write it, and what a copy must forget before it works."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from sqlalchemy import URL, create_engine, delete, func, inspect, make_url, select, text, update
from sqlalchemy.orm import Session

from node.db import events, jobs
from node.db.session import open_engine
from node.db.tables import AssociationRow, CommitRequestRow, DeliveryRow, InstanceRow, JobRow, ResultRow, StudyRow
from node.domain.job import HELD, JobState
from node.domain.result import DeliveryState
from node.errors import SettingsError, StoreFull

SQLITE, POSTGRESQL = "sqlite", "postgresql"
_ASKED_FIRST = (DeliveryState.QUEUED, DeliveryState.SENDING, DeliveryState.RETRY_WAIT)


def kind_of(url: str) -> str:
    """Return which kind of database *url* names; SettingsError where it cannot be copied."""
    kind = make_url(url).get_backend_name()
    if kind not in (SQLITE, POSTGRESQL):
        raise SettingsError(f"a {kind} database cannot be backed up: use its own tools, and copy the home folder")
    return kind


@contextmanager
def copied(url: str, file: Path) -> Iterator[Session]:
    """Copy the database into *file* and yield a session that sees exactly what the copy holds.

    *file* is whole when the block begins, and is not written to afterwards.
    """
    with _copied_sqlite(url, file) if kind_of(url) == SQLITE else _copied_postgresql(url, file) as session:
        yield session


@contextmanager
def _copied_sqlite(url: str, file: Path) -> Iterator[Session]:
    source = f"file:{make_url(url).database}?mode=ro"
    with closing(sqlite3.connect(source, uri=True)) as live, closing(sqlite3.connect(file)) as copy:
        live.backup(copy)  # in one step: writers go on, and none of what they write gets in
        copy.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it
    engine = create_engine(f"sqlite:///file:{file}?mode=ro&immutable=1&uri=true", hide_parameters=True)
    try:
        with Session(engine) as session:
            yield session
    finally:
        engine.dispose()


@contextmanager
def _copied_postgresql(url: str, file: Path) -> Iterator[Session]:
    """pg_dump sees the snapshot that our own transaction exports, so that both say the same."""
    engine = open_engine(url, patient=True)
    try:
        with Session(engine.execution_options(isolation_level="REPEATABLE READ")) as session:
            snapshot = session.scalar(text("SELECT pg_export_snapshot()"))
            _run("pg_dump", make_url(url), "--format=custom", f"--snapshot={snapshot}", f"--file={file}")
            yield session
    finally:
        engine.dispose()


def is_empty(url: str) -> bool:
    """Return whether no table is in the database at *url*; a SQLite file that is not there is empty."""
    if kind_of(url) == SQLITE:
        return not Path(make_url(url).database or "").exists()
    engine = open_engine(url)
    try:
        return not inspect(engine).get_table_names()
    finally:
        engine.dispose()


def put_back(file: Path, url: str) -> None:
    """Make the database at *url*, which is empty, what the copy in *file* says; *file* is gone afterwards."""
    if kind_of(url) == SQLITE:
        target = Path(make_url(url).database or "")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)
        return
    dump = ["--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction", str(file)]
    _run("pg_restore", make_url(url), *dump)
    file.unlink()


def _run(program: str, url: URL, *words: str) -> None:
    """Run one of PostgreSQL's own programs; its password is not for everybody who lists processes."""
    if shutil.which(program) is None:
        raise SettingsError(f"{program} is missing: install PostgreSQL's client programs of the server's version")
    where = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username, "PGPASSWORD": url.password}
    env = {**os.environ, **{name: str(value) for name, value in where.items() if value}}
    env |= {f"PG{name.upper()}": str(value) for name, value in url.query.items() if name in ("sslmode", "host")}
    ended = subprocess.run(
        [program, f"--dbname={url.database}", *words], env=env, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        # Its messages name tables and places; a row that it quotes would be patient data.
        first = next((line for line in ended.stderr.splitlines() if "error" in line), "")
        raise StoreFull(f"{program} failed: {first.split('DETAIL')[0][:200] or ended.returncode}")


def make_safe(session: Session, *, at: datetime) -> dict[str, int]:
    """Void what was under way when the copy was made, so that nothing is delivered twice; return what was changed.

    The node went on after the copy: what was not yet sent then may have been sent since. So every peer is asked
    before anything of the copy goes to it, and no lease of the copy holds.
    """
    asked = update(DeliveryRow).where(DeliveryRow.state.in_(_ASKED_FIRST)).values(
        state=DeliveryState.UNKNOWN, owner="", lease_until=None, next_at=at, updated_at=at,
        reason="restored from a backup: the peer is asked whether it has it",
    )  # fmt: skip
    deliveries = session.scalars(asked.returning(DeliveryRow.job_id)).all()
    for job_id in sorted(set(deliveries)):
        detail = f"{deliveries.count(job_id)} results: their peers are asked before anything is sent"
        events.record(session, "restored", who="restore", at=at, detail=detail, job_id=job_id)
    held = update(JobRow).where(JobRow.state.in_(HELD)).values(
        state=JobState.PENDING, epoch=JobRow.epoch + 1, owner="", lease_until=None, not_before=at, updated_at=at,
        stage="", reason="",
    )  # fmt: skip
    freed = session.scalars(held.returning(JobRow.id)).all()
    for job_id in freed:
        events.record(session, "restored", who="restore", at=at, detail="its attempt is void", job_id=job_id)
        events.announce(session, jobs.RUN_JOB, job_id, at=at)
    session.execute(delete(AssociationRow))  # nobody sends over them any more
    session.execute(update(CommitRequestRow).where(CommitRequestRow.owner != "").values(owner="", lease_until=None))
    events.record(session, "restored", who="restore", at=at, detail="the node was restored from a backup")
    return {"deliveries": len(deliveries), "jobs": len(freed)}


def job_ids_with_results(session: Session) -> list[str]:
    """Return the jobs of which results, pictures or findings may lie in the store."""
    kept = select(ResultRow.job_id).where(ResultRow.deleted_at.is_(None))
    return list(session.scalars(kept.union(select(JobRow.id).where(JobRow.pictured))))


def count_rows(session: Session) -> dict[str, int]:
    """Return the numbers of studies, instances, jobs, results and deliveries."""
    tables = {"studies": StudyRow, "instances": InstanceRow, "jobs": JobRow, "results": ResultRow,
              "deliveries": DeliveryRow}  # fmt: skip
    return {name: session.scalar(select(func.count()).select_from(table)) or 0 for name, table in tables.items()}
