"""C-STORE, C-ECHO, C-FIND and storage commitment as a user (PS3.4 annexes A, B, C and J), one association a call."""

from __future__ import annotations

import queue
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, _config, build_context, evt
from pynetdicom.events import Event
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from node.dicom.classes import WRITTEN_IN
from node.dicom.commitment import read_report
from node.domain.peer import Answer, AnswerKind, CommitReport, OutgoingFile, Peer
from node.errors import PeerAway, PeerBusy, PeerRefused
from node.failpoints import reach
from node.tls import client_context, fingerprint
from node.transport.counts import Counts, count_by_find, patient_by_find

_config.STORE_SEND_CHUNKED_DATASET = True  # a file is sent as it lies on disk, neither decoded nor held in memory

_MAX_CONTEXTS = 128  # PS3.8 9.3.2: identifiers are the odd numbers of one byte
_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})  # PS3.4 B.2.3: stored, with a remark
_ALREADY_THERE = 0x0111  # PS3.7 C.5: duplicate SOP instance
TRANSIENT = frozenset({0x0110, 0x0213})  # processing failure, resource limitation
OUT_OF_RESOURCES = 0xA700
INVALID_ARGUMENT = 0x0115  # PS3.7 C.4.2
_GLANCE = 0.2  # seconds between two looks whether a report came
PENDING = frozenset({0xFF00, 0xFF01})
_SERVICES = frozenset({StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind})  # in any syntax
_ENDED = "the association ended before this instance was sent"


