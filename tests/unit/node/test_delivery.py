"""Delivery: frozen results to a PACS that answers, refuses, vanishes and forgets to answer."""

from __future__ import annotations

import socketserver
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from node.db import jobs, results
from node.db.results import Outcome
from node.delivery import addresses
from node.domain.job import Job, JobState
from node.domain.peer import Peer
from node.domain.result import MOVES, Delivery, DeliveryState, check_move
from node.domain.waits import back_off, full_jitter
from node.errors import IllegalMove
from node.steering import cancel_job, retry_job
from node.testing import ScriptedPacs, part10, synthetic_ct
from tests.unit.node.conftest import SEG_CLASS, SR_CLASS, World

# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

_S = DeliveryState
SEG_UID, SR_UID = "2.25.9001.1.1", "2.25.9001.1.2"


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener looks every 20 ms, not every 500 ms, whether it was told to stop."""
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    """A PACS that behaves until it is told otherwise."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        yield pacs


def publish_two(world: World, *names: str) -> str:
    """Publish a set of two results (they are small images here) for the peers of those names; return the job's id."""
    first, second = synthetic_ct(slices=2, uid_prefix="2.25.9001")
    job_id = world.add_job(destinations=names, study_uid="2.25.9001")
    files = [
        ("seg", str(first.SOPClassUID), SEG_UID, part10(first)),
        ("sr", str(second.SOPClassUID), SR_UID, part10(second)),
    ]
    world.publish(world.start(), files, names)
    return job_id


@dataclass
class Set:
    """One result set of two for one PACS."""

    world: World
    pacs: ScriptedPacs
    job_id: str

    def deliver(self, after: float = 0.0) -> int:
        """Let *after* seconds go by, then send what is due; return how many were accepted."""
        self.world.clock.advance(after)
        return self.world.deliverer().deliver(self.job_id)

    @property
    def states(self) -> list[DeliveryState]:
        """The states of the deliveries in the order of sending."""
        return [delivery.state for delivery in self.world.deliveries(self.job_id)]

    @property
    def first(self) -> Delivery:
        """The first delivery."""
        return self.world.deliveries(self.job_id)[0]

    def job_state(self) -> JobState:
        """Where the job stands."""
        return self.world.job(self.job_id).state


@pytest.fixture
def made(sqlite_world: World, pacs: ScriptedPacs) -> Set:
    """One result set of two, published for one PACS."""
    sqlite_world.peers.append(pacs.peer("pacs"))
    return Set(sqlite_world, pacs, publish_two(sqlite_world, "pacs"))


@pytest.fixture
def made_on_both(world: World, pacs: ScriptedPacs) -> Set:
    """The same on each kind of database, for what the database decides."""
    world.peers.append(pacs.peer("pacs"))
    return Set(world, pacs, publish_two(world, "pacs"))


def test_an_accepted_set_ends_the_job_and_the_seg_goes_before_the_sr(made_on_both: Set) -> None:
    """What the report refers to is there first; the peer holds the very bytes that were frozen."""
    made = made_on_both
    assert made.deliver() == 2
    assert made.states == [_S.VERIFIED, _S.VERIFIED]
    assert made.pacs.order == [SEG_UID, SR_UID]
    assert made.job_state() is JobState.DONE
    sent = (made.pacs.folder / f"{SEG_UID}.dcm").read_bytes()
    frozen = next(made.world.store.root.glob("results/*/*/seg.dcm")).read_bytes()
    assert sent[-300:] == frozen[-300:]
    assert made.deliver() == 0
    assert made.pacs.received == {SEG_UID: 1, SR_UID: 1}


def test_a_full_pacs_is_tried_again_after_a_while(made: Set) -> None:
    """A700: nothing is sent before the back-off is over; the SR waits behind the SEG."""
    made.pacs.statuses = [0xA700]
    assert made.deliver() == 0
    assert made.states == [_S.RETRY_WAIT, _S.RETRY_WAIT]
    assert (made.first.last_status, made.first.tries) == ("A700", 1)
    wait = max(one.next_at for one in made.world.deliveries(made.job_id)) - made.world.clock()
    assert timedelta(0) < wait <= timedelta(seconds=5)
    assert made.job_state() is JobState.DELIVERING
    assert "A700" in made.world.job(made.job_id).reason
    assert made.deliver() == 0
    assert made.deliver(after=5) == 2
    assert made.job_state() is JobState.DONE
    assert made.pacs.order == [SEG_UID, SR_UID]


