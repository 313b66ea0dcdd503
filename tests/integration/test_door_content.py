"""Bad content at the DICOM door, by its numbers: what is wrong with a whole instance, seen among others."""

from __future__ import annotations

import gc
import struct
import zlib
from pathlib import Path

import psutil
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

from node.conflicts import decide, find_conflict
from node.db import studies
from node.domain.study import Study, StudyState
from node.testing import NOON, part10, synthetic_ct
from tests.integration.conftest import Door
from tests.integration.test_scp import data_set
from tests.peers import ACCEPT, CT, EXPLICIT, Raw, associate_rq, associated, p_data, store_command

DIRECTORY, ENCAPSULATED_PDF = "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.1.1.104.1"


def store(peer: Raw, uid: str, data: bytes, *, context: int = 1, sop_class: str = CT) -> int:
    """Store a data set; return the status."""
    padded = sop_class.encode() + b"\0" * (len(sop_class) % 2)
    peer.send(p_data(context, 3, store_command(uid.encode(), padded)))
    for start in range(0, len(data), 100_000):
        peer.send(p_data(context, 0, data[start : start + 100_000]))
    peer.send(p_data(context, 2, b""))
    return peer.status()


def study_of(door: Door, uid: str) -> Study:
    """Return a study as the table has it."""
    with door.database.reading() as session:
        return studies.get_study(session, uid)


def test_b19_a_deflated_bomb_is_kept_as_it_is_and_never_inflated(door: Door) -> None:
    """A gigabyte of zeros in one megabyte: success, the bytes as sent, and hardly more memory."""
    (image,) = synthetic_ct(slices=1)
    plain = data_set(part10(image))
    at = plain.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    squeezed, zeros = zlib.compressobj(wbits=-zlib.MAX_WBITS), bytes(1 << 24)
    bomb = squeezed.compress(plain[:at] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1 << 30))
    bomb += b"".join(squeezed.compress(zeros) for _ in range(64)) + squeezed.flush()
    peer = associated(door.settings.port, (1, CT, (str(DeflatedExplicitVRLittleEndian),)))
    gc.collect()
    before = psutil.Process().memory_info().rss
    assert store(peer, str(image.SOPInstanceUID), bomb) == 0
    assert psutil.Process().memory_info().rss - before < 64 << 20
    (file,) = door.files()
    assert file.read_bytes().endswith(bomb)
    peer.close()


def test_b25_a_directory_is_not_offered_and_an_encapsulated_document_is_kept(door: Door) -> None:
    """DICOMDIR: result 3, and as a data set it is no instance; a PDF is a storage class like any other."""
    peer = Raw(door.settings.port, associate_rq((1, CT, (EXPLICIT,)), (3, DIRECTORY, (EXPLICIT,))))
    kind, body = peer.answer()
    results = [body[place + 6] for place in range(len(body) - 7) if body[place : place + 2] == b"\x21\0"]
    assert (kind, results) == (ACCEPT, [0, 3])
    records = struct.pack("<HH2sH", 0x0004, 0x1130, b"CS", 4) + b"DISK"
    assert store(peer, "1.2.3", records, sop_class=DIRECTORY) == 0xC000
    peer.close()
    (document,) = synthetic_ct(slices=1)
    document.SOPClassUID = ENCAPSULATED_PDF
    peer = associated(door.settings.port, (1, ENCAPSULATED_PDF, (EXPLICIT,)))
    data = data_set(part10(document))
    assert store(peer, str(document.SOPInstanceUID), data, sop_class=ENCAPSULATED_PDF) == 0
    assert len(door.rows()) == 1
    peer.close()


def test_b26_another_patient_in_a_study_is_kept_and_waits_for_a_person(door: Door) -> None:
    """Both are acknowledged; nothing runs."""
    peer = associated(door.settings.port)
    for patient, image in zip(("P-1", "P-2"), synthetic_ct(slices=2), strict=True):
        image.PatientID = patient
        assert store(peer, str(image.SOPInstanceUID), data_set(part10(image))) == 0
    study = study_of(door, "2.25.4711")
    assert study.state is StudyState.CONFLICT
    assert "different patients" in study.reason
    assert len(door.rows()) == 2
    peer.close()


@pytest.mark.parametrize("where", ["series", "study"])
def test_b27_an_instance_that_comes_again_elsewhere_is_kept_and_waits_for_a_person(where: str, door: Door) -> None:
    """The same SOP Instance UID in another series or study: one of the two is not what it says. A person settles it."""
    first, again = synthetic_ct(slices=1)[0], synthetic_ct(slices=1)[0]
    again.SeriesInstanceUID = "2.25.4712.9"
    if where == "study":
        again.StudyInstanceUID = "2.25.4712"
    study_uid = str(again.StudyInstanceUID)
    peer = associated(door.settings.port)
    for image in (first, again, again):
        assert store(peer, str(image.SOPInstanceUID), data_set(part10(image))) == 0
    assert study_of(door, study_uid).state is StudyState.CONFLICT
    assert "another series or study" in study_of(door, study_uid).reason
    assert len(door.rows()) == 2
    if where == "study":
        assert study_of(door, "2.25.4711").state is StudyState.OPEN  # its own images are what they were
    conflict = find_conflict(door.database, door.store, study_uid)
    decide(door.database, door.store, study_uid, conflict.first.patient_id, who="somebody", at=NOON)
    assert study_of(door, study_uid).state is StudyState.OPEN
    assert store(peer, str(again.SOPInstanceUID), data_set(part10(again))) == 0  # the same bytes ask nothing again
    assert study_of(door, study_uid).state is StudyState.OPEN
    peer.close()


def test_b27_one_series_uid_in_two_studies_is_two_series(door: Door) -> None:
    """Each study has its own: nothing of one is ever read for the other."""
    peer = associated(door.settings.port)
    for number, image in enumerate(synthetic_ct(slices=2)):
        image.StudyInstanceUID = f"2.25.471{number}"
        assert store(peer, str(image.SOPInstanceUID), data_set(part10(image))) == 0
    for number in range(2):
        with door.database.reading() as session:
            assert len(studies.instances_of(session, f"2.25.471{number}", "2.25.4711.1")) == 1
    peer.close()


def test_b24_what_a_peer_stores_has_a_preamble_of_zeros(door: Door) -> None:
    """No program hides there: the file's head is ours, whatever the peer's file had."""
    (image,) = synthetic_ct(slices=1)
    peer = associated(door.settings.port)
    assert store(peer, str(image.SOPInstanceUID), data_set(part10(image))) == 0
    (file,) = door.files()
    assert file.read_bytes()[:132] == bytes(128) + b"DICM"
    assert Path(file).suffix == ".dcm"
    peer.close()
