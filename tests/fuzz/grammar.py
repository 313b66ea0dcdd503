"""What peers say, right and wrong: command sets, requests, streams of PDUs, each drawn from a source of chance.

The source is a `random.Random`. A seeded one is fast; hypothesis gives one whose choices it can shrink; atheris gives
one that reads them from the bytes that it evolves. The grammar is the same for all three.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian

from tests.fuzz.datasets import Pen, claimed, data_set, named_data_set, step_of, transaction
from tests.peers import CT, EXPLICIT, FIND, IMPLICIT, VERIFICATION, p_data, pdu

MPPS, COMMITMENT, COMMITMENT_INSTANCE = (
    "1.2.840.10008.3.1.2.3.3", "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
)  # fmt: skip
#: What the honest request of a stream asks for: context, abstract and transfer syntax.
CONTEXTS = {
    1: (CT, EXPLICIT), 3: (CT, IMPLICIT), 5: (VERIFICATION, IMPLICIT), 7: (MPPS, IMPLICIT), 9: (COMMITMENT, IMPLICIT),
    11: (CT, str(DeflatedExplicitVRLittleEndian)), 13: (CT, str(ExplicitVRBigEndian)), 15: (MPPS, EXPLICIT),
    17: (COMMITMENT, EXPLICIT),
}  # fmt: skip
_STORE, _ECHO, _FIND, _GET, _MOVE, _CANCEL = 0x0001, 0x0030, 0x0020, 0x0010, 0x0021, 0x0FFF  # PS3.7 E.1
_EVENT, _N_GET, _SET, _ACTION, _CREATE, _DELETE = 0x0100, 0x0110, 0x0120, 0x0130, 0x0140, 0x0150
_FIELDS = (_STORE, _ECHO, _FIND, _GET, _MOVE, _CANCEL, _EVENT, _N_GET, _SET, _ACTION, _CREATE, _DELETE)
_CLASSES = (CT, VERIFICATION, MPPS, COMMITMENT, FIND, "1.2.840.10008.5.1.4.1.1.66.4", "1.2.3", "")
_UIDS = ("2.25.4711.1.1", COMMITMENT_INSTANCE, "1.2.3", "1" * 64, "1" * 65, "../../x", "1.2\x003", "", "\xff")
_ODD_BYTES = (*range(0, 256, 17), 0x7F, 0x80)
_Made = TypeVar("_Made")


def spoiled(rng: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Return *data* after one to four accidents: bytes changed, lost, doubled, strange, or another's."""
    out = bytearray(data)
    for _ in range(1 + rng.randrange(4)):
        place, kind = rng.randrange(len(out) + 1), rng.randrange(9)
        length = 1 + rng.randrange(16)
        if kind <= 2 and place < len(out):
            out[place] = rng.randrange(256) if kind else out[place] ^ 1 << rng.randrange(8)
        elif kind == 3:
            del out[place : place + length]
        elif kind == 4:
            out[place:place] = out[place : place + length]
        elif kind == 5:
            number = claimed(rng, len(out))
            width = rng.choice((1, 2, 4))
            out[place : place + width] = (number & (1 << 8 * width) - 1).to_bytes(width, rng.choice(("little", "big")))
        elif kind == 6:
            out[place:place] = bytes(rng.choice(_ODD_BYTES) for _ in range(length))
        elif kind == 7 and others:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[place : place + length] = other[start : start + rng.randrange(200)]
        else:
            del out[place:]
    return bytes(out)


def _uid(text: str) -> bytes:
    raw = text.encode("latin-1")
    return raw + b"\0" * (len(raw) % 2)


def _short(number: int) -> bytes:
    return struct.pack("<H", number)


def _element(pen: Pen, element: int, value: bytes) -> bytes:
    group = pen.rng.choice((2, 8, 0xFFFE)) if pen.slips() else 0
    if pen.slips():
        value = pen.rng.choice((b"", value + b"\0", value[:-1], value * 2, bytes(70_000)))
    length = claimed(pen.rng, len(value)) if pen.slips() else len(value)
    return struct.pack("<HHI", group, element, length & 0xFFFFFFFF) + value


