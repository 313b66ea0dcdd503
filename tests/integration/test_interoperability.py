"""Other people's programs against this node: DCMTK, Orthanc and pynetdicom's own, in every syntax that they propose.

docs/interoperability.md is the table of what is tried here and elsewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    VideoEndoscopicImageStorage,
)
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # generated name

from node.db.tables import InstanceRow
from node.dicom.classes import LABEL_MAP_STORAGE, classes_of
from node.domain.peer import AnswerKind, Counts, OutgoingFile, Peer
from node.domain.profile import Profile
from node.testing import synthetic_ct, write_series
from node.transport.cstore import CStoreTransport
from tests.integration.conftest import Door, OpenDoor
from tests.integration.test_commitment_scp import MODEL, Requestor
from tests.integration.test_scp import data_set, dcmtk
from tests.rig import free_port, listens, running_orthanc, wait_for

MATRIX = "transfer-syntax-matrix"
_JPEG = "1.2.840.10008.1.2.4"
# pynetdicom shuts a socket that never connected down before it closes it; that raises, and the close is skipped.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

#: storescu's option, a file of the matrix, the transfer syntax in which the instance arrives.
PROPOSALS = [
    ("-x=", "LittleEndianExplicit.dcm", ExplicitVRLittleEndian),
    ("-xe", "LittleEndianExplicit.dcm", ExplicitVRLittleEndian),
    ("-xb", "BigEndianExplicit.dcm", ExplicitVRBigEndian),
    ("-xi", "LittleEndianExplicit.dcm", ImplicitVRLittleEndian),
    ("-xd", "LittleEndianExplicit.dcm", "1.2.840.10008.1.2.1.99"),
    ("-xs", "JPEGProcess14SV1.dcm", f"{_JPEG}.70"),
    ("-xy", "JPEGProcess1.dcm", f"{_JPEG}.50"),
    ("-xx", "JPEGProcess2_4.dcm", f"{_JPEG}.51"),
    ("-xt", "JPEGLSLossless.dcm", f"{_JPEG}.80"),
    ("-xu", "JPEGLSLossy.dcm", f"{_JPEG}.81"),
    ("-xv", "JPEG2000LosslessOnly.dcm", f"{_JPEG}.90"),
    ("-xw", "JPEG2000.dcm", f"{_JPEG}.91"),
    ("-xr", "RLELossless.dcm", "1.2.840.10008.1.2.5"),
]
VIDEO = [
    ("-xm", f"{_JPEG}.100"), ("-xh", f"{_JPEG}.101"), ("-xn", f"{_JPEG}.102"), ("-xl", f"{_JPEG}.103"),
    ("-x2", f"{_JPEG}.104"), ("-x3", f"{_JPEG}.105"), ("-xo", f"{_JPEG}.106"), ("-x4", f"{_JPEG}.107"),
    ("-x5", f"{_JPEG}.108"),
]  # fmt: skip


def storescu(door: Door, *words: str) -> None:
    """Send with DCMTK's storescu."""
    to = ["-aet", "SCANNER", "-aec", door.settings.ae_title, "127.0.0.1", str(door.settings.port)]
    subprocess.run([dcmtk("storescu"), *to, *words], check=True, capture_output=True, timeout=60)


def kept(door: Door) -> tuple[InstanceRow, pydicom.Dataset]:
    """Return the newest row and what its file holds; its digest is the row's."""
    row = door.rows()[-1]
    assert door.store.verify(row.path, row.content_sha)
    ds = pydicom.dcmread(door.store.path(row.path))
    assert row.transfer_syntax == ds.file_meta.TransferSyntaxUID
    return row, ds


@pytest.mark.parametrize(("option", "name", "syntax"), PROPOSALS, ids=[one[0] for one in PROPOSALS])
def test_storescu_stores_with_every_option_of_its_proposals(
    option: str, name: str, syntax: str, door: Door, data_dir: Path
) -> None:
    """The instance arrives in the syntax that DCMTK proposes first, its pixels as they are in the file."""
    file = data_dir / MATRIX / name
    storescu(door, option, "-R", str(file))
    row, ds = kept(door)
    sent = pydicom.dcmread(file)
    assert row.transfer_syntax == syntax
    assert (ds.SOPInstanceUID, ds.PatientID) == (sent.SOPInstanceUID, sent.PatientID)
    assert ds.PixelData == sent.PixelData