def test_a_refused_result_is_parked_with_all_behind_it_until_a_person_retries(made_on_both: Set) -> None:
    """C000: the same bytes would be refused again, so nothing is sent by itself, ever."""
    made = made_on_both
    made.pacs.statuses = [0xC000]
    made.deliver()
    assert made.states == [_S.PARKED, _S.PARKED]
    assert "C000" in made.first.reason
    assert made.deliver(after=86_400) == 0
    assert made.pacs.order == []
    said = retry_job(made.world.database, made.job_id, who="admin", at=made.world.clock())
    assert said == "2 deliveries are tried again"
    assert made.deliver() == 2
    assert made.job_state() is JobState.DONE


def test_a_pacs_that_is_down_gets_everything_when_it_is_back(made: Set) -> None:
    """The model is not run again: the frozen set waits."""
    made.pacs.stop()
    assert made.deliver() == 0
    assert made.states == [_S.RETRY_WAIT, _S.RETRY_WAIT]
    assert "does not answer" in made.first.reason
    made.pacs.start()
    assert made.deliver(after=5) == 2
    assert made.world.job(made.job_id).attempts == 1


def test_a_pacs_that_rejects_the_association_is_parked_with_its_reason(made: Set) -> None:
    """Calling AE title not recognised: a person must register the node there."""
    made.pacs.stop()
    made.pacs.refuses = True
    made.pacs.start()
    made.deliver()
    assert made.states == [_S.PARKED, _S.PARKED]
    assert "Calling AE title not recognised" in made.first.reason


def test_an_answer_that_never_came_is_asked_for_and_not_sent_twice(made_on_both: Set) -> None:
    """The PACS kept the SEG and the line was cut: C-FIND says yes, and only the SR is sent."""
    made = made_on_both
    made.pacs.aborts_after_store = 1
    made.deliver()
    assert made.states == [_S.UNKNOWN, _S.RETRY_WAIT]
    assert made.deliver(after=5) == 2
    assert made.pacs.received == {SEG_UID: 1, SR_UID: 1}
    details = [event.detail for event in made.world.story(job_id=made.job_id) if event.what == "delivery acked"]
    assert details[0] == "pacs: it was there already"


def test_an_answer_that_never_came_is_sent_again_where_the_pacs_has_nothing(made: Set) -> None:
    """The line was cut before the PACS kept the SEG: C-FIND says no."""
    made.pacs.aborts_before_store = 1
    made.deliver()
    assert made.states[0] is _S.UNKNOWN
    assert made.deliver(after=5) == 2
    assert made.pacs.order == [SEG_UID, SR_UID]


def test_a_pacs_without_queries_is_sent_the_unknown_once_more(made: Set) -> None:
    """It cannot be asked; the same UID and bytes a second time do no harm, a missing SEG would."""
    made.pacs.stop()
    made.pacs.can_find = False
    made.pacs.start()
    made.pacs.aborts_after_store = 1
    made.deliver()
    assert made.deliver(after=5) == 2
    assert made.pacs.received == {SEG_UID: 2, SR_UID: 1}


def test_an_unknown_stays_unknown_while_the_pacs_cannot_be_asked(made: Set) -> None:
    """Cut, then down, then back: the question is still put before anything is sent."""
    made.pacs.aborts_after_store = 1
    made.deliver()
    made.pacs.stop()
    made.deliver(after=5)
    assert made.states[0] is _S.UNKNOWN
    made.pacs.start()
    assert made.deliver(after=10) == 2
    assert made.pacs.received == {SEG_UID: 1, SR_UID: 1}


def test_cancelling_stops_what_was_not_sent(made: Set) -> None:
    """Nothing leaves after a person said stop."""
    cancel_job(made.world.database, made.job_id, who="admin", at=made.world.clock())
    assert made.deliver(after=5) == 0
    assert made.pacs.order == []
    assert made.states == [_S.CANCELLED, _S.CANCELLED]
    assert made.job_state() is JobState.CANCELLED


def test_cancelling_while_something_is_sent_leaves_nothing_waiting(made_on_both: Set) -> None:
    """The try that was on its way fails; no later round sends or rings for it."""
    made = made_on_both
    made.pacs.statuses = [0xA700]
    deliverer = made.world.deliverer()
    batch = deliverer._claim(made.job_id)
    cancel_job(made.world.database, made.job_id, who="admin", at=made.world.clock())
    for delivery, outcome in deliverer._send(batch):
        deliverer._conclude(delivery, outcome)
    made.deliver()
    assert made.states == [_S.CANCELLED, _S.CANCELLED]


