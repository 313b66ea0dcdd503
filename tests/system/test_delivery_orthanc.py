"""Delivery to a real Orthanc: by STOW-RS with QIDO-RS, and by C-STORE with storage commitment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.domain.job import JobState
from node.domain.peer import OutgoingFile, Peer, Verify
from node.domain.result import OTHER_PATIENT
from node.intake import Intake
from node.scp.server import start_scp
from node.testing import synthetic_ct, write_series
from node.transport import open_transport
from tests.rig import free_port, running_orthanc, wait_for
from tests.unit.node.conftest import World
from tests.unit.node.test_delivery import SEG_UID, SR_UID, publish_two

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A node without processes on SQLite."""
    url = f"sqlite:///{tmp_path / 'node.db'}"
    migrate(url)
    engine = open_engine(url)
    yield World(Database(engine), tmp_path / "home")
    engine.dispose()


def test_orthanc_takes_a_set_by_stow_and_shows_it_by_qido(world: World, tmp_path: Path) -> None:
    """Stored byte for byte, found, done; once more is no news to it; what it never saw is not there."""
    with running_orthanc(tmp_path, dicomweb=True) as orthanc:
        peer = Peer(name="orthanc", url=f"http://127.0.0.1:{orthanc.http}/dicom-web")
        world.peers.append(peer)
        job_id = publish_two(world, "orthanc")
        assert world.deliverer().deliver(job_id) == 2
        assert world.job(job_id).state is JobState.DONE
        (reason,) = {one.reason for one in world.deliveries(job_id)}
        assert reason == f"{OTHER_PATIENT}; found there"  # this world's study is of P-1, the images are not
        kept = {_uid(orthanc.call(f"/instances/{one}")) for one in orthanc.call("/instances")}
        assert kept == {SEG_UID, SR_UID}

        way = open_transport(peer, calling_ae="NODE")
        assert way.echo() > 0
        files = _files(tmp_path)
        assert way.find_all(files) == [False, False]
        for _ in range(2):
            assert [answer.kind for answer in way.send(files)] == ["accepted", "accepted"]
        assert way.find_all(files) == [True, True]
        patient = str(synthetic_ct(slices=2, uid_prefix="2.25.555")[0].PatientID)
        dicom = open_transport(Peer(name="o", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom), calling_ae="X")
        assert [one.patient_of(files[0].study_uid) for one in (way, dicom)] == [patient] * 2
        assert [one.patient_of("2.25.1") for one in (way, dicom)] == [None] * 2
        ids = [one for one in orthanc.call("/instances") if _uid(orthanc.call(f"/instances/{one}")) == files[0].sop_uid]
        assert orthanc.instance(ids[0]) == files[0].path.read_bytes()


def _uid(instance: dict[str, Any]) -> str:
    return str(instance["MainDicomTags"]["SOPInstanceUID"])


def _files(folder: Path) -> list[OutgoingFile]:
    images = synthetic_ct(slices=2, uid_prefix="2.25.555")
    return [
        OutgoingFile(
            path=path, sop_class=str(ds.SOPClassUID), sop_uid=str(ds.SOPInstanceUID),
            study_uid=str(ds.StudyInstanceUID), transfer_syntax="1.2.840.10008.1.2.1",
        )
        for ds, path in zip(images, write_series(images, folder / "out"), strict=True)
    ]  # fmt: skip


def test_a_server_that_takes_no_such_bytes_says_so(tmp_path: Path) -> None:
    """A text file with a DICOM name: Orthanc's own answer parks it, with a reason."""
    with running_orthanc(tmp_path, dicomweb=True) as orthanc:
        way = open_transport(Peer(name="o", url=f"http://127.0.0.1:{orthanc.http}/dicom-web"), calling_ae="NODE")
        broken = tmp_path / "broken.dcm"
        broken.write_text("no DICOM")
        file = OutgoingFile(path=broken, sop_class="1.2", sop_uid="1.2.3", transfer_syntax="1.2.840.10008.1.2.1")
        (answer,) = way.send([file])
        assert answer.kind in ("refused", "unknown")
        assert answer.reason


def test_orthanc_commits_itself_to_a_set(world: World, tmp_path: Path) -> None:
    """It reports by an association of its own, to our listener, as most archives do."""
    port = free_port()
    with running_orthanc(tmp_path) as orthanc:
        node = f'{{"AET": "PACSAINODE", "Host": "127.0.0.1", "Port": {port}}}'
        orthanc.call("/modalities/node", node.encode(), method="PUT")
        world.peers.append(
            Peer(
                name="orthanc", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom, timeout=20,
                verify=Verify.COMMITMENT,
            )
        )  # fmt: skip
        job_id = publish_two(world, "orthanc")
        intake = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
        server = start_scp(world.settings(host="127.0.0.1", port=port), intake)
        try:
            assert world.deliverer().deliver(job_id) == 2
            wait_for("the report", lambda: world.job(job_id).state is JobState.DONE, limit=20)
        finally:
            server.shutdown()
        assert {one.reason for one in world.deliveries(job_id)} == {"the peer committed itself to it"}
