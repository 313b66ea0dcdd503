"""Breakers: a peer that is away is looked for by one, waited for by many, and delays nobody else."""

from __future__ import annotations

import socket
import socketserver
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.requests import Request

from node.db import breakers, results
from node.domain.job import JobState
from node.domain.peer import Breaker, BreakerState, Peer
from node.domain.result import DeliveryState
from node.steering import retry_job
from node.testing import ScriptedPacs, part10, synthetic_ct
from node.web.metrics import show
from tests.unit.node.conftest import World
from tests.unit.node.test_delivery import publish_two

# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

_B, _S = BreakerState, DeliveryState


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener looks every 20 ms, not every 500 ms, whether it was told to stop."""
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    """A PACS that behaves until it is told otherwise."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        yield pacs


def breaker(world: World, peer: str = "pacs") -> Breaker:
    """Return the breaker of a peer that failed at least once."""
    with world.database.reading() as session:
        found = breakers.get(session, peer)
    assert found is not None
    return found


def due(world: World) -> list[str]:
    """Return the jobs that the sweep would ring for."""
    with world.database.reading() as session:
        return results.due_jobs(session, now=world.clock())


def open_breaker(world: World, pacs: ScriptedPacs) -> str:
    """Publish a set for a PACS that is down, and try until its breaker opens; return the job's id."""
    world.peers.append(pacs.peer("pacs", timeout=3))
    pacs.stop()
    job_id = publish_two(world, "pacs")
    for _ in range(breakers.OPENS_AFTER):
        world.clock.advance(900)
        world.deliverer().deliver(job_id)
    assert breaker(world).state is _B.OPEN
    return job_id


def test_five_failed_connections_in_a_row_open_it_and_nothing_is_tried_any_more(
    world: World, pacs: ScriptedPacs
) -> None:
    """The job says since when and until when; no try is burned; another job for the same peer is not tried at all."""
    job_id = open_breaker(world, pacs)
    assert [one.tries for one in world.deliveries(job_id)] == [5, 5]
    reason = world.job(job_id).reason
    assert reason.startswith("peer pacs is away since 2026-01-15 13:15:00 UTC; next look at 2026-01-15 13:1")
    assert "does not answer" in reason
    with world.database.transaction() as session:  # the jitter may be next to nothing
        breakers.look_soon(session, job_id, at=world.clock() + timedelta(seconds=4))
    assert world.deliverer().deliver(job_id) == 0
    late = world.add_job(destinations=("pacs",))
    world.publish(world.start(), [("seg", "1.2.840.10008.5.1.4.1.1.2", "2.25.77", b"x")], ["pacs"])
    world.deliverer().deliver(late)
    assert [(one.state, one.tries) for one in world.deliveries(late)] == [(_S.QUEUED, 0)]
    assert world.job(late).reason.startswith("peer pacs is away since")
    assert due(world) == []


def test_a_peer_that_is_back_gets_everything_at_once(world: World, pacs: ScriptedPacs) -> None:
    """One C-ECHO closes the breaker; every job that waited is rung for, its back-off forgotten."""
    job_id = open_breaker(world, pacs)
    pacs.start()
    world.clock.advance(6)
    assert due(world) == [job_id]
    assert world.deliverer().deliver(job_id) == 2
    assert breaker(world).state is _B.CLOSED
    assert world.job(job_id).state is JobState.DONE
    assert ("deliver", job_id) in world.bells()
    assert [one.tries for one in world.deliveries(job_id)] == [6, 6]


def test_a_peer_that_is_still_away_is_looked_for_less_and_less_often(world: World, pacs: ScriptedPacs) -> None:
    """A failed look burns no try; the longest wait is the cap."""
    job_id = open_breaker(world, pacs)
    for count in range(1, 4):
        world.clock.advance(900)
        world.deliverer().deliver(job_id)
        found = breaker(world)
        assert (found.state, found.failures) == (_B.OPEN, breakers.OPENS_AFTER + count)
        assert found.until is not None
        assert found.until - world.clock() <= timedelta(seconds=5 * 2**count)
    assert [one.tries for one in world.deliveries(job_id)] == [5, 5]
    assert found.words == world.job(job_id).reason