class CStoreTransport:
    """One remote application entity, reached over DICOM's own upper layer."""

    def __init__(self, peer: Peer, *, calling_ae: str) -> None:
        self._peer = peer
        self._ae = entity_for(peer, calling_ae=calling_ae)

    def echo(self) -> float:
        """Return the seconds that a C-ECHO took; PeerAway or PeerRefused where it fails."""
        began = time.monotonic()
        with self._association([build_context(Verification)]) as association:
            status = association.send_c_echo()
        if "Status" not in status:
            raise PeerAway(f"{self._peer.name} took the association but did not answer C-ECHO")
        if status.Status != 0:
            raise PeerRefused(f"{self._peer.name} answered C-ECHO with status {status.Status:04X}")
        return time.monotonic() - began

    def find(self, file: OutgoingFile) -> bool | None:
        """Return whether the peer has the instance (C-FIND at IMAGE level); None where it cannot be asked."""
        return self.find_all([file])[0]

    def find_all(self, files: Sequence[OutgoingFile]) -> list[bool | None]:
        """Return the same for each of several instances, over one association; PeerAway where it gives out."""
        model = StudyRootQueryRetrieveInformationModelFind
        try:
            with self._association([build_context(model)]) as association:
                return [self._find_one(association, file) for file in files]
        except PeerRefused:
            return [None] * len(files)  # it offers no such query

    def _find_one(self, association: Any, file: OutgoingFile) -> bool | None:
        query = Dataset()
        query.QueryRetrieveLevel = "IMAGE"
        query.StudyInstanceUID = file.study_uid
        query.SeriesInstanceUID = ""
        query.SOPInstanceUID = file.sop_uid
        try:
            answers = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
            return _found(answers, file.sop_uid, self._peer)
        except RuntimeError as why:  # pynetdicom's word for an association that has ended
            raise PeerAway(f"{self._peer.where} ended the association during a query") from why

    def takes(self, classes: Sequence[str]) -> frozenset[str]:
        """Return which of these SOP classes the peer takes; storage in the syntax that results are written in."""
        contexts = [build_context(one) if one in _SERVICES else build_context(one, WRITTEN_IN) for one in classes]
        with self._association([build_context(Verification), *contexts]) as association:
            return frozenset(str(one.abstract_syntax) for one in association.accepted_contexts)

    def count(self, study_uids: Sequence[str]) -> Iterator[Counts | None]:
        """Yield the peer's own count of each study, over one association; PeerAway where it gives out."""
        with self._association([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            for uid in study_uids:
                yield count_by_find(association, uid, self._peer)

    def patient_of(self, study_uid: str) -> str | None:
        """Return the Patient ID under which the peer has a study; None where it has none, or does not say."""
        with self._association([build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            return patient_by_find(association, study_uid, self._peer)

    def commit(
        self, files: Sequence[OutgoingFile], transaction_uid: str, answered: Callable[[], bool]
    ) -> CommitReport | None:
        """Ask for storage commitment (N-ACTION) and wait for the report on the same association (N-EVENT-REPORT)."""
        reports: queue.SimpleQueue[CommitReport] = queue.SimpleQueue()

        def on_report(event: Event) -> tuple[int, None]:
            if (report := read_report(event.event_information)) is None or report.transaction_uid != transaction_uid:
                return INVALID_ARGUMENT, None
            reports.put(report)
            return 0, None

        handlers = [(evt.EVT_N_EVENT_REPORT, on_report)]
        with self._association([build_context(StorageCommitmentPushModel)], handlers) as association:
            self._ask_to_commit(association, files, transaction_uid)
            deadline = time.monotonic() + self._peer.timeout
            while time.monotonic() < deadline and association.is_established and not answered():
                try:
                    return reports.get(timeout=_GLANCE)
                except queue.Empty:
                    continue
        return None if reports.empty() else reports.get()

    def _ask_to_commit(self, association: Any, files: Sequence[OutgoingFile], transaction_uid: str) -> None:
        question = Dataset()
        question.TransactionUID = transaction_uid
        question.ReferencedSOPSequence = [_reference(file) for file in files]
        try:
            status, _ = association.send_n_action(
                question, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except RuntimeError as why:
            raise PeerAway(f"{self._peer.where} ended the association before it was asked to commit itself") from why
        if "Status" not in status:
            # It took the association: away it is not. Some report before they answer, which ends it, too.
            raise PeerBusy(f"{self._peer.where} did not answer whether it commits itself")
        if status.Status in TRANSIENT:
            raise PeerBusy(f"{self._peer.where} cannot look into storage commitment now: {status.Status:04X}")
        if status.Status != 0:
            raise PeerRefused(f"{self._peer.where} answered {status.Status:04X} to storage commitment")

    def send(self, files: Sequence[OutgoingFile]) -> Iterator[Answer]:
        """Send the files in order over one association; yield the answer to each as it comes."""
        with self._association(_contexts_for(files)) as association:
            for file in files:
                answer = self._send_one(association, file)
                if answer.kind is AnswerKind.UNKNOWN and association.is_established:
                    association.abort()  # a late answer must not be taken for that of the next instance
                yield answer

    def _send_one(self, association: Any, file: OutgoingFile) -> Answer:
        if not association.is_established:
            return Answer(kind=AnswerKind.LATER, reason=_ENDED)
        accepted = {(c.abstract_syntax, syntax) for c in association.accepted_contexts for syntax in c.transfer_syntax}
        if (file.sop_class, file.transfer_syntax) not in accepted:
            return Answer(kind=AnswerKind.REFUSED, reason="the peer does not accept this SOP class in its syntax")
        try:
            status = association.send_c_store(file.path)
        except RuntimeError:  # pynetdicom's word for an association that ended since we looked
            return Answer(kind=AnswerKind.LATER, reason=_ENDED)
        if "Status" not in status:
            return Answer(kind=AnswerKind.UNKNOWN, reason="the association ended before the peer answered")
        return read_status(int(status.Status))

    @contextmanager
    def _association(self, contexts: list[PresentationContext], handlers: Sequence[Any] = ()) -> Iterator[Any]:
        with _associated(self._ae, self._peer, contexts, handlers=handlers) as association:
            yield association


def entity_for(peer: Peer, *, calling_ae: str) -> AE:
    """Return our application entity with the times that a peer is given."""
    ae = AE(ae_title=calling_ae)
    ae.connection_timeout = min(peer.timeout, 10.0)
    ae.acse_timeout = peer.timeout
    ae.dimse_timeout = peer.timeout
    ae.network_timeout = peer.timeout * 2
    return ae


@contextmanager
def associated(
    peer: Peer, *, calling_ae: str, contexts: list[PresentationContext], roles: Sequence[Any] = ()
) -> Iterator[Any]:
    """Yield an association with *peer*, released in the end; PeerAway or PeerRefused where there is none."""
    with _associated(entity_for(peer, calling_ae=calling_ae), peer, contexts, roles=roles) as association:
        yield association


@contextmanager
def _associated(
    ae: AE, peer: Peer, contexts: list[PresentationContext], *, handlers: Sequence[Any] = (), roles: Sequence[Any] = ()
) -> Iterator[Any]:
    try:
        association = ae.associate(
            peer.host, peer.port, contexts=contexts, ae_title=peer.ae_title, evt_handlers=list(handlers),
            ext_neg=list(roles), tls_args=_tls(peer),
        )  # fmt: skip
    except socket.gaierror as why:
        raise PeerAway(f"{peer.where}: no address is known for that name; is the name service there?") from why
    if not association.is_established:
        raise _why_not(peer, association)
    if peer.certificate:
        _check_certificate(peer, association)
    reach("deliver.connected")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _tls(peer: Peer) -> tuple[ssl.SSLContext, str] | None:
    """Return how the connection is made safe; none where the peer is called in the clear."""
    return None if peer.papers is None else (client_context(peer.papers, pinned=bool(peer.certificate)), peer.host)


def _check_certificate(peer: Peer, association: Any) -> None:
    """Raise PeerRefused, before anything is said of a patient, where another than the peer has answered."""
    connection = association.dul.socket.socket
    shown = connection.getpeercert(binary_form=True) if isinstance(connection, ssl.SSLSocket) else None
    if shown is None or fingerprint(shown) != peer.certificate:
        association.abort()
        raise PeerRefused(f"{peer.where} shows another certificate than its configuration names")


def read_status(status: int) -> Answer:
    """Return what a C-STORE status means (PS3.4 B.2.3, PS3.7 annex C)."""
    digits = f"{status:04X}"
    if status == 0 or status in _WARNINGS or status == _ALREADY_THERE:
        return Answer(kind=AnswerKind.ACCEPTED, status=digits)
    if status in TRANSIENT or status >> 8 == 0xA7:
        return Answer(kind=AnswerKind.LATER, status=digits, reason=f"the peer answered {digits}: out of resources")
    return Answer(kind=AnswerKind.REFUSED, status=digits, reason=f"the peer answered {digits}: it does not take this")


def _why_not(peer: Peer, association: Any) -> PeerAway | PeerRefused:
    where = peer.where
    if association.rejected_contexts and not association.accepted_contexts:
        return PeerRefused(f"{where} takes part in none of the services, or none of their syntaxes, that were proposed")
    if not association.is_rejected:
        return PeerAway(f"{where} does not answer: is it running, and is the port open?")
    primitive = association.acceptor.primitive
    reason = f"{where} rejects the association: {primitive.reason_str}"
    permanent = 1  # PS3.8 9.3.4: result 1 is rejected-permanent, 2 rejected-transient
    return PeerRefused(reason) if primitive.result == permanent else PeerAway(reason)


def _contexts_for(files: Sequence[OutgoingFile]) -> list[PresentationContext]:
    """One context for each class and syntax, so that the peer's choice never forces a conversion."""
    wanted = dict.fromkeys((file.sop_class, file.transfer_syntax) for file in files)
    if len(wanted) > _MAX_CONTEXTS:
        raise PeerRefused(f"{len(wanted)} kinds of instances do not fit one association ({_MAX_CONTEXTS} at most)")
    return [build_context(sop_class, syntax) for sop_class, syntax in wanted]


def _reference(file: OutgoingFile) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = file.sop_class, file.sop_uid
    return item


def _found(answers: Iterator[tuple[Dataset, Dataset | None]], sop_uid: str, peer: Peer) -> bool | None:
    """Return whether the instance is among the answers (PS3.4 C.4.1.1.4); None where the peer does not do this."""
    found = False
    for status, identifier in answers:
        if "Status" not in status:
            raise PeerAway(f"{peer.where} did not answer a query")
        if status.Status in PENDING and identifier is not None:
            found = found or identifier.get("SOPInstanceUID") == sop_uid
        elif status.Status in TRANSIENT or status.Status == OUT_OF_RESOURCES:
            raise PeerBusy(f"{peer.where} cannot be asked now: {status.Status:04X}")
        elif status.Status != 0:
            return None
    return found
