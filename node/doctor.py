"""What works between the node and a peer, and what to change on which side where it does not."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
)

from node.dicom.classes import classes_of
from node.domain.peer import AnswerKind, Counts, OutgoingFile, Peer, Verify
from node.domain.uid import UUID_ROOT
from node.errors import PeerAway, PeerRefused
from node.settings import Settings
from node.transport import Transport
from node.transport.cstore import CStoreTransport
from node.transport.stow import StowTransport

TEST_PATIENT = "PACS-NODE-DOCTOR"
_CLOCK = 5.0  # seconds by which two clocks may differ before anybody should look


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    LOOK = "look"  #: it works, but not as it might
    BAD = "bad"
    UNKNOWN = "unknown"  #: nobody can tell from here


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check, and what to change where it does not hold."""

    what: str
    state: State
    says: str
    here: str = ""  # in the node's configuration
    there: str = ""  # at the peer


def examine(peer: Peer, settings: Settings, transport: Transport, *, store: bool, now: datetime) -> list[Check]:
    """Return every check of one peer; nothing is stored there unless *store*."""
    first = _echo(peer, settings, transport)
    if first.state is State.BAD:
        return [first]
    found = [first]
    if isinstance(transport, CStoreTransport):
        found += _contexts(peer, settings, transport)
        found.append(Check(what="clock", state=State.UNKNOWN, says="no DICOM service tells the time"))
    elif isinstance(transport, StowTransport):
        found.append(_clock(transport, now))
    return found + (list(_stored(peer, settings, transport)) if store else [])


def _echo(peer: Peer, settings: Settings, transport: Transport) -> Check:
    try:
        seconds = transport.echo()
    except (PeerAway, PeerRefused) as why:
        here, there = _advice(str(why), peer, settings)
        return Check(what="echo", state=State.BAD, says=str(why), here=here, there=there)
    return Check(what="echo", state=State.OK, says=f"answers in {seconds * 1000:.0f} ms")


def _advice(why: str, peer: Peer, settings: Settings) -> tuple[str, str]:
    """Return what to change here and there where a peer cannot be reached."""
    if "alled AE title" in why:
        return f"ae_title of [[peer]] {peer.name}: is it what the peer calls itself?", ""
    if "alling AE title" in why:
        return "", f"make {settings.ae_title} known to it, with this machine's address and port {settings.port}"
    if peer.url:
        return "url, token, user and password of the peer", "is its DICOMweb service on, and may the node use it?"
    return "host and port of the peer", "is it running, and does its firewall let this machine in?"


def _contexts(peer: Peer, settings: Settings, transport: CStoreTransport) -> Iterator[Check]:
    """Yield what of all that the node would send or ask the peer takes part in."""
    sent = list(classes_of(settings.profiles[peer.profile]))
    find, commit = StudyRootQueryRetrieveInformationModelFind, StorageCommitmentPushModel
    taken = transport.takes([*(uid for uid, _ in sent), find, commit])
    for uid, name in sent:
        if uid in taken:
            yield Check(what=name, state=State.OK, says="taken in Explicit VR Little Endian")
        else:
            here = f"a [[profile]] for this peer without it (now {peer.profile})"
            there = f"accept SOP class {uid} in Explicit VR Little Endian"
            yield Check(what=name, state=State.BAD, says="not taken", here=here, there=there)
    needed = (("verify", peer.verify is Verify.QUERY), ("count", peer.count is Counts.CFIND))
    asked = [word for word, used in needed if used]
    yield _service("query", find in taken, asked, f"offer Study Root C-FIND to {settings.ae_title}", "none")
    asked = ["verify"] if peer.verify is Verify.COMMITMENT else []
    yield _service("storage commitment", commit in taken, asked, "offer Storage Commitment Push Model", "query")