def test_one_worker_looks_for_a_peer_and_a_dead_one_s_turn_comes_to_an_end(world: World, pacs: ScriptedPacs) -> None:
    """Compare-and-set under a lease: of two workers one gets the probe; only its holder may end it."""
    job_id = open_breaker(world, pacs)
    world.clock.advance(10)
    now, lease = world.clock(), timedelta(seconds=60)
    with world.database.transaction() as session:
        assert breakers.begin_probe(session, "pacs", worker="io-1", now=now, lease=lease)
    with world.database.transaction() as session:
        assert not breakers.begin_probe(session, "pacs", worker="io-2", now=now, lease=lease)
        assert not breakers.end_probe_back(session, "pacs", worker="io-2", at=now)
    assert due(world) == []
    world.clock.advance(61)
    assert due(world) == [job_id]
    pacs.start()
    assert world.deliverer("io-2").deliver(job_id) == 2
    with world.database.transaction() as session:
        assert not breakers.end_probe_back(session, "pacs", worker="io-1", at=now)


def test_what_waits_too_long_for_an_absent_peer_is_parked(world: World, pacs: ScriptedPacs) -> None:
    """An open breaker does not hide a delivery from the age limit; a person's retry looks for the peer at once."""
    job_id = open_breaker(world, pacs)
    world.clock.advance(8 * 86_400)
    world.deliverer().deliver(job_id)
    assert [one.state for one in world.deliveries(job_id)] == [_S.PARKED, _S.PARKED]
    assert world.job(job_id).reason.startswith("delivery to pacs parked: peer pacs is away since")
    pacs.start()
    retry_job(world.database, job_id, who="admin", at=world.clock())
    assert world.deliverer().deliver(job_id) == 2


