"""Statuses, rejections and aborts: the numbers are those of the code, beside each the words for a reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from node import commitment as reasons
from node.db.commitments import NEVER
from node.dicom.commitment import ALL_COMMITTED, SOME_FAILED
from node.domain.peer import AnswerKind
from node.scp import commitment, handlers, messages, mpps, receiver, storing
from node.transport import cstore
from node.transport.cstore import read_status

_LAST = 0xFFFF

#: What we answer to C-STORE (PS3.4 B.2.3, PS3.7 C.5).
STORE = {
    storing.SUCCESS: "the instance is durable: synced in the journal, or in its file with name and row",
    storing.OUT_OF_RESOURCES: "no room, larger than `max_instance_bytes`, or it could not be made durable: send it "
    "again later",
    storing.NOT_THE_CLASS: "the data set is not the announced instance, or what was announced is no UID",
    storing.CANNOT_UNDERSTAND: "it cannot be filed: no or malformed UIDs, cut short, not DICOM, no data set",
    storing.NOT_AUTHORIZED: "the peer may not store (`may_send = false`)",
    storing.CLASS_NOT_SUPPORTED: "the presentation context is not for storage",
    storing.UNFORESEEN: "a failure that nothing foresees, in the log: send it again",
}
ECHO = {handlers.SUCCESS: "always"}

#: What we answer to a report on storage commitment that we asked for (N-EVENT-REPORT, PS3.4 J.3.3).
REPORT = {
    handlers.SUCCESS: "the report is in the table",
    handlers.NO_SUCH_EVENT: f"another event type than {ALL_COMMITTED} or {SOME_FAILED}",
    handlers.INVALID_ARGUMENT: "a transaction that was never asked for",
    handlers.PROCESSING_FAILURE: "its data set cannot be read",
}

#: What we answer to a request that is not served; the association lives on.
NOT_SERVED = {
    messages.UNRECOGNISED_OPERATION: "the operation is not one of those above on this presentation context",
    messages.CLASS_NOT_SUPPORTED: "a C- request names another class than its presentation context is for",
    messages.NO_SUCH_CLASS: "an N- request names another class than its presentation context is for",
}

#: What we answer to N-ACTION of storage commitment (PS3.4 J.3.2).
ACTION = {
    commitment.SUCCESS: "the question stands in the table: a crash loses none",
    commitment.PROCESSING_FAILURE: "it could not be written, or what was acknowledged is not filed yet: ask again; or "
    "its data set cannot be read",
    commitment.NO_SUCH_INSTANCE: "another instance than the well-known one",
    commitment.INVALID_ARGUMENT: "no or a malformed transaction UID, no instances, a malformed UID, one instance under "
    "two classes, or a transaction UID that this peer used for other instances",
    commitment.NO_SUCH_ACTION: "another action type than 1",
    commitment.NOT_AUTHORIZED: "the calling AE title is no peer with host and port, or may not send",
    commitment.RESOURCE_LIMITATION: f"more than {commitment.MOST:,} instances in one question",
}

#: Failure Reason (0008,1197) in our reports (PS3.3 C.14.1.1).
FAILURES = {
    reasons.NO_SUCH_INSTANCE: "no such instance is here",
    reasons.CONFLICT: "it is here under another SOP class",
    reasons.PROCESSING_FAILURE: "its file is missing or damaged",
}

#: What we answer to N-CREATE and N-SET of a performed procedure step (PS3.4 F.7.2).
STEP = {
    mpps.SUCCESS: "it stands in the table",
    mpps.INVALID_VALUE: "a status or UID that cannot be; a step that begins otherwise than IN PROGRESS; more than "
    f"{mpps.MOST_SERIES:,} series or {mpps.MOST_INSTANCES:,} instances",
    mpps.PROCESSING_FAILURE: "it could not be written: say it again; or its data set cannot be read; with error ID "
    f"{mpps.ENDED:04X}: the step has ended, and is not changed",
    mpps.DUPLICATE: "N-CREATE: the step is known",
    mpps.NO_SUCH_INSTANCE: "N-SET: the step is not known",
    mpps.MISSING_ATTRIBUTE: "N-CREATE: no status, or no Scheduled Step Attributes Sequence",
    mpps.MISSING_VALUE: "N-CREATE: a scheduled step without Study Instance UID",
    mpps.NOT_AUTHORIZED: "the peer may not send",
}

_ANSWERS = {
    AnswerKind.ACCEPTED: "taken; then looked for, as `verify` says",
    AnswerKind.LATER: "sent again with full jitter, up to `delivery_age_limit`",
    AnswerKind.REFUSED: "parked until a person retries",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """A status, or several with one meaning."""

    codes: str
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejection:
    """A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int
    says: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Abort:
    """A-ABORT (PS3.8 9.3.8)."""

    source: int
    reason: int
    says: str


