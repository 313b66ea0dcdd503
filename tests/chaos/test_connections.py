"""A PostgreSQL that throws connections out, ten a second, and one that stands still: nothing lost, nothing twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from node.journal import Journal
from tests.chaos.oracle import at_rest, judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import Stand, running_stand
from tests.rig import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgres, pytest.mark.timeout(300)]

_EVERY_WAIT_ENDS = 13.0  # seconds: 9 for an answer of the database, 4 for a new connection
ONE_OF_THEM = (
    "SELECT pg_terminate_backend(pid) FROM (SELECT pid FROM pg_stat_activity WHERE datname = 'node' "
    "AND pid != pg_backend_pid() ORDER BY random() LIMIT 1) AS one"
)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A node over PostgreSQL, an Orthanc behind a good line."""
    with running_stand(tmp_path_factory.mktemp("connections"), db="postgres") as one:
        yield one


@pytest.fixture(scope="module")
def modality(stand: Stand) -> Modality:
    """One that sends until all is acknowledged; its ledger goes on from test to test, as the stand does."""
    return Modality(stand.folder / "modality", 1, Ledger())


@contextmanager
def thrown_out(stand: Stand) -> Iterator[list[int]]:
    """Ten times a second one connection of the node is ended, for the block."""
    assert stand.postgres is not None
    over, count, postgres = threading.Event(), [0], stand.postgres

    def throw() -> None:
        while not over.wait(0.1):
            postgres.administer(ONE_OF_THEM)
            count[0] += 1

    thrower = threading.Thread(target=throw)
    thrower.start()
    try:
        yield count
    finally:
        over.set()
        thrower.join()


def test_connections_that_are_ended_at_random_lose_nothing(stand: Stand, modality: Modality) -> None:
    """Four studies come, run and leave meanwhile."""
    with thrown_out(stand) as count:
        for number in range(4):
            modality.send(modality.make(number), stand.port, stand.called, threading.Event())
        sent = count[0]
        wait_for("a good part of the work", lambda: count[0] > sent + 150, limit=60)
    wait_for("all to come to rest", lambda: at_rest(stand), limit=120)
    verdict = judge(stand, modality.ledger)
    assert verdict.is_clean, verdict


def test_a_database_that_stands_still_keeps_nobody_for_ever(stand: Stand, modality: Modality) -> None:
    """What the journal took at first waits in it; then senders hear that they should come again; all ends well."""
    assert stand.postgres is not None
    first, later = modality.make(10), modality.make(11)
    senders = [
        threading.Thread(target=modality.send, args=(one, stand.port, stand.called, threading.Event()), daemon=True)
        for one in (first, later)
    ]
    with stand.postgres.standing_still():
        refused = len(modality.ledger.refused)
        senders[0].start()
        wait_for("something in the journal", lambda: _needs_filing(stand), limit=30)
        time.sleep(_EVERY_WAIT_ENDS)
        senders[1].start()
        wait_for("a refusal", lambda: len(modality.ledger.refused) > refused, limit=60)
    for sender in senders:
        sender.join(timeout=120)
    wait_for("all to come to rest", lambda: at_rest(stand), limit=150)
    verdict = judge(stand, modality.ledger)
    assert verdict.is_clean, verdict
    assert "A700" in modality.ledger.refused[-1]


def _needs_filing(stand: Stand) -> bool:
    return bool(Journal.waiting(stand.home / "store" / "journal"))
