"""The door with its journal, whose instances get file and row when they must at the latest: nobody sees them lack."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node import filing
from node.bootstrap import prepare
from node.db import completion
from node.db.completion import Open
from node.journal import Journal, Record
from node.scp import sendings
from node.store import sha256_hex
from node.testing import part10, synthetic_ct
from tests.integration.conftest import Door, OpenDoor
from tests.integration.test_commitment_scp import CT, Requestor
from tests.integration.test_scp import associate, send
from tests.rig import free_port, wait_for


@pytest.fixture(autouse=True)
def never_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is filed before somebody needs it."""
    monkeypatch.setattr(filing, "_LULL", 3600.0)


def bring(door: Door, images: list[Dataset]) -> None:
    """Store images."""
    assert send(door, *images) == [0] * len(images)


def test_who_asks_for_commitment_right_after_the_answer_hears_that_all_is_there(open_door: OpenDoor) -> None:
    """The question is taken when what was acknowledged is in the table."""
    port = free_port()
    peer = {"name": "scanner", "ae_title": "SCANNER", "host": "127.0.0.1", "port": port, "timeout": 5}
    requestor = Requestor(open_door(peer=[peer], journal=True), port)
    requestor.listen()
    try:
        images = synthetic_ct(slices=20)
        bring(requestor.door, images)
        assert requestor.door.rows() == []
        assert requestor.ask([(CT, str(image.SOPInstanceUID)) for image in images]) == 0
        kind, there, lacking = requestor.told()
        assert (kind, len(there), lacking) == (1, 20, {})
    finally:
        requestor.server.shutdown()


def test_the_table_hears_of_an_association_behind_its_instances(
    open_door: OpenDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is said of a study that is not there yet would be refused, and its end would come before its images."""
    monkeypatch.setattr(sendings, "_PAUSE", 0.05)
    monkeypatch.setattr(filing, "_LULL", 1.0)
    real, seen = completion.hold, list[int]()

    def hold(session: object, news: list[Open], **more: object) -> None:
        seen.append(len(door.rows()))
        real(session, news, **more)  # type: ignore[arg-type]

    door = open_door(journal=True)
    monkeypatch.setattr(completion, "hold", hold)
    images = synthetic_ct(slices=6)
    association = associate(door, (CT, ExplicitVRLittleEndian))
    assert [int(association.send_c_store(image).Status) for image in images] == [0] * 6
    wait_for("word of the association", lambda: seen, limit=10)
    association.release()
    assert seen[0] == 6


def test_a_large_object_goes_its_own_way_behind_the_small_ones(open_door: OpenDoor) -> None:
    """All are there with their bytes, in the order of the answers."""
    door = open_door(journal=True)
    small, large = synthetic_ct(slices=5), synthetic_ct(slices=1, rows=900, columns=900, uid_prefix="2.25.77")
    bring(door, [*small, *large])
    rows = door.rows()
    assert [row.sop_uid for row in rows] == [image.SOPInstanceUID for image in [*small, *large]]
    for row in rows:
        assert sha256_hex(door.store.path(row.path).read_bytes()) == row.content_sha


def test_up_files_what_was_left_before_anything_else_begins(open_door: OpenDoor) -> None:
    """Else the sweep could take a study for complete whose images wait in a journal."""
    door = open_door()
    journal = Journal.create(door.store.journals, 8 << 20)
    data = part10(synthetic_ct(slices=1)[0])
    at = datetime(2026, 3, 1, tzinfo=UTC)
    journal.append([Record(data=memoryview(data), sha256=sha256_hex(data), calling_ae="SCANNER", at=at)])
    journal.close(remove=False)
    prepare(door.settings)
    (row,) = door.rows()
    assert (row.calling_ae, row.kept_at) == ("SCANNER", at)
    assert list(door.store.journals.iterdir()) == []


def test_a_refused_instance_leaves_nothing_in_the_journal(open_door: OpenDoor) -> None:
    """What the door refuses is told so, and no later start finds it."""
    door = open_door(journal=True)
    good, bad = synthetic_ct(slices=2)
    del bad.StudyInstanceUID
    assert send(door, bad, good) == [0xC000, 0]
    (journal,) = door.store.journals.iterdir()
    assert bad.SOPInstanceUID.encode() not in journal.read_bytes()
    assert good.SOPInstanceUID.encode() in journal.read_bytes()
