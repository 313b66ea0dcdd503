"""Stand-ins that the tests and the demonstration use: a clock, a PACS that follows a script, studies of nobody.

As a process: ``python -m node.testing pacs --port 11113 --folder received --ae-title PACS``.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, build_context, build_role, evt
from pynetdicom.events import Event
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    Verification,
)

from models.phantom import thorax_phantom
from node.domain.peer import Peer, Verify
from node.domain.uid import UUID_ROOT, derive_uid
from node.processes import stop_event

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

_SUCCESS, _PENDING, _CANNOT_UNDERSTAND = 0x0000, 0xFF00, 0xC000  # PS3.4 B.2.3 and C.4.1.1.4
_NO_SUCH_INSTANCE = 0x0112  # PS3.3 C.14.1.1
_WARNINGS = frozenset({0xB000, 0xB006, 0xB007})  # stored, with a remark
_UID = re.compile(r"[0-9.]{1,64}")
_CLASSES = {"CT": CTImageStorage, "MR": MRImageStorage}


class FixedClock:
    """A clock that moves only when it is told to."""

    def __init__(self, start: datetime = NOON) -> None:
        self._now, self._lived = start, 0.0

    def __call__(self) -> datetime:
        """Return the time now, aware, UTC."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let *seconds* go by."""
        self._now += timedelta(seconds=seconds)
        self._lived += seconds

    def put(self, seconds: float) -> None:
        """Put the clock forward, or back, while no time goes by."""
        self._now += timedelta(seconds=seconds)

    def monotonic(self) -> float:
        """Return the seconds that have gone by."""
        return self._lived


