"""Headers as the listener reads them: facts, or one kind of refusal, whatever the bytes are."""

from __future__ import annotations

import io
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from node.dicom.header import read_facts, read_instance
from node.domain.study import InstanceFacts
from node.errors import UnreadableInstance


def instance(syntax: str = ExplicitVRLittleEndian, **changes: object) -> bytes:
    """One small encoded CT image; a change to None takes the attribute away."""
    ds = Dataset()
    ds.SpecificCharacterSet, ds.ImageType = "ISO_IR 100", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, "1.2.3.4"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = "1.2.3", "1.2.3.1", "P-7"
    ds.StudyDate, ds.AccessionNumber, ds.Modality, ds.Manufacturer = "20260102", "A1", "CT", "Maker"
    ds.StudyDescription, ds.SeriesDescription, ds.BodyPartExamined = "Thorax nativ", "Lunge weich", "CHEST"
    ds.SliceThickness, ds.SeriesNumber, ds.InstanceNumber = "2.5", 3, 17
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-1.5, 2.25, 30], [1, 0, 0, 0, 1, 0]
    ds.Rows, ds.Columns, ds.BitsAllocated, ds.SamplesPerPixel = 4, 6, 16, 1
    ds.PixelRepresentation, ds.BitsStored, ds.HighBit, ds.PhotometricInterpretation = 0, 16, 15, "MONOCHROME2"
    ds.PixelData = bytes(48)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, value in changes.items():
            if value is None:
                del ds[name]
            else:
                setattr(ds, name, value)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = UID(syntax)
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = CTImageStorage, UID("1.2.3.4")
        stream = io.BytesIO()
        dcmwrite(stream, ds, enforce_file_format=True)
    return stream.getvalue()


def patched(before: bytes, after: bytes) -> bytes:
    """The instance with the bytes of one value replaced by others of the same length."""
    data = instance()
    assert data.count(before) == 1 and len(before) == len(after)
    return data.replace(before, after)


def behind_meta(data: bytes) -> int:
    """Where the data set begins: behind the preamble, the group length and what it counts (PS3.10 7.1)."""
    return 144 + int.from_bytes(data[140:144], "little")


def facts_or_reason(data: bytes) -> InstanceFacts | UnreadableInstance:
    """All that may come of any bytes."""
    try:
        return read_facts(data)
    except UnreadableInstance as why:
        return why


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
    ids=lambda syntax: syntax.name,
)  # fmt: skip
def test_facts_are_what_the_header_says(syntax: str) -> None:
    """Every field, in every encoding of the data set."""
    assert read_facts(instance(syntax)) == InstanceFacts(
        sop_uid="1.2.3.4", sop_class=CTImageStorage, study_uid="1.2.3", series_uid="1.2.3.1", transfer_syntax=syntax,
        patient_id="P-7", accession_number="A1", study_date="20260102", study_description="Thorax nativ", modality="CT",
        body_part="CHEST", series_description="Lunge weich", series_number=3, instance_number=17,
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"), rows=4, columns=6, frames=1, slice_thickness=2.5,
        orientation=(1, 0, 0, 0, 1, 0), position=(-1.5, 2.25, 30), manufacturer="Maker",
    )  # fmt: skip


def test_a_file_is_read_like_its_bytes(tmp_path: Path) -> None:
    """The command line reads paths, the listener bytes."""
    path = tmp_path / "one.dcm"
    path.write_bytes(instance())
    assert read_facts(path) == read_facts(instance())


