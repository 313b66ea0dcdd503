"""Modalities that keep a ledger: what was acknowledged, under which digest. They send again what was not."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE

from node.domain.uid import UUID_ROOT, derive_uid
from node.testing import part10, thorax_study
from tests.rig import water_beside

SHAPE = (24, 96, 96)
CALLING = "CHAOSCT"


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One study as a modality has it."""

    number: int
    study_uid: str
    patient_id: str
    instances: tuple[tuple[str, Path, str], ...]  # SOP Instance UID, file, SHA-256 of the data set's bytes


@dataclass
class Ledger:
    """Every acknowledgement, as the sender saw it."""

    acked: dict[str, tuple[Sent, str]] = field(default_factory=dict)  # SOP Instance UID -> study, digest
    sent: list[Sent] = field(default_factory=list)
    complete: set[int] = field(default_factory=set)  # numbers of studies of which everything was acknowledged
    refused: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def ack(self, study: Sent, sop_uid: str, digest: str) -> None:
        """The node said success."""
        with self._lock:
            self.acked[sop_uid] = (study, digest)

    def finish(self, study: Sent) -> None:
        """The node has said success to everything of the study."""
        with self._lock:
            self.complete.add(study.number)


def data_set(file: bytes) -> bytes:
    """Return the bytes behind the file meta information (PS3.10 7.1)."""
    length = int.from_bytes(file[140:144], "little")  # value of (0002,0000): the length of the rest of the group
    return file[144 + length :]


class Modality:
    """Makes studies of the phantom, each of another patient, and sends them until all is acknowledged.

    It waits *patience* seconds for an answer, also for that of a listener which was killed: pynetdicom sees that late.
    """

    def __init__(self, folder: Path, seed: int, ledger: Ledger, *, patience: float = 15.0) -> None:
        self._folder, self._seed, self.ledger, self._patience = folder, seed, ledger, patience
        self._pattern = [dcmread(file) for file in thorax_study(folder / "pattern", shape=SHAPE)]

    def make(self, number: int, *, water: bool = False) -> Sent:
        """Return study *number*; every third patient comes twice. With *water*, a series of it has more slices."""
        study_uid = derive_uid(UUID_ROOT, "chaos", str(self._seed), "study", number)
        patient = f"CHAOS-{number - (number % 3 == 2)}"
        folder = self._folder / f"study-{number:04d}"
        folder.mkdir(parents=True)
        made = []
        for place, pattern in enumerate(self._pattern):
            ds = Dataset()
            ds.update(pattern)
            ds.file_meta = pattern.file_meta
            ds.StudyInstanceUID, ds.PatientID, ds.PatientName = study_uid, patient, f"{patient}^TEST"
            ds.SeriesInstanceUID, ds.FrameOfReferenceUID = f"{study_uid[:60]}.1", f"{study_uid[:60]}.9"
            ds.SOPInstanceUID = derive_uid(UUID_ROOT, "chaos", str(self._seed), f"instance {number}", place)
            ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
            data, file = part10(ds), folder / f"{place:04d}.dcm"
            file.write_bytes(data)
            made.append((str(ds.SOPInstanceUID), file, hashlib.sha256(data_set(data)).hexdigest()))
        for place, image in enumerate(water_beside(ds, SHAPE[0] + 6) if water else ()):
            data, file = part10(image), folder / f"water-{place:04d}.dcm"
            file.write_bytes(data)
            made.append((str(image.SOPInstanceUID), file, hashlib.sha256(data_set(data)).hexdigest()))
        sent = Sent(number=number, study_uid=study_uid, patient_id=patient, instances=tuple(made))
        self.ledger.sent.append(sent)
        return sent

    def send(self, study: Sent, port: int, called: str, stopped: threading.Event) -> None:
        """Store the study; what was not acknowledged is sent again a moment later, over and over."""
        left = list(study.instances)
        while left and not stopped.is_set():
            left = self._once(study, left, port, called)
            if left:
                time.sleep(0.5)
        if not left:
            self.ledger.finish(study)

    def _once(
        self, study: Sent, left: Sequence[tuple[str, Path, str]], port: int, called: str
    ) -> list[tuple[str, Path, str]]:
        first = dcmread(left[0][1], stop_before_pixels=True)
        ae = AE(ae_title=CALLING)
        ae.acse_timeout = ae.network_timeout = 15
        ae.dimse_timeout = self._patience
        ae.add_requested_context(first.SOPClassUID, first.file_meta.TransferSyntaxUID)
        association = ae.associate("127.0.0.1", port, ae_title=called)
        missing = []
        for sop_uid, file, digest in left:
            status = None
            if association.is_established:
                try:
                    status = association.send_c_store(file).get("Status")
                except RuntimeError:  # pynetdicom's word for an association that ended
                    status = None
            if status == 0:
                self.ledger.ack(study, sop_uid, digest)
            else:
                missing.append((sop_uid, file, digest))
                if status is not None:
                    self.ledger.refused.append(f"{status:04X}")
        if association.is_established:
            association.release()
        return missing


def patient_and_study(file: bytes) -> tuple[str, str, str]:
    """Return (PatientID, Study Instance UID, SOP Instance UID) of a DICOM file."""
    ds = dcmread(BytesIO(file), stop_before_pixels=True)
    return str(ds.PatientID), str(ds.StudyInstanceUID), str(ds.SOPInstanceUID)
