"""What a modality says beside its images, kept as it was answered: performed procedure steps, storage commitment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    ModalityPerformedProcedureStep,
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.domain.uid import UUID_ROOT, derive_uid
from tests.chaos.senders import CALLING, Sent

CT = "1.2.840.10008.5.1.4.1.1.2"
_SUCCESS, _KNOWN, _FAILURE, _ENDED = 0x0000, 0x0111, 0x0110, 0xA710
_STAYS = 3.0  # seconds on the association of a question; who asked a second time leaves at once


@dataclass
class Said:
    """Every answer and every report, as the modality saw them."""

    begun: set[str] = field(default_factory=set)  # steps whose beginning was answered with success, or is known
    ended: dict[str, set[str]] = field(default_factory=dict)  # steps whose end was -> SOP instances that it named
    asked: dict[str, set[str]] = field(default_factory=dict)  # transaction -> instances, answered with success
    reports: list[tuple[str, set[str], set[str]]] = field(default_factory=list)  # transaction, committed, not
    odd: list[str] = field(default_factory=list)  # answers that no node should give

    def of(self, transaction: str) -> list[tuple[set[str], set[str]]]:
        """Return the reports on one question."""
        return [(there, lacking) for name, there, lacking in self.reports if name == transaction]


class Talker:
    """A modality that says what it does until it was answered, and takes reports where it listens."""

    def __init__(self, port: int, called: str, own_port: int) -> None:
        self.said = Said()
        self._port, self._called, self._own_port = port, called, own_port
        self._lock = threading.Lock()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take reports over associations that the node opens."""
        ae = AE(ae_title=CALLING)
        ae.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        server = ae.start_server(("127.0.0.1", self._own_port), block=False, evt_handlers=handlers)
        try:
            yield
        finally:
            server.shutdown()

    def _on_report(self, event: Event) -> tuple[int, None]:
        told = event.event_information
        there, lacking = (
            {str(one.ReferencedSOPInstanceUID) for one in told.get(name, [])}
            for name in ("ReferencedSOPSequence", "FailedSOPSequence")
        )
        with self._lock:
            self.said.reports.append((str(told.TransactionUID), there, lacking))
        return _SUCCESS, None

    def begin(self, study: Sent) -> None:
        """Say that the study is begun, until it was heard."""
        ds, scheduled = Dataset(), Dataset()
        ds.PerformedProcedureStepStatus = "IN PROGRESS"
        scheduled.StudyInstanceUID = study.study_uid
        ds.ScheduledStepAttributesSequence, ds.PerformedSeriesSequence = [scheduled], []
        uid = _step(study)

        def say(association: Any) -> Dataset:
            status, _ = association.send_n_create(ds, ModalityPerformedProcedureStep, uid)
            return status  # type: ignore[no-any-return]

        self._until_heard(say, ModalityPerformedProcedureStep, known=_KNOWN)
        self.said.begun.add(uid)

    def end(self, study: Sent) -> None:
        """Say that the study is complete, and with which images, until it was heard."""
        ds, series = Dataset(), Dataset()
        ds.PerformedProcedureStepStatus = "COMPLETED"
        series.SeriesInstanceUID = f"{study.study_uid[:60]}.1"
        series.ReferencedImageSequence = [_reference(uid) for uid, _, _ in study.instances]
        ds.PerformedSeriesSequence = [series]
        uid = _step(study)

        def say(association: Any) -> Dataset:
            status, _ = association.send_n_set(ds, ModalityPerformedProcedureStep, uid)
            return status  # type: ignore[no-any-return]

        self._until_heard(say, ModalityPerformedProcedureStep, known=_FAILURE)
        self.said.ended[uid] = {uid for uid, _, _ in study.instances}

    def ask(self, study: Sent) -> None:
        """Ask for storage commitment of all of it until that was heard, and stay a moment for the report."""
        transaction = derive_uid(UUID_ROOT, "chaos transaction", study.study_uid)
        ds = Dataset()
        ds.TransactionUID = transaction
        ds.ReferencedSOPSequence = [_reference(uid) for uid, _, _ in study.instances]

        def say(association: Any) -> Dataset:
            model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            status, _ = association.send_n_action(ds, 1, model, instance)
            deadline = time.monotonic() + _STAYS
            while association.is_established and time.monotonic() < deadline and not self.said.of(transaction):
                time.sleep(0.1)
            return status  # type: ignore[no-any-return]

        self._until_heard(say, StorageCommitmentPushModel)
        self.said.asked[transaction] = {uid for uid, _, _ in study.instances}

    def _until_heard(self, say: Callable[[Any], Dataset], model: Any, *, known: int | None = None) -> None:
        """Say it over a new association each time; *known* is success where it was said before without an answer."""
        repeated = False
        while True:
            answer = self._once(say, model)
            status = answer.get("Status")
            if status == _SUCCESS:
                return
            if repeated and status == known and (status != _FAILURE or answer.get("ErrorID") == _ENDED):
                return
            if status is not None and (status != _FAILURE or "ErrorID" in answer):
                self.said.odd.append(f"{model} was answered {status:04X}")
            repeated = True
            time.sleep(0.5)

    def _once(self, say: Callable[[Any], Dataset], model: Any) -> Dataset:
        ae = AE(ae_title=CALLING)
        ae.acse_timeout = ae.dimse_timeout = 15
        ae.network_timeout = 60  # one that ends while the association is being released breaks pynetdicom's thread
        ae.add_requested_context(model)
        association = ae.associate(
            "127.0.0.1", self._port, ae_title=self._called, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._on_report)]
        )
        if not association.is_established:
            return Dataset()
        try:
            return say(association)
        except RuntimeError:  # pynetdicom's word for an association that ended
            return Dataset()
        finally:
            if association.is_established:
                association.release()


def _step(study: Sent) -> str:
    return derive_uid(UUID_ROOT, "chaos step", study.study_uid)


def _reference(uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
    return item
