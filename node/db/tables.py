"""The tables. Every guard that keeps work from being lost or doubled is a key here or a WHERE clause beside it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NAMES = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}


class Utc(TypeDecorator[datetime]):
    """An aware UTC time on every database; SQLite itself keeps no zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; refuse a naive time, whose zone nobody knows."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive time cannot be stored")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return an aware UTC time."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Uid = String(64)
BigId = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only an INTEGER primary key


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {datetime: Utc, str: Text, dict[str, Any]: JSON, list[str]: JSON}  # noqa: RUF012


class StudyRow(Base):
    """One study; *epoch* counts every change, so that settling loses to an instance that came meanwhile."""

    __tablename__ = "study"
    uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    patient_id: Mapped[str]
    accession_number: Mapped[str]
    description: Mapped[str]
    study_date: Mapped[str]
    calling_ae: Mapped[str]
    state: Mapped[str] = mapped_column(String(16), index=True)
    revision: Mapped[int] = mapped_column(default=0)
    epoch: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(default="")
    first_at: Mapped[datetime]
    last_at: Mapped[datetime] = mapped_column(index=True)
    opened_at: Mapped[datetime | None]  # the first instance of this revision came; none: recorded before this column
    look_at: Mapped[datetime | None]  # when the sweep looks again whether it is complete; none: as soon as it can


class SeriesRow(Base):
    """One series of one study, with the facts that rules look at."""

    __tablename__ = "series"
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"), primary_key=True)
    uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    modality: Mapped[str]
    body_part: Mapped[str]
    description: Mapped[str]
    number: Mapped[int | None]
    image_type: Mapped[list[str]]
    slice_thickness: Mapped[float | None]
    orientation: Mapped[str] = mapped_column(String(16))
    manufacturer: Mapped[str]
    calling_ae: Mapped[str]


