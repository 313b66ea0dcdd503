"""The DICOM door over real associations: what is kept, what is refused, and what is said when."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config
from pynetdicom.dimse_primitives import C_STORE

from node.logs import set_up_logging
from node.scp import receiver
from node.scp.commands import Command
from node.store import Store, sha256_hex
from node.testing import part10, synthetic_ct, write_series
from tests.integration.conftest import Door, OpenDoor

PRIVATE_CLASS = "1.3.6.1.4.1.99999.1.2.3"


def associate(door: Door, *contexts: tuple[str, str], calling: str = "SCANNER", called: str = "PACSAINODE") -> Any:
    """Return an association, established or not, that proposes (SOP class, transfer syntax) pairs."""
    ae = AE(ae_title=calling)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    for sop_class, syntax in contexts:
        ae.add_requested_context(sop_class, syntax)
    for _ in range(3):
        association = ae.associate("127.0.0.1", door.settings.port, ae_title=called)
        if not association.is_aborted:  # pynetdicom sometimes takes a quick rejection for an abort of its own
            break
    return association


def send(door: Door, *files: Path | Dataset) -> list[int]:
    """Store instances over one association; return the statuses."""
    heads = [pydicom.dcmread(f, stop_before_pixels=True, force=True) if isinstance(f, Path) else f for f in files]
    contexts = dict.fromkeys((str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID)) for ds in heads)
    association = associate(door, *contexts)
    assert association.is_established
    statuses = [int(association.send_c_store(file).Status) for file in files]
    association.release()
    return statuses


def data_set(data: bytes) -> bytes:
    """Return what follows the file meta information, whose length its first element tells (PS3.10 7.1)."""
    return data[144 + int.from_bytes(data[140:144], "little") :]


def dcmtk(program: str) -> str:
    """Return the path of a DCMTK program; skip on a laptop without it, fail in CI."""
    beside = Path(sys.executable).parent  # pynetdicom installs programs of the same names
    places = [place for place in os.get_exec_path() if Path(place) != beside]
    found = shutil.which(program, path=os.pathsep.join(places))
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{program} is missing on a CI machine")
    return found or pytest.skip(f"{program} is not installed")


def test_dcmtk_verifies_the_node(door: Door) -> None:
    """A second implementation hears our C-ECHO answer."""
    command = [dcmtk("echoscu"), "-aet", "SCANNER", "-aec", "PACSAINODE", "127.0.0.1", str(door.settings.port)]
    subprocess.run(command, check=True, capture_output=True, timeout=20)


def test_dcmtk_stores_a_series(door: Door, tmp_path: Path) -> None:
    """Every instance is a row and a file whose digest is the row's."""
    write_series(synthetic_ct(slices=3), tmp_path / "out")
    command = [dcmtk("storescu"), "-aet", "SCANNER", "-aec", "PACSAINODE", "+sd", "127.0.0.1", str(door.settings.port)]
    subprocess.run([*command, str(tmp_path / "out")], check=True, capture_output=True, timeout=30)
    rows = door.rows()
    assert sorted(row.sop_uid for row in rows) == ["2.25.4711.1.1", "2.25.4711.1.2", "2.25.4711.1.3"]
    assert all(door.store.verify(row.path, row.content_sha) for row in rows)
    assert {row.calling_ae for row in rows} == {"SCANNER"}


