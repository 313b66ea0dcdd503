"""The door without a network: connections in memory, a shelf in place of the store, and everything else as it is."""

from __future__ import annotations

import dataclasses
import random
import shutil
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pynetdicom.pdu import A_ASSOCIATE_RQ

from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.dicom.header import read_facts
from node.domain.study import InstanceFacts
from node.intake import Intake, _compare
from node.scp import commitment, receiver
from node.scp.receiver import House, Receiver
from node.scp.server import Door, start_scp
from node.settings import Settings
from node.store import Store
from node.testing import FixedClock
from tests.fuzz.grammar import CONTEXTS, HONEST_REQUEST

ADDRESS = ("127.0.0.1", 4711)
_PEERS = [{"name": "scanner", "ae_title": "SCANNER", "host": "127.0.0.1", "port": 1}]


class Line:
    """A connection in memory: what the peer says comes in pieces of any length, what it is told is kept."""

    def __init__(self, said: bytes) -> None:
        self._said, self._place = memoryview(said), 0
        self._chance = random.Random(zlib.crc32(said))  # the same bytes come in the same pieces
        few = 7 if len(said) < 300 else 700
        self._most = self._chance.choice((1 << 20, 1 << 20, 1 << 20, max(len(said) // 10, 1), few))
        self._breaks = self._chance.random() < 0.1
        self.broke = False  #: the last that the node said may not have come through
        self.heard = bytearray()
        self.closed = False

    def recv_into(self, buffer: memoryview) -> int:
        """Give the next piece; at the end the peer hangs up, or its line breaks."""
        left = len(self._said) - self._place
        if not left:
            if self._breaks:
                self.broke = True
                raise ConnectionResetError
            return 0
        count = min(left, len(buffer))
        if count > self._most:
            count = 1 + self._chance.randrange(self._most)
        buffer[:count] = self._said[self._place : self._place + count]
        self._place += count
        return count

    def sendall(self, data: bytes) -> None:
        """Take what the node says, up to where the line broke."""
        if self.broke:
            raise BrokenPipeError
        self.heard += data

    def close(self) -> None:
        """Hang up."""
        self.closed = True

    def getsockname(self) -> tuple[str, int]:
        """Return where the node listens."""
        return "127.0.0.1", 11112

    def shutdown(self, how: int) -> None:
        """The other half goes on."""

    def settimeout(self, seconds: float) -> None:
        """Nobody waits here."""

    def setblocking(self, blocks: bool) -> None:
        """Nobody waits here."""

    def setsockopt(self, *_: object) -> None:
        """There is no kernel behind it."""


class Shelf:
    """Takes instances in as the store does, and keeps none: reads their facts, compares, forgets."""

    def __init__(self) -> None:
        self.open = 0  #: instances that are neither kept nor dropped

    def receive(self, *, calling_ae: str, sop_class: str = "", sop_uid: str = "") -> _Bytes:  # noqa: ARG002
        """Begin to take an instance in."""
        return _Bytes(self, sop_class, sop_uid)


class _Bytes:
    """An instance on its way in."""

    def __init__(self, shelf: Shelf, sop_class: str, sop_uid: str) -> None:
        self._shelf, self._sop_class, self._sop_uid = shelf, sop_class, sop_uid
        self._data, self._is_open = bytearray(), True
        shelf.open += 1

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        self._data += data

    def keep(self) -> InstanceFacts:
        """Return the facts, or refuse as the store does."""
        facts = read_facts(bytes(self._data))
        _compare(facts, self._sop_class, self._sop_uid)
        return facts

    def drop(self) -> None:
        """Forget it."""
        if self._is_open:
            self._is_open = False
            self._shelf.open -= 1


class _NoReports(commitment.Answering):
    """Hears that storage commitment was asked for, and leaves the answer to the sweep, which does not run here."""

    def __init__(self) -> None:
        """Nobody reports."""

    def asked(self, association: Any, number: int) -> None:
        """The question stands in the table."""


class Inside(Receiver):
    """An association that was negotiated a while ago, for `CONTEXTS`."""

    accepted: dict[int, Any]
    request: Any

    def _negotiate(self) -> bool:
        self.requestor.primitive = self.request
        self.requestor.ae_title = "SCANNER"
        self._place = self._house.places.take("SCANNER")
        self._accepted_cx = dict(self.accepted)
        self.is_established = self._place is not None
        return self.is_established


@dataclass
class World:
    """A door, and a house like its own that files nothing."""

    settings: Settings
    door: Door
    house: House
    shelf: Shelf
    store: Store

    def associate(self, request: bytes, said: bytes) -> Line:
        """Return what comes of a request and of what is said behind it."""
        line = Line(said)
        Receiver(self.house, cast(socket.socket, line), ADDRESS, request).run_reactor()
        return line

    def say(self, said: bytes) -> Line:
        """Return what comes of what is said on an association."""
        line = Line(said)
        Inside(self.house, cast(socket.socket, line), ADDRESS, b"").run_reactor()
        return line


@contextmanager
def world(**changes: Any) -> Iterator[World]:
    """Open a door on loopback, with everything that it writes in memory where the system has such a place."""
    shared = Path("/dev/shm")
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="pacs-node-fuzz-", dir=shared if shared.is_dir() else None))
        stack.callback(shutil.rmtree, folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        values = {"home": folder, "host": "127.0.0.1", "port": port, "peer": _PEERS, "min_free_bytes": 0, **changes}
        settings = Settings(**values)
        migrate(settings.database)
        engine = open_engine(settings.database)
        stack.callback(engine.dispose)
        store = Store(folder / "store")
        intake = Intake(Database(engine), store, FixedClock(), manufacturer=settings.manufacturer)
        door = start_scp(settings, intake)
        stack.callback(door._house.sendings.rest, 10)
        stack.callback(door.finish, limit=10)
        stack.callback(door.shutdown)
        shelf = Shelf()
        house = dataclasses.replace(
            door._house, intake=cast(Intake, shelf), handlers=[_unreported(one) for one in door._house.handlers]
        )
        stack.callback(setattr, receiver, "_BEFORE_NO", receiver._BEFORE_NO)
        receiver._BEFORE_NO = 0.0  # nobody has to be waited for
        _negotiate_once(house)
        yield World(settings, door, house, shelf, store)


def _unreported(bound: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a bound handler that starts no thread of its own."""
    event, handler, *arguments = bound
    given = [_NoReports() if isinstance(one, commitment.Answering) else one for one in (arguments or [[]])[0]]
    return (event, handler, given) if arguments else bound


def _negotiate_once(house: House) -> None:
    honest = Receiver(house, cast(socket.socket, Line(b"")), ADDRESS, HONEST_REQUEST)
    honest._negotiate()
    honest._house.places.leave(honest._place or "")
    assert honest._accepted_cx.keys() == CONTEXTS.keys(), honest._accepted_cx
    request = A_ASSOCIATE_RQ()
    request.decode(HONEST_REQUEST)
    Inside.accepted, Inside.request = dict(honest._accepted_cx), request.to_primitive()


def pdus(heard: bytes | bytearray) -> list[tuple[int, bytes]]:
    """Return the PDUs that the node said; AssertionError where its last is not whole."""
    found, place = [], 0
    while place < len(heard):
        kind, length = struct.unpack_from(">BxI", heard, place)
        body = bytes(heard[place + 6 : place + 6 + length])
        assert len(body) == length, "the node broke off inside a PDU"
        found.append((kind, body))
        place += 6 + length
    return found


Check = Callable[[bytes], None]
