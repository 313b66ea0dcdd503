"""A real Orthanc as the PACS: a study goes out to the node, SEG and SR come back into the same study."""

from __future__ import annotations

import io
from pathlib import Path

import pydicom
import pytest

from node.domain.job import JobState
from tests.rig import Orthanc
from tests.system.conftest import StartNode

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

STUDY = "ct-chest-lung1-001"
PEER = '[[peer]]\nname = "pacs"\nae_title = "ORTHANC"\nport = {port}\n'


def test_a_real_study_comes_back_as_seg_and_sr_in_the_same_study(
    data_dir: Path, orthanc: Orthanc, start_node: StartNode
) -> None:
    """134 JPEG-LS images go from Orthanc to the node by C-STORE; both models' results return to Orthanc."""
    orthanc.upload(data_dir / STUDY / "dicom")
    (study,) = orthanc.call("/studies")
    node = start_node(PEER.format(port=orthanc.dicom))
    orthanc.call("/modalities/node", b'["PACSAINODE", "127.0.0.1", %d]' % node.port, method="PUT")

    orthanc.call("/modalities/node/store", study.encode())
    jobs = node.wait_until_ended(2, limit=400)

    assert {job.model: job.state for job in jobs} == {"ct-lung": JobState.DONE, "ct-lung-nodule": JobState.DONE}
    assert orthanc.call("/studies") == [study]  # nothing opened a second study
    segmentations = [_read(orthanc, one) for one in orthanc.of_modality("SEG")]
    reports = [_read(orthanc, one) for one in orthanc.of_modality("SR")]
    source = pydicom.dcmread(next((data_dir / STUDY / "dicom").iterdir()), stop_before_pixels=True)
    assert {"Left lung", "Right lung"} <= {s.SegmentLabel for seg in segmentations for s in seg.SegmentSequence}
    assert len(reports) == 2
    for made in (*segmentations, *reports):
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.PatientID == source.PatientID
        assert made.PatientName == source.PatientName
    assert all(seg.FrameOfReferenceUID == source.FrameOfReferenceUID for seg in segmentations)


def _read(orthanc: Orthanc, instance: str) -> pydicom.FileDataset:
    return pydicom.dcmread(io.BytesIO(orthanc.instance(instance)))
