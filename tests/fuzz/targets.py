"""What is fuzzed, and what must hold: each target takes bytes, and raises where a promise is broken."""

from __future__ import annotations

import io
import re
import selectors
import socket
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack, suppress
from random import Random
from typing import ClassVar

import pydicom
from pydicom.uid import ExplicitVRLittleEndian

from node.dicom import header
from node.dicom.walk import Beyond, Damaged, Unusual, Walk
from node.domain.study import InstanceFacts
from node.errors import UnreadableInstance
from node.scp.commands import C_STORE_RQ, C_STORE_RSP, BadCommand, read_command, store_answer
from node.scp.listener import Listener, WaitingRoom, _Guest
from tests.fuzz import datasets, grammar
from tests.fuzz.world import ADDRESS, Line, World, pdus, world
from tests.peers import P_DATA, VERIFICATION, Raw, command, p_data, pdu, status_of, store_command

_STATUSES = {0x0000, 0x0106, 0x0110, 0x0111, 0x0112, 0x0113, 0x0115, 0x0118, 0x0120, 0x0121, 0x0122, 0x0123, 0x0124,
             0x0211, 0x0213, 0xA700, 0xA710, 0xA900, 0xC000}  # fmt: skip
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_RELEASE = pdu(5, bytes(4))
_HELD_BY_A_SOCKET = 60_000  # bytes that can be sent while nobody reads
_COMPARED = {  # where the VR is what it should be
    "SOPInstanceUID": ("UI", "sop_uid"), "SOPClassUID": ("UI", "sop_class"), "StudyInstanceUID": ("UI", "study_uid"),
    "SeriesInstanceUID": ("UI", "series_uid"), "Rows": ("US", "rows"), "Columns": ("US", "columns"),
}  # fmt: skip


class Broken(AssertionError):
    """A promise does not hold for an input."""


def promise(holds: bool, what: str) -> None:
    """Raise Broken saying *what* where it does not hold."""
    if not holds:
        raise Broken(what)


class Target(ABC):
    """One entry of the door: how its inputs are made, and what is tried with each."""

    share: ClassVar[int]  #: of all inputs, in ten-thousandths

    def __init__(self) -> None:
        self.stack = ExitStack()

    @property
    def name(self) -> str:
        """Return its name on the command line and of its corpus."""
        return type(self).__name__.lower()

    @abstractmethod
    def make(self, rng: Random) -> bytes:
        """Return an input as the grammar has it."""

    @abstractmethod
    def run(self, data: bytes) -> None:
        """Try an input; raise where a promise is broken."""

    def open(self) -> None:  # noqa: B027  # most share nothing
        """Set up what all inputs share."""

    def close(self) -> None:
        """Leave nothing behind."""
        self.stack.close()


class Commands(Target):
    """`read_command` and `store_answer`: a command or BadCommand, and the answer is one again."""

    share = 5400

    def make(self, rng: Random) -> bytes:
        """Return a command set."""
        return grammar.command_set(rng)

    def run(self, data: bytes) -> None:
        """Read it; where it commands a store, answer it."""
        try:
            found = read_command(data)
        except BadCommand:
            return
        promise(0 <= found.field <= 0xFFFF, "a command field of 16 bits")
        if found.field != C_STORE_RQ:
            return
        sent = store_answer(7, found, 0xA700)
        promise(len(sent) == 6 + int.from_bytes(sent[2:6], "big"), "the answer is one PDU")
        promise(len(sent) == 10 + int.from_bytes(sent[6:10], "big"), "with one value")
        answer = read_command(sent[12:])
        promise(answer.field == C_STORE_RSP, "the answer is an answer")
        promise((answer.sop_class, answer.sop_uid) == (found.sop_class, found.sop_uid), "of the same instance")
        promise(not answer.has_data_set, "without a data set")