def _service(what: str, offered: bool, asked: Sequence[str], there: str, instead: str) -> Check:
    if offered:
        return Check(what=what, state=State.OK, says="offered")
    if not asked:
        return Check(what=what, state=State.OK, says="not offered, and not needed")
    here = ", ".join(f'{word} = "{instead}"' for word in asked)
    says = f"not offered, but {' and '.join(asked)} needs it"
    return Check(what=what, state=State.LOOK, says=says, here=here, there=there)


def _clock(transport: StowTransport, now: datetime) -> Check:
    told = transport.clock()
    if told is None:
        return Check(what="clock", state=State.UNKNOWN, says="it does not tell the time")
    ahead = (told - now).total_seconds()
    says = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours"
    if abs(ahead) <= _CLOCK:
        return Check(what="clock", state=State.OK, says=says)
    return Check(what="clock", state=State.LOOK, says=says, here="run a time service", there="run a time service")


def _stored(peer: Peer, settings: Settings, transport: Transport) -> Iterator[Check]:
    """Store one marked object and look for it."""
    with TemporaryDirectory(prefix="pacs-node-doctor-") as folder:
        file = _test_object(Path(folder))
        try:
            (answer,) = transport.send([file])
            if answer.kind is not AnswerKind.ACCEPTED:
                there = "take Secondary Capture of a patient that it does not know, and have room"
                yield Check(what="store", state=State.BAD, says=answer.reason, there=there)
                return
            yield Check(what="store", state=State.OK, says=f"took {file.sop_uid} of patient {TEST_PATIENT}: delete it")
            yield _read_back(transport.find(file), settings)
            if peer.verify is Verify.COMMITMENT:
                yield _committed(transport, file, peer, settings)
        except (PeerAway, PeerRefused) as why:
            yield Check(what="store", state=State.BAD, says=str(why), there="see what its log says")


def _read_back(there: bool | None, settings: Settings) -> Check:
    if there:
        return Check(what="read-back", state=State.OK, says="found there")
    if there is None:
        return Check(what="read-back", state=State.LOOK, says="it cannot be asked", here='verify = "none"')
    wait = "accepted, but not found at once; deliveries look five times"
    return Check(what="read-back", state=State.LOOK, says=wait, there=f"show {settings.ae_title} what it took")


def _committed(transport: Transport, file: OutgoingFile, peer: Peer, settings: Settings) -> Check:
    report = transport.commit([file], f"{UUID_ROOT}.{uuid4().int}", lambda: False)
    if report is None:
        says = f"no report on the same association within {peer.timeout:g} s; it may open one of its own"
        there = f"send reports to {settings.ae_title} at this machine, port {settings.port}"
        return Check(what="commitment", state=State.LOOK, says=says, here="the listener has to run", there=there)
    if file.sop_uid in report.committed:
        return Check(what="commitment", state=State.OK, says="it committed itself to the object")
    says = f"it does not commit itself to the object: {report.failed.get(file.sop_uid, 0):04X}"
    return Check(what="commitment", state=State.BAD, says=says, there="see its log")


def _test_object(folder: Path) -> OutgoingFile:
    """Write a picture of nobody that says what it is (PS3.3 A.8.1)."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = SecondaryCaptureImageStorage
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = (f"{UUID_ROOT}.{uuid4().int}" for _ in range(3))
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = f"TEST^{TEST_PATIENT}", TEST_PATIENT, "", "O"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "", "", "1", "", ""
    ds.StudyDescription = ds.SeriesDescription = "pacs-node doctor: test, may be deleted"
    ds.Modality, ds.ConversionType, ds.SeriesNumber, ds.InstanceNumber = "OT", "WSD", 1, 1
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    ds.PixelData = bytes(256)
    stream = io.BytesIO()
    ds.save_as(stream, enforce_file_format=True)
    path = folder / "test.dcm"
    path.write_bytes(stream.getvalue())
    return OutgoingFile(
        path=path, sop_class=ds.SOPClassUID, sop_uid=ds.SOPInstanceUID, study_uid=ds.StudyInstanceUID,
        transfer_syntax=ExplicitVRLittleEndian,
    )  # fmt: skip