def test_a_damaged_frozen_file_is_never_sent(made: Set) -> None:
    """One flipped byte on disk: parked, with what a person can do."""
    frozen = next(made.world.store.root.glob("results/*/*/seg.dcm"))
    data = bytearray(frozen.read_bytes())
    data[-1] ^= 1
    frozen.write_bytes(data)
    made.deliver()
    assert made.states == [_S.PARKED, _S.PARKED]
    assert made.first.reason == f"the frozen result {SEG_UID} is damaged on disk; run the job again"
    assert made.pacs.order == []


def test_a_delivery_that_is_too_old_is_parked(made: Set) -> None:
    """After a week of trying a person must look."""
    made.pacs.stop()
    made.deliver(after=8 * 86_400)
    assert made.states == [_S.PARKED, _S.PARKED]


def test_two_workers_deliver_one_set_once(made_on_both: Set) -> None:
    """The second finds the set taken, and leaves the first one's tries alone."""
    made = made_on_both
    first, second = made.world.deliverer("io-1"), made.world.deliverer("io-2")
    batch = first._claim(made.job_id)
    assert second.deliver(made.job_id) == 0
    assert made.states == [_S.SENDING, _S.SENDING]
    for delivery, outcome in first._send(batch):
        assert not second._conclude(delivery, outcome)
        assert first._conclude(delivery, outcome)
    assert made.pacs.received == {SEG_UID: 1, SR_UID: 1}


def test_one_absent_peer_delays_no_other(world: World, pacs: ScriptedPacs) -> None:
    """Each peer has its own tries: the archive is parked, the PACS has everything at once."""
    world.peers += [Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=1), pacs.peer("pacs")]
    job_id = publish_two(world, "archive", "pacs")
    assert world.deliverer().deliver(job_id) == 2
    assert pacs.order == [SEG_UID, SR_UID]
    expected = [("archive", "retry_wait")] * 2 + [("pacs", "verified")] * 2
    assert [(d.peer, d.state) for d in world.deliveries(job_id)] == expected
    assert world.job(job_id).reason.startswith("delivery to archive retry_wait: archive (ARCHIVE at 127.0.0.1:1)")


def test_a_sender_that_becomes_a_peer_gets_its_results_on_retry(world: World, pacs: ScriptedPacs) -> None:
    """The reason says: add it, then retry. That works."""
    job_id = world.add_job(destinations=("sender",), calling_ae=pacs.ae_title)
    job = world.start()
    (image,) = synthetic_ct(slices=1, uid_prefix="2.25.9001")
    (address,) = addresses(job, world.peers)
    assert (address.peer, "add it, then retry the job" in address.reason) == ("sender", True)
    world.publish(job, [("seg", str(image.SOPClassUID), SEG_UID, part10(image))], ["sender"])
    world.deliverer().deliver(job_id)
    assert [delivery.state for delivery in world.deliveries(job_id)] == [_S.PARKED]
    world.peers.append(pacs.peer("pacs"))
    retry_job(world.database, job_id, who="admin", at=world.clock())
    assert world.deliverer().deliver(job_id) == 1
    assert world.job(job_id).state is JobState.DONE


def test_a_retry_of_a_failed_job_runs_the_model_again(sqlite_world: World) -> None:
    """Where there are no results yet there is nothing to send."""
    job_id = sqlite_world.add_job()
    job = sqlite_world.start()
    with sqlite_world.database.transaction() as session:
        jobs.end(session, job, JobState.FAILED, reason="boom", at=sqlite_world.clock())
    assert retry_job(sqlite_world.database, job_id, who="admin", at=sqlite_world.clock()) == "the model runs again"
    assert sqlite_world.job(job_id).state is JobState.PENDING


def test_the_sender_and_its_name_are_one_destination(sqlite_world: World) -> None:
    """A rule that names both sends one set."""
    peer = Peer(name="pacs", ae_title="SCANNER", host="127.0.0.1", port=104)
    sqlite_world.add_job(destinations=("sender", "pacs"))
    assert [address.peer for address in addresses(sqlite_world.start(), [peer])] == ["pacs"]


