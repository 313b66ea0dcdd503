"""Pauses in the table. On both databases."""

from __future__ import annotations

import pytest

from node.db import pauses
from node.db.session import Database
from node.domain.pause import PauseKind
from node.testing import NOON


def test_the_first_word_stands_until_it_is_taken_back(database: Database) -> None:
    """A second pause of the same thing neither fails nor changes who paused it."""
    with database.transaction() as session:
        assert pauses.put(session, "peer:pacs", reason="migration", who="cli:one", at=NOON)
        assert not pauses.put(session, "peer:pacs", reason="", who="cli:two", at=NOON)
    with database.reading() as session:
        (only,) = pauses.list_pauses(session)
        assert (only.what, only.reason, only.who) == ("peer:pacs", "migration", "cli:one")
    with database.transaction() as session:
        assert pauses.end(session, "peer:pacs", who="cli:two", at=NOON)
        assert not pauses.end(session, "peer:pacs", who="cli:two", at=NOON)
        assert pauses.paused(session) == frozenset()


@pytest.mark.parametrize(
    ("what", "concerns", "expected"),
    [
        ("node", {"model": "ct-lung"}, True),
        ("node", {}, True),
        ("model:ct-lung", {"queue": "gpu", "model": "ct-lung"}, True),
        ("model:ct-lung", {"queue": "gpu", "model": "ct-lung-nodule"}, False),
        ("queue:io", {"queue": "io", "peer": "pacs"}, True),
        ("peer:ct-lung", {"model": "ct-lung"}, False),
        ("peer:", {"model": "ct-lung"}, False),
    ],
)
def test_a_pause_holds_back_what_it_names(what: str, concerns: dict[str, str], expected: bool) -> None:
    """The whole node, or one queue, model or peer; a model is no peer of the same name."""
    assert pauses.is_paused({what}, **concerns) is expected


def test_names_serve_a_where_clause() -> None:
    """Those of one kind only."""
    assert pauses.names_of({"node", "model:a", "model:b", "peer:c"}, PauseKind.MODEL) == {"a", "b"}