def test_every_transfer_syntax_is_kept_as_it_was_sent(
    door: Door, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifteen encodings of one slice: no byte of any data set is touched, and the newest version is current."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)  # the sender reads files as they are
    files = sorted((data_dir / "transfer-syntax-matrix").glob("*.dcm"))
    assert len(files) >= 15
    for file in files:
        assert send(door, file) == [0x0000], file.name
        row = door.rows()[-1]
        assert row.transfer_syntax == pydicom.dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID
        assert data_set(door.store.path(row.path).read_bytes()) == data_set(file.read_bytes()), file.name
    newest = {row.sop_uid: row.id for row in door.rows()}
    assert [row.id for row in door.rows() if row.current] == sorted(newest.values())


def test_the_same_instance_twice_is_one_row_and_one_file(door: Door) -> None:
    """A resend is acknowledged and is no news."""
    (image,) = synthetic_ct(slices=1)
    assert send(door, image, image) == [0x0000, 0x0000]
    assert len(door.rows()) == len(door.files()) == 1


def test_a_wrong_called_title_is_rejected(door: Door) -> None:
    """Somebody looks for another node."""
    association = associate(door, ("1.2.840.10008.1.1", "1.2.840.10008.1.2"), called="OTHERNODE")
    assert association.is_rejected
    assert association.acceptor.primitive.reason_str == "Called AE title not recognised"


def test_an_unknown_sender_is_rejected(door: Door) -> None:
    """Only a peer of the configuration may store."""
    association = associate(door, ("1.2.840.10008.1.1", "1.2.840.10008.1.2"), calling="STRANGER")
    assert association.is_rejected
    assert association.acceptor.primitive.reason_str == "Calling AE title not recognised"


def test_a_node_without_peers_takes_nothing_from_anybody(open_door: OpenDoor) -> None:
    """An empty list of senders means nobody, never everybody; likewise where the only peer may not send."""
    closed = open_door(peer=[{**{"name": "pacs", "ae_title": "SCANNER"}, "may_send": False}])
    assert associate(closed, ("1.2.840.10008.1.1", "1.2.840.10008.1.2")).is_rejected


def test_unknown_senders_may_be_allowed(open_door: OpenDoor) -> None:
    """A test installation opens its door with one setting."""
    door = open_door(peer=[], accept_unknown_senders=True)
    association = associate(door, ("1.2.840.10008.1.1", "1.2.840.10008.1.2"), calling="STRANGER")
    assert association.send_c_echo().Status == 0
    association.release()


def send_encoded(association: Any, announced: Dataset, data: bytes) -> int:
    """Send *data* as the data set of an instance that the command announces as *announced*; return the status."""
    request = C_STORE()
    request.MessageID, request.Priority = 7, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = announced.SOPClassUID, announced.SOPInstanceUID
    request.DataSet = io.BytesIO(data)
    association._reactor_checkpoint.clear()  # as send_c_store does: else its own thread takes the answer
    while not association._is_paused:
        time.sleep(0.01)
    association.dimse.send_msg(request, association.accepted_contexts[0].context_id)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return int(answer.Status)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 0x0000),
        ({"SOPInstanceUID": "2.25.99"}, 0xA900),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"}, 0xA900),
        ({"StudyInstanceUID": ""}, 0xC000),
        ({"SeriesInstanceUID": "no uid"}, 0xC000),
    ],
)
def test_what_is_not_what_was_announced_is_refused(door: Door, changes: dict[str, str], status: int) -> None:
    """Another instance or class: A900; one that cannot be filed: C000. The association lives on."""
    announced, good = synthetic_ct(slices=2)
    association = associate(door, (str(good.SOPClassUID), ExplicitVRLittleEndian))
    sent = pydicom.dcmread(io.BytesIO(part10(announced)))
    with pydicom.config.disable_value_validation():
        for keyword, value in changes.items():
            setattr(sent, keyword, value)
        data = data_set(part10_lenient(sent))
    assert send_encoded(association, announced, data) == status
    assert association.send_c_store(good).Status == 0x0000
    association.release()
    assert len(door.rows()) == len(door.files()) == (2 if status == 0 else 1)


def part10_lenient(ds: Dataset) -> bytes:
    """Encode a data set whose values may be wrong."""
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, ds, enforce_file_format=False)
    return stream.getvalue()


GARBAGE = {"bytes": b"\x08\x00", "zeros": bytes(64), "words": b"no DICOM at all", "all": bytes(range(256)) * 16}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_refused_and_the_association_lives(door: Door, data: bytes) -> None:
    """C000: do not send this again. Nothing is kept, and the next instance is."""
    (image,) = synthetic_ct(slices=1)
    association = associate(door, (str(image.SOPClassUID), ExplicitVRLittleEndian))
    assert send_encoded(association, image, data) == 0xC000
    assert (door.files(), door.rows()) == ([], [])
    assert association.send_c_store(image).Status == 0x0000
    association.release()