@pytest.mark.parametrize("name", ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"])
def test_a_missing_uid_is_named(name: str) -> None:
    """The peer's log says which one."""
    with pytest.raises(UnreadableInstance, match=f"has no {name}"):
        read_facts(instance(ExplicitVRLittleEndian, **{name: None}))


@pytest.mark.parametrize("uid", ["../../etc/passwd", "..", "1..2", ".1", "1.2/3", "1.2\\3", "1.2 3", "a.b", "1" * 65])
def test_what_is_no_uid_is_refused(uid: str) -> None:
    """UIDs become names of files and rows."""
    with pytest.raises(UnreadableInstance, match="SOPInstanceUID is no UID"):
        read_facts(instance(SOPInstanceUID=uid))


def test_a_transfer_syntax_that_is_no_uid_is_refused() -> None:
    """It becomes a column of a row."""
    with pytest.raises(UnreadableInstance, match="TransferSyntaxUID is no UID"):
        read_facts(patched(ExplicitVRLittleEndian.encode() + b"\0", b"x" * 20))


@pytest.mark.parametrize("uid", ["1.02.3", "2.25.00", "1", "1" * 64])
def test_uids_as_real_devices_write_them_are_taken(uid: str) -> None:
    """Leading zeros break PS3.5 9.1 and are met all the same."""
    assert read_facts(instance(SOPInstanceUID=uid)).sop_uid == uid


def test_garbage_in_one_number_does_not_refuse_the_image() -> None:
    """It is read as absent."""
    assert read_facts(patched(b"2.5 ", b"thin")).slice_thickness is None
    assert read_facts(patched(b"2.5 ", b"nan ")).slice_thickness is None
    assert read_facts(patched(b"-1.5\\2.25\\30", b"-1.5\\2,25\\30")).position == ()
    assert read_facts(instance(ImageOrientationPatient=[1, 0, 0])).orientation == ()
    assert read_facts(patched(b"17", b"x7")).instance_number is None


def test_numbers_that_no_column_holds_are_absent() -> None:
    """An IS has 32 bits; what has more would break the database."""
    assert read_facts(instance(SeriesNumber="99999999999")).series_number is None


def test_text_is_decoded_by_its_character_set() -> None:
    """Latin-1, UTF-8 and Japanese with escape sequences."""
    assert read_facts(instance(StudyDescription="Schädel")).study_description == "Schädel"
    utf8 = instance(SpecificCharacterSet="ISO_IR 192", StudyDescription="胸部 CT")
    assert read_facts(utf8).study_description == "胸部 CT"
    japanese = instance(SpecificCharacterSet=["", "ISO 2022 IR 87"], StudyDescription="胸部")
    assert read_facts(japanese).study_description == "胸部"


def test_control_characters_do_not_reach_tables_and_logs() -> None:
    """A description is one printable line of bounded length."""
    facts = read_facts(instance(StudyDescription="a\x07\r\nb\x1b[31m" + "c" * 5000))
    assert facts.study_description.startswith("ab[31mccc")
    assert len(facts.study_description) <= 256


def test_a_deflated_bomb_is_not_inflated() -> None:
    """256 MiB of zeros behind a small header costs a few megabytes."""
    plain, deflated = instance(), instance(DeflatedExplicitVRLittleEndian)
    squeezed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    claim = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 1 << 28)
    header = plain[behind_meta(plain) : plain.index(claim[:6])]
    bomb = deflated[: behind_meta(deflated)] + squeezed.compress(header + claim)
    bomb += b"".join(squeezed.compress(bytes(1 << 24)) for _ in range(16)) + squeezed.flush()
    tracemalloc.start()
    facts = read_facts(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert facts.sop_uid == "1.2.3.4"
    assert peak < 16 << 20


def test_a_whole_deflated_instance_has_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader inflates all of it, but no more than an image can be."""
    monkeypatch.setattr("node.dicom.header._LARGEST_INSTANCE", 100)
    path = tmp_path / "bomb.dcm"
    path.write_bytes(instance(DeflatedExplicitVRLittleEndian, PixelData=bytes(1 << 22)))
    with pytest.raises(UnreadableInstance, match="once inflated"):
        read_instance(path, pixels=True)


@pytest.mark.parametrize("depth", [10, 500, 20_000])
def test_deeply_nested_sequences_do_no_harm(depth: int) -> None:
    """Sequences of undefined length, one in the other: facts or a refusal, soon."""
    sequence = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
    opening = sequence + struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    began = time.monotonic()
    data = instance()
    cut = data.index(struct.pack("<HH2s", 0x7FE0, 0x0010, b"OW"))
    facts_or_reason(data[:cut] + opening * depth)
    assert time.monotonic() - began < 5


def test_a_value_that_claims_gigabytes_is_not_allocated() -> None:
    """A length is a claim; only what is there is read."""
    data = instance()
    at = data.index(struct.pack("<HH2s", 0x0008, 0x1030, b"LO"))
    claim = struct.pack("<HH2sHI", 0x0008, 0x1030, b"UT", 0, 0xFFFFFFF0)
    tracemalloc.start()
    facts_or_reason(data[:at] + claim + data[at + 8 :])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@given(st.integers(0, 800), st.binary(min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_facts_or_a_refusal(at: int, junk: bytes) -> None:
    """Any bytes anywhere: nothing else is raised."""
    data = bytearray(instance())
    data[at : at + len(junk)] = junk
    outcome = facts_or_reason(bytes(data))
    assert isinstance(outcome, InstanceFacts | UnreadableInstance)


@given(st.integers(0, 900), st.sampled_from([ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian]))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_cut_file_gives_facts_or_a_refusal(length: int, syntax: str) -> None:
    """A transfer may break anywhere."""
    outcome = facts_or_reason(instance(syntax)[:length])
    assert isinstance(outcome, InstanceFacts | UnreadableInstance)


def test_what_is_not_dicom_is_refused() -> None:
    """Nothing, text, a picture."""
    for data in (b"", b"hello", b"\x89PNG" * 100, bytes(200), bytes(128) + b"DICM"):
        with pytest.raises(UnreadableInstance):
            read_facts(data)


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    """Many associations read at once; the filters belong to all of them."""
    before, data = list(warnings.filters), instance()
    threads = [threading.Thread(target=lambda: [read_facts(data) for _ in range(20)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_values_of_the_header_do_not_reach_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """pydicom logs what breaks its VR, value and all: it might be a patient's name."""
    path = tmp_path / "one.dcm"
    path.write_bytes(patched(b"2.5 ", b"Mary"))
    read_facts(path)
    read_instance(path, pixels=False)
    assert "Mary" not in caplog.text


REFUSED = {
    "ExplVR_LitEndNoMeta": "InvalidDicomError", "TC0233_rows_US_as_UL": "no TransferSyntaxUID",
    "TC0377_no_preamble": "InvalidDicomError", "TC0391_meta_glen_zero": "no TransferSyntaxUID",
    "TC0401_invalid_ts": "TransferSyntaxUID is no UID", "TC0457_uid_uid_65chars_over": "SOPInstanceUID is no UID",
    "TC0467_uid_uid_empty": "no SOPInstanceUID", "UN_sequence": "no SOPInstanceUID",
    "empty_charset_LEI": "no SOPInstanceUID", "meta_missing_tsyntax": "no TransferSyntaxUID",
    "nested_priv_SQ": "no SOPInstanceUID", "no_meta": "InvalidDicomError", "no_meta_group_length": "no SOPInstanceUID",
    "MR_truncated": "cut short", "rtplan_truncated": "cut short",
}  # fmt: skip


def test_malformed_files_are_read_or_refused_for_a_reason(data_dir: Path) -> None:
    """38 damaged files: what can be filed is filed, the rest says why not, within moments."""
    paths = sorted((data_dir / "malformed").glob("*.dcm"))
    assert len(paths) == 38
    began = time.monotonic()
    outcomes = {path.stem: facts_or_reason(path.read_bytes()) for path in paths}
    assert time.monotonic() - began < 5
    refused = {name: str(one) for name, one in outcomes.items() if isinstance(one, UnreadableInstance)}
    assert refused.keys() == REFUSED.keys()
    assert all(words in refused[name] for name, words in REFUSED.items()), refused


def test_names_in_other_scripts_do_not_disturb(data_dir: Path) -> None:
    """Latin-1, Greek, Cyrillic, Japanese and Chinese headers."""
    for path in sorted((data_dir / "charset-names").glob("*.dcm")):
        assert read_facts(path).rows == 32


