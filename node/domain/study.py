"""Studies, series and instances as the node knows them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceFacts:
    """What the header of one instance says, as far as filing and planning need it; no pixel data, no names."""

    sop_uid: str
    sop_class: str
    study_uid: str
    series_uid: str
    transfer_syntax: str
    patient_id: str = ""
    accession_number: str = ""
    study_date: str = ""
    study_description: str = ""
    modality: str = ""
    body_part: str = ""
    series_description: str = ""
    series_number: int | None = None
    instance_number: int | None = None
    image_type: tuple[str, ...] = ()
    rows: int = 0
    columns: int = 0
    frames: int = 1
    slice_thickness: float | None = None  # mm
    orientation: tuple[float, ...] = ()  # ImageOrientationPatient (0020,0037): six cosines, or none
    position: tuple[float, ...] = ()  # ImagePositionPatient (0020,0032): (L, P, S) in mm, or none
    manufacturer: str = ""


DECLINED = "the model declined it"  # how what is said of a series begins that a rule took and its model did not


class StudyState(StrEnum):
    """Where a study stands."""

    OPEN = "open"  #: instances may still come
    SETTLED = "settled"  #: planned as it stood at its revision
    CONFLICT = "conflict"  #: the same Study UID with another patient: kept, no job until a person decides


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One study as its row says."""

    uid: str
    state: StudyState
    revision: int
    reason: str
    description: str
    study_date: str
    modalities: tuple[str, ...]
    series: int
    instances: int
    calling_ae: str
    first_at: datetime
    last_at: datetime
    lost: int = 0  # instances whose files are missing from the store


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One series: the facts that rules look at."""

    uid: str
    study_uid: str
    modality: str
    body_part: str
    description: str
    number: int | None
    image_type: tuple[str, ...]
    instances: int
    slice_thickness: float | None  # mm
    orientation: str  # "axial", "coronal", "sagittal", "oblique" or "" where the header does not say
    manufacturer: str
    calling_ae: str
