"""Connections to PostgreSQL that never wait for ever for a server which stands still."""

from __future__ import annotations

from typing import Any, cast

import psycopg
from psycopg.abc import RV, PQGen
from sqlalchemy import Engine, event

ANSWER_SECONDS = 9.0  # one statement; with a new connection within the 15 s that a sender is kept waiting
CONNECT_SECONDS = 4
_IDLE_SECONDS = 60  # a transaction of a process that has vanished holds its locks no longer than this


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose every wait for an answer ends."""

    def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Raise OperationalError where no answer comes in time; what was asked may have happened.

        The server's own statement_timeout does not end a wait for a server that stands still.
        """
        try:
            return super().wait(gen, interval, ANSWER_SECONDS if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as why:
            self.pgconn.finish()  # its answer, if it comes, would be taken for that of another statement
            raise psycopg.OperationalError(f"the database did not answer within {ANSWER_SECONDS:g} s") from why


def bound(engine: Engine) -> None:
    """Make every new connection of *engine* a bounded one, on both sides of the line."""
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "connect", _on_connect)


def _connect(_dialect: object, _record: object, words: list[Any], named: dict[str, Any]) -> Any:
    return BoundedConnection.connect(*words, **{"connect_timeout": CONNECT_SECONDS, **named})


def _on_connect(connection: Any, _record: object) -> None:
    server_side = {
        "statement_timeout": f"{ANSWER_SECONDS + 1:.0f}s",  # what we gave up does not go on there
        "idle_in_transaction_session_timeout": f"{_IDLE_SECONDS}s",
        "tcp_user_timeout": f"{_IDLE_SECONDS}s",
    }
    bounded = cast("psycopg.Connection[Any]", connection)
    for name, value in server_side.items():
        bounded.execute("SELECT set_config(%s, %s, false)", (name, value))
    bounded.commit()
