"""Verified: what a peer took is found there, or the peer committed itself to it, before a job is done."""

from __future__ import annotations

import socketserver
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from pydicom import Dataset
from pynetdicom import AE, build_context
from sqlalchemy import select, text

from node.db import commitments, lookups, results
from node.db.schema import alembic_config, migrate
from node.db.session import open_engine
from node.db.tables import CommitmentRow
from node.delivery import take_report
from node.dicom.commitment import read_report
from node.domain.job import JobState
from node.domain.peer import CommitReport, Peer, Verify
from node.domain.result import DeliveryState
from node.intake import Intake
from node.scp.server import start_scp
from node.steering import cancel_job
from node.testing import ScriptedPacs, synthetic_ct
from tests.rig import free_port, wait_for
from tests.unit.node.conftest import World
from tests.unit.node.test_delivery import SEG_UID, SR_UID, publish_two

# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

_S = DeliveryState


@pytest.fixture(autouse=True)
def servers_stop_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener looks every 20 ms, not every 500 ms, whether it was told to stop."""
    monkeypatch.setattr(socketserver.BaseServer.serve_forever, "__defaults__", (0.02,))


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    """A PACS that behaves until it is told otherwise."""
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        yield pacs


def restarted(pacs: ScriptedPacs, **script: object) -> None:
    """Start the PACS again with another script."""
    pacs.stop()
    for name, value in script.items():
        setattr(pacs, name, value)
    pacs.start()


def published(world: World, pacs: ScriptedPacs, *, verify: Verify = Verify.QUERY, timeout: float = 5.0) -> str:
    """Publish a set of two for this PACS; return the job's id."""
    world.peers.append(pacs.peer("pacs", timeout=timeout, verify=verify))
    return publish_two(world, "pacs")


def states(world: World, job_id: str) -> list[DeliveryState]:
    """The states of a job's deliveries in the order of sending."""
    return [one.state for one in world.deliveries(job_id)]


def reasons(world: World, job_id: str) -> set[str]:
    """What a person reads on a job's deliveries."""
    return {one.reason for one in world.deliveries(job_id)}


def test_a_result_that_the_pacs_does_not_show_is_looked_for_again_and_then_sent_again(
    world: World, pacs: ScriptedPacs
) -> None:
    """It answered with success and kept nothing: after five looks the same bytes go once more; the job says why."""
    job_id = published(world, pacs)
    pacs.loses = 1
    assert world.deliverer().deliver(job_id) == 2
    assert states(world, job_id) == [_S.ACKED, _S.VERIFIED]
    assert world.job(job_id).state is JobState.DELIVERING
    assert "accepted, but not found there yet" in world.job(job_id).reason
    looks = [world.deliveries(job_id)[0].looks]
    for _ in range(4):
        world.clock.advance(900)
        world.deliverer().deliver(job_id)
        looks.append(world.deliveries(job_id)[0].looks)
    assert looks == [1, 2, 3, 4, 0]
    assert states(world, job_id) == [_S.QUEUED, _S.VERIFIED]
    assert "sent again" in world.job(job_id).reason
    world.clock.advance(900)
    assert world.deliverer().deliver(job_id) == 1
    assert pacs.received == {SEG_UID: 1, SR_UID: 1}
    assert world.job(job_id).state is JobState.DONE
    told = [event.what for event in world.story(job_id=job_id)]
    assert told.count("delivery queued") == 1
    assert told.count("delivery verified") == 2


def test_a_pacs_that_never_shows_what_it_took_waits_for_a_person_in_the_end(
    sqlite_world: World, pacs: ScriptedPacs
) -> None:
    """The age limit holds for results that cannot be found, too."""
    world = sqlite_world
    job_id = published(world, pacs)
    pacs.loses = 2
    world.deliverer().deliver(job_id)
    world.clock.advance(8 * 86_400)
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.PARKED, _S.PARKED]
    assert world.job(job_id).reason.startswith("delivery to pacs parked: accepted, but not found there")


