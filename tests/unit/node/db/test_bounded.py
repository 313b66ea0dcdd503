"""PostgreSQL that stands still or throws connections out: whoever asks gets an answer, and goes on afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from node.db import bounded
from node.db.session import Database, open_engine
from tests.rig import Postgres

pytestmark = pytest.mark.postgres


@pytest.fixture
def over_postgres(postgres: Postgres) -> Iterator[Database]:
    """A database of PostgreSQL."""
    engine = open_engine(postgres.url("node"))
    yield Database(engine)
    engine.dispose()


def ask(session: Session) -> int:
    """Ask for the simplest thing."""
    return int(session.scalar(text("SELECT 1")) or 0)


def test_a_statement_and_a_new_connection_end_within_what_a_sender_waits() -> None:
    """A sender is told A700 within 15 s, whichever of the two it was that waited."""
    assert bounded.ANSWER_SECONDS + bounded.CONNECT_SECONDS < 15


def test_a_server_that_stands_still_is_an_error_soon_and_none_afterwards(
    over_postgres: Database, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a transaction, at its beginning, and for a new connection."""
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(bounded, "CONNECT_SECONDS", 2)
    with pytest.raises(OperationalError, match="did not answer"), over_postgres.transaction() as session:
        assert ask(session) == 1
        with postgres.standing_still():
            ask(session)
    with postgres.standing_still():
        for _ in range(2):
            with pytest.raises(OperationalError), over_postgres.transaction() as session:
                ask(session)
    with over_postgres.transaction() as session:
        assert ask(session) == 1


def test_the_server_itself_ends_what_takes_too_long(over_postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What we no longer wait for does not hold locks there."""
    monkeypatch.setattr(bounded, "ANSWER_SECONDS", 0.6)  # the server: 2 s, rounded
    with over_postgres.reading() as session:
        shown = {name: session.scalar(text(f"SHOW {name}")) for name in ("statement_timeout", "tcp_user_timeout")}
    assert shown["statement_timeout"] == "2s"


def test_work_that_lost_its_connection_is_done_on_another(over_postgres: Database, postgres: Postgres) -> None:
    """Once, not twice: what was begun on the lost one never happened."""
    over_postgres.patiently(lambda session: session.execute(text("CREATE TABLE tally (n int)")), seconds=5)
    tries: list[int] = []

    def work(session: Session) -> None:
        session.execute(text("INSERT INTO tally VALUES (1)"))
        tries.append(1)
        if len(tries) < 3:
            postgres.administer(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = 'node' AND pid != pg_backend_pid()"
            )

    over_postgres.patiently(work, seconds=20)
    with over_postgres.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM tally")) == 1
        session.execute(text("DROP TABLE tally"))
    assert len(tries) == 3


def test_patience_has_an_end(over_postgres: Database, postgres: Postgres) -> None:
    """Then it is said."""
    over_postgres.engine.dispose()
    url = postgres.url("node").replace(f":{postgres.port}/", ":1/")
    away = Database(open_engine(url))
    with pytest.raises(OperationalError):
        away.patiently(ask, seconds=1.2)
    away.engine.dispose()
