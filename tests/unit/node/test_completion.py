"""A study settles by the best evidence: a peer's count, its steps, required series, associations, the longest wait."""

from __future__ import annotations

import random
import socketserver
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from node.counting import Counting
from node.db import commit_requests, completion, copies, steps
from node.db.completion import Open
from node.db.tables import DeliveryRow
from node.domain.peer import Counts, Peer
from node.domain.step import StepState
from node.domain.study import StudyState
from node.errors import IllegalMove, NotFound, PeerAway
from node.lanes import Lanes
from node.processes import identity
from node.story import tell
from node.testing import ScriptedPacs, synthetic_ct
from tests.rig import dead_process, free_port
from tests.unit.node.conftest import RULE, World

STUDY, OTHER = "2.25.4711", "2.25.4712"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"
# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener looks every 20 ms, not every 500 ms, whether it was told to stop."""
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


class Oracle:
    """A way to peers that count as they are told, are away, or say nothing until they are let."""

    def __init__(self) -> None:
        self.there: dict[str, Any] = {}
        self.away: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.let = threading.Event()
        self.let.set()
        self.slow: set[str] = set()

    def to(self, peer: Peer) -> Any:
        """Return a transport that does nothing but count."""
        oracle = self

        class Way:
            def count(self, uids: Sequence[str]) -> Iterator[Any]:
                if peer.name in oracle.slow:
                    oracle.let.wait(30)
                if peer.name in oracle.away:
                    raise PeerAway(f"{peer.name} does not answer: test")
                for uid in uids:
                    oracle.asked.append((peer.name, uid))
                    yield oracle.there.get(uid, {})

        return Way()


def scene(world: World, *peers: str) -> tuple[Oracle, Counting, Lanes]:
    """Return peers of these AE titles that send and count, and what asks them."""
    world.peers += [Peer(name=f"{ae}-pacs", ae_title=ae, host="h", port=104, count=Counts.CFIND) for ae in peers]
    oracle, lanes = Oracle(), Lanes()
    return oracle, Counting(world.database, world.settings(), oracle.to, world.clock, lanes), lanes


def ask(counting: Counting, lanes: Lanes) -> None:
    """Have all due questions asked and answered."""
    counting.round()
    assert lanes.rest(20)


def test_a_study_settles_as_soon_as_its_peer_counts_no_more_than_came(world: World) -> None:
    """Three seconds after the last image, not sixty; and the reason is kept."""
    oracle, counting, lanes = scene(world, "SCANNER")
    world.keep(*synthetic_ct(slices=4))
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 4)}
    ask(counting, lanes)
    assert oracle.asked == []  # one second after the last image
    world.clock.advance(2)
    ask(counting, lanes)
    (planned,) = world.settle(0)
    assert planned.reason == "SCANNER-pacs counts 4 of 4, 3 s after the last image; 1 job planned"
    assert world.study(STUDY).reason == planned.reason
    assert world.story(study_uid=STUDY)[-1].detail == f"revision 1: {planned.reason}"


def test_a_study_whose_peer_counts_more_waits_up_to_the_longest_wait(world: World) -> None:
    """It says for what; and in the end how many came of how many."""
    oracle, counting, lanes = scene(world, "SCANNER")
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 412)}
    world.keep(*synthetic_ct(slices=4))
    world.clock.advance(10)
    ask(counting, lanes)
    assert world.settle(600) == []
    assert world.study(STUDY).reason == "waits: SCANNER-pacs counts 4 of 412"
    with world.database.reading() as session:
        (waits,) = tell(session, STUDY, now=world.clock(), quiet=world.settings().quiet_period).waits_for
    assert waits == "more instances; SCANNER-pacs counts 4 of 412"
    assert world.settle(4780) == []
    (planned,) = world.settle(10)
    assert planned.reason.startswith("waited 90 min, the longest wait; only 4 of 412 came (SCANNER-pacs counts them)")