class InstanceRow(Base):
    """One version of one instance, as received; the newest version of a SOP Instance UID is current."""

    __tablename__ = "instance"
    __table_args__ = (
        UniqueConstraint("sop_uid", "content_sha"),
        Index("ix_instance_series", "study_uid", "series_uid"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    sop_uid: Mapped[str] = mapped_column(Uid)
    content_sha: Mapped[str] = mapped_column(String(64))
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"))
    series_uid: Mapped[str] = mapped_column(Uid)
    sop_class: Mapped[str] = mapped_column(Uid)
    transfer_syntax: Mapped[str] = mapped_column(Uid)
    is_image: Mapped[bool]
    path: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    current: Mapped[bool] = mapped_column(default=True)
    calling_ae: Mapped[str]
    kept_at: Mapped[datetime]
    patient_id: Mapped[str | None] = mapped_column(Text)  # none: recorded before this column was there
    set_aside: Mapped[str] = mapped_column(default="", server_default="")  # why no job reads it, on a person's word
    lost_at: Mapped[datetime | None]  # when its file was found missing or cut short


class ChoiceRow(Base):
    """What a rule said of a series when its study settled: taken, or refused with a reason."""

    __tablename__ = "choice"
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"), primary_key=True)
    revision: Mapped[int] = mapped_column(primary_key=True)
    series_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    rule: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str]
    reason: Mapped[str]  # empty: taken
    place: Mapped[int | None]  # among the series that the rule accepts, the best first, from 0; none: refused


class JobRow(Base):
    """One model asked of one revision of one study: of one series, and of the next best where it declines that."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("study_uid", "model", "revision", "series_uid"),
        Index("ix_job_claim", "state", "rank"),
    )
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"))
    series_uid: Mapped[str] = mapped_column(Uid)
    model: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(String(64))
    revision: Mapped[int]
    rule: Mapped[str] = mapped_column(String(64))
    priority: Mapped[int]
    rank: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")  # the lowest is claimed first
    deadline_at: Mapped[datetime | None]
    late: Mapped[bool] = mapped_column(default=False, server_default="0")  # its deadline went by, and was told
    pictured: Mapped[bool] = mapped_column(default=False, server_default="0")  # its folder shows what was declined
    state: Mapped[str] = mapped_column(String(16))
    epoch: Mapped[int] = mapped_column(default=0)
    attempts: Mapped[int] = mapped_column(default=0)
    reason: Mapped[str] = mapped_column(default="")
    input_digest: Mapped[str] = mapped_column(String(64))
    calling_ae: Mapped[str]
    destinations: Mapped[list[str]]
    settled_at: Mapped[datetime]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)
    not_before: Mapped[datetime]
    owner: Mapped[str] = mapped_column(default="")
    lease_until: Mapped[datetime | None]
    progress: Mapped[float] = mapped_column(default=0.0)
    stage: Mapped[str] = mapped_column(default="")


class JobInputRow(Base):
    """Which instance versions a job reads: frozen when its study settled."""

    __tablename__ = "job_input"
    job_id: Mapped[str] = mapped_column(String(36), ForeignKey("job.id"), primary_key=True)
    instance_id: Mapped[int] = mapped_column(BigId, ForeignKey("instance.id"), primary_key=True)


class EventRow(Base):
    """Who did what, when, to a job or a study. Rows are only ever added."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str]
    what: Mapped[str] = mapped_column(String(32))
    detail: Mapped[str] = mapped_column(default="")
    job_id: Mapped[str | None] = mapped_column(String(36), index=True)
    study_uid: Mapped[str | None] = mapped_column(Uid, index=True)


class OutboxRow(Base):
    """A doorbell that still has to be rung: written with the change that it announces."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    topic: Mapped[str] = mapped_column(String(32))
    job_id: Mapped[str] = mapped_column(String(36))
    at: Mapped[datetime]


class ResultRow(Base):
    """One DICOM instance that we made, frozen on disk before this row was written."""

    __tablename__ = "result"
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(36), ForeignKey("job.id"), index=True)
    epoch: Mapped[int]
    role: Mapped[str] = mapped_column(String(16))
    variant: Mapped[str] = mapped_column(String(64), default="", server_default="")
    sop_class: Mapped[str] = mapped_column(Uid)
    sop_uid: Mapped[str] = mapped_column(Uid, unique=True)
    path: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    position: Mapped[int]  # order of sending within the set: what is referred to goes first
    lost_at: Mapped[datetime | None]  # when its file was found missing or cut short
    deleted_at: Mapped[datetime | None]  # its file's time was over; the row still tells that the instance is ours


class DeliveryRow(Base):
    """One result to one peer."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result_id", "peer"),
        Index("ix_delivery_due", "state", "next_at"),
        Index("ix_delivery_peer_state", "peer", "state"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    result_id: Mapped[int] = mapped_column(BigId, ForeignKey("result.id"))
    job_id: Mapped[str] = mapped_column(String(36), ForeignKey("job.id"), index=True)
    peer: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    tries: Mapped[int] = mapped_column(default=0)
    looks: Mapped[int] = mapped_column(default=0, server_default="0")  # for it at the peer, since it was sent last
    next_at: Mapped[datetime]  # of the next try; once it is accepted, of the next look for it
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    owner: Mapped[str] = mapped_column(default="")  # who sends it, or looks for it, now
    lease_until: Mapped[datetime | None]
    last_status: Mapped[str] = mapped_column(String(8), default="")
    reason: Mapped[str] = mapped_column(default="")


class BreakerRow(Base):
    """Whether anything is sent to a peer at all; a peer without a row is sent everything."""

    __tablename__ = "breaker"
    peer: Mapped[str] = mapped_column(String(64), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    failures: Mapped[int] = mapped_column(default=0)  # connections in a row that failed, and probes
    opened_at: Mapped[datetime | None]
    until: Mapped[datetime | None]  # when the next probe is due; while one runs, when its lease ends
    reason: Mapped[str] = mapped_column(default="")
    owner: Mapped[str] = mapped_column(default="")  # who probes


class CommitmentRow(Base):
    """One question for storage commitment: the report that bears its transaction UID is about this job and peer."""

    __tablename__ = "commitment"
    transaction_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(36), ForeignKey("job.id"), index=True)
    peer: Mapped[str] = mapped_column(String(64))
    asked_at: Mapped[datetime]
    answered_at: Mapped[datetime | None]


class AssociationRow(Base):
    """An association that is open and brought the newest of what it brings of this study."""

    __tablename__ = "association"
    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"), index=True)
    calling_ae: Mapped[str]
    owner: Mapped[str]  # the process that holds it: where that is dead, the association is, too
    since: Mapped[datetime]


class ListenerRow(Base):
    """A listener, alive or dead: while none listens, silence says nothing of a study."""

    __tablename__ = "listener"
    owner: Mapped[str] = mapped_column(primary_key=True)  # its process
    since: Mapped[datetime]


class CountRow(Base):
    """How many instances of a study the peer that sends it has, by its own word."""

    __tablename__ = "count"
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"), primary_key=True)
    peer: Mapped[str] = mapped_column(String(64))
    epoch: Mapped[int]  # of the study when the peer was asked
    asked_at: Mapped[datetime]
    next_at: Mapped[datetime]  # when it is asked again, where nothing new comes
    tries: Mapped[int] = mapped_column(default=0)  # since anything new came
    there: Mapped[dict[str, Any]]  # series -> [modality, instances]
    reason: Mapped[str] = mapped_column(default="")  # why it could not be asked


class StepRow(Base):
    """One performed procedure step (MPPS): what a modality says of its own work. Nothing of the patient."""

    __tablename__ = "step"
    sop_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    calling_ae: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    series: Mapped[dict[str, Any]]  # series -> SOP Instance UIDs


class StepStudyRow(Base):
    """Of which study a performed procedure step is; a step may serve several."""

    __tablename__ = "step_study"
    study_uid: Mapped[str] = mapped_column(Uid, primary_key=True)
    step_uid: Mapped[str] = mapped_column(Uid, ForeignKey("step.sop_uid"), primary_key=True)


class CommitRequestRow(Base):
    """A peer's question whether the node commits itself to instances, and how far its report is."""

    __tablename__ = "commit_request"
    __table_args__ = (
        UniqueConstraint("calling_ae", "transaction_uid"),
        Index("ix_commit_request_due", "reported_at", "next_at"),
    )
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    calling_ae: Mapped[str] = mapped_column(String(16))
    transaction_uid: Mapped[str] = mapped_column(Uid)
    instances: Mapped[dict[str, Any]]  # SOP Instance UID -> SOP Class UID
    asked_at: Mapped[datetime]
    next_at: Mapped[datetime]  # of the next try to report
    tries: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str] = mapped_column(default="")  # who reports now
    lease_until: Mapped[datetime | None]
    reported_at: Mapped[datetime | None]  # the peer took the report, or nobody tries any more
    committed: Mapped[int | None]  # how many of them the report said that the node has
    reason: Mapped[str] = mapped_column(default="")  # why the last try failed