class Walks(Target):
    """The walk: values, or one of its exceptions; and of a beginning it says the same, or that it cannot tell."""

    share = 4250

    def make(self, rng: Random) -> bytes:
        """Return a data set."""
        return datasets.walked_data_set(rng)

    def run(self, data: bytes) -> None:
        """Walk through all of it, and through its first half."""
        view, implicit = memoryview(data), not _looks_explicit(data)
        whole, half = self._walked(view, len(data), implicit), self._walked(view[: len(data) // 2], len(data), implicit)
        promise(half in (whole, Beyond), "a beginning is read like the whole")
        if isinstance(whole, dict):
            promise(all(len(value) <= 1 << 16 for value in whole.values()), "a value has its limit")
            promise(whole.keys() <= header._NAMES.keys(), "only what is wanted is kept")

    @staticmethod
    def _walked(view: memoryview, size: int, implicit: bool) -> object:
        try:
            return Walk(view, 0, implicit=implicit, size=size).until(header._PIXELS, header._NAMES)
        except (Damaged, Unusual) as why:
            return type(why)


def _looks_explicit(data: bytes) -> bool:
    return data[4:6].isalpha() and data[4:6].isupper()


class Headers(Target):
    """`read_facts`: facts or UnreadableInstance; and what the walk reads is what pydicom reads."""

    share = 250

    def make(self, rng: Random) -> bytes:
        """Return a file."""
        return datasets.file(rng)

    def run(self, data: bytes) -> None:
        """Read its facts both ways, and by pydicom alone."""
        facts = _facts_or_none(lambda: header.read_facts(data))
        if facts is None:
            return
        promise(_is_tidy(facts), "facts are what a table and a log may hold")
        walked = header._walked(data)
        if walked is not None:
            general = _facts_or_none(lambda: header._facts(header._read_header(data)))
            promise(general is None or general == facts, f"the walk reads what pydicom reads: {general} {facts}")
        if facts.transfer_syntax in datasets.SYNTAXES and zlib.crc32(data) % 4 == 0:
            _compare(facts, data)


def _facts_or_none(make: Callable[[], InstanceFacts]) -> InstanceFacts | None:
    try:
        with header.quiet():
            return make()
    except (UnreadableInstance, *header.PARSE_ERRORS):
        return None


def _is_tidy(facts: InstanceFacts) -> bool:
    uids = (facts.sop_uid, facts.sop_class, facts.study_uid, facts.series_uid, facts.transfer_syntax)
    texts = (facts.patient_id, facts.accession_number, facts.study_date, facts.study_description, facts.modality,
             facts.body_part, facts.series_description, facts.manufacturer, *facts.image_type)  # fmt: skip
    numbers = (facts.series_number or 0, facts.instance_number or 0, facts.rows, facts.columns, facts.frames)
    return (
        all(len(uid) <= 64 and _UID.fullmatch(uid) for uid in uids)
        and all(len(text) <= 256 and text.isprintable() for text in texts)
        and all(abs(number) < 1 << 31 for number in numbers)
    )


def _compare(facts: InstanceFacts, data: bytes) -> None:
    """What dcmread makes of the same file, where it makes something of it, is the same."""
    try:
        with header.quiet():
            read = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
            named = {keyword: read[keyword] for keyword in _COMPARED if keyword in read}
            found = {
                keyword: str(one.value) for keyword, one in named.items()
                if _COMPARED[keyword][0] == one.VR and isinstance(one.value, int | str)
            }  # fmt: skip
    except header.PARSE_ERRORS:
        return
    told = {keyword: str(getattr(facts, _COMPARED[keyword][1])) for keyword in found}
    promise(found == told, f"what pydicom reads: {found}, what we read: {told}")


class Behind(Target):
    """A target behind the door: it shares one world, and an honest association must work after each input."""

    world: World

    def open(self) -> None:
        """Open a door."""
        self.world = self.stack.enter_context(world())
        self._honest = _honest_stream()

    def check(self, line: Line) -> None:
        """What the node said is well-formed, nothing is left open, and the next peer is served."""
        promise(line.closed, "the connection is closed in the end")
        promise(not self.world.shelf.open, "no instance is left half open")
        promise(not self.world.house.places.taken(), "the place is free again")
        if not line.broke:
            for kind, body in pdus(line.heard):
                promise(kind in (2, 3, 4, 6, 7), "it says what an acceptor may say")
                if kind == P_DATA:
                    _check_answer(body)

    def serve_an_honest_peer(self) -> None:
        """Store, release."""
        line = self.world.say(self._honest)
        said = pdus(line.heard)
        promise([kind for kind, _ in said] == [P_DATA, 6], f"an honest peer is served: {said}")
        promise(status_of(said[0][1]) == 0, "with success")


def _honest_stream(*, verifies: bool = False) -> bytes:
    uid = "2.25.4711.1.1"
    image = datasets.named_data_set(uid, str(ExplicitVRLittleEndian))
    said = p_data(1, 3, store_command(uid.encode())) + p_data(1, 2, image)
    if verifies:
        said += p_data(5, 3, command(0x30, has_data=False, e0002=VERIFICATION.encode() + b"\0"))
    return said + _RELEASE


def _check_answer(body: bytes) -> None:
    length, _, control = struct.unpack_from(">IBB", body)
    promise(length == len(body) - 4, "one value fills its PDU")
    if control & 1:
        status = status_of(body)
        promise(control & 2 == 2 and status in _STATUSES, f"a status that is documented: {status:04X}")


class Streams(Behind):
    """The receive loop on an association that stands: any bytes end it well, and the next peer is served."""

    share = 50

    def make(self, rng: Random) -> bytes:
        """Return what a peer says on its association."""
        return grammar.stream(rng)

    def run(self, data: bytes) -> None:
        """Say it, then be an honest peer."""
        self.check(self.world.say(data))
        self.serve_an_honest_peer()


class Requests(Behind):
    """A-ASSOCIATE-RQ: accepted, rejected or aborted, and the next peer is served."""

    share = 20

    def make(self, rng: Random) -> bytes:
        """Return a request."""
        return grammar.request(rng)

    def run(self, data: bytes) -> None:
        """Ask, with the frame that the listener has checked, then release."""
        line = self.world.associate(b"\1\0" + struct.pack(">I", len(data[6:])) + data[6:], _RELEASE)
        self.check(line)
        first = pdus(line.heard)[:1] if not line.broke else []
        promise(line.broke or (bool(first) and first[0][0] in (2, 3, 7)), "a request has an answer")
        self.serve_an_honest_peer()


class Outside(Target):
    """The listener before an association: who waits leaves with an answer, or is let in with what it asked."""

    share = 25

    def open(self) -> None:
        """Make a listener that nobody runs."""
        room = WaitingRoom(seconds=60, total=10, each=10, longest=1 << 18)
        self._admitted: list[tuple[socket.socket, bytes]] = []
        self._listener = Listener(
            "127.0.0.1", 0, room, lambda connection, _, request: self._admitted.append((connection, request))
        )
        self._listener._selector = selectors.DefaultSelector()
        self.stack.callback(self._listener._socket.close)
        self.stack.callback(self._listener._bell.close)
        self.stack.callback(self._listener._ear.close)
        self.stack.callback(self._listener._selector.close)

    def make(self, rng: Random) -> bytes:
        """Return what somebody says."""
        return grammar.outside(rng)

    def run(self, data: bytes) -> None:
        """Say it in three pieces and hang up."""
        ours, theirs = socket.socketpair()
        try:
            ours.setblocking(False)
            self._run(ours, theirs, data[:_HELD_BY_A_SOCKET])
        finally:
            for guest in list(self._listener._guests):
                self._listener._leave(guest)
            ours.close()
            theirs.close()

    def _run(self, ours: socket.socket, theirs: socket.socket, data: bytes) -> None:
        listener, chance = self._listener, Random(zlib.crc32(data))
        guest = _Guest(ours, ADDRESS, 0.0)
        listener._guests[guest] = None
        listener._from[ADDRESS[0]] += 1
        listener._selector.register(ours, selectors.EVENT_READ, guest)
        cuts = sorted(chance.randrange(len(data) + 1) for _ in range(2))
        for piece in (data[: cuts[0]], data[cuts[0] : cuts[1]], data[cuts[1] :]):
            with suppress(BrokenPipeError):
                theirs.sendall(piece)
            if guest in listener._guests:
                listener._read(guest)
        theirs.shutdown(socket.SHUT_WR)
        if guest in listener._guests:
            listener._read(guest)
        promise(not listener._guests and not listener._from, "nobody waits who has hung up")
        for connection, request in self._admitted:
            promise(request == data[: len(request)], "what it asked is what it said")
            promise(len(request) == 6 + int.from_bytes(data[2:6], "big"), "whole")
            connection.setblocking(False)
            rest = data[len(request) : len(request) + 16]
            promise(not rest or connection.recv(len(rest)) == rest, "and not a byte more was read")
        self._admitted.clear()


class Doors(Behind):
    """A whole listening node on loopback, with its store and its table; after each input an honest peer stores."""

    share = 5

    def make(self, rng: Random) -> bytes:
        """Return all that a peer says."""
        return grammar.caller(rng)

    def run(self, data: bytes) -> None:
        """Say it, hang up, listen to the end; then be an honest peer."""
        heard = self._say(data)
        with suppress(AssertionError):  # closing over bytes that nobody read may take an answer away
            pdus(heard)
        said = pdus(self._say(grammar.HONEST_REQUEST + _honest_stream(verifies=True)))
        promise([kind for kind, _ in said] == [2, P_DATA, P_DATA, 6], f"an honest peer is served: {said}")
        promise(all(status_of(body) == 0 for kind, body in said[1:3]), "with success")

    def _say(self, data: bytes) -> bytes:
        peer, heard = Raw(self.world.settings.port), b""
        try:
            with suppress(OSError):  # it may have heard enough
                peer.send(data)
                peer.socket.shutdown(socket.SHUT_WR)
            with suppress(ConnectionError):
                while piece := peer.socket.recv(1 << 16):
                    heard += piece
        finally:
            peer.close()
        return heard


TARGETS: dict[str, type[Target]] = {
    kind.__name__.lower(): kind for kind in (Commands, Walks, Headers, Streams, Requests, Outside, Doors)
}
