"""A connection as the receiver reads it: one buffer, made once, and a deadline for everything."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from contextlib import suppress

_TICK = 1.0  # seconds after which a silent connection is looked at: deadlines, an end from elsewhere
_TLS_TICK = 5.0  # the same over TLS, where it is also the time that an answer has to be taken
_LAST_WORD = 0.5  # seconds for a peer to hear why its association ends
_HEARD_OUT = 1 << 22  # bytes that it may still send meanwhile
_HEADER = struct.Struct(">BxI")  # PS3.8 9.3.1: type, reserved, length of what follows


class Gone(ConnectionError):
    """The peer closed the connection, or it broke."""


class Silent(TimeoutError):
    """No PDU came for so long that the association is given up."""


class TooSlow(TimeoutError):
    """A PDU began and did not end in time."""


class Wire:
    """Reads PDUs of any length through a buffer of one length, and writes whole ones."""

    def __init__(
        self, connection: socket.socket, *, buffer: int, idle: float, pdu: float, ended: Callable[[], bool]
    ) -> None:
        """*idle* and *pdu* are seconds: without any PDU, and for one PDU; *ended* may be asked every second."""
        self._connection, self._idle, self._pdu, self._ended = connection, idle, pdu, ended
        self._buffer = memoryview(bytearray(buffer))
        self._start = self._end = 0
        self._deadline = 0.0
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(connection, ssl.SSLSocket):  # OpenSSL tries again by itself after a kernel's time-out
            connection.settimeout(min(_TLS_TICK, idle / 2, pdu / 2))
            return
        connection.setblocking(True)
        # The kernel's own time-outs spare a poll before each read, and know no limit of 1,024 descriptors.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(min(_TICK, idle / 2, pdu / 2)))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(pdu))

    def next_pdu(self) -> tuple[int, int]:
        """Wait for a PDU; return its type and how many bytes follow. From here on it has its time."""
        if self._start == self._end:
            self._deadline = time.monotonic() + self._idle
            try:
                self._fill()
            except TooSlow as why:
                raise Silent from why
        self._deadline = time.monotonic() + self._pdu
        kind, length = _HEADER.unpack(self.take(_HEADER.size))
        return kind, length

    def take(self, count: int) -> bytes:
        """Return exactly *count* bytes; no more than the buffer holds."""
        while self._end - self._start < count:
            self._fill()
        start = self._start
        self._start += count
        return bytes(self._buffer[start : self._start])

    def some(self, limit: int) -> memoryview:
        """Return between 1 and *limit* bytes; they are good until the next call."""
        if self._start == self._end:
            self._fill()
        start = self._start
        self._start = min(self._end, start + limit)
        return self._buffer[start : self._start]

    def send(self, data: bytes) -> None:
        """Write all of *data*; Gone where nobody takes it."""
        try:
            self._connection.sendall(data)
        except OSError as why:
            raise Gone from why

    def last_word(self) -> None:
        """Give the peer a moment to read what was sent last: closing over bytes of its own would take it away again."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            self._connection.settimeout(_LAST_WORD)
            until, left = time.monotonic() + _LAST_WORD, _HEARD_OUT
            while left > 0 and time.monotonic() < until and (count := self._connection.recv_into(self._buffer)):
                left -= count

    def close(self) -> None:
        """Close the connection, from whichever thread."""
        with suppress(OSError):  # the peer has closed it already
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _fill(self) -> None:
        """Read what has come, at least a byte."""
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == len(self._buffer):  # the rest is short: the head of a PDU or of an item
            rest = bytes(self._buffer[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        while True:
            try:
                count = self._connection.recv_into(self._buffer[self._end :])
            except (BlockingIOError, TimeoutError):
                count = -1  # a tick without a byte
            except OSError as why:
                raise Gone from why
            if count == 0 or self._ended():
                raise Gone
            if time.monotonic() > self._deadline:
                raise TooSlow
            if count > 0:
                self._end += count
                return


def _timeval(seconds: float) -> bytes:
    whole = int(seconds)
    return struct.pack("@ll", whole, max(1, int((seconds - whole) * 1_000_000)))