class ScriptedPacs:
    """A PACS on loopback that keeps what it gets in a folder and misbehaves as its script says.

    It takes every storage class in every transfer syntax, answers C-ECHO, C-FIND at IMAGE level by SOP Instance UID,
    and storage commitment where it is told how to report. The script may be changed while it runs. After `stop`,
    `start` listens on the same port again.
    """

    def __init__(
        self, folder: Path, *, ae_title: str = "SCRIPTEDPACS", port: int = 0, statuses: Iterable[int] = (),
        delay: float = 0.0, aborts_before_store: int = 0, aborts_after_store: int = 0, refuses: bool = False,
        can_find: bool = True, commits: str = "",
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.ae_title, self.port = folder, ae_title, port
        self.statuses = list(statuses)  #: answers to the next C-STORE requests, in order; then 0x0000
        self.delay = delay  #: seconds before each answer to C-STORE
        self.aborts_before_store = aborts_before_store  #: so many next stores are cut off, the instance not kept
        self.aborts_after_store = aborts_after_store  #: so many next stores are cut off, the instance kept
        self.refuses = refuses  #: associations are rejected from the next `start` on
        self.can_find = can_find  #: C-FIND is offered from the next `start` on
        self.loses = 0  #: so many next stores are answered with success, the instance not kept
        self.commits = commits  #: "same" or "new" association for reports, or "never"; "": not offered (next `start`)
        self.commit_statuses: list[int] = []  #: answers to the next questions for commitment; then 0x0000
        self.not_committed: dict[str, int] = {}  #: SOP Instance UID -> failure reason of the next report
        self.reports_to: tuple[str, int, str] = ("127.0.0.1", 0, "")  #: host, port, AE title for "new"
        self.questions: list[str] = []  #: transaction UIDs of the questions for commitment
        self.report_statuses: list[int] = []  #: what the node answered to reports on a new association
        #: Study -> series -> (modality, instances): what C-FIND counts
        self.counts: dict[str, dict[str, tuple[str, int]]] = {}
        self.patients: dict[str, str] = {}  #: study -> Patient ID that it tells at STUDY level
        self.counts_series = True  #: else only whole studies are counted
        self.received: Counter[str] = Counter()  #: how often each SOP Instance UID was kept
        self.order: list[str] = []  #: SOP Instance UIDs as they were kept
        self._lock = threading.Lock()
        self._ae: AE | None = None

    def __enter__(self) -> ScriptedPacs:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def peer(self, name: str, *, timeout: float = 10.0, verify: Verify = Verify.QUERY) -> Peer:
        """Return this PACS as a peer of that name; it has a port once it was started."""
        return Peer(
            name=name, ae_title=self.ae_title, host="127.0.0.1", port=self.port, timeout=timeout, verify=verify
        )

    def start(self) -> None:
        """Listen for associations."""
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_C_FIND, self._on_find),
            (evt.EVT_C_ECHO, _on_echo),
            (evt.EVT_N_ACTION, self._on_commitment),
        ]
        self._ae = self._entity()
        server: Any = self._ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        self.port = int(server.server_address[1])

    def stop(self) -> None:
        """Stop listening and abort what is open."""
        if self._ae is not None:
            self._ae.shutdown()
            self._ae = None

    def _entity(self) -> AE:
        ae = AE(ae_title=self.ae_title)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(str(context.abstract_syntax), ALL_TRANSFER_SYNTAXES)
        ae.add_supported_context(Verification)
        if self.can_find:
            ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if self.commits:
            ae.add_supported_context(StorageCommitmentPushModel)
        if self.refuses:
            ae.require_calling_aet = ["NOBODY"]
        ae.maximum_associations = 50
        return ae

    def _on_store(self, event: Event) -> int:
        request: Any = event.request
        sop_uid = str(request.AffectedSOPInstanceUID)
        time.sleep(self.delay)
        with self._lock:
            status, keeps, aborts = self._next_act()
            if not _UID.fullmatch(sop_uid):
                return _CANNOT_UNDERSTAND
            if keeps:
                self._keep(sop_uid, event.encoded_dataset())
        if aborts:
            event.assoc.abort()
        return status

    def _next_act(self) -> tuple[int, bool, bool]:
        """Return (status, whether the instance is kept, whether the association is cut) for the next store."""
        if self.aborts_before_store:
            self.aborts_before_store -= 1
            return _CANNOT_UNDERSTAND, False, True
        if self.aborts_after_store:
            self.aborts_after_store -= 1
            return _SUCCESS, True, True
        if self.loses:
            self.loses -= 1
            return _SUCCESS, False, False
        status = self.statuses.pop(0) if self.statuses else _SUCCESS
        return status, status == _SUCCESS or status in _WARNINGS, False

    def _keep(self, sop_uid: str, data: bytes) -> None:
        part = self.folder / f"{sop_uid}.part"
        part.write_bytes(data)
        part.replace(self.folder / f"{sop_uid}.dcm")
        self.received[sop_uid] += 1
        self.order.append(sop_uid)

    def _on_find(self, event: Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.get("QueryRetrieveLevel") in ("SERIES", "STUDY"):
            yield from ((_PENDING, found) for found in self._count(event.identifier))
            yield _SUCCESS, None
            return
        wanted = str(event.identifier.get("SOPInstanceUID", ""))
        if _UID.fullmatch(wanted) and (self.folder / f"{wanted}.dcm").is_file():
            found = Dataset()
            found.QueryRetrieveLevel = "IMAGE"
            found.SOPInstanceUID = wanted
            yield _PENDING, found
        yield _SUCCESS, None

    def _count(self, query: Dataset) -> Iterator[Dataset]:
        """Yield the study, or each of its series, with the number of its instances (PS3.4 C.3.4)."""
        counted = self.counts.get(str(query.StudyInstanceUID), {})
        if query.QueryRetrieveLevel == "STUDY":
            found = Dataset()
            found.QueryRetrieveLevel, found.StudyInstanceUID = "STUDY", query.StudyInstanceUID
            found.PatientID = self.patients.get(str(query.StudyInstanceUID), "")
            found.NumberOfStudyRelatedInstances = sum(number for _, number in counted.values())
            yield found
            return
        for uid, (modality, number) in counted.items():
            found = Dataset()
            found.QueryRetrieveLevel, found.SeriesInstanceUID, found.Modality = "SERIES", uid, modality
            found.NumberOfSeriesRelatedInstances = number if self.counts_series else None
            yield found

    def _on_commitment(self, event: Event) -> tuple[int, None]:
        """Take a question for storage commitment (PS3.4 J.3.2); the report follows by itself."""
        asked = event.action_information
        self.questions.append(str(asked.TransactionUID))
        if self.commit_statuses:
            return self.commit_statuses.pop(0), None
        if self.commits != "never":
            report = self._report(asked)
            threading.Thread(target=self._send_report, args=(event.assoc, report), daemon=True).start()
        return _SUCCESS, None

    def _report(self, asked: Dataset) -> Dataset:
        report = Dataset()
        there: list[Dataset] = []
        failed: list[Dataset] = []
        report.TransactionUID = asked.TransactionUID
        for item in asked.ReferencedSOPSequence:
            uid = str(item.ReferencedSOPInstanceUID)
            kept = _UID.fullmatch(uid) and (self.folder / f"{uid}.dcm").is_file()
            reason = self.not_committed.pop(uid, 0 if kept else _NO_SUCH_INSTANCE)
            if reason:
                item.FailureReason = reason
            (failed if reason else there).append(item)
        report.ReferencedSOPSequence = there
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _send_report(self, association: Any, report: Dataset) -> None:
        time.sleep(0.05)  # the question is answered first
        kind = 2 if "FailedSOPSequence" in report else 1  # PS3.4 J.3.3.1
        classes = (StorageCommitmentPushModel, StorageCommitmentPushModelInstance)
        if self.commits == "same":
            association.send_n_event_report(report, kind, *classes)
            return
        host, port, title = self.reports_to
        ours = AE(ae_title=self.ae_title).associate(
            host, port, contexts=[build_context(classes[0])], ae_title=title,
            ext_neg=[build_role(classes[0], scp_role=True)],
        )  # fmt: skip
        status, _ = ours.send_n_event_report(report, kind, *classes)
        self.report_statuses.append(int(status.get("Status", -1)))
        ours.release()


def _on_echo(event: Event) -> int:  # noqa: ARG001  # the signature is pynetdicom's
    return _SUCCESS


def synthetic_ct(
    *, slices: int = 12, rows: int = 16, columns: int = 24, spacing: tuple[float, float, float] = (2.5, 0.7, 0.9),
    orientation: tuple[float, ...] = AXIAL, corner: tuple[float, float, float] = (-10.0, -6.0, 40.0),
    uid_prefix: str = "2.25.4711", series_number: int = 1, modality: str = "CT", body_part: str = "CHEST",
    series_description: str = "Thorax 2.5", study_description: str = "CT Thorax",
    image_type: Sequence[str] = ("ORIGINAL", "PRIMARY", "AXIAL"), patient_id: str = "SYNTHETIC-1",
    patient_name: str = "SYNTHETIC^SERIES", manufacturer: str = "Synthetic",
) -> list[Dataset]:  # fmt: skip
    """Return a small series whose every pixel tells its slice, row and column, sorted along the slice normal.

    *spacing* is between slices, rows and columns in mm, *corner* the first pixel (L, P, S) in mm. The study's UID is
    *uid_prefix*, its series and instances follow it; another prefix is another study.
    """
    normal = np.cross(np.array(orientation[:3]), np.array(orientation[3:]))
    across, down = np.meshgrid(np.arange(columns), np.arange(rows))  # (rows, columns)
    made = []
    for index in range(slices):
        values = 5 * across + 13 * down + 101 * index - 1000  # (rows, columns) HU, no mirror image of itself
        ds = _image(values, spacing, orientation, np.array(corner) + index * spacing[0] * normal)
        ds.SOPClassUID = _CLASSES.get(modality, SecondaryCaptureImageStorage)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = uid_prefix, f"{uid_prefix}.{series_number}"
        ds.SOPInstanceUID, ds.InstanceNumber = f"{uid_prefix}.{series_number}.{index + 1}", index + 1
        ds.FrameOfReferenceUID, ds.SeriesNumber = f"{uid_prefix}.{series_number}.0", series_number
        ds.PatientName, ds.PatientID, ds.Manufacturer = patient_name, patient_id, manufacturer
        ds.Modality, ds.BodyPartExamined, ds.ImageType = modality, body_part, list(image_type)
        ds.SeriesDescription, ds.StudyDescription = series_description, study_description
        made.append(ds)
    return made


def thorax_study(folder: Path, *, shape: tuple[int, int, int] = (120, 256, 256)) -> list[Path]:
    """Write the sample study, a CT of the thorax phantom with *shape* (z, y, x), and return its files.

    Its UIDs are always the same for the same shape; the first instance lies nearest to the head.
    """
    size = (300.0, 358.4, 358.4)  # (z, y, x) mm, whatever the shape
    spacing = (size[0] / shape[0], size[1] / shape[1], size[2] / shape[2])
    phantom = thorax_phantom(shape, spacing)
    made = []
    for number, z in enumerate(reversed(range(shape[0])), start=1):
        corner = (phantom.affine @ np.array([z, 0.0, 0.0, 1.0]))[:3]  # (L, P, S) mm
        ds = _image(phantom.voxels[z], spacing, AXIAL, corner)
        _name_phantom(ds, number, shape)
        made.append(ds)
    return write_series(made, folder)


def _name_phantom(ds: Dataset, number: int, shape: tuple[int, int, int]) -> None:
    """Give an instance of the sample study its names, numbers and UIDs."""
    tag = "x".join(map(str, shape))
    ds.SOPClassUID = CTImageStorage
    ds.StudyInstanceUID = derive_uid(UUID_ROOT, "phantom", tag, "study")
    ds.SeriesInstanceUID = derive_uid(UUID_ROOT, "phantom", tag, "series")
    ds.FrameOfReferenceUID = derive_uid(UUID_ROOT, "phantom", tag, "frame of reference")
    ds.SOPInstanceUID = derive_uid(UUID_ROOT, "phantom", tag, "instance", number)
    ds.InstanceNumber, ds.SeriesNumber, ds.StudyID = number, 2, "1"
    ds.PatientName, ds.PatientID, ds.AccessionNumber = "PHANTOM^THORAX", "PHANTOM-1", "PHANTOM-1"
    ds.Modality, ds.BodyPartExamined, ds.ImageType = "CT", "CHEST", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDescription, ds.SeriesDescription = "CT Thorax (phantom)", "Thorax soft tissue"
    ds.Manufacturer, ds.ManufacturerModelName = "Synthetic", "Formula"


def _image(
    values: NDArray[Any], spacing: tuple[float, float, float], orientation: Sequence[float], corner: NDArray[Any]
) -> Dataset:
    """Return one CT image of *values* (rows, columns) in HU, without names and UIDs (PS3.3 A.3)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260115"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "101500"
    ds.AccessionNumber, ds.ReferringPhysicianName, ds.StudyID = "", "", "1"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientPosition, ds.AcquisitionNumber = "", "O", "HFS", 1
    ds.PositionReferenceIndicator, ds.KVP = "", 120
    ds.ImageOrientationPatient = [float(cosine) for cosine in orientation]
    ds.ImagePositionPatient = [round(float(mm), 6) for mm in corner]
    ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], spacing[0]
    ds.Rows, ds.Columns = values.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 1
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.PixelData = np.rint(values + 1024).astype("<i2").tobytes()
    return ds


def part10(ds: Dataset) -> bytes:
    """Return an instance as the bytes of a Part-10 file, Explicit VR Little Endian (PS3.10 section 7)."""
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_series(datasets: Sequence[Dataset], folder: Path) -> list[Path]:
    """Write each instance to a Part-10 file of *folder*, numbered as given, and return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{number:04d}.dcm" for number in range(1, len(datasets) + 1)]
    for file, ds in zip(files, datasets, strict=True):
        file.write_bytes(part10(ds))
    return files


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a stand-in as a process of its own until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m node.testing", description=main.__doc__)
    parser.add_argument("what", choices=["pacs"])
    parser.add_argument("--port", type=int, default=0, help="0: a free one, which the first line of output names")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--ae-title", default="SCRIPTEDPACS")
    given = parser.parse_args(arguments)
    stopped = stop_event()
    with ScriptedPacs(given.folder, ae_title=given.ae_title, port=given.port) as pacs:
        sys.stdout.write(f"listening: {pacs.ae_title} on 127.0.0.1 port {pacs.port}\n")
        sys.stdout.flush()
        stopped.wait()


if __name__ == "__main__":
    main()
