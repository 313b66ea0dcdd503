"""Modality Performed Procedure Step over real associations: what is answered, what stands in the table by then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityPerformedProcedureStep  # type: ignore[attr-defined]  # generated name
from sqlalchemy import select

from node.db.tables import EventRow, StepRow, StepStudyRow
from tests.integration.conftest import Door, OpenDoor

STEP, STUDY = "2.25.700", "2.25.4711"


def associate(door: Door, calling_ae: str = "SCANNER") -> Any:
    """Return an association that proposes MPPS."""
    ae = AE(ae_title=calling_ae)
    ae.add_requested_context(ModalityPerformedProcedureStep)
    return ae.associate("127.0.0.1", door.settings.port, ae_title=door.settings.ae_title)


@pytest.fixture
def modality(door: Door) -> Iterator[Any]:
    """A modality that is associated with the door."""
    association = associate(door)
    assert association.is_established
    yield association
    association.release()


def begun(status: str | None = "IN PROGRESS", study: str | None = STUDY) -> Dataset:
    """Return what a modality says when it begins, its patient too."""
    ds = Dataset()
    if status is not None:
        ds.PerformedProcedureStepStatus = status
    ds.PatientName, ds.PatientID = "CANARY^NAME", "CANARY-ID"
    scheduled = Dataset()
    if study is not None:
        scheduled.StudyInstanceUID = study
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PerformedSeriesSequence = []
    return ds


def ended(status: str = "COMPLETED", *instances: str, other: tuple[str, ...] = ()) -> Dataset:
    """Return what it says in the end: images, and what is no image."""
    ds, series = Dataset(), Dataset()
    if status:
        ds.PerformedProcedureStepStatus = status
    series.SeriesInstanceUID = f"{STUDY}.1"
    for keyword, uids in (
        ("ReferencedImageSequence", instances), ("ReferencedNonImageCompositeSOPInstanceSequence", other),
    ):  # fmt: skip
        items = []
        for uid in uids:
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", uid
            items.append(item)
        setattr(series, keyword, items)
    ds.PerformedSeriesSequence = [series]
    return ds


def create(association: Any, ds: Dataset, uid: str | None = STEP) -> int:
    """Return the answer to N-CREATE."""
    status, _ = association.send_n_create(ds, ModalityPerformedProcedureStep, uid)
    return int(status.Status)


def change(association: Any, ds: Dataset, uid: str = STEP) -> Dataset:
    """Return the status set of the answer to N-SET."""
    status, _ = association.send_n_set(ds, ModalityPerformedProcedureStep, uid)
    return status  # type: ignore[no-any-return]


def steps(door: Door) -> list[StepRow]:
    """Return all steps of the table."""
    with door.database.reading() as session:
        return list(session.scalars(select(StepRow).order_by(StepRow.sop_uid)))


def test_a_step_stands_in_the_table_when_it_is_answered(door: Door, modality: Any) -> None:
    """Begun, changed, completed; nothing of the patient is kept."""
    assert create(modality, begun()) == 0x0000
    (row,) = steps(door)
    assert (row.sop_uid, row.state, row.calling_ae, row.series) == (STEP, "in progress", "SCANNER", {})
    assert change(modality, ended("", "2.25.1")).Status == 0x0000
    assert (steps(door)[0].state, steps(door)[0].series) == ("in progress", {f"{STUDY}.1": ["2.25.1"]})
    assert change(modality, ended("COMPLETED", "2.25.1", "2.25.2", other=("2.25.3",))).Status == 0x0000
    (row,) = steps(door)
    assert (row.state, row.series) == ("completed", {f"{STUDY}.1": ["2.25.1", "2.25.2", "2.25.3"]})
    with door.database.reading() as session:
        assert [(r.study_uid, r.step_uid) for r in session.scalars(select(StepStudyRow))] == [(STUDY, STEP)]
        said = [event.detail for event in session.scalars(select(EventRow))]
    assert said == ["a step is in progress", "a step is completed: 3 instances of 1 series"]
    everything = b"".join(file.read_bytes() for file in door.settings.home.glob("node.db*"))
    assert b"CANARY" not in everything


def test_a_step_that_has_ended_is_refused_with_the_standard_s_error(door: Door, modality: Any) -> None:
    """0110 with error ID A710 (PS3.4 table F.7.2-2); nothing changes."""
    create(modality, begun())
    change(modality, ended("DISCONTINUED", "2.25.1"))
    answer = change(modality, ended("COMPLETED", "2.25.1", "2.25.2"))
    assert (answer.Status, answer.ErrorID) == (0x0110, 0xA710)
    assert steps(door)[0].state == "discontinued"


def test_a_modality_that_names_no_step_is_told_its_name(door: Door, modality: Any) -> None:
    """PS3.7 10.1.5.1.4."""
    assert create(modality, begun(), None) == 0x0000
    assert len(steps(door)) == 1


REFUSED: dict[str, tuple[dict[str, Any], str, int]] = {
    "begun twice": ({}, STEP, 0x0111),
    "begun as completed": ({"status": "COMPLETED"}, "2.25.701", 0x0106),
    "an unknown status": ({"status": "MAYBE"}, "2.25.701", 0x0106),
    "no status": ({"status": None}, "2.25.701", 0x0120),
    "no study": ({"study": None}, "2.25.701", 0x0121),
    "a malformed study": ({"study": "1.2/../3"}, "2.25.701", 0x0106),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_no_step_begins_with_is_refused(door: Door, modality: Any, what: str) -> None:
    """Each with its own status; the association lives."""
    assert create(modality, begun()) == 0x0000
    said, uid, status = REFUSED[what]
    assert create(modality, begun(**said), uid) == status
    assert len(steps(door)) == 1
    assert change(modality, ended()).Status == 0x0000


def test_a_step_that_nobody_began_is_not_there(door: Door, modality: Any) -> None:
    """0112."""
    assert change(modality, ended()).Status == 0x0112
    assert steps(door) == []


def test_without_a_scheduled_step_it_is_of_no_study(door: Door, modality: Any) -> None:
    """0120."""
    ds = begun()
    del ds.ScheduledStepAttributesSequence
    assert create(modality, ds) == 0x0120
    assert steps(door) == []


def test_who_may_not_send_may_not_say_that_all_was_sent(open_door: OpenDoor) -> None:
    """0124."""
    pacs = {"name": "pacs", "ae_title": "PACS", "verify": "commitment", "may_send": False}
    association = associate(open_door(peer=[pacs]), "PACS")
    assert create(association, begun()) == 0x0124
    assert change(association, ended()).Status == 0x0124
    association.release()


def test_a_step_that_cannot_be_written_is_no_success(door: Door, modality: Any) -> None:
    """The table is gone: 0110, and the modality says it again."""
    with door.database.transaction() as session:
        session.connection().exec_driver_sql("ALTER TABLE step RENAME TO elsewhere")
    assert create(modality, begun()) == 0x0110
    assert change(modality, ended()).Status == 0x0110