def test_a_pacs_without_queries_is_believed_with_a_remark(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """There is nobody to ask."""
    world = sqlite_world
    restarted(pacs, can_find=False)
    job_id = published(world, pacs)
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    assert reasons(world, job_id) == {"by its answer: the peer cannot be asked (no query service)"}


def test_a_pacs_that_goes_away_before_the_look_is_asked_when_it_is_back(world: World, pacs: ScriptedPacs) -> None:
    """Accepted is not done: nothing is sent again, nothing is taken for verified."""
    job_id = published(world, pacs)
    deliverer = world.deliverer()
    for delivery, outcome in deliverer._send(deliverer._claim(job_id)):
        deliverer._conclude(delivery, outcome)
    pacs.stop()
    deliverer.deliver(job_id)
    assert states(world, job_id) == [_S.ACKED, _S.ACKED]
    assert "not looked for yet" in world.job(job_id).reason
    pacs.start()
    world.clock.advance(10)
    with world.database.reading() as session:
        assert results.due_jobs(session, now=world.clock()) == [job_id]
    assert deliverer.deliver(job_id) == 0
    assert world.job(job_id).state is JobState.DONE
    assert pacs.received == {SEG_UID: 1, SR_UID: 1}


def test_a_peer_that_is_not_to_be_asked_is_believed(world: World, pacs: ScriptedPacs) -> None:
    """verify = none: the set is done by its answers, and says so."""
    job_id = published(world, pacs, verify=Verify.NONE)
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    assert reasons(world, job_id) == {"by its answer: this peer is not asked (verify = none)"}


def test_two_workers_look_for_a_set_once_and_a_dead_one_s_look_is_taken_over(world: World, pacs: ScriptedPacs) -> None:
    """The look is held under a lease like the sending."""
    job_id = published(world, pacs)
    first, second = world.deliverer("gone@x:1:1:1"), world.deliverer("io-2")
    for delivery, outcome in first._send(first._claim(job_id)):
        first._conclude(delivery, outcome)
    assert len(first._claim_looks(job_id)) == 2
    assert second._claim_looks(job_id) == []
    with world.database.reading() as session:
        held = results.sending(session)
    assert [owner for _, owner, _ in held] == ["gone@x:1:1:1"] * 2
    for delivery_id, owner, _ in held:
        with world.database.transaction() as session:
            results.give_up_sending(session, delivery_id, owner=owner, at=world.clock())
    assert states(world, job_id) == [_S.ACKED, _S.ACKED]
    assert second.deliver(job_id) == 0
    assert world.job(job_id).state is JobState.DONE


def test_a_set_is_looked_for_when_nothing_of_it_is_on_its_way(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """The report was asked to wait: the segmentation is not asked for alone."""
    world = sqlite_world
    job_id = published(world, pacs)
    pacs.statuses = [0x0000, 0xA700]
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.ACKED, _S.RETRY_WAIT]
    world.clock.advance(900)
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.VERIFIED, _S.VERIFIED]


def test_a_cancelled_job_is_not_looked_for(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """What was accepted stays so; nothing counts it as waiting."""
    world = sqlite_world
    job_id = published(world, pacs)
    pacs.statuses = [0x0000, 0xA700]
    world.deliverer().deliver(job_id)
    cancel_job(world.database, job_id, who="admin", at=world.clock())
    world.clock.advance(900)
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.ACKED, _S.CANCELLED]
    with world.database.reading() as session:
        assert results.due_jobs(session, now=world.clock()) == []
        assert results.count_open_by_peer(session) == {"pacs": {"cancelled": 1}}


def test_commitment_on_the_same_association_verifies_the_set(world: World, pacs: ScriptedPacs) -> None:
    """N-ACTION with both instances, N-EVENT-REPORT before the association ends."""
    restarted(pacs, commits="same", can_find=False)
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    assert world.deliverer().deliver(job_id) == 2
    assert world.job(job_id).state is JobState.DONE
    assert reasons(world, job_id) == {"the peer committed itself to it"}
    assert len(pacs.questions) == 1
    with world.database.reading() as session:
        (asked,) = session.scalars(select(CommitmentRow)).all()
    assert (asked.transaction_uid, asked.job_id, asked.peer) == (pacs.questions[0], job_id, "pacs")
    assert asked.answered_at is not None


