"""The DICOM door over a sick disk, a held database and senders that break off."""

from __future__ import annotations

import errno
import os
import select
import socket
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE

from node import failpoints
from node.db import session as session_module
from node.store import sha256_hex
from node.testing import synthetic_ct
from tests.integration.conftest import Door, OpenDoor
from tests.integration.test_scp import associate, send
from tests.rig import wait_for


@pytest.fixture
def points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of failpoints of this process."""
    file = tmp_path / "points"
    monkeypatch.setattr(failpoints, "_FILE", str(file))
    return file


def open_association(door: Door) -> tuple[Any, list[Any]]:
    """Return an association and instances that go over it."""
    images = synthetic_ct(slices=6)
    association = associate(door, (str(images[0].SOPClassUID), ExplicitVRLittleEndian))
    assert association.is_established
    return association, images


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("point", ["intake.opened", "intake.mid", "intake.last_byte", "intake.fsynced"])
def test_a_sick_disk_is_said_each_time_and_leaves_nothing(point: str, number: int, door: Door, points: Path) -> None:
    """A700 three times over, whatever step of writing fails; then the same association stores as ever."""
    word = {errno.EIO: "eio", errno.ENOSPC: "enospc"}[number]
    points.write_text(f"{point}={word}*3\n", encoding="ascii")
    association, images = open_association(door)
    assert [int(association.send_c_store(one).Status) for one in images[:3]] == [0xA700] * 3
    assert door.files() == [] and door.rows() == []
    assert [int(association.send_c_store(one).Status) for one in images[:4]] == [0x0000] * 4
    association.release()
    assert len(door.files()) == len(door.rows()) == 4


def test_a_folder_that_cannot_be_synced_is_no_success(door: Door, points: Path) -> None:
    """The file lies there, but nobody knows for how long: A700, and the same bytes again make it whole."""
    points.write_text("intake.renamed=eio\n", encoding="ascii")
    association, images = open_association(door)
    assert int(association.send_c_store(images[0]).Status) == 0xA700
    assert door.rows() == []
    assert int(association.send_c_store(images[0]).Status) == 0x0000
    association.release()
    assert len(door.rows()) == len(door.files()) == 1


def test_a_database_that_another_process_holds_is_a_reason_to_come_back(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A700 once the wait is over, no association hangs, and behind it all is as before."""
    first, second = synthetic_ct(slices=2)
    file = str(door.settings.database).removeprefix("sqlite:///")
    with sqlite3.connect(file, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        assert session_module.BUSY_SECONDS == 30
        _wait_less(door, monkeypatch)
        assert send(door, first) == [0xA700]
        holder.execute("ROLLBACK")
    assert send(door, first, second) == [0, 0]


def _wait_less(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every connection of the node's engine wait half a second only: the test need not take thirty."""
    original = session_module._on_sqlite_begin

    def begin(connection: Any) -> None:
        connection.connection.dbapi_connection.execute("PRAGMA busy_timeout=500")
        original(connection)

    engine = door.database.engine
    session_module.event.remove(engine, "begin", session_module._on_sqlite_begin)
    session_module.event.listen(engine, "begin", begin)


def test_a_sender_that_aborts_after_some_keeps_what_it_was_told(door: Door) -> None:
    """Three of six were acknowledged: three are there, and the door takes the rest from whoever brings it."""
    association, images = open_association(door)
    assert [int(association.send_c_store(one).Status) for one in images[:3]] == [0] * 3
    association.abort()
    assert len(door.rows()) == len(door.files()) == 3
    assert send(door, *images) == [0] * 6
    assert len(door.rows()) == 6


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_line_that_breaks_inside_an_instance_leaves_no_piece_of_it(reset: bool, door: Door) -> None:
    """What was acknowledged on it before stays; the sender hears no success for the broken one."""
    line = Line(door.settings.port)
    association = associate_through(line, door)
    first, big = synthetic_ct(slices=2, rows=512, columns=512)
    assert int(association.send_c_store(first).Status) == 0
    line.cut_after(100_000, reset=reset)
    assert "Status" not in association.send_c_store(big)
    assert [row.sop_uid for row in door.rows()] == [first.SOPInstanceUID]
    wait_for("the piece to be gone", lambda: len(door.files()) == 1, limit=10)
    assert send(door, big) == [0]
    row = next(row for row in door.rows() if row.sop_uid == big.SOPInstanceUID)
    assert sha256_hex(door.store.path(row.path).read_bytes()) == row.content_sha


def test_a_peer_that_falls_silent_inside_a_pdu_does_not_keep_its_place(open_door: OpenDoor) -> None:
    """After network_timeout the connection is given up: else so many of them would shut the door."""
    door = open_door(network_timeout=1.5)
    before = set(threading.enumerate())
    with socket.create_connection(("127.0.0.1", door.settings.port)) as silent:
        silent.settimeout(30)
        silent.sendall(b"\x01\x00\x00\x00\x10\x00half")  # the head of an A-ASSOCIATE-RQ of 4096 bytes
        assert silent.recv(1) == b""
    wait_for("its threads to end", lambda: not set(threading.enumerate()) - before, limit=30)


def associate_through(line: Line, door: Door) -> Any:
    """Return an association with the door over *line*."""
    ae = AE(ae_title="SCANNER")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 10
    ae.add_requested_context("1.2.840.10008.5.1.4.1.1.2", ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", line.port, ae_title=door.settings.ae_title)
    assert association.is_established
    return association


class Line:
    """One TCP connection to *target* that can be cut after so many further bytes."""

    def __init__(self, target: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._left, self._reset = -1, False
        self._target = target
        self._over = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def cut_after(self, count: int, *, reset: bool) -> None:
        """Let *count* more bytes of the sender pass."""
        self._left, self._reset = count, reset

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        back = threading.Thread(target=self._back, args=(server, client), daemon=True)
        back.start()
        while data := client.recv(16384):
            server.sendall(data)
            if self._left >= 0:
                self._left -= len(data)
                if self._left < 0:
                    break
        self._over.set()
        back.join()  # a socket that somebody reads from is not closed by closing it
        for one in (server, client):
            if self._reset:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # RST instead of FIN
            with suppress(OSError):  # the other thread reads from it: until it hears an end, nothing is closed
                one.shutdown(socket.SHUT_RD if self._reset else socket.SHUT_RDWR)
            one.close()
        self._listener.close()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        while not self._over.is_set():
            if select.select([server], [], [], 0.05)[0]:
                client.sendall(server.recv(16384))


def test_a_disk_that_is_taken_away_is_said(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be opened any more: A700, and success again when it is back."""
    (image,) = synthetic_ct(slices=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", _denied)
        assert send(door, image) == [0xA700]
    assert send(door, image) == [0]


def _denied(*_: object, **__: object) -> None:
    raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))