def test_the_rest_that_comes_settles_it_at_once(world: World) -> None:
    """The peer is asked anew after the last image: an old count never says that all came."""
    oracle, counting, lanes = scene(world, "SCANNER")
    images = synthetic_ct(slices=5)
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 5)}
    world.keep(*images[:4])
    world.clock.advance(10)
    ask(counting, lanes)
    assert world.settle(0) == []
    world.keep(images[4])
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 6)}
    assert world.settle(5) == []
    ask(counting, lanes)
    assert world.settle(0) == []
    assert world.study(STUDY).reason == "waits: SCANNER-pacs counts 5 of 6"


def test_one_question_in_a_while_for_each_study(world: World) -> None:
    """A study that lacks images is asked for ever less often, each time for all studies that are due."""
    oracle, counting, lanes = scene(world, "SCANNER")
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 412)}
    world.keep(*synthetic_ct(slices=4))
    for _ in range(600):
        world.clock.advance(1)
        ask(counting, lanes)
    assert len(oracle.asked) == 6  # after 3, 13, 33, 73, 153, 313 seconds


def test_an_absent_peer_delays_neither_its_own_study_nor_others(world: World) -> None:
    """The one settles by quiet and says why; the other does not notice."""
    oracle, counting, lanes = scene(world, "SCANNER", "OTHER")
    oracle.away.add("SCANNER-pacs")
    oracle.there[OTHER] = {f"{OTHER}.1": ("CT", 4)}
    world.keep(*synthetic_ct(slices=4))
    world.keep(*synthetic_ct(slices=4, uid_prefix=OTHER), calling_ae="OTHER")
    world.clock.advance(5)
    ask(counting, lanes)
    (other,) = world.settle(0)
    assert other.reason.startswith("OTHER-pacs counts 4 of 4")
    (own,) = world.settle(60)
    why = "its peer could not be asked for its count: SCANNER-pacs does not answer: test"
    assert own.reason == f"no instance for 60 s; {why}; 1 job planned"


def test_a_peer_that_does_not_answer_holds_up_no_round(sqlite_world: World) -> None:
    """It is still being asked; the other peer's study settles meanwhile, and nobody asks the first one twice."""
    world = sqlite_world
    oracle, counting, lanes = scene(world, "SCANNER", "OTHER")
    oracle.let.clear()
    oracle.slow.add("SCANNER-pacs")
    oracle.there[OTHER] = {f"{OTHER}.1": ("CT", 4)}
    world.keep(*synthetic_ct(slices=4))
    world.keep(*synthetic_ct(slices=4, uid_prefix=OTHER), calling_ae="OTHER")
    world.clock.advance(5)
    for _ in range(3):
        counting.round()
    while not lanes.is_free("count OTHER-pacs"):
        threading.Event().wait(0.01)
    (settled,) = world.settle(0)
    assert settled.study_uid == OTHER
    oracle.let.set()
    assert lanes.rest(20)
    assert [uid for name, uid in oracle.asked if name == "SCANNER-pacs"] == [STUDY]


def test_what_was_counted_before_the_peer_went_away_still_holds(world: World) -> None:
    """412 were there: that 4 of them came is no whole study, whoever is away now."""
    oracle, counting, lanes = scene(world, "SCANNER")
    images = synthetic_ct(slices=5)
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 412)}
    world.keep(*images[:4])
    world.clock.advance(5)
    ask(counting, lanes)
    oracle.away.add("SCANNER-pacs")
    world.keep(images[4])
    world.clock.advance(5)
    ask(counting, lanes)
    assert world.settle(600) == []


def test_the_node_s_own_results_at_the_peer_are_not_awaited(world: World) -> None:
    """Its pages were delivered; then a late image comes and the peer counts both."""
    oracle, counting, lanes = scene(world, "SCANNER")
    images = synthetic_ct(slices=5)
    world.keep(*images[:4])
    world.settle()
    job = world.start()
    world.publish(job, [("sc", SECONDARY, "2.25.77", b"x")], ["SCANNER-pacs"])
    _deliver(world, job.id)
    world.keep(images[4])
    oracle.there[STUDY] = {f"{STUDY}.1": ("CT", 5), "2.25.76": ("OT", 1), "2.25.75": ("SR", 1)}
    world.clock.advance(5)
    ask(counting, lanes)
    (planned,) = world.settle(0)
    assert planned.reason.startswith("SCANNER-pacs counts 5 of 5")


