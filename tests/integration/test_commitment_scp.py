"""Storage commitment as a provider: truthful, by whichever association, until the peer has its report."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, build_context, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)
from sqlalchemy import select

from node.commitment import Reporter
from node.db import commit_requests
from node.db.tables import CommitRequestRow
from node.health import Home, needs
from node.lanes import Lanes
from node.testing import FixedClock, synthetic_ct
from tests.integration.conftest import Door, OpenDoor
from tests.integration.test_scp import send
from tests.rig import free_port, wait_for

CT = "1.2.840.10008.5.1.4.1.1.2"
MODEL, INSTANCE = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@dataclass
class Requestor:
    """An archive's customer: it asks whether it may delete, and takes reports where it listens."""

    door: Door
    port: int
    ae_title: str = "SCANNER"
    reports: list[tuple[int, Dataset]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)  # to the next reports; then 0x0000
    server: Any = None

    def on_report(self, event: Event) -> tuple[int, None]:
        """Take a report."""
        self.reports.append((int(event.event_type), event.event_information))  # type: ignore[arg-type]
        return (self.answers.pop(0) if self.answers else 0x0000), None

    def listen(self) -> None:
        """Take reports over associations that the node opens."""
        ae = AE(ae_title=self.ae_title)
        ae.add_supported_context(MODEL, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self.on_report)]
        self.server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def associate(self, *, ae_title: str = "") -> Any:
        """Return an association with the node."""
        return AE(ae_title=ae_title or self.ae_title).associate(
            "127.0.0.1", self.door.settings.port, contexts=[build_context(MODEL)],
            ae_title=self.door.settings.ae_title, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.on_report)],
        )  # fmt: skip

    def ask(self, named: list[tuple[str, str]], *, transaction: str = "2.25.600", over: Any = None) -> int:
        """Ask about (SOP class, SOP instance) and hang up, or over an association that stays; return the answer."""
        association = over or self.associate()
        status, _ = association.send_n_action(question(named, transaction), 1, MODEL, INSTANCE)
        if over is None:
            association.release()
        return int(status.Status)

    def told(self, count: int = 1) -> tuple[int, list[str], dict[str, int]]:
        """Return (event type, committed, failed) of the newest report once there are *count*."""
        wait_for("the report", lambda: len(self.reports) >= count, limit=20)
        assert len(self.reports) == count
        kind, ds = self.reports[-1]
        there = [str(one.ReferencedSOPInstanceUID) for one in ds.get("ReferencedSOPSequence", [])]
        lacking = {str(one.ReferencedSOPInstanceUID): one.FailureReason for one in ds.get("FailedSOPSequence", [])}
        return kind, there, lacking


def question(named: list[tuple[str, str]], transaction: str) -> Dataset:
    """Return the action information of a question."""
    ds = Dataset()
    if transaction:
        ds.TransactionUID = transaction
    ds.ReferencedSOPSequence = []
    for sop_class, sop_uid in named:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, sop_uid
        ds.ReferencedSOPSequence.append(item)
    return ds


@pytest.fixture
def requestor(open_door: OpenDoor) -> Iterator[Requestor]:
    """A peer of a listening node; it does not listen itself yet."""
    port = free_port()
    peer = {"name": "scanner", "ae_title": "SCANNER", "host": "127.0.0.1", "port": port, "timeout": 5}
    made = Requestor(open_door(peer=[peer]), port)
    yield made
    wait_for("the answering to end", lambda: all(t.name != "commitment" for t in threading.enumerate()), limit=30)
    if made.server is not None:
        made.server.shutdown()


def rows(door: Door) -> list[CommitRequestRow]:
    """Return all questions of the table."""
    with door.database.reading() as session:
        return list(session.scalars(select(CommitRequestRow).order_by(CommitRequestRow.id)))


def reported(door: Door) -> Callable[[], bool]:
    """Return what tells whether every question has its report."""
    return lambda: all(row.reported_at is not None and not row.owner for row in rows(door))


def stored(door: Door, slices: int = 3) -> list[tuple[str, str]]:
    """Store images; return (SOP class, SOP instance) of each."""
    images = synthetic_ct(slices=slices)
    assert set(send(door, *images)) == {0x0000}
    return [(str(one.SOPClassUID), str(one.SOPInstanceUID)) for one in images]


def test_what_is_on_disk_is_committed_over_the_association_of_the_question(requestor: Requestor) -> None:
    """The requestor stays on the line; the question stands in the table, with its end."""
    named = stored(requestor.door)
    association = requestor.associate()
    assert requestor.ask(named, over=association) == 0x0000
    assert requestor.told() == (1, [uid for _, uid in named], {})
    wait_for("its end in the table", reported(requestor.door), limit=10)
    association.release()
    (row,) = rows(requestor.door)
    assert (row.calling_ae, row.transaction_uid, row.committed, row.reason) == ("SCANNER", "2.25.600", 3, "")