def test_what_a_peer_does_not_commit_itself_to_is_sent_again(world: World, pacs: ScriptedPacs) -> None:
    """Only that instance, with its reason; then the peer is asked for it once more."""
    restarted(pacs, commits="same")
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    pacs.not_committed = {SEG_UID: 0x0110}
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.QUEUED, _S.VERIFIED]
    assert "reason 0110" in world.job(job_id).reason
    world.clock.advance(900)
    assert world.deliverer().deliver(job_id) == 1
    assert world.job(job_id).state is JobState.DONE
    assert pacs.received == {SEG_UID: 2, SR_UID: 1}


def test_an_object_that_a_peer_never_commits_itself_to_waits_for_a_person(
    sqlite_world: World, pacs: ScriptedPacs
) -> None:
    """Reason 0122: its class is not supported; the same bytes would end the same way."""
    world = sqlite_world
    restarted(pacs, commits="same")
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    pacs.not_committed = {SEG_UID: 0x0122}
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.PARKED, _S.VERIFIED]


def test_a_report_that_never_comes_is_asked_for_three_times_and_then_the_peer_is_queried(
    world: World, pacs: ScriptedPacs
) -> None:
    """Each question is a new transaction; the end says how it was verified."""
    restarted(pacs, commits="never")
    job_id = published(world, pacs, verify=Verify.COMMITMENT, timeout=3.0)
    world.deliverer().deliver(job_id)
    assert states(world, job_id) == [_S.ACKED, _S.ACKED]
    assert "waits for the report on storage commitment" in world.job(job_id).reason
    world.clock.advance(60)
    world.deliverer().deliver(job_id)
    assert len(pacs.questions) == 1  # a report may take its time
    for _ in range(6):  # three are enough, but where the machine is so busy that the peer seems away
        if world.job(job_id).state is not JobState.DONE:
            world.clock.advance(900)
            world.deliverer().deliver(job_id)
    assert len(set(pacs.questions)) == 3
    assert world.job(job_id).state is JobState.DONE
    assert reasons(world, job_id) == {"no storage commitment was reported (3 questions); found there"}