def _deliver(world: World, job_id: str) -> None:
    """Take all deliveries of a job for accepted."""
    with world.database.transaction() as session:
        session.execute(update(DeliveryRow).where(DeliveryRow.job_id == job_id).values(state="acked"))


@pytest.mark.parametrize("by_series", [True, False])
def test_a_real_query_counts(world: World, tmp_path: Path, by_series: bool) -> None:
    """C-FIND at SERIES level, at STUDY level where a peer counts no series; one sweep does all of it."""
    with ScriptedPacs(tmp_path / "pacs", ae_title="SCANNER") as pacs:
        pacs.counts_series = by_series
        pacs.counts[STUDY] = {f"{STUDY}.1": ("CT", 3), f"{STUDY}.2": ("CT", 2)}
        world.peers.append(replace(pacs.peer("pacs"), count=Counts.CFIND))
        sweep = world.sweep()
        world.keep(*synthetic_ct(slices=3))
        world.clock.advance(10)
        sweep.round()
        assert sweep.lanes.rest(20)
        sweep.round()
        assert world.study(STUDY).reason == "waits: pacs counts 3 of 5"
        world.keep(*synthetic_ct(slices=2, series_number=2))
        world.clock.advance(10)
        sweep.round()
        assert sweep.lanes.rest(20)
        sweep.round()
        assert world.study(STUDY).reason.startswith("pacs counts 5 of 5, 11 s after the last image")


def test_a_peer_that_offers_no_query_says_so(sqlite_world: World, tmp_path: Path) -> None:
    """And one that is not there: both in the reason."""
    world = sqlite_world
    with ScriptedPacs(tmp_path / "pacs", ae_title="SCANNER", can_find=False) as pacs:
        world.peers.append(replace(pacs.peer("pacs"), count=Counts.CFIND))
        world.peers.append(
            Peer(name="gone", ae_title="OTHER", host="127.0.0.1", port=free_port(), count=Counts.CFIND, timeout=2)
        )
        sweep = world.sweep()
        world.keep(*synthetic_ct(slices=3))
        world.keep(*synthetic_ct(slices=3, uid_prefix=OTHER), calling_ae="OTHER")
        world.clock.advance(61)
        sweep._ask()
        assert sweep.lanes.rest(20)
        sweep.round()
    assert "takes part in none of the services" in world.study(STUDY).reason
    assert "gone (OTHER at" in world.study(OTHER).reason


# -- required series


def test_a_study_waits_for_the_series_that_a_rule_requires(world: World) -> None:
    """The rule is for chest CT, and needs the thin series and the thick one."""
    world.rules = [replace(RULE, required_series=("thin", "thick"))]
    world.keep(*synthetic_ct(slices=4, series_description="Thorax thick"))
    world.keep(*synthetic_ct(slices=4, uid_prefix=OTHER, modality="MR"))
    (other,) = world.settle(61)
    assert other.study_uid == OTHER
    assert world.study(STUDY).reason == "waits: required series 'thin' did not come"
    world.keep(*synthetic_ct(slices=3, series_number=2, series_description="Thorax thin"))
    (planned,) = world.settle(61)
    assert planned.reason == "all required series came (thin, thick), no instance for 60 s; 1 job planned"


# -- performed procedure steps


def step(world: World, *, uid: str = "2.25.5", state: StepState | None = None, made: Any = None) -> None:
    """Let a modality say how far it is; without *state* a step begins."""
    with world.database.transaction() as session:
        if state is None:
            assert steps.begin(session, uid, [STUDY], calling_ae="SCANNER", at=world.clock())
        else:
            steps.change(session, uid, state, made, calling_ae="SCANNER", at=world.clock())


