"""A real Orthanc sends and counts; it asks for storage commitment; the node is killed in between."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, build_context, evt
from pynetdicom.sop_class import (  # type: ignore[attr-defined]  # generated names
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
)

from node.db import studies
from node.domain.peer import Counts, Peer
from node.domain.study import Study
from node.testing import synthetic_ct, write_series
from node.transport import open_transport
from tests.rig import Orthanc, RunningNode, free_port, running_orthanc, wait_for
from tests.system.conftest import StartNode

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]

STUDY = "2.25.4711"
PEER = '[[peer]]\nname = "pacs"\nae_title = "ORTHANC"\nport = {port}\ncount = "c-find"\n'
RULE = '[[rule]]\nname = "none"\nmodel = "ct-lung"\nmodality = ["PT"]\n'


def know(orthanc: Orthanc, port: int) -> None:
    """Tell Orthanc where the node is."""
    node = {"AET": "PACSAINODE", "Host": "127.0.0.1", "Port": port}
    orthanc.call("/modalities/node", json.dumps(node).encode(), method="PUT")


def study_of(node: RunningNode) -> Study | None:
    """Return the study as the node knows it."""
    services = node.services()
    try:
        with services.database.reading() as session:
            return next(iter(studies.list_studies(session, uid=STUDY)), None)
    finally:
        services.database.engine.dispose()


def test_a_study_settles_when_orthanc_counts_no_more(orthanc: Orthanc, tmp_path: Path, start_node: StartNode) -> None:
    """Quiet time is an hour; half of the study waits, the rest settles it within seconds."""
    files = write_series(synthetic_ct(slices=6), tmp_path / "out")
    ids = [orthanc.call("/instances", file.read_bytes())["ID"] for file in files]
    node = start_node(PEER.format(port=orthanc.dicom) + RULE, quiet=3600)
    know(orthanc, node.port)
    orthanc.call("/modalities/node/store", json.dumps(ids[:4]).encode())

    def waits() -> bool:
        one = study_of(node)
        return one is not None and one.reason == "waits: pacs counts 4 of 6"

    wait_for("the count", waits, limit=60)
    orthanc.call("/modalities/node/store", json.dumps(ids[4:]).encode())
    settled = wait_for("the study to settle", lambda: (one := study_of(node)) and one.revision and one, limit=60)
    assert settled.reason.startswith("pacs counts 6 of 6, ")
    assert settled.reason.endswith(" after the last image; no rule wants any of its series")


def test_orthanc_counts_by_qido_as_by_c_find(tmp_path: Path) -> None:
    """Both say how many instances each series has; of what it does not know it says nothing."""
    images = [*synthetic_ct(slices=3), *synthetic_ct(slices=2, series_number=2)]
    files = write_series(images, tmp_path / "out")
    with running_orthanc(tmp_path, dicomweb=True) as orthanc:
        for file in files:
            orthanc.call("/instances", file.read_bytes())
        by_find = Peer(name="a", ae_title="ORTHANC", host="127.0.0.1", port=orthanc.dicom, count=Counts.CFIND)
        by_qido = replace(by_find, url=f"http://127.0.0.1:{orthanc.http}/dicom-web", count=Counts.QIDO)
        for peer in (by_find, by_qido):
            counted = list(open_transport(peer, calling_ae="NODE").count((STUDY, "2.25.404")))
            assert counted == [{f"{STUDY}.1": ("CT", 3), f"{STUDY}.2": ("CT", 2)}, {}]


def test_orthanc_is_told_that_it_may_delete(orthanc: Orthanc, tmp_path: Path, start_node: StartNode) -> None:
    """Its own storage commitment, by its REST interface; then of an instance that the node never had."""
    files = write_series(synthetic_ct(slices=4), tmp_path / "out")
    ids = [orthanc.call("/instances", file.read_bytes())["ID"] for file in files]
    node = start_node(PEER.format(port=orthanc.dicom) + RULE)
    know(orthanc, node.port)
    orthanc.call("/modalities/node/store", json.dumps(ids[:3]).encode())
    assert commitment(orthanc, ids[:3]) == ("Success", [])
    assert commitment(orthanc, ids) == ("Failure", [(str(synthetic_ct(slices=4)[3].SOPInstanceUID), 0x0112)])


def commitment(orthanc: Orthanc, ids: list[str]) -> tuple[str, list[tuple[str, int]]]:
    """Let Orthanc ask for storage commitment; return what it makes of the report."""
    asked = orthanc.call("/modalities/node/storage-commitment", json.dumps({"Resources": ids}).encode())

    def report() -> Any:
        found = orthanc.call(asked["Path"])
        return found if found["Status"] != "Pending" else None

    found = wait_for("Orthanc's report", report, limit=60)
    return found["Status"], [(one["SOPInstanceUID"], one["FailureReason"]) for one in found["Failures"]]


def test_a_question_survives_the_killing_of_the_listener(tmp_path: Path, start_node: StartNode) -> None:
    """kill -9 of listener and sweep; the requestor, away until then, is told once they are back."""
    port, reports = free_port(), list[Dataset]()
    scanner = f'[[peer]]\nname = "scanner"\nae_title = "SCANNER"\nport = {port}\ntimeout = 3\n'
    node = start_node(scanner + RULE)
    (image,) = synthetic_ct(slices=1)
    ae = AE(ae_title="SCANNER")
    contexts = [build_context(image.SOPClassUID, "1.2.840.10008.1.2.1"), build_context(StorageCommitmentPushModel)]
    association = ae.associate("127.0.0.1", node.port, contexts=contexts, ae_title=node.ae_title)
    assert association.send_c_store(image).Status == 0x0000
    asked, item = Dataset(), Dataset()
    asked.TransactionUID = "2.25.600"
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    asked.ReferencedSOPSequence = [item]
    model, instance = StorageCommitmentPushModel, StorageCommitmentPushModelInstance
    status, _ = association.send_n_action(asked, 1, model, instance)
    assert status.Status == 0x0000
    node.kill("scp")  # while its answering thread still waits
    node.kill("sweep")
    association.abort()
    time.sleep(0.5)

    def on_report(event: Any) -> tuple[int, None]:
        reports.append(event.event_information)
        return 0x0000, None

    back = AE(ae_title="SCANNER")
    back.add_supported_context(model, scu_role=True, scp_role=True)
    server = back.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        wait_for("the report", lambda: reports, limit=90)
    finally:
        server.shutdown()
    assert reports[0].TransactionUID == "2.25.600"
    assert [one.ReferencedSOPInstanceUID for one in reports[0].ReferencedSOPSequence] == [image.SOPInstanceUID]
