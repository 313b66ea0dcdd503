"""What the door takes from whom: silent, slow, mad and too many peers beside an honest one, faults by their numbers."""

from __future__ import annotations

import os
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from node.scp.listener import Listener, WaitingRoom
from node.scp.places import Places
from node.testing import part10, synthetic_ct, write_series
from tests.integration.conftest import SENDER, Door, OpenDoor
from tests.integration.test_scp import data_set, dcmtk
from tests.peers import ABORT, ACCEPT, P_DATA, REJECT, Raw, associate_rq, associated, p_data, pdu, store_command
from tests.rig import free_port, wait_for

HUGE = 0xFFFFFFF0
LIMIT_EXCEEDED, NO_SUCH_CALLED, NO_SUCH_CALLING = b"\0\2\3\2", b"\0\1\1\7", b"\0\1\1\3"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open a few thousand; skip where the system does not allow it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 4096:
        pytest.skip("the system allows fewer than 4,096 descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def store(port: int, folder: Path, count: int) -> None:
    """Have DCMTK store so many instances; it is another process, with descriptors and a select of its own."""
    if not folder.exists():
        write_series(synthetic_ct(slices=count), folder)
    command = [dcmtk("storescu"), "-aet", "SCANNER", "-aec", "PACSAINODE", "+sd", "127.0.0.1", str(port), str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_f11_without_a_descriptor_the_door_lives_and_the_honest_are_served(tmp_path: Path) -> None:
    """A listener that may have 64 descriptors, a hundred silent connections: those leave, the sender does not."""
    port, home = free_port(), tmp_path / "home"
    given = {"HOME": home, "PORT": port, "HOST": "127.0.0.1", "ACCEPT_UNKNOWN_SENDERS": "true"}
    environment = {**os.environ, **{f"PACS_NODE_{name}": str(value) for name, value in given.items()}}
    subprocess.run([sys.executable, "-m", "node.cli", "migrate"], env=environment, check=True, capture_output=True)
    few = ["prlimit", "--nofile=64:64", sys.executable, "-m", "node.cli", "scp"]
    listener = subprocess.Popen(few, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for("the door to open", lambda: _listens(port))
        with ExitStack() as stack:
            for _ in range(100):
                stack.callback(Raw(port).close)
            store(port, tmp_path / "series", 5)
        store(port, tmp_path / "series", 5)
    finally:
        listener.terminate()
        listener.wait(timeout=60)


def test_f11_where_accepting_fails_the_oldest_leave_and_the_door_lives(caplog: pytest.LogCaptureFixture) -> None:
    """The system has no descriptor for the next connection, nor for the one after: both are served in the end."""
    admitted: list[bytes] = []

    def admit(connection: socket.socket, _: object, request: bytes) -> None:
        admitted.append(request)
        connection.close()

    listener = Listener("127.0.0.1", 0, WaitingRoom(seconds=60, total=500, each=500, longest=1000), admit)
    listener.start()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    peers, fill = [socket.socket() for _ in range(60)], list[BinaryIO]()
    try:
        highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 80, hard))
        for one in peers[:-5]:
            one.connect(("127.0.0.1", listener.port))
        wait_for("all to be taken in", lambda: listener.waiting() == len(peers) - 5, limit=20)
        fill = _all_descriptors()  # before, it would take the descriptors of those who leave
        for one in peers[-5:]:
            one.connect(("127.0.0.1", listener.port))
        for one in peers[-3:]:
            one.sendall(associate_rq())
        wait_for("the last to be admitted", lambda: len(admitted) == 3, limit=20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        listener.shutdown()
        for one in (*peers, *fill):
            one.close()
    assert "no descriptor is left for a connection" in caplog.text


def _all_descriptors() -> list[BinaryIO]:
    """Open files until the system has no descriptor left."""
    files: list[BinaryIO] = []
    while True:
        try:
            files.append(Path("/dev/null").open("rb"))  # noqa: SIM115 - as many as there are
        except OSError:
            return files


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionError:
        return False
    return True


def test_f12_more_than_1024_descriptors_are_no_matter(
    open_door: OpenDoor, tmp_path: Path, many_descriptors: None
) -> None:
    """Every descriptor of the listener has a number that select does not take."""
    with ExitStack() as stack:
        for _ in range(1100):
            stack.callback(os.close, os.open("/dev/null", os.O_RDONLY))
        door = open_door()
        store(door.settings.port, tmp_path / "series", 3)
        assert len(door.rows()) == 3


def test_f13_silent_half_and_dripping_connections_keep_nobody_out(
    open_door: OpenDoor, tmp_path: Path, many_descriptors: None
) -> None:
    """450 of them from the sender's own address: it stores, and at the deadline they are gone."""
    door = open_door(association_timeout=3)
    port, request = door.settings.port, associate_rq()
    with ExitStack() as stack:
        silent = [Raw(port) for _ in range(200)]
        half = [Raw(port, request[:60]) for _ in range(200)]
        dripping = [Raw(port, request[:1]) for _ in range(50)]
        for one in (*silent, *half, *dripping):
            stack.callback(one.close)
        for place in range(1, 4):
            for one in dripping:
                _drip(one, request[place : place + 1])
        store(port, tmp_path / "series", 5)
        assert len(door.rows()) == 5
        for one in (*silent, *half, *dripping):
            assert one.answer() == (0, b"")


def _drip(peer: Raw, byte: bytes) -> None:
    try:
        peer.send(byte)
    except ConnectionError:
        return  # the oldest of an address leave first


def test_f13_who_has_no_association_costs_no_thread(open_door: OpenDoor) -> None:
    """A hundred silent connections are a hundred descriptors and nothing else."""
    door = open_door()
    before = psutil.Process().num_threads()
    peers = [Raw(door.settings.port) for _ in range(100)]
    assert psutil.Process().num_threads() <= before
    for one in peers:
        one.close()


def test_f15_a_pdu_of_four_gigabytes_is_an_abort_before_and_after_the_association(door: Door) -> None:
    """Nothing is made for a length that is only claimed."""
    port, process = door.settings.port, psutil.Process()
    before = process.memory_info().rss
    for _ in range(20):
        early = Raw(port, pdu(1, b"", claim=HUGE))
        assert early.answer() == (ABORT, b"\0\0\2\6")
        late = associated(port)
        late.send(pdu(P_DATA, bytes(1000), claim=HUGE))
        assert late.answer() == (ABORT, b"\0\0\2\6")
        for one in (early, late):
            one.close()
    assert process.memory_info().rss - before < 100 << 20


def test_f16_beyond_the_limit_it_is_transient_and_the_others_finish(open_door: OpenDoor) -> None:
    """Forty at once where eight may be: eight are taken, thirty-two hear 2/3/2, and a place that is left is free."""
    door = open_door(max_associations=8, max_associations_per_peer=8, urgent_associations=0)
    port = door.settings.port
    peers = [Raw(port, associate_rq()) for _ in range(40)]
    answers = [one.answer() for one in peers]
    taken = [one for one, (kind, _) in zip(peers, answers, strict=True) if kind == ACCEPT]
    assert len(taken) == 8
    assert {body for kind, body in answers if kind != ACCEPT} == {LIMIT_EXCEEDED}
    (image,) = synthetic_ct(slices=1)
    for one in taken:
        assert store_over(one, image) == 0
    taken[0].send(pdu(5, bytes(4)))
    assert taken[0].answer() == (6, bytes(4))
    wait_for("a place to be free", lambda: Raw(port, associate_rq()).answer()[0] == ACCEPT, limit=10)
    for one in peers:
        one.close()


def store_over(peer: Raw, image: object, *, number: int = 1) -> int:
    """Store an instance over a connection; return the status."""
    data = data_set(part10(image))  # type: ignore[arg-type]
    uid = str(image.SOPInstanceUID).encode()  # type: ignore[attr-defined]
    peer.send(p_data(number, 3, store_command(uid)), p_data(number, 2, data))
    return peer.status()


def test_f16_one_peer_never_takes_all_and_an_urgent_one_finds_a_place(open_door: OpenDoor) -> None:
    """Of six, one peer may have four; two are kept for the emergency room."""
    urgent = {"name": "er", "ae_title": "ER", "urgent": True}
    other = {"name": "other", "ae_title": "OTHER"}
    door = open_door(
        peer=[SENDER, urgent, other], max_associations=6, max_associations_per_peer=4, urgent_associations=2
    )
    port = door.settings.port
    first = [Raw(port, associate_rq(calling=title)) for title in (b"SCANNER", b"SCANNER", b"SCANNER", b"SCANNER")]
    assert [one.answer()[0] for one in first] == [ACCEPT] * 4
    assert Raw(port, associate_rq(calling=b"SCANNER")).answer() == (REJECT, LIMIT_EXCEEDED)
    assert Raw(port, associate_rq(calling=b"OTHER")).answer() == (REJECT, LIMIT_EXCEEDED)
    second = [associated(port, calling=b"ER") for _ in range(2)]
    assert Raw(port, associate_rq(calling=b"ER")).answer() == (REJECT, LIMIT_EXCEEDED)
    for one in (*first, *second):
        one.close()


def test_f16_places_are_kept_for_somebody_or_for_nobody() -> None:
    """Without an urgent peer none is missing."""
    assert all(Places(total=2, each=2, kept=1, urgent=frozenset()).take("A") for _ in range(2))
    places = Places(total=2, each=2, kept=1, urgent=frozenset({"ER"}))
    assert [places.take(title) for title in ("A", "B", "ER", "ER")] == ["A", None, "ER", None]
    places.leave("A")
    assert places.taken() == 1


def test_f17_an_association_that_does_nothing_is_aborted_and_what_it_brought_stays(open_door: OpenDoor) -> None:
    """A-ABORT of the service user after network_timeout, counted anew from each message."""
    door = open_door(network_timeout=1)
    peer = associated(door.settings.port)
    (image,) = synthetic_ct(slices=1)
    assert store_over(peer, image) == 0
    assert peer.answer() == (ABORT, b"\0\0\0\0")
    assert peer.answer() == (0, b"")
    assert len(door.rows()) == 1


def test_f13_a_pdu_that_drips_is_aborted_at_its_deadline(open_door: OpenDoor) -> None:
    """A byte each tenth of a second is no silence; the PDU as a whole has its time."""
    door = open_door(pdu_timeout=1, network_timeout=30)
    peer = associated(door.settings.port)
    peer.send(p_data(1, 3, store_command(b"1.2.3")))
    whole = p_data(1, 2, bytes(10_000))
    peer.socket.settimeout(0.1)
    answer = b""
    for place in range(300):
        try:
            peer.send(whole[place : place + 1])
            answer += peer.socket.recv(10)
            break
        except TimeoutError:
            continue
    assert answer == pdu(ABORT, bytes(4))
    wait_for("nothing to be left", lambda: door.files() == [], limit=10)


def test_a_sender_that_never_comes_to_an_end_is_aborted(open_door: OpenDoor) -> None:
    """Behind the limit the rest is thrown away, once over; then it is no instance but an attack."""
    door = open_door(max_instance_bytes=1 << 20)
    peer = associated(door.settings.port)
    peer.send(p_data(1, 3, store_command(b"1.2.3")))
    sent, piece = 0, p_data(1, 0, bytes(65_000))
    try:
        while sent < 64 << 20:
            peer.send(piece)
            sent += len(piece)
    except ConnectionError:
        pass
    assert sent < 32 << 20
    wait_for("nothing to be left", lambda: door.files() == [], limit=10)


def test_a_big_object_grows_nothing(open_door: OpenDoor) -> None:
    """200 MB of pixels pass through; the process stays as it is."""
    door = open_door()
    (image,) = synthetic_ct(slices=1)
    head = data_set(part10(image))
    head = head[: head.rindex(struct.pack("<HH2s", 0x7FE0, 0x10, b"OW"))]
    size, piece = 200 << 20, p_data(1, 0, bytes(200_000))
    peer = associated(door.settings.port)
    process = psutil.Process()
    peer.send(p_data(1, 3, store_command(str(image.SOPInstanceUID).encode())))
    peer.send(p_data(1, 0, head + struct.pack("<HH2sxxI", 0x7FE0, 0x10, b"OW", size)))
    before = most = process.memory_info().rss
    for number in range(size // 200_000):
        peer.send(piece)
        if number % 50 == 0:
            most = max(most, process.memory_info().rss)
    peer.send(p_data(1, 2, bytes(size % 200_000)))
    assert peer.status() == 0
    most = max(most, process.memory_info().rss)
    assert most - before < 20 << 20
    assert door.rows()[0].size > size


def test_a_restart_waits_for_nobody_who_is_silent(open_door: OpenDoor) -> None:
    """Shutting the door turns away those who wait outside."""
    door = open_door()
    peers = [Raw(door.settings.port) for _ in range(5)]
    time.sleep(0.1)
    door.shut()
    assert [one.answer() for one in peers] == [(0, b"")] * 5