def test_a_study_settles_when_the_modality_is_through_and_all_came(world: World) -> None:
    """In progress it waits, whatever the quiet; completed it lacks one; then it settles with the last image."""
    images = synthetic_ct(slices=4)
    uids = [str(one.SOPInstanceUID) for one in images]
    step(world)
    world.keep(*images[:3])
    assert world.settle(120) == []
    assert world.study(STUDY).reason == "waits: the modality is still at it (MPPS in progress)"
    step(world, state=StepState.COMPLETED, made={f"{STUDY}.1": uids})
    assert world.settle(120) == []
    assert world.study(STUDY).reason == "waits: 1 instances that the modality made did not come (MPPS)"
    world.keep(images[3])
    (planned,) = world.settle(0)
    assert planned.reason.startswith("the modality is through (MPPS) and all 4 came, 1 s after the last image")
    assert [event.what for event in world.story(study_uid=STUDY)] == ["mpps", "mpps", "settled"]


def test_a_step_that_never_ends_is_waited_for_as_long_as_anything_is_heard(world: World) -> None:
    """Half an hour after the last image or word; the reason tells of it, and what comes later is a new revision."""
    images = synthetic_ct(slices=5)
    step(world)
    world.keep(*images[:4])
    assert world.settle(1500) == []
    step(world, state=StepState.IN_PROGRESS)
    assert world.settle(1799) == []
    assert world.study(STUDY).reason == "waits: the modality is still at it (MPPS in progress)"
    (planned,) = world.settle(1)
    told = "no instance for 60 s; the modality did not end its procedure step (MPPS) and was silent for 30 min"
    assert told in planned.reason
    assert told in world.study(STUDY).reason
    world.keep(images[4])  # which takes a second
    assert world.settle(1798) == []
    (planned,) = world.settle(1)
    assert world.study(STUDY).revision == 2


def test_a_step_that_broke_off_decides_nothing_and_is_told(world: World) -> None:
    """Quiet time does; a second step that names a series which nobody sends here does not hold it up, either."""
    step(world)
    step(world, uid="2.25.6")
    world.keep(*synthetic_ct(slices=4))
    step(world, state=StepState.DISCONTINUED, made={f"{STUDY}.1": ["2.25.1"]})
    step(world, uid="2.25.6", state=StepState.COMPLETED, made={f"{STUDY}.9": ["2.25.99"]})
    (planned,) = world.settle()
    assert "no instance for 60 s; the modality broke off a step (MPPS discontinued)" in planned.reason
    assert "of 1 series that the modality made (MPPS) nothing came" in planned.reason


def test_a_step_that_has_ended_is_not_changed(world: World) -> None:
    """PS3.4 F.7.2.2.3; one that nobody began is not there; one UID is one step."""
    step(world)
    step(world, state=StepState.COMPLETED, made={})
    with pytest.raises(IllegalMove):
        step(world, state=StepState.DISCONTINUED)
    with pytest.raises(NotFound):
        step(world, uid="2.25.404", state=StepState.COMPLETED)
    with world.database.transaction() as session:
        assert not steps.begin(session, "2.25.5", [STUDY], calling_ae="SCANNER", at=world.clock())


# -- associations


def hold(world: World, key: str, *, study: str = STUDY, owner: str = "") -> None:
    """Let an association be open that brings a study."""
    with world.database.transaction() as session:
        one = Open(id=key, study_uid=study, calling_ae="SCANNER")
        completion.hold(session, [one], owner=owner or identity("scp"), at=world.clock())


def test_a_pause_on_an_open_association_is_no_end(world: World) -> None:
    """A slow sender: one job, once its associations are released."""
    images = synthetic_ct(slices=6)
    world.keep(*images[:3])
    hold(world, "a")
    hold(world, "b")
    assert world.settle(100) == []
    assert world.study(STUDY).reason == "waits: SCANNER may still send: its association is open"
    world.keep(*images[3:])
    with world.database.transaction() as session:
        completion.release(session, ["a"])
    assert world.settle(100) == []
    with world.database.transaction() as session:
        completion.release(session, ["b"])
    (planned,) = world.settle(0)
    assert planned.reason == "no instance for 60 s; 1 job planned"
    assert len(world.jobs()) == 1