class VerdictRow(Base):
    """What one radiologist's object says of the results of one job; a second one is a second row."""

    __tablename__ = "verdict"
    __table_args__ = (UniqueConstraint("sop_uid", "content_sha", "job_id"),)
    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    job_id: Mapped[str] = mapped_column(String(36), ForeignKey("job.id"), index=True)
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"))  # of the job
    model: Mapped[str] = mapped_column(String(64))
    model_digest: Mapped[str] = mapped_column(String(64))  # as it was when the verdict came
    sop_uid: Mapped[str] = mapped_column(Uid)  # of the object that bears it
    content_sha: Mapped[str] = mapped_column(String(64))
    kind: Mapped[str] = mapped_column(String(16))
    matched_by: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime] = mapped_column(index=True)  # when the object was received
    calling_ae: Mapped[str]
    dice: Mapped[float | None]
    volume_change: Mapped[float | None]  # percent of ours
    reason: Mapped[str]
    detail: Mapped[dict[str, Any]]


class VerdictPendingRow(Base):
    """A received instance that may bear a verdict and was not looked at yet: written with the instance's own row."""

    __tablename__ = "verdict_pending"
    instance_id: Mapped[int] = mapped_column(BigId, ForeignKey("instance.id"), primary_key=True, autoincrement=False)
    tries: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime] = mapped_column(index=True)


class PauseRow(Base):
    """What a person has halted: the node, a queue, a model or a peer."""

    __tablename__ = "pause"
    what: Mapped[str] = mapped_column(String(80), primary_key=True)
    reason: Mapped[str]
    who: Mapped[str]
    at: Mapped[datetime]


class GarbageRow(Base):
    """A file of the store that no other row names any more and that is still to be deleted."""

    __tablename__ = "garbage"
    path: Mapped[str] = mapped_column(String(255), primary_key=True)
    study_uid: Mapped[str] = mapped_column(Uid, ForeignKey("study.uid"))
    job_id: Mapped[str | None] = mapped_column(String(36), ForeignKey("job.id"))
    at: Mapped[datetime]