def test_who_hangs_up_is_called(requestor: Requestor) -> None:
    """By an association of the node's own, in the role of the provider."""
    requestor.listen()
    named = stored(requestor.door)
    assert requestor.ask(named) == 0x0000
    assert requestor.told() == (1, [uid for _, uid in named], {})
    wait_for("its end in the table", reported(requestor.door), limit=10)


def test_who_may_still_store_over_its_association_is_called(requestor: Requestor) -> None:
    """A report between two images would be taken for something else; the images go on meanwhile."""
    requestor.listen()
    images = synthetic_ct(slices=8)
    contexts = [build_context(MODEL), build_context(CT, ExplicitVRLittleEndian)]
    association = AE(ae_title="SCANNER").associate(
        "127.0.0.1", requestor.door.settings.port, contexts=contexts, ae_title=requestor.door.settings.ae_title
    )
    assert association.send_c_store(images[0]).Status == 0x0000
    assert requestor.ask([(CT, str(images[0].SOPInstanceUID))], over=association) == 0x0000
    for image in images[1:]:
        assert association.send_c_store(image).Status == 0x0000
        time.sleep(0.2)
    association.release()
    assert requestor.told()[0] == 1
    wait_for("its end in the table", reported(requestor.door), limit=10)


def test_only_what_is_there_byte_for_byte_is_committed(requestor: Requestor) -> None:
    """Damaged, gone, never seen, another class: each fails with its reason, the good one does not."""
    requestor.listen()
    named = stored(requestor.door, slices=4)
    paths = [requestor.door.store.path(row.path) for row in requestor.door.rows()]
    data = bytearray(paths[0].read_bytes())
    data[-1] ^= 1
    paths[0].write_bytes(bytes(data))
    paths[1].unlink()
    named[2] = ("1.2.840.10008.5.1.4.1.1.4", named[2][1])
    named.append((CT, "2.25.404"))
    assert requestor.ask(named) == 0x0000
    damaged, gone, other, good, unseen = (uid for _, uid in named)
    kind, there, lacking = requestor.told()
    assert (kind, there) == (2, [good])
    assert lacking == {damaged: 0x0110, gone: 0x0110, other: 0x0119, unseen: 0x0112}
    wait_for("its end in the table", reported(requestor.door), limit=10)
    assert rows(requestor.door)[0].committed == 1


def test_several_questions_over_one_association_have_a_report_each(requestor: Requestor) -> None:
    """None of them is taken for the answer to a report."""
    named = stored(requestor.door)
    association = requestor.associate()
    for number, one in enumerate(named):
        assert requestor.ask([one], transaction=f"2.25.60{number}", over=association) == 0x0000
    wait_for("the reports", lambda: len(requestor.reports) == 3, limit=20)
    assert [str(ds.TransactionUID) for _, ds in requestor.reports] == ["2.25.600", "2.25.601", "2.25.602"]
    wait_for("their ends in the table", reported(requestor.door), limit=10)
    association.release()


def test_the_same_question_again_is_one_and_another_under_its_name_is_refused(requestor: Requestor) -> None:
    """The answer was lost, so it is put once more; 0115 for what is not the same."""
    requestor.listen()
    named = stored(requestor.door)
    assert requestor.ask(named) == 0x0000
    requestor.told(1)
    assert requestor.ask(named) == 0x0000
    requestor.told(2)
    assert requestor.ask(named[:1]) == 0x0115
    wait_for("its end in the table", reported(requestor.door), limit=10)
    assert len(rows(requestor.door)) == 1