def test_an_association_that_went_on_to_another_study_holds_the_first_no_longer(world: World) -> None:
    """It is open for hours; each study waits for its own images only."""
    world.keep(*synthetic_ct(slices=3))
    hold(world, "a")
    world.keep(*synthetic_ct(slices=3, uid_prefix=OTHER))
    assert world.settle(61) == [] or world.study(STUDY).state is StudyState.OPEN
    hold(world, "a", study=OTHER)
    assert [one.study_uid for one in world.settle(5)] == [STUDY]


def test_a_killed_listener_leaves_no_study_being_sent(world: World) -> None:
    """Its process is dead; the sweep also takes its rows away."""
    world.keep(*synthetic_ct(slices=3))
    hold(world, "a", owner=dead_process())
    assert len(world.settle(61)) == 1
    world.sweep().round()
    with world.database.reading() as session:
        assert completion.held(session) == []


def test_a_listener_that_nobody_can_see_holds_a_study_for_ten_minutes_at_most(world: World) -> None:
    """It ran on another machine."""
    world.keep(*synthetic_ct(slices=3))
    hold(world, "a", owner="scp@elsewhere:1:1:1")
    assert world.settle(590) == []
    assert len(world.settle(10)) == 1


def test_studies_that_wait_for_long_starve_nobody(sqlite_world: World) -> None:
    """Sixty that lack a series are older than the one that is complete."""
    world = sqlite_world
    world.rules = [replace(RULE, required_series=("thin",))]
    for number in range(60):
        world.keep(*synthetic_ct(slices=1, uid_prefix=f"2.25.50{number}"))
    world.keep(*synthetic_ct(slices=3, series_description="thin"))
    settled = [one.study_uid for _ in range(3) for one in world.settle(60)]
    assert settled == [STUDY]


@pytest.mark.parametrize("seed", range(3))
def test_a_shuffled_study_over_four_associations_with_pauses_is_one_job(sqlite_world: World, seed: int) -> None:
    """Each image over any of four associations, with pauses up to twice the quiet time; one job in the end."""
    world, dice = sqlite_world, random.Random(seed)
    images = [image for number in (1, 2, 3) for image in synthetic_ct(slices=4, series_number=number)]
    dice.shuffle(images)
    for image in images:
        world.keep(image)
        hold(world, dice.choice("abcd"))
        assert world.settle(dice.choice([0, 1, 30, 120])) == []
    with world.database.transaction() as session:
        completion.release(session, "abcd")
    assert len(world.settle(61)) == 1
    assert [(job.revision, job.model) for job in world.jobs()] == [(1, "ct-lung")]


def test_a_trickle_is_read_at_the_longest_wait(sqlite_world: World) -> None:
    """An image every twenty seconds for two hours: a revision each time the longest wait is over."""
    world = sqlite_world
    settled = []
    for image in synthetic_ct(slices=300, rows=4, columns=4):
        world.keep(image)
        settled += world.settle(19)
    assert [one.reason.split(";")[0] for one in settled] == ["waited 90 min, the longest wait"]
    assert settled[0].revision == 1


def test_a_restored_node_awaits_no_association_of_the_old_one(world: World) -> None:
    """Nor does anybody who is no more hold a question for storage commitment."""
    world.keep(*synthetic_ct(slices=3))
    hold(world, "a", owner="scp@elsewhere:1:1:1")
    with world.database.transaction() as session:
        number = commit_requests.take(session, "A", "1.2", {"1": "2"}, at=world.clock(), wait=timedelta(0))
        assert number is not None
        lease = timedelta(days=1)
        assert commit_requests.claim(session, number, owner="x@elsewhere:1:1:1", now=world.clock(), lease=lease)
        copies.make_safe(session, at=world.clock())
        assert completion.held(session) == []
        assert commit_requests.held(session) == []
        assert commit_requests.due(session, now=world.clock()) == [(number, "A")]