def test_a_full_store_asks_the_peer_to_try_later_and_the_association_lives(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A700, never a success; when there is room again the same association goes on."""
    first, second = synthetic_ct(slices=2)
    association = associate(door, (str(first.SOPClassUID), ExplicitVRLittleEndian))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", _no_space)
        assert association.send_c_store(first).Status == 0xA700
    assert association.send_c_store(second).Status == 0x0000
    association.release()
    assert [row.sop_uid for row in door.rows()] == [second.SOPInstanceUID]
    assert len(door.files()) == 1


def _no_space(handle: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_nearly_full_disk_is_refused_before_anything_is_written(open_door: OpenDoor, tmp_path: Path) -> None:
    """min_free_bytes is a reserve, not a hope."""
    greedy = Store(tmp_path / "greedy", min_free=shutil.disk_usage(tmp_path).free * 2)
    assert send(open_door(greedy), *synthetic_ct(slices=1)) == [0xA700]


def test_a_low_disk_puts_off_who_would_store_and_answers_who_only_asks(
    open_door: OpenDoor, tmp_path: Path
) -> None:
    """Transient, temporary congestion: the peer comes again by itself. A verification is still answered."""

    class LowStore(Store):
        def free_percent(self) -> float:
            return 4.9

    door = open_door(LowStore(tmp_path / "low"), disk_low_percent=5)
    store = associate(door, ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2"))
    assert store.is_rejected
    answer = store.acceptor.primitive
    assert (answer.result, answer.result_source, answer.diagnostic) == (2, 3, 1)
    echo = associate(door, ("1.2.840.10008.1.1", "1.2.840.10008.1.2"))
    assert echo.is_established
    assert echo.send_c_echo().Status == 0x0000
    echo.release()
    assert door.rows() == []


def test_an_instance_over_the_limit_is_refused(open_door: OpenDoor) -> None:
    """max_instance_bytes bounds what one instance may take."""
    (image,) = synthetic_ct(slices=1, rows=800, columns=800)
    assert send(open_door(max_instance_bytes=1 << 20), image) == [0xA700]


def test_a_private_class_is_stored_too(door: Door) -> None:
    """A node beside a PACS keeps what it is given, whatever the maker called it."""
    (image,) = synthetic_ct(slices=1)
    image.SOPClassUID = PRIVATE_CLASS
    assert send(door, image) == [0x0000]
    assert door.rows()[0].sop_class == PRIVATE_CLASS


def test_file_and_row_are_safe_before_the_answer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the moment of the answer: data synced, renamed, folder synced, row committed. In this order."""
    acts: list[str] = []
    real_sync, real_rename, real_answer = os.fsync, Path.replace, receiver.store_answer

    def sync(handle: int) -> None:
        acts.append("sync folder" if Path(f"/proc/self/fd/{handle}").readlink().is_dir() else "sync data")
        real_sync(handle)

    def rename(path: Path, target: Path) -> Path:
        acts.append("rename")
        return real_rename(path, target)

    def answer(context_id: int, request: Command, status: int) -> bytes:
        acts.append(f"answer {status} with {len(door.rows())} row")
        return real_answer(context_id, request, status)

    send(door, *synthetic_ct(slices=1))  # makes the study's folder
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    monkeypatch.setattr(receiver, "store_answer", answer)
    send(door, synthetic_ct(slices=2)[1])
    assert acts == ["sync data", "rename", "sync folder", "answer 0 with 2 row"]


def test_a_row_that_cannot_be_written_is_no_success(door: Door) -> None:
    """The table is gone: the peer hears A700 and keeps its copy."""
    with door.database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE instance RENAME TO elsewhere")
    assert send(door, *synthetic_ct(slices=1)) == [0xA700]


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_log_line_holds_a_patients_name(door: Door, form: str) -> None:
    """Kept, refused, mismatched, aborted, at DEBUG: UIDs yes, the canary never."""
    root = logging.getLogger()
    before, level, stream = root.handlers[:], root.level, io.StringIO()
    try:
        set_up_logging("scp", level="DEBUG", form=form, stream=stream)
        first, second = synthetic_ct(slices=2, patient_name="CANARY^NAME", patient_id="CANARY-ID")
        association = associate(door, (str(first.SOPClassUID), ExplicitVRLittleEndian))
        assert association.send_c_store(first).Status == 0x0000
        assert send_encoded(association, second, data_set(part10(first))) == 0xA900
        assert send_encoded(association, second, data_set(part10(second))[:200]) == 0xC000
        association.abort()
    finally:
        root.handlers[:], root.level = before, level
    said = stream.getvalue()
    assert "instance kept" in said
    assert "instance refused" in said
    assert str(first.SOPInstanceUID) in said
    assert "CANARY" not in said
    if form == "json":
        assert all(json.loads(line)["role"] == "scp" for line in said.splitlines())


def test_many_associations_at_once_lose_nothing(door: Door) -> None:
    """Six senders bring twenty instances each of one study at the same time."""
    statuses = list[int]()
    series = [synthetic_ct(slices=20, series_number=number) for number in range(1, 7)]
    threads = [threading.Thread(target=lambda s=s: statuses.extend(send(door, *s))) for s in series]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [0x0000] * 120
    rows = door.rows()
    assert len({row.sop_uid for row in rows}) == len(rows) == 120
    assert all(sha256_hex(door.store.path(row.path).read_bytes()) == row.content_sha for row in rows)