def test_an_answer_between_two_failures_ends_the_count(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """Refusals of single objects are answers: only connections in a row count."""
    world = sqlite_world
    world.peers.append(pacs.peer("pacs", timeout=3))
    job_id = publish_two(world, "pacs")
    for _ in range(3):
        for _ in range(3):
            pacs.stop()
            world.clock.advance(900)
            world.deliverer().deliver(job_id)
        pacs.statuses = [0xA700]
        pacs.start()
        world.clock.advance(900)
        world.deliverer().deliver(job_id)
        assert (breaker(world).state, breaker(world).failures) == (_B.CLOSED, 0)


def test_answers_that_never_come_count_as_failures(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """A PACS that takes associations and cuts each of them off holds workers up as an absent one does."""
    world = sqlite_world
    world.peers.append(pacs.peer("pacs", timeout=3))
    job_id = publish_two(world, "pacs")
    pacs.aborts_before_store = 4
    for count in range(1, 5):
        world.clock.advance(900)
        world.deliverer().deliver(job_id)
        assert breaker(world).failures == count
    world.clock.advance(900)
    assert world.deliverer().deliver(job_id) == 2
    assert breaker(world).failures == 0


def test_an_open_breaker_holds_up_no_other_peer(world: World, pacs: ScriptedPacs, tmp_path: Path) -> None:
    """The archive gets its set at once, and its job only waits for the PACS."""
    open_breaker(world, pacs)
    with ScriptedPacs(tmp_path / "archive", ae_title="ARCHIVE") as archive:
        world.peers.append(archive.peer("archive"))
        job_id = world.add_job(destinations=("pacs", "archive"))
        files = [("seg", "1.2.840.10008.5.1.4.1.1.2", "2.25.88.1", _image())]
        world.publish(world.start(), files, ("pacs", "archive"))
        assert world.deliverer().deliver(job_id) == 1
        assert [(one.peer, one.state) for one in world.deliveries(job_id)] == [
            ("archive", "verified"), ("pacs", "queued"),
        ]  # fmt: skip


def test_a_peer_that_swallows_everything_costs_its_time_five_times_and_never_again(world: World) -> None:
    """The port is open and nobody speaks: the worst kind of away, because each try waits for its time-out."""
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        port = mute.getsockname()[1]
        world.peers.append(Peer(name="mute", ae_title="MUTE", host="127.0.0.1", port=port, timeout=0.3))
        job_ids = [publish_two(world, "mute")]
        for _ in range(breakers.OPENS_AFTER):
            world.clock.advance(900)
            world.deliverer().deliver(job_ids[0])
        assert breaker(world, "mute").state is _B.OPEN
        with world.database.transaction() as session:
            breakers.look_soon(session, job_ids[0], at=world.clock() + timedelta(hours=1))
        began = time.monotonic()
        for _ in range(5):
            world.deliverer().deliver(job_ids[0])
        assert time.monotonic() - began < 1.2  # five tries would take 1.5 s


def test_who_watches_the_node_sees_that_a_peer_is_away(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """A figure to alarm on, and how much waits."""
    job_id = open_breaker(sqlite_world, pacs)
    request = Request({"type": "http"})
    text = bytes(show(sqlite_world.database, request).body).decode()
    assert 'pacs_node_peer_away{peer="pacs"} 1.0' in text
    assert 'pacs_node_deliveries{peer="pacs",state="retry_wait"} 2.0' in text
    pacs.start()
    sqlite_world.clock.advance(10)
    sqlite_world.deliverer().deliver(job_id)
    text = bytes(show(sqlite_world.database, request).body).decode()
    assert 'pacs_node_peer_away{peer="pacs"} 0.0' in text
    assert "pacs_node_deliveries{" not in text


def test_failures_that_eight_workers_see_at_once_open_it_once(world: World) -> None:
    """Each is counted, one of them opens it, and tells so once."""

    def fail(worker: int) -> bool:
        with world.database.transaction() as session:
            return breakers.note_failure(
                session, "pacs", reason="away", who=f"io-{worker}", at=world.clock(), wait=lambda _: timedelta(1)
            )

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(fail, range(8))) == 1
    found = breaker(world)
    assert (found.state, found.failures) == (_B.OPEN, breakers.OPENS_AFTER)


def test_a_probe_that_eight_workers_want_is_one_worker_s(world: World) -> None:
    """The peer is asked once, not eight times."""
    at, lease = world.clock(), timedelta(seconds=60)
    for _ in range(breakers.OPENS_AFTER):
        with world.database.transaction() as session:
            breakers.note_failure(session, "pacs", reason="away", who="io", at=at, wait=lambda _: timedelta(0))

    def probe(worker: int) -> bool:
        with world.database.transaction() as session:
            return breakers.begin_probe(session, "pacs", worker=f"io-{worker}", now=at, lease=lease)

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(probe, range(8))) == 1


def _image() -> bytes:
    (ds,) = synthetic_ct(slices=1, uid_prefix="2.25.88")
    ds.SOPInstanceUID = "2.25.88.1"
    return part10(ds)


def test_a_peer_that_was_taken_out_of_the_configuration_is_no_reason_to_wait(
    sqlite_world: World, pacs: ScriptedPacs
) -> None:
    """What waits for it is parked with the words that it is unknown."""
    world = sqlite_world
    job_id = open_breaker(world, pacs)
    world.peers[:] = [Peer(name="other", ae_title="OTHER", host="127.0.0.1", port=1)]
    world.clock.advance(10)
    world.deliverer().deliver(job_id)
    assert [one.state for one in world.deliveries(job_id)] == [_S.PARKED, _S.PARKED]
    assert "there is no peer 'pacs'" in world.job(job_id).reason
