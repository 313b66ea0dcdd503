"""Jobs: their states, the legal moves between them, and what a worker holds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from node.errors import IllegalMove


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "pending"  #: planned; a worker may claim it
    LEASED = "leased"  #: one worker holds it, under a lease
    RUNNING = "running"  #: the model is at work
    RESULT_READY = "result_ready"  #: every result is frozen on disk and recorded
    DELIVERING = "delivering"  #: at least one delivery has begun
    DONE = "done"  #: every peer has every result
    RETRY_WAIT = "retry_wait"  #: the last attempt failed; another follows at its time
    FAILED = "failed"  #: no attempt is left, or none can help; a person must look
    CANCELLED = "cancelled"  #: a person ended it
    SUPERSEDED = "superseded"  #: a newer revision of the study took its place
    NOT_APPLICABLE = "not_applicable"  #: the model says that this is not its kind of input
    INPUT_INVALID = "input_invalid"  #: the series cannot be read as the model needs it


_S = JobState
MOVES: dict[JobState, frozenset[JobState]] = {
    _S.PENDING: frozenset({_S.LEASED, _S.CANCELLED, _S.SUPERSEDED}),
    _S.LEASED: frozenset({_S.RUNNING, _S.PENDING, _S.RETRY_WAIT, _S.FAILED, _S.CANCELLED, _S.SUPERSEDED}),
    _S.RUNNING: frozenset({
        _S.RESULT_READY, _S.PENDING, _S.RETRY_WAIT, _S.FAILED, _S.CANCELLED, _S.SUPERSEDED,
        _S.NOT_APPLICABLE, _S.INPUT_INVALID,
    }),
    _S.RETRY_WAIT: frozenset({_S.PENDING, _S.CANCELLED, _S.SUPERSEDED}),
    _S.RESULT_READY: frozenset({_S.DELIVERING, _S.DONE, _S.CANCELLED, _S.SUPERSEDED}),
    _S.DELIVERING: frozenset({_S.DONE, _S.CANCELLED}),
    _S.DONE: frozenset(),
    _S.FAILED: frozenset({_S.PENDING}),
    _S.CANCELLED: frozenset({_S.PENDING, _S.RESULT_READY}),  # with results: they are sent, not made again
    _S.NOT_APPLICABLE: frozenset({_S.PENDING}),
    _S.INPUT_INVALID: frozenset({_S.PENDING}),
    _S.SUPERSEDED: frozenset(),
}  # fmt: skip

#: A worker holds the job: a lease runs.
HELD = frozenset({JobState.LEASED, JobState.RUNNING})
#: Nothing more happens unless a person asks.
ENDED = frozenset({
    JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.SUPERSEDED,
    JobState.NOT_APPLICABLE, JobState.INPUT_INVALID,
})  # fmt: skip


#: How long a job waits before it is as urgent as a fresh one of the next priority: nothing starves behind urgent work.
AGEING = timedelta(minutes=30)


def rank_of(priority: int, created_at: datetime) -> int:
    """Return the order in which jobs are claimed, lowest first: by priority, and by age where that has grown enough."""
    return round(created_at.timestamp() + priority * AGEING.total_seconds())


def check_move(job_id: str, old: JobState, new: JobState) -> None:
    """Refuse a move that no job can make, naming both states."""
    if new not in MOVES[old]:
        raise IllegalMove(f"job {job_id} is {old} and cannot become {new}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One model asked of one revision of one study."""

    id: str
    study_uid: str
    series_uid: str
    model: str  # name in the catalogue, e.g. "ct-lung-nodule"
    model_digest: str
    revision: int
    rule: str
    priority: int  # lower is more urgent
    state: JobState
    epoch: int
    attempts: int
    reason: str
    input_digest: str
    calling_ae: str
    destinations: tuple[str, ...]
    settled_at: datetime
    created_at: datetime
    updated_at: datetime
    not_before: datetime
    owner: str = ""
    lease_until: datetime | None = None
    progress: float = 0.0
    stage: str = ""
    deadline_at: datetime | None = None  # by which its results should be at every destination
    late: bool = False  # they were not

    @property
    def fields(self) -> dict[str, object]:
        """The fields that every log line of this job carries."""
        return {"job_id": self.id, "study_uid": self.study_uid, "model": self.model, "attempt": self.attempts}


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Who did what, when, to a job or a study."""

    at: datetime
    who: str
    what: str
    detail: str
    job_id: str = ""
    study_uid: str = ""