@given(tries=st.integers(1, 200), base=st.integers(1, 3600), cap=st.integers(1, 86_400))
def test_waits_grow_to_the_cap_and_never_vanish(tries: int, base: int, cap: int) -> None:
    """Between half and all of base doubled each time, at most the cap."""
    wait = back_off(tries, timedelta(seconds=base), timedelta(seconds=cap)).total_seconds()
    ceiling = min(cap, base * 2 ** min(tries - 1, 20))
    assert ceiling * 0.4999 <= wait <= ceiling


@given(tries=st.integers(0, 200), base=st.integers(1, 3600), cap=st.integers(1, 86_400))
def test_jitter_is_full_and_capped(tries: int, base: int, cap: int) -> None:
    """Anything from nothing to base doubled each time, at most the cap."""
    wait = full_jitter(tries, timedelta(seconds=base), timedelta(seconds=cap)).total_seconds()
    assert 0 <= wait <= min(cap, base * 2 ** min(max(tries, 1) - 1, 20))


@pytest.mark.parametrize("old", list(_S))
@pytest.mark.parametrize("new", list(_S))
def test_only_the_listed_moves_are_legal(old: DeliveryState, new: DeliveryState) -> None:
    """Every pair of states is either listed or refused by name."""
    if new in MOVES[old]:
        check_move(1, old, new)
    else:
        with pytest.raises(IllegalMove, match=f"{old} and cannot become {new}"):
            check_move(1, old, new)


def test_retrying_a_cancelled_job_sends_the_frozen_results_and_runs_no_model(world: World) -> None:
    """Build once, send many: a second run might differ under the same UIDs."""
    world.add_job()
    job = world.start()
    world.publish(job, [("seg", SEG_CLASS, "2.25.500", b"x")], ["pacs"])
    cancel_job(world.database, job.id, who="admin", at=world.clock())
    said = retry_job(world.database, job.id, who="admin", at=world.clock())
    assert "tried again" in said
    assert world.job(job.id).state is JobState.RESULT_READY
    assert [delivery.state for delivery in world.deliveries(job.id)] == [DeliveryState.QUEUED]
    assert world.job(job.id).attempts == 1


def test_each_peer_gets_the_objects_of_its_profile(world: World) -> None:
    """The segmentation goes to both, the report to the one whose profile has it."""
    first, second = synthetic_ct(slices=2, uid_prefix="2.25.9001")
    job_id = world.add_job(destinations=("pacs", "archive"))
    files = [
        ("seg", str(first.SOPClassUID), SEG_UID, part10(first)),
        ("sr", str(second.SOPClassUID), SR_UID, part10(second)),
    ]
    of = {"seg": {"default", "pictures"}, "sr": {"default"}, "archive": {"pictures"}}
    world.publish(world.start(), files, ("pacs", "archive"), of)
    with world.database.reading() as session:
        roles = {result.id: result.role for result in results.results_of(session, job_id)}
        sent = [(delivery.peer, roles[delivery.result_id]) for delivery in results.deliveries_of(session, job_id)]
    assert sent == [("archive", "seg"), ("pacs", "seg"), ("pacs", "sr")]


def test_a_destination_brings_its_profile(sqlite_world: World) -> None:
    """By name or as the sender."""
    job_id = sqlite_world.add_job(destinations=("archive", "sender"))
    with sqlite_world.database.reading() as session:
        job = jobs.get(session, job_id)
    peers = (
        Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=1, profile="bare"),
        Peer(name="scanner", ae_title="SCANNER", host="127.0.0.1", port=2, profile="rich"),
    )
    assert [(one.peer, one.profile) for one in addresses(job, peers)] == [("archive", "bare"), ("scanner", "rich")]


def test_only_what_a_peer_has_is_replaced(world: World) -> None:
    """The set before this revision counts once something of it was accepted, and of the newest revision only."""
    study_uid = "2.25.4711"
    first, _ = synthetic_ct(slices=2, uid_prefix="2.25.9001")
    ids = []
    for number in (1, 2):
        ids.append(world.add_job(study_uid=study_uid, revision=number, destinations=("pacs",)))
        world.publish(world.start(), [("seg", str(first.SOPClassUID), f"{SEG_UID}.{number}", part10(first))], ("pacs",))
    ids.append(world.add_job(study_uid=study_uid, revision=3, destinations=("pacs",)))
    with world.database.transaction() as session:
        third = jobs.get(session, ids[2])
        assert results.previous_set(session, third) == []
        for number, job_id in enumerate(ids[:2], start=1):
            taken, _ = results.claim(session, job_id, worker="w", now=world.clock(), lease=timedelta(seconds=9))[0]
            results.conclude(session, taken, Outcome(state=_S.ACKED), worker="w", at=world.clock())
            assert [one.sop_uid for one in results.previous_set(session, third)] == [f"{SEG_UID}.{number}"]
        assert [one.sop_uid for one in results.previous_set(session, jobs.get(session, ids[0]))] == [f"{SEG_UID}.1"]