@pytest.mark.parametrize(("option", "syntax"), VIDEO, ids=[one[0] for one in VIDEO])
def test_storescu_stores_video(option: str, syntax: str, door: Door, tmp_path: Path) -> None:
    """MPEG2, MPEG-4 and HEVC, kept unread."""
    (ds,) = synthetic_ct(slices=1)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = VideoEndoscopicImageStorage
    ds.file_meta.TransferSyntaxUID = UID(syntax)
    ds.PixelData = encapsulate([bytes(range(256)) * 4])
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.save_as(tmp_path / "video.dcm", enforce_file_format=True)
    storescu(door, option, "-R", str(tmp_path / "video.dcm"))
    row, there = kept(door)
    assert (row.transfer_syntax, row.sop_class) == (syntax, VideoEndoscopicImageStorage)
    assert there.PixelData == ds.PixelData


@pytest.mark.parametrize("words", [["+C"], ["-pdu", "4096"], ["-pdu", "131072"], ["-usr", "bob", "-pwd", "secret"]])
def test_storescu_stores_however_it_negotiates(words: list[str], door: Door, tmp_path: Path) -> None:
    """All its 120 classes proposed with syntaxes combined; small and large PDUs; a user identity, which is ignored."""
    (file,) = write_series(synthetic_ct(slices=1), tmp_path / "out")
    storescu(door, *words, str(file))
    assert data_set(door.store.path(door.rows()[-1].path).read_bytes()) != b""


def test_dcmsend_sends_a_folder_of_every_syntax(door: Door, data_dir: Path, tmp_path: Path) -> None:
    """It chooses its proposals by itself; compressed pixels arrive as they are, others in the syntax of its choice."""
    files = sorted((data_dir / MATRIX).glob("*.dcm"))
    report = tmp_path / "report.txt"
    to = ["-aet", "SCANNER", "-aec", door.settings.ae_title, "127.0.0.1", str(door.settings.port)]
    for file in files:
        command = [dcmtk("dcmsend"), "-dn", "+crf", str(report), *to, str(file)]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert "with status SUCCESS  : 1" in report.read_text(), file.name
        sent = pydicom.dcmread(file)
        if sent.file_meta.TransferSyntaxUID.is_encapsulated:
            row, ds = kept(door)
            assert row.transfer_syntax == sent.file_meta.TransferSyntaxUID, file.name
            assert ds.PixelData == sent.PixelData, file.name


def test_findscu_hears_that_there_is_no_query(door: Door) -> None:
    """The association stands, the presentation context is refused."""
    to = ["-aet", "SCANNER", "-aec", door.settings.ae_title, "127.0.0.1", str(door.settings.port)]
    command = [dcmtk("findscu"), "-S", "-k", "QueryRetrieveLevel=STUDY", *to]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert "No Acceptable Presentation Contexts" in ran.stdout + ran.stderr


def test_what_storescu_sent_is_committed_to_who_asks(open_door: OpenDoor, data_dir: Path) -> None:
    """Sent by one implementation, asked for by another: pynetdicom as the user of storage commitment."""
    port = free_port()
    door = open_door(peer=[{"name": "scanner", "ae_title": "SCANNER", "host": "127.0.0.1", "port": port, "timeout": 5}])
    storescu(door, "-xv", "-R", str(data_dir / MATRIX / "JPEG2000LosslessOnly.dcm"))
    row, _ = kept(door)
    asking = Requestor(door, port)
    association = asking.associate()
    assert association.accepted_contexts[0].abstract_syntax == MODEL
    assert asking.ask([(row.sop_class, row.sop_uid)], over=association) == 0x0000
    kind, there, lacking = asking.told()
    assert (kind, there, lacking) == (1, [row.sop_uid], {})
    association.release()


