"""Storage commitment as a provider, the listener's side: the question is kept, then answered, then reported on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Hashable
from datetime import timedelta
from typing import Any

from pydicom import Dataset
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    Verification,
)
from sqlalchemy.exc import SQLAlchemyError

from node.commitment import Reporter, Tell, peer_titled
from node.db import commit_requests
from node.dicom.commitment import read_request
from node.domain.uid import is_uid
from node.errors import PeerAway
from node.failpoints import reach
from node.intake import Intake
from node.logs import failure
from node.settings import Settings
from node.transport.reports import tell

log = logging.getLogger(__name__)

SUCCESS, PROCESSING_FAILURE, NO_SUCH_INSTANCE, INVALID_ARGUMENT = 0x0000, 0x0110, 0x0112, 0x0115  # PS3.7 annex C
NO_SUCH_ACTION, NOT_AUTHORIZED, RESOURCE_LIMITATION = 0x0123, 0x0124, 0x0213

MOST = 100_000  # instances of one question
_GRACE = timedelta(seconds=10)  # the listener reports within it, or the sweep does
_AFTER = 0.5  # seconds without another question: the answer goes first, and who hangs up at once has done so
_ALONE = frozenset({StorageCommitmentPushModel, Verification})
_PATIENCE = 15.0  # seconds for the answer to a report over the association of the question


class _Refused(Exception):
    """A question is not taken; *status* is the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def on_n_action(
    event: Event, intake: Intake, settings: Settings, answering: Answering
) -> tuple[int, None]:
    """Take a question for storage commitment (PS3.4 J.3.2): success is said when it stands in the table."""
    calling_ae = event.assoc.requestor.ae_title.strip()
    try:
        transaction_uid, instances = _read(event, settings, calling_ae)
        if not intake.rest(_PATIENCE):
            raise _Refused(PROCESSING_FAILURE, "what was acknowledged is not filed yet")
        with intake.database.transaction() as session:
            number = commit_requests.take(
                session, calling_ae, transaction_uid, instances, at=intake.now(), wait=_GRACE
            )
        if number is None:
            raise _Refused(INVALID_ARGUMENT, "the transaction UID is in use for another question")
    except _Refused as why:
        return _refuse(why.status, calling_ae, str(why)), None
    except SQLAlchemyError as why:
        return _refuse(PROCESSING_FAILURE, calling_ae, type(why).__name__), None
    reach("commitment.asked")
    log.info("storage commitment asked for", extra={"calling_ae": calling_ae, "instances": len(instances)})
    answering.asked(event.assoc, number)
    return SUCCESS, None


def _read(event: Event, settings: Settings, calling_ae: str) -> tuple[str, dict[str, str]]:
    """Return the transaction UID and what it is about, SOP instance -> class; refuse what cannot be reported on."""
    request: Any = event.request
    if request.ActionTypeID != 1:  # PS3.4 J.3.2.1: there is no other
        raise _Refused(NO_SUCH_ACTION, "no such action")
    if request.RequestedSOPInstanceUID != StorageCommitmentPushModelInstance:
        raise _Refused(NO_SUCH_INSTANCE, "not the well-known instance")
    peer = peer_titled(settings, calling_ae)
    if peer is None or not peer.may_send:
        raise _Refused(NOT_AUTHORIZED, "no [[peer]] with host and port that may send has this AE title")
    transaction_uid, named = read_request(event.action_information)
    if not is_uid(transaction_uid) or not named or not all(is_uid(uid) for pair in named for uid in pair):
        raise _Refused(INVALID_ARGUMENT, "no transaction UID, no instances, or a malformed UID")
    if len(named) > MOST:
        raise _Refused(RESOURCE_LIMITATION, f"more than {MOST} instances in one question")
    instances = {sop_uid: sop_class for sop_class, sop_uid in named}
    if len(set(named)) != len(instances):
        raise _Refused(INVALID_ARGUMENT, "one instance under two SOP classes")
    return transaction_uid, instances


class Answering:
    """Reports on questions right after they were asked: where they came from, else by an association of our own.

    What it does not get to, because the process dies, the sweep does.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._waiting: dict[Hashable, list[int]] = {}  # association -> questions
        self._lock = threading.Lock()

    def asked(self, association: Any, number: int) -> None:
        """Have a question reported on once nothing more is asked over its association for a while."""
        with self._lock:
            if association in self._waiting:
                self._waiting[association].append(number)
                return
            self._waiting[association] = [number]
        threading.Thread(target=self._work, args=(association,), name="commitment", daemon=True).start()

    def _work(self, association: Any) -> None:
        known = 0
        while True:
            time.sleep(_AFTER)
            with self._lock:
                if known == len(self._waiting[association]) or not association.is_established:
                    numbers = self._waiting.pop(association)
                    break
                known = len(self._waiting[association])
        try:
            for number in numbers:
                if not _waits(association) or not self._reporter.report(number, self._over(association)):
                    self._reporter.report(number)
        except Exception as why:  # noqa: BLE001  # the outermost frame of this thread: the sweep reports
            log.error("a report on storage commitment failed: %s", failure(why))

    def _over(self, association: Any) -> Tell:
        def told(kind: int, report: Dataset) -> int:
            if not association.is_established:
                raise PeerAway("the peer did not wait for the report")
            # While we wait for the answer nothing else that the peer says is heard, its goodbye neither.
            association.dimse_timeout = min(association.dimse_timeout or _PATIENCE, _PATIENCE)
            return tell(association, kind, report, "the peer")

        return told


def _waits(association: Any) -> bool:
    """Return whether the peer is still there, and the association for nothing that a report could get mixed up with.

    One that may store as well may be just about to: its next request would be taken for the answer to our report.
    """
    return association.is_established and all(one.abstract_syntax in _ALONE for one in association.accepted_contexts)


def _refuse(status: int, calling_ae: str, why: str) -> int:
    log.warning("storage commitment refused", extra={"calling_ae": calling_ae, "status": f"{status:04X}", "why": why})
    return status
