"""The door itself: takes connections, and has each wait outside until its A-ASSOCIATE-RQ is whole.

Whoever waits costs a descriptor and the bytes it has sent, no thread and no place. One thread reads from all of them
and never blocks, so nobody who is silent, slow or mad stands in another's way. A TLS handshake is one more thing that
a waiting connection is not through with.
"""

from __future__ import annotations

import errno
import logging
import selectors
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

log = logging.getLogger(__name__)

_HEADER = struct.Struct(">BxI")  # PS3.8 9.3.1: type, reserved, length of what follows
_ASSOCIATE_RQ = 0x01
_UNRECOGNISED, _UNEXPECTED, _BAD_VALUE = 0x01, 0x02, 0x06  # PS3.8 9.3.8
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_LEAVE_AT_ONCE = 16  # who store need descriptors too
_BREATH = 0.2  # seconds without accepting where the system has no descriptor left
_HEARD_OUT = 1 << 16  # bytes
_BACKLOG = 1024  # connections that the system holds for us while we are busy
_TICK = 0.25  # seconds between two looks at deadlines

Admit = Callable[[socket.socket, tuple[Any, ...], bytes], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class WaitingRoom:
    """What those may do who have no association yet."""

    seconds: float  # from the connection to the end of the A-ASSOCIATE-RQ
    total: int  # connections
    each: int  # of them from one address
    longest: int  # bytes of an A-ASSOCIATE-RQ


@dataclass(slots=True, eq=False)
class _Guest:
    connection: socket.socket
    address: tuple[Any, ...]
    until: float
    shaken: bool = True  # whether a TLS handshake is over, or none is needed
    data: bytearray = field(default_factory=bytearray)
    wanted: int = _HEADER.size


class Listener:
    """Listens from `start` until `shutdown`; *admit* is handed each connection with its A-ASSOCIATE-RQ."""

    def __init__(
        self, host: str, port: int, room: WaitingRoom, admit: Admit, tls: ssl.SSLContext | None = None
    ) -> None:
        self._room, self._admit, self._tls = room, admit, tls
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self.port = int(self._socket.getsockname()[1])
        self._guests: dict[_Guest, None] = {}  # the oldest first
        self._from: Counter[str] = Counter()
        self._bell, self._ear = socket.socketpair()
        self._selector = selectors.DefaultSelector()  # epoll: it knows no limit of 1,024 descriptors
        self._deaf_until = 0.0
        self._thread = threading.Thread(target=self._serve, name="listener", daemon=True)

    def start(self) -> None:
        """Begin to take connections."""
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._thread.start()

    def shutdown(self) -> None:
        """Take no more connections and turn away those who wait; associations go on."""
        self._bell.close()
        self._thread.join()

    def waiting(self) -> int:
        """Return how many connections wait."""
        return len(self._guests)

    def _serve(self) -> None:
        try:
            while self._round():
                pass
        finally:
            for guest in list(self._guests):
                self._leave(guest)
            self._selector.close()
            self._socket.close()
            self._ear.close()

    def _round(self) -> bool:
        """Hear everybody once; return False when it is over."""
        for key, _ in self._selector.select(_TICK):
            if key.fileobj is self._ear:
                return False
            if key.fileobj is self._socket:
                self._accept()
            elif key.data in self._guests:  # else it left a moment ago, for somebody newer
                self._read(key.data)
        now = time.monotonic()
        for guest in list(self._guests):
            if guest.until > now:
                break
            log.info("a connection without an A-ASSOCIATE-RQ was closed", extra={"address": guest.address[0]})
            self._leave(guest)
        if self._deaf_until and now >= self._deaf_until:
            self._deaf_until = 0.0
            self._selector.register(self._socket, selectors.EVENT_READ)
        return True

    def _accept(self) -> None:
        """Take what connections there are; one address, or all, may have so many: the oldest leaves for the newest.

        An honest peer sends its request at once and is gone from here before its turn comes.
        """
        while True:
            try:
                connection, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as why:
                if why.errno in _EXHAUSTED and not self._make_room():
                    return
                continue  # it has left already, or there is room now
            connection.setblocking(False)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
            if self._from[address[0]] >= self._room.each:
                self._leave(next(guest for guest in self._guests if guest.address[0] == address[0]))
            elif len(self._guests) >= self._room.total:
                self._leave(next(iter(self._guests)))
            guest = _Guest(connection, address, time.monotonic() + self._room.seconds, self._tls is None)
            self._guests[guest] = None
            self._from[address[0]] += 1
            self._selector.register(connection, selectors.EVENT_READ, guest)
            self._read(guest)  # what is already there

    def _make_room(self) -> bool:
        """No descriptor is left: those who wait longest give theirs; return False where nobody waits.

        Then nobody is heard for a breath: else this thread would ask the system again and again.
        """
        log.error("no descriptor is left for a connection", extra={"waiting": len(self._guests)})
        leaving = list(self._guests)[:_LEAVE_AT_ONCE]
        for guest in leaving:
            self._leave(guest)
        if leaving:
            return True
        self._selector.unregister(self._socket)
        self._deaf_until = time.monotonic() + _BREATH
        return False

    def _read(self, guest: _Guest) -> None:
        """Read what a guest has sent, never a byte behind its A-ASSOCIATE-RQ."""
        if not guest.shaken and not self._shake(guest):
            return
        while len(guest.data) < guest.wanted:
            try:
                piece = guest.connection.recv(guest.wanted - len(guest.data))
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                piece = b""
            if not piece:
                self._leave(guest)
                return
            guest.data += piece
            if guest.data[0] != _ASSOCIATE_RQ:
                self._turn_away(guest, _UNEXPECTED if guest.data[0] in range(0x02, 0x08) else _UNRECOGNISED)
                return
            if len(guest.data) == _HEADER.size:
                guest.wanted += _HEADER.unpack(guest.data)[1]
                if guest.wanted > self._room.longest:
                    self._turn_away(guest, _BAD_VALUE)
                    return
        self._forget(guest)
        guest.connection.setblocking(True)
        self._admit(guest.connection, guest.address, bytes(guest.data))

    def _shake(self, guest: _Guest) -> bool:
        """Go on with a handshake; return True where it is over, and good."""
        connection = cast("ssl.SSLSocket", guest.connection)
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            self._selector.modify(connection, selectors.EVENT_READ, guest)
            return False
        except ssl.SSLWantWriteError:
            self._selector.modify(connection, selectors.EVENT_WRITE, guest)
            return False
        except OSError as why:  # the peer is told by an alert which of the two did not please
            reason = getattr(why, "reason", None) or type(why).__name__
            log.warning("TLS was not agreed upon", extra={"address": guest.address[0], "why": reason})
            self._leave(guest)
            return False
        self._selector.modify(connection, selectors.EVENT_READ, guest)
        guest.shaken = True
        return True

    def _turn_away(self, guest: _Guest, reason: int) -> None:
        """Send an A-ABORT of the provider (PS3.8 9.3.8) and close."""
        log.info("what came was no A-ASSOCIATE-RQ", extra={"address": guest.address[0], "reason": reason})
        with suppress(OSError):
            guest.connection.send(struct.pack(">BBIBBBB", 0x07, 0, 4, 0, 0, 2, reason))
            guest.connection.shutdown(socket.SHUT_WR)
            guest.connection.recv(_HEARD_OUT)  # closing over bytes that nobody read would take our answer away
        self._leave(guest)

    def _leave(self, guest: _Guest) -> None:
        self._forget(guest)
        guest.connection.close()

    def _forget(self, guest: _Guest) -> None:
        self._selector.unregister(guest.connection)
        del self._guests[guest]
        self._from[guest.address[0]] -= 1
        if not self._from[guest.address[0]]:
            del self._from[guest.address[0]]
