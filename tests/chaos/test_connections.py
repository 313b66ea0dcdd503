"""A PostgreSQL that throws connections out, ten a second, and one that stands still: nothing lost, nothing twice."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.chaos.oracle import at_rest, judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import Stand, running_stand
from tests.rig import wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.postgres, pytest.mark.timeout(300)]

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
    """The sender hears that it should come again; what it sends then ends as one result."""
    assert stand.postgres is not None
    study, stopped = modality.make(10), threading.Event()
    sender = threading.Thread(target=modality.send, args=(study, stand.port, stand.called, stopped), daemon=True)
    with stand.postgres.standing_still():
        refused = len(modality.ledger.refused)
        sender.start()
        wait_for("an answer", lambda: len(modality.ledger.refused) > refused, limit=60)
    sender.join(timeout=120)
    wait_for("all to come to rest", lambda: at_rest(stand), limit=150)
    verdict = judge(stand, modality.ledger)
    assert verdict.is_clean, verdict
    assert "A700" in modality.ledger.refused[-1]