def command_set(rng: Random) -> bytes:
    """Return a command set (PS3.7 6.3), as it should be or nearly so."""
    pen = Pen(rng)
    return _command(pen, rng.choice(_FIELDS), has_data=rng.random() < 0.5, sop_class=rng.choice(_CLASSES),
                    sop_uid=rng.choice(_UIDS), message=rng.randrange(65536))  # fmt: skip


def _command(pen: Pen, field: int, *, has_data: bool, sop_class: str, sop_uid: str, message: int = 1) -> bytes:
    rng = pen.rng
    if pen.slips():
        field = rng.choice((field | 0x8000, rng.randrange(65536), 0))
    requested = field in (_N_GET, _SET, _ACTION, _DELETE)
    elements = [
        (0x0003 if requested else 0x0002, _uid(sop_class)), (0x0100, _short(field)),
        (0x0120 if field & 0x8000 or field == _CANCEL else 0x0110, _short(message)),
        (0x0800, _short(rng.choice((0, 1, 0x0102)) if has_data else 0x0101)),
    ]  # fmt: skip
    if field & 0x8000:
        elements.append((0x0900, _short(rng.choice((0, 0xFF00, 0xA700, 0xFFFF)))))
    if field in (_STORE, _FIND, _GET, _MOVE):
        elements.append((0x0700, _short(rng.choice((0, 1, 2, 9)))))
    if sop_uid or field not in (_CREATE, _ECHO):
        elements.append((0x1001 if requested else 0x1000, _uid(sop_uid)))
    if field in (_EVENT, _ACTION):
        elements.append((0x1002 if field == _EVENT else 0x1008, _short(rng.choice((1, 1, 1, 2, 3, 0)))))
    if field == _STORE and rng.random() < 0.2:
        elements += [(0x1030, b"MOVER "), (0x1031, _short(7))]
    for _ in range(3):
        if pen.slips():
            one = rng.randrange(len(elements))
            change: Callable[[], object] = rng.choice((
                lambda one=one: elements.pop(one), lambda one=one: elements.append(elements[one]),
                lambda: rng.shuffle(elements), lambda: elements.insert(0, (rng.randrange(65536), b"junk")),
            ))  # fmt: skip
            if len(elements) > 1:
                change()
    body = b"".join(_element(pen, number, value) for number, value in elements)
    if rng.random() < 0.05:
        return body  # without its group length
    length = claimed(rng, len(body)) if pen.slips() else len(body)
    return struct.pack("<HHII", 0, 0, 4, length & 0xFFFFFFFF) + body


def _item(pen: Pen, kind: int, body: bytes) -> bytes:
    if pen.slips():
        kind = pen.rng.choice((0x10, 0x20, 0x21, 0x30, 0x40, 0x50, 0x51, 0x54, 0x56, 0x57, 0x58, 0x59, 0, 0xFF))
    length = claimed(pen.rng, len(body)) if pen.slips() else len(body)
    return struct.pack(">BxH", kind, length & 0xFFFF) + body


def _context(pen: Pen, number: int) -> bytes:
    rng = pen.rng
    abstract = rng.choice(_CLASSES[:6]) if not pen.slips() else rng.choice((*_CLASSES, "x" * 70, "\xff\xfe"))
    syntaxes = [rng.choice((EXPLICIT, IMPLICIT, "1.2.840.10008.1.2.4.50", "1.2.3")) for _ in range(rng.randint(1, 3))]
    if pen.slips():
        syntaxes = rng.choice(([], ["a" * 70], [""], syntaxes * 20))
    inside = _item(pen, 0x30, abstract.encode("latin-1")) if not pen.slips() else b""
    inside += b"".join(_item(pen, 0x40, one.encode("latin-1")) for one in syntaxes)
    head = bytes((number & 0xFF, *((0, 0, 0) if not pen.slips() else rng.randbytes(3))))
    return _item(pen, 0x20, head + inside)


