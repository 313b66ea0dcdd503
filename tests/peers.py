"""Peers that speak the upper layer byte by byte, as no library would: for faults, bad input and attacks."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

CT = "1.2.840.10008.5.1.4.1.1.2"
FIND = "1.2.840.10008.5.1.4.1.2.2.1"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ABORT, REJECT, ACCEPT, P_DATA = 7, 3, 2, 4

Context = tuple[int, str, Sequence[str]]


def _item(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxH", kind, len(body)) + body


def pdu(kind: int, body: bytes, *, claim: int = -1) -> bytes:
    """Return a PDU; *claim* is a length that is not its own."""
    return struct.pack(">BxI", kind, len(body) if claim < 0 else claim) + body


def associate_rq(
    *contexts: Context, calling: bytes = b"SCANNER", called: bytes = b"PACSAINODE", version: int = 1
) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2)."""
    items = _item(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract, syntaxes in contexts or ((1, CT, (EXPLICIT,)),):
        inside = _item(0x30, abstract.encode()) + b"".join(_item(0x40, one.encode()) for one in syntaxes)
        items += _item(0x20, struct.pack(">Bxxx", number) + inside)
    items += _item(0x50, _item(0x51, struct.pack(">I", 16384)) + _item(0x52, b"1.2.3.4"))
    head = struct.pack(">Hxx16s16s32x", version, called.ljust(16), calling.ljust(16))
    return pdu(1, head + items)


def p_data(number: int, control: int, data: bytes, *, claim: int = -1) -> bytes:
    """Return a P-DATA-TF of one value: *control* 1 of a command, 2 the last, 3 both."""
    return pdu(P_DATA, struct.pack(">IBB", len(data) + 2 if claim < 0 else claim, number, control) + data)


def command(field: int, *, has_data: bool = True, message: int = 1, **elements: bytes) -> bytes:
    """Return a command set; *elements* are named by their numbers, e.g. ``e1000``."""
    values = {
        0x0100: struct.pack("<H", field), 0x0110: struct.pack("<H", message),
        0x0800: struct.pack("<H", 1 if has_data else 0x0101),
        **{int(name[1:], 16): value for name, value in elements.items()},
    }  # fmt: skip
    body = b"".join(struct.pack("<HHI", 0, tag, len(values[tag])) + values[tag] for tag in sorted(values))
    return struct.pack("<HHII", 0, 0, 4, len(body)) + body


def store_command(sop_uid: bytes, sop_class: bytes = CT.encode() + b"\0") -> bytes:
    """Return the command set of a C-STORE-RQ."""
    return command(1, e0002=sop_class, e1000=sop_uid + b"\0" * (len(sop_uid) % 2), e0700=b"\2\0")


def status_of(body: bytes) -> int:
    """Return the status in a P-DATA-TF PDU of one command set; -1 where there is none."""
    place, data = 0, body[6:]
    while place < len(data):
        _, element, length = struct.unpack_from("<HHI", data, place)
        if element == 0x0900:
            return int(struct.unpack_from("<H", data, place + 8)[0])
        place += 8 + length
    return -1


class Raw:
    """One connection."""

    def __init__(self, port: int, *data: bytes, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(*data)

    def send(self, *data: bytes) -> None:
        """Send bytes as they are."""
        for piece in data:
            self.socket.sendall(piece)

    def answer(self) -> tuple[int, bytes]:
        """Return type and body of the next PDU; (0, b"") where the connection was closed instead."""
        try:
            head = self._exactly(6)
            if len(head) < 6:
                return 0, b""
            kind, length = struct.unpack(">BxI", head)
            return kind, self._exactly(length)
        except ConnectionError:
            return 0, b""

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count and (piece := self.socket.recv(count - len(data))):
            data += piece
        return data

    def status(self) -> int:
        """Return the status of the answer that comes next; -1 where it is another PDU."""
        kind, body = self.answer()
        return status_of(body) if kind == P_DATA else -1

    def close(self) -> None:
        """Close it."""
        self.socket.close()


def associated(port: int, *contexts: Context, calling: bytes = b"SCANNER", source: str = "127.0.0.1") -> Raw:
    """Return a connection with an association; AssertionError where the node refuses it."""
    peer = Raw(port, associate_rq(*contexts, calling=calling), source=source)
    kind, body = peer.answer()
    assert kind == ACCEPT, (kind, body)
    return peer
