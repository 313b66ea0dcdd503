"""Every message that is no C-STORE: which of them this node serves, and how pynetdicom reads one."""

from __future__ import annotations

from typing import Any

from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    Verification,
)

from node.dicom.header import PARSE_ERRORS, quiet
from node.scp.commands import Command

UNRECOGNISED_OPERATION, CLASS_NOT_SUPPORTED, NO_SUCH_CLASS = 0x0211, 0x0122, 0x0118  # PS3.7 annex C
_C_ECHO, _N_EVENT_REPORT, _N_SET, _N_ACTION, _N_CREATE = 0x0030, 0x0100, 0x0120, 0x0130, 0x0140  # PS3.7 E.1
_FIRST_N = _N_EVENT_REPORT
_SERVED = frozenset((
    (_C_ECHO, str(Verification)),
    (_N_CREATE, str(ModalityPerformedProcedureStep)), (_N_SET, str(ModalityPerformedProcedureStep)),
    (_N_ACTION, str(StorageCommitmentPushModel)), (_N_EVENT_REPORT, str(StorageCommitmentPushModel)),
))  # fmt: skip


class BadMessage(ValueError):
    """pynetdicom cannot read a message."""


def refusal(command: Command, abstract_syntax: str) -> int:
    """Return the status of a request that is not served on a presentation context; 0 where it is.

    pynetdicom would go by the class that the request names, whatever was negotiated, and abort where it has none.
    """
    if (command.field, abstract_syntax) not in _SERVED:
        return UNRECOGNISED_OPERATION
    if command.sop_class.rstrip(b"\0 ") != abstract_syntax.encode():
        return NO_SUCH_CLASS if command.field >= _FIRST_N else CLASS_NOT_SUPPORTED
    return 0


def read_message(context_id: int, command: bytes, data: bytes | None) -> Any:
    """Return pynetdicom's primitive of a whole message; BadMessage where it makes none of it."""
    values: Any = [[context_id, b"\x03" + command]]  # PS3.8 E.2
    if data is not None:
        values.append([context_id, b"\x02" + data])
    whole, message = P_DATA(), DIMSEMessage()
    whole.presentation_data_value_list = values
    try:
        with quiet():
            message.decode_msg(whole)
            return message.message_to_primitive()
    except PARSE_ERRORS as why:
        raise BadMessage("a message that cannot be read") from why