REFUSED: dict[str, tuple[list[tuple[str, str]], str, int]] = {
    "no transaction": ([(CT, "2.25.1")], "", 0x0115),
    "nothing asked for": ([], "2.25.600", 0x0115),
    "no instance": ([(CT, "")], "2.25.600", 0x0115),
    "a malformed transaction": ([(CT, "2.25.1")], "../../etc", 0x0115),
    "two classes of one instance": ([(CT, "2.25.1"), ("1.2.3", "2.25.1")], "2.25.600", 0x0115),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_question_that_is_none_is_refused(requestor: Requestor, what: str) -> None:
    """Nothing of it is kept."""
    named, transaction, status = REFUSED[what]
    assert requestor.ask(named, transaction=transaction) == status
    assert rows(requestor.door) == []


def test_another_action_and_another_instance_are_refused(requestor: Requestor) -> None:
    """0123, 0112."""
    association = requestor.associate()
    asked = question([(CT, "2.25.1")], "2.25.600")
    assert association.send_n_action(asked, 2, MODEL, INSTANCE)[0].Status == 0x0123
    assert association.send_n_action(asked, 1, MODEL, "2.25.9")[0].Status == 0x0112
    association.release()
    assert rows(requestor.door) == []


def test_who_is_no_peer_is_refused(open_door: OpenDoor) -> None:
    """It may store where unknown senders may, but nobody knows where its report should go: 0124."""
    door = open_door(accept_unknown_senders=True)
    association = Requestor(door, 0).associate(ae_title="STRANGER")
    status, _ = association.send_n_action(question([(CT, "2.25.1")], "2.25.600"), 1, MODEL, INSTANCE)
    assert status.Status == 0x0124
    association.release()
    assert rows(door) == []


def test_a_question_that_cannot_be_kept_is_not_taken(requestor: Requestor) -> None:
    """0110: it is put again."""
    with requestor.door.database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE commit_request RENAME TO elsewhere")
    assert requestor.ask([(CT, "2.25.1")]) == 0x0110


@dataclass
class Later:
    """A question whose requestor was away when it was to be told, and the sweep's part of telling it."""

    requestor: Requestor
    named: list[tuple[str, str]]
    clock: FixedClock

    def round(self, after: float = 0.0, owner: str = "sweep") -> None:
        """Let time go by and report what is due."""
        self.clock.advance(after)
        door, lanes = self.requestor.door, Lanes()
        Reporter(door.database, door.store, door.settings, self.clock, owner).round(lanes)
        assert lanes.rest(30)


@pytest.fixture
def later(requestor: Requestor) -> Later:
    """The listener has tried once, in vain."""
    named = stored(requestor.door)
    assert requestor.ask(named) == 0x0000
    wait_for("the first try", lambda: "does not answer" in rows(requestor.door)[0].reason, limit=30)
    return Later(requestor, named, FixedClock())


def test_a_requestor_that_is_away_is_told_when_it_is_back(later: Later) -> None:
    """With growing waits; what became of the files meanwhile is in the report."""
    for _ in range(3):
        later.round(after=1000)
    (row,) = rows(later.requestor.door)
    assert (row.tries, row.owner, row.reported_at) == (4, "", None)
    later.requestor.door.store.path(later.requestor.door.rows()[0].path).unlink()
    later.requestor.listen()
    later.round()
    assert later.requestor.reports == []  # its time has not come
    later.round(after=1000)
    kind, there, lacking = later.requestor.told()
    assert (kind, there) == (2, [uid for _, uid in later.named[1:]])
    assert lacking == {later.named[0][1]: 0x0110}


def test_a_requestor_that_does_not_take_the_report_is_told_again(later: Later) -> None:
    """It answered 0110."""
    later.requestor.listen()
    later.requestor.answers = [0x0110]
    later.round(after=1000)
    assert "answered 0110" in rows(later.requestor.door)[0].reason
    later.round(after=1000)
    assert len(later.requestor.reports) == 2
    assert rows(later.requestor.door)[0].committed == 3


def test_what_nobody_takes_for_a_week_is_given_up(later: Later) -> None:
    """A person sees it long before."""
    door = later.requestor.door
    with door.database.reading() as session:
        now = later.clock() + timedelta(hours=1)
        found = needs(session, door.store, door.settings, Home(roles={}, doorbells={}), now=now)
    (need,) = [one for one in found if one.what == "commitment"]
    assert need.says.startswith("SCANNER asked for storage commitment and takes no report on 1 question: scanner (")
    later.round(after=timedelta(days=8).total_seconds())
    (row,) = rows(door)
    assert row.reported_at is not None
    assert row.committed is None
    later.requestor.listen()
    later.round(after=10_000)
    assert later.requestor.reports == []


def test_the_question_of_a_killed_reporter_is_reported_on_by_another(later: Later) -> None:
    """It held the question; its process is no more."""
    door = later.requestor.door
    line = "from node.processes import identity; print(identity('scp'))"
    dead = subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, text=True).stdout.strip()
    later.clock.advance(1000)
    with door.database.transaction() as session:
        ((number, _),) = commit_requests.due(session, now=later.clock())
        lease = timedelta(minutes=30)
        assert commit_requests.claim(session, number, owner=dead, now=later.clock(), lease=lease) is not None
        assert commit_requests.claim(session, number, owner="other", now=later.clock(), lease=lease) is None
    later.requestor.listen()
    later.round()
    assert later.requestor.told()[0] == 1


def test_a_peer_that_was_taken_out_of_the_configuration_is_not_called(later: Later) -> None:
    """The reason says so."""
    door, lanes = later.requestor.door, Lanes()
    later.clock.advance(1000)
    stranger = door.settings.model_copy(update={"peer": ()})
    Reporter(door.database, door.store, stranger, later.clock, "sweep").round(lanes)
    assert lanes.rest(20)
    assert "is no [[peer]] with host and port any more" in rows(door)[0].reason