def _user_information(pen: Pen) -> bytes:
    """Return the sub-items of annex D of PS3.7 and of PS3.8."""
    rng = pen.rng
    parts = [_item(pen, 0x51, struct.pack(">I", claimed(rng, 16384))), _item(pen, 0x52, b"1.2.3.4")]
    sop_class = rng.choice(_CLASSES).encode()
    if rng.random() < 0.3:
        parts.append(_item(pen, 0x53, struct.pack(">HH", *(rng.choice((0, 1, 9, 65535)) for _ in range(2)))))
    if rng.random() < 0.3:
        parts.append(_item(pen, 0x55, rng.choice((b"VERSION", b"", b"\xff" * 20, b"v" * 17))))
    if rng.random() < 0.3:
        roles = bytes(rng.choice((0, 1, 1, 2)) for _ in range(2))
        parts.append(_item(pen, 0x54, struct.pack(">H", len(sop_class)) + sop_class + roles))
    if rng.random() < 0.2:
        more = rng.randbytes(rng.randrange(20))
        parts.append(_item(pen, 0x56, struct.pack(">H", len(sop_class)) + sop_class + more))
    if rng.random() < 0.2:
        related = struct.pack(">H", len(sop_class)) + sop_class
        parts.append(_item(pen, 0x57, related * 2 + struct.pack(">H", len(related)) + related))
    if rng.random() < 0.3:
        first, second = rng.randbytes(rng.randrange(12)), rng.randbytes(rng.randrange(12))
        identity = bytes((rng.choice((1, 2, 3, 4, 5, 0, 9)), rng.choice((0, 1))))
        identity += struct.pack(">H", len(first)) + first + struct.pack(">H", len(second)) + second
        parts.append(_item(pen, 0x58, identity))
    if pen.slips():
        rng.shuffle(parts)
    if pen.slips():
        parts += parts[:1] * rng.choice((1, 50))
    return _item(pen, 0x50, b"".join(parts))


def request(rng: Random) -> bytes:
    """Return an A-ASSOCIATE-RQ (PS3.8 9.3.2), as it should be or nearly so."""
    pen = Pen(rng)
    numbers = [1 + 2 * place for place in range(rng.choice((1, 1, 2, 3, 10, 128)))]
    if pen.slips():
        numbers = rng.choice(([], [0], [2], [1, 1], [255] * 3, [*range(1, 256, 2), 1, 3]))
    items = [] if pen.slips() else [_item(pen, 0x10, b"1.2.840.10008.3.1.1.1")]
    items += [_context(pen, number) for number in numbers]
    if not pen.slips():
        items.append(_user_information(pen))
    for change in (rng.shuffle, lambda those: those.extend(those[:2])):
        if pen.slips():
            change(items)
    titles = [b"PACSAINODE".ljust(16), b"SCANNER".ljust(16)]
    for place in range(2):
        if pen.slips():
            odd = (b" " * 16, b"\0" * 16, b"\xff" * 16, b"$(id)\r\n\x1b[2J    ", rng.randbytes(16))
            titles[place] = rng.choice(odd)
    version = rng.randrange(65536) if pen.slips() else 1
    reserved = rng.randbytes(32) if pen.slips() else bytes(32)
    return pdu(1, struct.pack(">Hxx", version) + b"".join(titles) + reserved + b"".join(items))


def _message(pen: Pen) -> tuple[int, bytes, bytes | None]:
    """Return one message: its context, its command set, and its data set where it has one."""
    rng, kind = pen.rng, pen.rng.randrange(10)
    if kind < 5:
        context = rng.choice((1, 1, 1, 3, 11, 13))
        uid = f"2.25.4711.1.{rng.randrange(1, 9)}"
        said = uid if not pen.slips() else rng.choice(_UIDS)
        syntax = CONTEXTS[context][1]
        data = named_data_set(uid, syntax) if rng.random() < 0.7 else data_set(rng, syntax)
        return context, _command(pen, _STORE, has_data=True, sop_class=CT, sop_uid=said), data
    if kind == 5:
        return 5, _command(pen, _ECHO, has_data=False, sop_class=VERIFICATION, sop_uid=""), None
    if kind == 6:
        field = rng.choice((_CREATE, _SET))
        uid = f"2.25.99.{rng.randrange(4)}"
        context = rng.choice((7, 15))
        command = _command(pen, field, has_data=True, sop_class=MPPS, sop_uid=uid)
        return context, command, step_of(pen, implicit=context == 7)
    if kind == 7:
        field = rng.choice((_ACTION, _ACTION, _EVENT))
        command = _command(pen, field, has_data=True, sop_class=COMMITMENT, sop_uid=COMMITMENT_INSTANCE)
        context = rng.choice((9, 17))
        return context, command, transaction(pen, implicit=context == 9)
    context = rng.choice(tuple(CONTEXTS))
    has_data = rng.random() < 0.5
    command = _command(pen, rng.choice(_FIELDS), has_data=has_data, sop_class=rng.choice(_CLASSES),
                       sop_uid=rng.choice(_UIDS))  # fmt: skip
    return context, command, data_set(rng, CONTEXTS[context][1]) if has_data else None