def answers(table: Mapping[int, str]) -> tuple[Status, ...]:
    """Return the statuses of one service, in order."""
    return tuple(Status(codes=f"{code:04X}", says=says) for code, says in sorted(table.items()))


def store_answers() -> tuple[Status, ...]:
    """Return what each status of a peer means to our C-STORE: all there are, put to the function that reads them."""
    kinds = {code: read_status(code).kind for code in range(_LAST + 1)}
    found = []
    for kind, says in _ANSWERS.items():
        codes = [code for code, one in kinds.items() if one is kind]
        found.append(Status(codes="every other" if len(codes) > _LAST // 2 else _ranges(codes), says=says))
    return (*found, Status(codes="none", says="the peer is asked for the instance before anything is sent again"))


def find_answers() -> tuple[Status, ...]:
    """Return what each status of a peer means to our C-FIND."""
    later = [*cstore.TRANSIENT, cstore.OUT_OF_RESOURCES]
    return (
        Status(codes="0000", says="the answers are complete"),
        Status(codes=_ranges(cstore.PENDING), says="an answer"),
        Status(codes=_ranges(later), says="asked again later"),
        Status(codes="every other", says="the peer cannot be asked: it is believed, and the delivery says so"),
        Status(codes="none", says="the peer is away: asked again later"),
    )


def action_answers() -> tuple[Status, ...]:
    """Return what each status of a peer means to our question for storage commitment."""
    return (
        Status(codes="0000", says="its report is waited for"),
        Status(codes=_ranges(cstore.TRANSIENT), says="asked again later"),
        Status(codes="every other", says="the peer offers no storage commitment: it is queried"),
        Status(codes="none", says="asked again later"),
    )


def failure_reasons() -> tuple[Status, ...]:
    """Return what each Failure Reason in a peer's report means for the result."""
    return (
        Status(codes=_ranges(NEVER), says="parked until a person retries"),
        Status(codes="every other", says="the result is sent again"),
    )


def report_answers() -> tuple[Status, ...]:
    """Return what each status of a peer means to our report on storage commitment."""
    return (
        Status(codes="0000", says="it has its report"),
        Status(codes="every other, or none", says="the report is tried again"),
    )


def rejections() -> tuple[Rejection, ...]:
    """Return why associations are rejected, as the receiver does and as pynetdicom does for it."""
    found = (
        (receiver.PERMANENT, (1, 7), "another called AE title"),
        (receiver.PERMANENT, receiver.NOT_RECOGNISED, "the calling AE title is no peer that may come in, it calls from "
         "another address than its own, or shows another certificate"),
        (receiver.PERMANENT, receiver.NO_SUCH_APPLICATION, "another application context than DICOM's"),
        (receiver.PERMANENT, receiver.NO_SUCH_VERSION, "another version of the protocol"),
        (receiver.TRANSIENT, receiver.LIMIT_EXCEEDED, "no place is free for the peer: it comes again by itself"),
        (handlers.TRANSIENT, handlers.CONGESTED, "less of the disk is free than `disk_low_percent`, and more than "
         "verification is proposed"),
    )  # fmt: skip
    return tuple(
        Rejection(result=result, source=reason[0], reason=reason[1], says=says) for result, reason, says in found
    )


def aborts() -> tuple[Abort, ...]:
    """Return why an association is aborted."""
    found = (
        (0, 0, "silence for `network_timeout`, a PDU that takes longer than `pdu_timeout`, a data set of more than "
         "twice `max_instance_bytes`"),
        (2, receiver.UNRECOGNISED, "a PDU of a type that is none"),
        (2, receiver.UNEXPECTED, "a PDU that is not due"),
        (2, receiver.BAD_VALUE, "a PDU longer than `max_pdu_bytes`, before anything is made for it; a value longer or "
         "shorter than its PDU; a presentation context that was not accepted; no presentation context; a command that "
         "cannot be read"),
    )  # fmt: skip
    return tuple(Abort(source=source, reason=reason, says=says) for source, reason, says in found)


def _ranges(codes: Iterable[int]) -> str:
    """Return codes as a reader wants them: A700 to A7FF, not each of them."""
    return ", ".join(_spans(sorted(codes)))


def _spans(codes: list[int]) -> Iterator[str]:
    for _, group in groupby(enumerate(codes), lambda pair: pair[1] - pair[0]):
        run = [code for _, code in group]
        yield f"{run[0]:04X}" if len(run) == 1 else f"{run[0]:04X} to {run[-1]:04X}"