def test_pynetdicom_s_storescu_stores(door: Door, tmp_path: Path) -> None:
    """As its users run it."""
    write_series(synthetic_ct(slices=3), tmp_path / "out")
    command = [sys.executable, "-m", "pynetdicom", "storescu", "127.0.0.1", str(door.settings.port)]
    command += [str(tmp_path / "out"), "-aet", "SCANNER", "-aec", door.settings.ae_title]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert len(door.rows()) == 3


def test_orthanc_stores_what_it_holds_in_every_syntax(open_door: OpenDoor, data_dir: Path, tmp_path: Path) -> None:
    """Each as it keeps it."""
    door = open_door(peer=[{"name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": 1}])
    with running_orthanc(tmp_path) as orthanc:
        node = {"AET": door.settings.ae_title, "Host": "127.0.0.1", "Port": door.settings.port}
        orthanc.call("/modalities/node", json.dumps(node).encode(), method="PUT")
        for file in sorted((data_dir / MATRIX).glob("*.dcm")):
            stored = orthanc.call("/instances", file.read_bytes())["ID"]
            orthanc.call("/modalities/node/store", json.dumps([stored]).encode())
            row, ds = kept(door)
            sent = pydicom.dcmread(file)
            assert row.transfer_syntax == sent.file_meta.TransferSyntaxUID, file.name
            assert ds.PixelData == sent.PixelData, file.name
            orthanc.call(f"/instances/{stored}", method="DELETE")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Peer]:
    """DCMTK's archive, dcmqrscp, with an empty store."""
    port, store = free_port(), tmp_path / "archive"
    store.mkdir()
    (tmp_path / "dcmqrscp.cfg").write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nARCHIVE {store} RW (9, 1024mb) ANY\nAETable END\n",
        encoding="ascii",
    )
    program = [dcmtk("dcmqrscp"), "-c", str(tmp_path / "dcmqrscp.cfg")]
    process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("dcmqrscp", lambda: listens(port), limit=20)
        yield Peer(name="archive", ae_title="ARCHIVE", host="127.0.0.1", port=port, timeout=10, count=Counts.CFIND)
    finally:
        process.terminate()
        process.wait(timeout=20)


def test_dcmqrscp_takes_results_and_is_asked(archive: Peer, tmp_path: Path) -> None:
    """C-ECHO, C-STORE, C-FIND at every level, as the node does them; that it counts no instances is known."""
    images = synthetic_ct(slices=3)
    files = write_series(images, tmp_path / "out")
    outgoing = [
        OutgoingFile(
            path=path, sop_class=CTImageStorage, sop_uid=str(ds.SOPInstanceUID), study_uid=str(ds.StudyInstanceUID),
            transfer_syntax=ExplicitVRLittleEndian,
        )
        for path, ds in zip(files, images, strict=True)
    ]  # fmt: skip
    transport = CStoreTransport(archive, calling_ae="NODE")
    assert transport.echo() < archive.timeout
    assert [one.kind for one in transport.send(outgoing)] == [AnswerKind.ACCEPTED] * 3
    assert transport.find_all([*outgoing, replace(outgoing[0], sop_uid="2.25.404")]) == [True, True, True, False]
    study = outgoing[0].study_uid
    assert list(transport.count([study])) == [None]  # dcmqrscp has series, and does not say how many instances
    assert transport.patient_of(study) == images[0].PatientID


def test_storescp_takes_every_class_of_results(tmp_path: Path) -> None:
    """In the syntax in which they are written; only the label map is younger than it."""
    port, folder = free_port(), tmp_path / "in"
    folder.mkdir()
    process = subprocess.Popen([dcmtk("storescp"), "-od", str(folder), str(port)], stdout=subprocess.DEVNULL)
    try:
        wait_for("storescp", lambda: listens(port), limit=20)
        rich = dict.fromkeys(("pdf", "parametric_map", "presentation_state", "key_images"), True)
        wanted = [uid for uid, _ in classes_of(Profile(**rich))]  # type: ignore[arg-type]
        peer = Peer(name="dcmtk", ae_title="STORESCP", host="127.0.0.1", port=port, timeout=10)
        taken = CStoreTransport(peer, calling_ae="NODE").takes([*wanted, LABEL_MAP_STORAGE])
        assert taken == {*wanted, Verification}
    finally:
        process.terminate()
        process.wait(timeout=20)