def test_what_comes_later_in_a_set_waits_for_what_comes_before(world: World) -> None:
    """The report is due, the segmentation that it refers to is not: neither is sent."""
    job = ready(world)
    with world.database.transaction() as session:
        both = results.claim(session, job.id, worker="io-0", now=world.clock(), lease=LEASE)
        waits = Outcome(state=DeliveryState.RETRY_WAIT, wait=timedelta(seconds=60))
        soon = Outcome(state=DeliveryState.RETRY_WAIT, wait=timedelta(seconds=1))
        for (delivery, _), outcome in zip(both, (waits, soon), strict=True):
            assert results.conclude(session, delivery, outcome, worker="io-0", at=world.clock())
    world.clock.advance(30)
    with world.database.transaction() as session:
        assert results.claim(session, job.id, worker="io-1", now=world.clock(), lease=LEASE) == []
    world.clock.advance(31)
    with world.database.transaction() as session:
        again = results.claim(session, job.id, worker="io-1", now=world.clock(), lease=LEASE)
    assert [one.id for one, _ in again] == [one.id for one, _ in both]


def test_a_word_that_comes_too_late_changes_nothing(world: World) -> None:
    """The same worker already looks for what it sent: how the sending ended was said before."""
    job = ready(world)
    with world.database.transaction() as session:
        both = results.claim(session, job.id, worker="io-0", now=world.clock(), lease=LEASE)
        for delivery, _ in both:
            accepted = Outcome(state=DeliveryState.ACKED, status="0000")
            assert results.conclude(session, delivery, accepted, worker="io-0", at=world.clock())
        looks = results.claim_looks(session, job.id, worker="io-0", now=world.clock(), lease=LEASE)
        assert len(looks) == len(both)
        late = Outcome(state=DeliveryState.RETRY_WAIT)
        assert not results.conclude(session, both[0][0], late, worker="io-0", at=world.clock())
    assert {one.state for one in world.deliveries(job.id)} == {DeliveryState.ACKED}


LEASE = timedelta(seconds=60)


def ready(world: World) -> Job:
    """Return a job whose set of two waits for one peer."""
    world.add_job()
    job = world.start()
    world.publish(job, [("seg", SEG_CLASS, "2.25.900", b"a"), ("sr", SR_CLASS, "2.25.901", b"b")], ["pacs"])
    with world.database.transaction() as session:
        return jobs.advance(session, world.job(job.id), JobState.DELIVERING, at=world.clock())


def test_an_unforeseen_failure_lets_go_of_what_was_taken(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to wait for the end of a lease whose holder lives and does nothing."""
    job = ready(world)
    deliverer = world.deliverer(transport_to=lambda _: pytest.fail("nothing is sent"))

    def fail(*_: object) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(type(deliverer), "_send", fail)
    with pytest.raises(ZeroDivisionError):
        deliverer.deliver(job.id)
    assert {one.state for one in world.deliveries(job.id)} == {DeliveryState.UNKNOWN}
    assert "delivery unknown" in [one.what for one in world.story(job_id=job.id)]


def test_a_failure_is_told_once_the_database_is_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was the database that failed: what was taken is let go at its return, not at the end of a lease."""
    job = ready(world)
    deliverer, waits, real = world.deliverer(), list[float](), results.give_up_sending

    def fail(*_: object) -> bool:
        raise ZeroDivisionError

    def away_twice(*words: Any, **told: Any) -> None:
        if len(waits) < 2:
            raise OperationalError("", {}, Exception("away"))
        real(*words, **told)

    monkeypatch.setattr(type(deliverer), "_send", fail)
    monkeypatch.setattr(results, "give_up_sending", away_twice)
    monkeypatch.setattr("node.db.session.time.sleep", waits.append)
    with pytest.raises(ZeroDivisionError):
        deliverer.deliver(job.id)
    assert len(waits) == 2
    assert {one.state for one in world.deliveries(job.id)} == {DeliveryState.UNKNOWN}