def _values(pen: Pen, context: int, data: bytes, of_command: int) -> list[bytes]:
    """Return the presentation data values (PS3.8 9.3.5.1) of a command set or of a data set."""
    rng = pen.rng
    size = rng.choice((1 << 20, 1 << 20, 1 << 20, 1000, 100)) if len(data) < 2000 else 1 << 20
    pieces = [data[place : place + size] for place in range(0, len(data), size)] or [b""]
    values = []
    for place, piece in enumerate(pieces):
        control = of_command | 2 * (place == len(pieces) - 1)
        if pen.slips():
            control = rng.randrange(256)
        number = rng.choice((0, 1, 2, 3, 5, 15, 255)) if pen.slips() else context
        length = claimed(rng, len(piece) + 2) if pen.slips() else len(piece) + 2
        values.append(struct.pack(">IBB", length & 0xFFFFFFFF, number, control) + piece)
    return values


def stream(rng: Random) -> bytes:
    """Return what a peer says once it has an association for `CONTEXTS`: whole messages, and slips of all kinds."""
    pen = Pen(rng)
    values: list[bytes] = []
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        context, command, data = _message(pen)
        values += _values(pen, context, command, 1)
        if data is not None and not pen.slips():
            values += _values(pen, context, data, 0)
    for change in (rng.shuffle, lambda those: those.pop(), lambda those: those.extend(those[-1:])):
        if pen.slips() and values:
            change(values)
    out = []
    while values:
        count = rng.choice((1, 1, 1, 2, 5))
        body = b"".join(values[:count])
        del values[:count]
        out.append(pdu(4, body, claim=claimed(rng, len(body)) & 0xFFFFFFFF) if pen.slips() else pdu(4, body))
    if pen.slips():
        out.insert(rng.randrange(len(out) + 1), rng.choice((
            pdu(9, bytes(4)), pdu(5, bytes(4)), pdu(5, b""), pdu(7, bytes(4)), pdu(6, bytes(4)), pdu(2, bytes(68)),
            request(rng), p_data(1, 3, b""), pdu(4, b""), rng.randbytes(20),
        )))  # fmt: skip
    if rng.random() < 0.7:
        out.append(pdu(rng.choice((5, 5, 5, 7)), bytes(4)))
    return b"".join(out)


def outside(rng: Random) -> bytes:
    """Return what somebody says who has no association yet."""
    kind = rng.randrange(6)
    if kind < 3:
        return request(rng) + (stream(rng) if kind == 0 else b"")
    if kind == 3:
        tls_hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"
        return rng.choice((b"GET / HTTP/1.1\r\n\r\n", tls_hello, b"SSH-2.0-x\r\n", b""))
    if kind == 4:
        return pdu(rng.randrange(12), rng.randbytes(rng.randrange(80)), claim=claimed(rng, 70) & 0xFFFFFFFF)
    return rng.randbytes(rng.randrange(100))


def caller(rng: Random) -> bytes:
    """Return all that a peer says from its first byte to its last."""
    return (outside(rng) if rng.random() < 0.3 else HONEST_REQUEST) + stream(rng)


def _honest_request() -> bytes:
    from tests.peers import associate_rq

    return associate_rq(*((number, abstract, (syntax,)) for number, (abstract, syntax) in CONTEXTS.items()))


HONEST_REQUEST = _honest_request()
