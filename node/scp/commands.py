"""Command sets read and answered as bytes (PS3.7 6.3, 9.3, 10.3), in Implicit VR Little Endian: the hot path's own."""

from __future__ import annotations

import struct
from dataclasses import dataclass

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001  # PS3.7 E.1
_RESPONSE, _C_CANCEL_RQ = 0x8000, 0x0FFF
_OF_WHAT_IS_THERE = frozenset((0x0110, 0x0120, 0x0130, 0x0150))  # N-GET, N-SET, N-ACTION, N-DELETE
_NO_DATA_SET = 0x0101
_AFFECTED_CLASS, _REQUESTED_CLASS, _FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0002, 0x0003, 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _AFFECTED_INSTANCE, _REQUESTED_INSTANCE = 0x0800, 0x0900, 0x1000, 0x1001


class BadCommand(ValueError):
    """The bytes are no command set, or one without what it must have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What the receiver needs to know of a command set."""

    field: int
    has_data_set: bool
    message_id: int
    sop_class: bytes  # as sent, padding and all: they go back in the answer
    sop_uid: bytes

    @property
    def is_request(self) -> bool:
        """Return whether it is to be answered."""
        return _is_request(self.field)


def _is_request(field: int) -> bool:
    return not field & _RESPONSE and field != _C_CANCEL_RQ


def read_command(data: bytes) -> Command:
    """Return what *data* commands; BadCommand where that cannot be told."""
    found: dict[int, bytes] = {}
    place = 0
    while place < len(data):
        if len(data) - place < 8:
            raise BadCommand("a command element is cut short")
        group, element, length = struct.unpack_from("<HHI", data, place)
        place += 8
        if group != 0 or length > len(data) - place:
            raise BadCommand("no command set")
        found[element] = data[place : place + length]
        place += length
    field = _number(found, _FIELD)
    there = field in _OF_WHAT_IS_THERE
    command = Command(
        field=field, has_data_set=_number(found, _DATA_SET_TYPE) != _NO_DATA_SET,
        message_id=_number(found, _MESSAGE_ID) if _is_request(field) else 0,
        sop_class=found.get(_REQUESTED_CLASS if there else _AFFECTED_CLASS, b""),
        sop_uid=found.get(_REQUESTED_INSTANCE if there else _AFFECTED_INSTANCE, b""),
    )  # fmt: skip
    if field == C_STORE_RQ and not (command.sop_class and command.sop_uid):
        raise BadCommand("a C-STORE that announces no instance")
    return command


def _number(found: dict[int, bytes], element: int) -> int:
    value = found.get(element, b"")
    if len(value) != 2:
        raise BadCommand(f"no element (0000,{element:04X})")
    return int.from_bytes(value, "little")


def store_answer(context_id: int, request: Command, status: int) -> bytes:
    """Return the P-DATA-TF PDU (PS3.8 9.3.5) that answers a C-STORE, or what is not served, with *status*."""
    elements = b"".join(
        struct.pack("<HHI", 0, element, len(value)) + value
        for element, value in (
            (_AFFECTED_CLASS, request.sop_class),
            (_FIELD, (request.field | _RESPONSE).to_bytes(2, "little")),
            (_RESPONDED_TO, request.message_id.to_bytes(2, "little")),
            (_DATA_SET_TYPE, _NO_DATA_SET.to_bytes(2, "little")),
            (_STATUS, status.to_bytes(2, "little")),
            (_AFFECTED_INSTANCE, request.sop_uid),
        )
    )
    command = struct.pack("<HHII", 0, 0, 4, len(elements)) + elements
    last_of_command = 0x03  # PS3.8 E.2
    item = struct.pack(">IBB", len(command) + 2, context_id, last_of_command) + command
    return struct.pack(">BBI", 0x04, 0, len(item)) + item