def test_a_peer_that_cannot_look_into_it_now_is_asked_again(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """0213: a question later it commits itself; nothing was sent again meanwhile."""
    world = sqlite_world
    restarted(pacs, commits="same")
    pacs.commit_statuses = [0x0213]
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    world.deliverer().deliver(job_id)
    assert "to be asked for storage commitment again" in world.job(job_id).reason
    world.clock.advance(900)
    assert world.deliverer().deliver(job_id) == 0
    assert reasons(world, job_id) == {"the peer committed itself to it"}
    assert len(pacs.questions) == 2


def test_a_peer_that_refuses_the_question_is_queried(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """0122, at once and with a remark."""
    world = sqlite_world
    restarted(pacs, commits="same")
    pacs.commit_statuses = [0x0122]
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    (reason,) = reasons(world, job_id)
    assert "answered 0122 to storage commitment; found there" in reason


def test_a_peer_without_commitment_is_queried_with_a_remark(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """It takes part in no such service."""
    world = sqlite_world
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    (reason,) = reasons(world, job_id)
    assert reason.startswith("no storage commitment: pacs (") and reason.endswith("; found there")


def test_a_report_by_the_peer_s_own_association_is_taken_by_the_listener(world: World, pacs: ScriptedPacs) -> None:
    """Role reversed (PS3.7 D.3.3.4): the waiting question ends as soon as the listener has it.

    The peer may not store here, and is let in for its report all the same.
    """
    restarted(pacs, commits="new")
    job_id = published(world, pacs, verify=Verify.COMMITMENT, timeout=20)
    settings = world.settings(host="127.0.0.1", port=free_port())
    peers = tuple(one.model_copy(update={"may_send": False}) for one in settings.peer)
    intake = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
    server = start_scp(settings.model_copy(update={"peer": peers}), intake)
    try:
        pacs.reports_to = ("127.0.0.1", settings.port, settings.ae_title)
        began = time.monotonic()
        world.deliverer().deliver(job_id)
        assert time.monotonic() - began < 10
        wait_for("the answer to the report", lambda: pacs.report_statuses == [0], limit=5)
        assert world.job(job_id).state is JobState.DONE
        assert reasons(world, job_id) == {"the peer committed itself to it"}
        who = {event.who for event in world.story(job_id=job_id) if event.what == "delivery verified"}
        assert who == {f"scp:{pacs.ae_title}"}
        assert _reported(pacs, "2.25.1") == 0x0115
        assert _stored(pacs, settings.port, settings.ae_title) == 0x0124
    finally:
        server.shutdown()


def _reported(pacs: ScriptedPacs, transaction_uid: str) -> int:
    """Return what the node answers to a report under a transaction of that UID."""
    report = Dataset()
    report.TransactionUID, report.ReferencedSOPSequence = transaction_uid, []
    pacs._send_report(None, report)
    return pacs.report_statuses[-1]


def _stored(pacs: ScriptedPacs, port: int, title: str) -> int:
    """Return what the node answers to the PACS when it stores."""
    (image,) = synthetic_ct(slices=1)
    association = AE(ae_title=pacs.ae_title).associate(
        "127.0.0.1", port, contexts=[build_context(image.SOPClassUID)], ae_title=title
    )
    image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    status = association.send_c_store(image)
    association.release()
    return int(status.Status)


def test_a_report_that_comes_twice_or_too_late_changes_nothing(world: World, pacs: ScriptedPacs) -> None:
    """The first one counts; what was verified stays verified; one that we never asked for is not taken."""
    job_id = published(world, pacs, verify=Verify.COMMITMENT)
    deliverer = world.deliverer()
    for delivery, outcome in deliverer._send(deliverer._claim(job_id)):
        deliverer._conclude(delivery, outcome)
    with world.database.transaction() as session:
        commitments.ask(session, "2.25.5", job_id=job_id, peer="pacs", who="io", at=world.clock())
    good = CommitReport(transaction_uid="2.25.5", committed=frozenset({SEG_UID}), failed={})
    bad = replace(good, committed=frozenset(), failed={SEG_UID: 0x0112})
    settings = world.settings()
    for report in (good, good, bad):
        assert take_report(world.database, settings, report, who="scp:PACS", at=world.clock())
        assert states(world, job_id) == [_S.VERIFIED, _S.ACKED]  # the report is not mentioned: it is asked for again
    unasked = replace(bad, transaction_uid="2.25.6")
    assert not take_report(world.database, settings, unasked, who="scp:PACS", at=world.clock())


def test_a_report_without_a_transaction_is_none() -> None:
    """Nothing can be said of what it is about."""
    assert read_report(Dataset()) is None


def test_only_what_was_done_is_taken_for_verified_by_the_migration(empty_url: str) -> None:
    """Accepted results of a done job are over; those of a job on its way are looked for."""
    command.upgrade(alembic_config(empty_url), "0003")
    engine = open_engine(empty_url)
    at = "2026-01-15 12:00:00"
    study = "INSERT INTO study (uid, patient_id, accession_number, description, study_date, calling_ae, state,"
    study += " revision, epoch, reason, first_at, last_at)"
    study += f" VALUES ('1', '', '', '', '', '', 'settled', 1, 0, '', '{at}', '{at}')"
    with engine.begin() as connection:
        connection.execute(text(study))
        for number, state in enumerate(("done", "delivering")):
            connection.execute(
                text(
                    "INSERT INTO job (id, study_uid, series_uid, model, model_digest, revision, rule, priority, state,"  # noqa: S608
                    " epoch, attempts, reason, input_digest, calling_ae, destinations, settled_at, created_at,"
                    f" updated_at, not_before, owner, progress, stage) VALUES ('{state}', '1', '1', 'm', '', {number},"
                    f" '', 5, '{state}', 0, 0, '', '', '', '[]', '{at}', '{at}', '{at}', '{at}', '', 0, '')"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO result (id, job_id, epoch, role, variant, sop_class, sop_uid, path, sha256, size,"  # noqa: S608
                    f" position) VALUES ({number}, '{state}', 1, 'seg', '', '1', '1.{number}', '', '', 1, 0)"
                )
            )
            connection.execute(
                text(
                    "INSERT INTO delivery (id, result_id, job_id, peer, state, tries, next_at, created_at, updated_at,"  # noqa: S608
                    f" owner, last_status, reason) VALUES ({number}, {number}, '{state}', 'pacs', 'acked', 1, '{at}',"
                    f" '{at}', '{at}', '', '0000', '')"
                )
            )
    migrate(empty_url)
    with engine.begin() as connection:
        found = connection.execute(text("SELECT job_id, state, looks FROM delivery ORDER BY id")).all()
    engine.dispose()
    assert [tuple(row) for row in found] == [("done", "verified", 0), ("delivering", "acked", 0)]


def test_the_lease_of_a_look_ends(sqlite_world: World, pacs: ScriptedPacs) -> None:
    """A worker on another machine fell silent while it looked."""
    world = sqlite_world
    job_id = published(world, pacs)
    first = world.deliverer("io@elsewhere:1:1:1")
    for delivery, outcome in first._send(first._claim(job_id)):
        first._conclude(delivery, outcome)
    first._claim_looks(job_id)
    world.clock.advance(timedelta(minutes=11).total_seconds())
    assert world.deliverer().deliver(job_id) == 0
    assert world.job(job_id).state is JobState.DONE


def test_a_peer_says_where_it_is() -> None:
    """What a person reads in every reason."""
    assert Peer(name="a", ae_title="A", host="h", port=4).where == "a (A at h:4)"
    assert Peer(name="b", url="https://x/y").where == "b (https://x/y)"
    known = dict.fromkeys(("token", "user", "password"), "secret")
    assert "secret" not in repr(Peer(name="b", url="https://x/y", **known))


def test_a_study_that_the_peer_has_under_another_patient_is_an_alarm(
    world: World, pacs: ScriptedPacs, caplog: pytest.LogCaptureFixture
) -> None:
    """The frozen bytes went as they were, once; who watches the node hears of it, and no log line names anybody."""
    job_id = published(world, pacs)
    study_uid = world.job(job_id).study_uid
    pacs.patients[study_uid] = "SOMEBODY-ELSE"
    world.deliverer().deliver(job_id)
    assert world.job(job_id).state is JobState.DONE
    assert pacs.received == {SEG_UID: 1, SR_UID: 1}
    assert all("under another patient" in reason for reason in reasons(world, job_id))
    assert "under another patient" in caplog.text and "SOMEBODY-ELSE" not in caplog.text
    with world.database.reading() as session:
        assert lookups.under_another_patient(session, world.clock() - timedelta(days=7)) == 1
        assert lookups.under_another_patient(session, world.clock() + timedelta(days=7)) == 0


@pytest.mark.parametrize("says", ["", "P-1"], ids=["nothing", "the same"])
def test_a_peer_that_names_nobody_else_is_no_alarm(sqlite_world: World, pacs: ScriptedPacs, says: str) -> None:
    """Nor is one that names nobody at all."""
    world = sqlite_world
    job_id = published(world, pacs)
    with world.database.reading() as session:
        assert lookups.patient_of(session, world.job(job_id).study_uid) == "P-1"
    pacs.patients[world.job(job_id).study_uid] = says
    world.deliverer().deliver(job_id)
    assert reasons(world, job_id) == {"found there"}
