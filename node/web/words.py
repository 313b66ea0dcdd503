"""What the page says: every state, event and span of time in words that a person understands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from node.domain.job import ENDED, MOVES, Event, Job, JobState
from node.domain.result import DeliveryState
from node.domain.study import StudyState
from node.domain.verdict import Change, MatchedBy, Verdict, VerdictKind, dice_text

_J, _D, _S, _V = JobState, DeliveryState, StudyState, VerdictKind


@dataclass(frozen=True, slots=True)
class Pill:
    """How a state looks: words and a sign first, so that colour is never the only bearer of it."""

    label: str
    sign: str
    tone: str  # a CSS class: quiet, busy, sending, good, waiting or bad


PILLS: dict[str, dict[str, Pill]] = {
    "job": {
        _J.PENDING: Pill("Waiting", "○", "quiet"),
        _J.LEASED: Pill("Claimed", "◐", "busy"),
        _J.RUNNING: Pill("Running", "▶", "busy"),
        _J.RESULT_READY: Pill("Results ready", "◆", "sending"),
        _J.DELIVERING: Pill("Delivering", "➜", "sending"),
        _J.DONE: Pill("Done", "✓", "good"),
        _J.RETRY_WAIT: Pill("Waits to retry", "↻", "waiting"),
        _J.FAILED: Pill("Failed", "✕", "bad"),
        _J.INPUT_INVALID: Pill("Input invalid", "!", "bad"),
        _J.CANCELLED: Pill("Cancelled", "−", "quiet"),
        _J.SUPERSEDED: Pill("Superseded", "»", "quiet"),
        _J.NOT_APPLICABLE: Pill("Not applicable", "∅", "quiet"),
    },
    "delivery": {
        _D.QUEUED: Pill("Queued", "○", "quiet"),
        _D.SENDING: Pill("Sending", "➜", "sending"),
        _D.ACKED: Pill("Accepted", "✓", "sending"),
        _D.VERIFIED: Pill("Verified", "✓", "good"),
        _D.UNKNOWN: Pill("Unknown", "?", "waiting"),
        _D.RETRY_WAIT: Pill("Waits to retry", "↻", "waiting"),
        _D.PARKED: Pill("Parked", "!", "bad"),
        _D.CANCELLED: Pill("Cancelled", "−", "quiet"),
    },
    "study": {
        _S.OPEN: Pill("Receiving", "◐", "busy"),
        _S.SETTLED: Pill("Settled", "✓", "good"),
        _S.CONFLICT: Pill("Conflict", "!", "bad"),
    },
    "verdict": {
        _V.ACCEPTED: Pill("Accepted", "✓", "good"),
        _V.CORRECTED: Pill("Corrected", "✎", "waiting"),
        _V.REJECTED: Pill("Rejected", "✕", "bad"),
        _V.NOTED: Pill("Noted", "•", "quiet"),
        _V.UNREADABLE: Pill("Not comparable", "?", "quiet"),
    },
}

_JOB_WORDS = {
    _J.PENDING: "waits for a free worker",
    _J.LEASED: "a worker reads the images",
    _J.RUNNING: "the model is at work",
    _J.RESULT_READY: "every result is kept; the first delivery follows",
    _J.DELIVERING: "results are on their way",
    _J.DONE: "every peer has every result",
}
_DELIVERY_WORDS = {
    _D.QUEUED: "sent as soon as a worker is free",
    _D.SENDING: "a worker is sending it",
    _D.ACKED: "the peer took it; it is looked for there",
    _D.VERIFIED: "the peer has it",
    _D.UNKNOWN: "the peer is asked whether it has it before the next try",
}
_EVENT_WORDS = {
    "planned": "The job was planned",
    "claimed": "A worker took the job",
    "started": "The model started",
    "attempt failed": "The attempt failed",
    "pending again": "The job waits for a worker again",
    "result_ready": "The results were kept",
    "delivering": "Delivery began",
    "done": "The job is done",
    "failed": "The job failed",
    "input_invalid": "The input cannot be read",
    "not_applicable": "The model does not apply to this input",
    "next series": "The next best series",
    "cancelled": "The job was cancelled",
    "retried": "The job was started again",
    "superseded": "The job was superseded",
    "still valid": "The result still holds",
    "delivery retried": "Delivery was asked for again",
    "delivery acked": "A result was accepted",
    "delivery verified": "A result is known to be there",
    "delivery queued": "A result is sent again",
    "commitment asked": "The peer was asked to commit itself to the results",
    "delivery unknown": "Nobody knows whether a result arrived",
    "delivery retry_wait": "A result could not be delivered yet",
    "delivery parked": "A delivery waits for a person",
    "verdict accepted": "A radiologist accepted the result",
    "verdict corrected": "A radiologist corrected the result",
    "verdict rejected": "A radiologist rejected the result",
    "verdict noted": "A radiologist's object refers to the result",
    "verdict unreadable": "A radiologist's object could not be compared with the result",
    "conflict": "The study is in conflict",
    "mpps": "The modality says how far it is (MPPS)",
    "association broke off": "An association broke off before its end",
    "reopened": "The study was opened again by a late instance",
    "settled": "The study settled",
}
_ROLES = {"seg": "Segmentation (SEG)", "sr": "Structured report (SR)"}


def job_reason(job: Job, now: datetime) -> str:
    """Return why *job* stands where it stands, and what comes next where that is known."""
    if job.state is JobState.RUNNING and job.stage:
        return job.stage
    if job.state is JobState.RETRY_WAIT:
        left = job.not_before - now
        when = f"in {span(left)}" if left > timedelta(0) else "at once"
        return f"{job.reason or 'the last attempt failed'}; tried again {when}"
    return job.reason or _JOB_WORDS.get(job.state, "no reason was given")


def delivery_reason(state: DeliveryState, reason: str) -> str:
    """Return why a delivery stands where it stands."""
    return reason or _DELIVERY_WORDS.get(state, "no reason was given")


def sentence(event: Event) -> str:
    """Return an event as a sentence."""
    what = _EVENT_WORDS.get(event.what) or event.what.replace("_", " ").capitalize()
    return f"{what}: {event.detail}" if event.detail else f"{what}."


def who_in_short(who: str) -> str:
    """Return role and machine of a process; everything else as it is."""
    return who.split(":", 1)[0] if "@" in who else who


def role(name: str) -> str:
    """Return what a result of this role is."""
    return _ROLES.get(name, name)


def can_cancel(job: Job) -> bool:
    """Return whether a person may end *job* now."""
    return JobState.CANCELLED in MOVES[job.state]


def retry_label(job: Job, *, parked: bool) -> str:
    """Return what retrying *job* does, as the label of a button; "" where it cannot be asked for."""
    if job.state in (JobState.RESULT_READY, JobState.DELIVERING):
        return "Send again" if parked else ""
    return "Run again" if job.state in ENDED and JobState.PENDING in MOVES[job.state] else ""


def what_next(job: Job) -> str:
    """Return what a person can do about *job* as it stands, for the page that refuses a move."""
    if job.state in (JobState.DONE, JobState.SUPERSEDED):
        return "Nothing is left to do for it: a new run comes with a new revision of the study."
    if can_cancel(job) and job.state in (JobState.RESULT_READY, JobState.DELIVERING):
        return "Its results exist: they can be sent again, or the job can be cancelled."
    if can_cancel(job):
        return "It is on its way: wait for its end, or cancel it; after that it can be run again."
    return "It can be run again."


def short_uid(uid: str) -> str:
    """Return the end of a UID, which tells it from its neighbours; the whole where it is short."""
    return uid if len(uid) <= 14 else f"…{uid[-12:]}"


def dicom_date(date: str) -> str:
    """Return a DICOM date (VR DA, YYYYMMDD) as YYYY-MM-DD; anything else as it is."""
    return f"{date[:4]}-{date[4:6]}-{date[6:]}" if len(date) == 8 and date.isdigit() else date


_MATCHES = {
    MatchedBy.REFERENCE: "it names the result",
    MatchedBy.TRACKING: "it names a finding of the result (tracking identifier)",
    MatchedBy.STRUCTURE: "same source series, same structure and side",
}
_CHANGES = {
    Change.SAME: "same to the voxel",
    Change.CHANGED: "changed",
    Change.REMOVED: "removed",
    Change.ADDED: "added",
}


def matched(by: MatchedBy) -> str:
    """Return how an object was found to be about a result."""
    return _MATCHES[by]


def change(name: str) -> str:
    """Return what became of a segment."""
    return _CHANGES[Change(name)]


def dice(value: float | None) -> str:
    """Return a Dice coefficient; only equal voxels are shown as 1.000."""
    return "–" if value is None else dice_text(value)


def percent(value: float | None) -> str:
    """Return a change in percent, with its sign."""
    return "–" if value is None else f"{value:+.1f} %" if abs(value) >= 0.05 else "0.0 %"


def ml(value: float | None) -> str:
    """Return a volume in millilitres."""
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def verdict_in_short(verdict: Verdict) -> str:
    """Return the figures of a verdict for a narrow column; "" where it has none."""
    return "" if verdict.dice is None else f"Dice {dice(verdict.dice)}"


def size(count: int) -> str:
    """Return a number of bytes for people."""
    if count < 1000:
        return f"{count} B"
    units = ("kB", "MB", "GB", "TB")
    power = min(len(units), int(math.log10(count)) // 3)
    value = count / 1000**power
    return f"{value:.0f} {units[power - 1]}" if value >= 100 else f"{value:.1f} {units[power - 1]}"


def span(time: timedelta) -> str:
    """Return a span of time in at most two units."""
    seconds = max(0, round(time.total_seconds()))
    units: Sequence[tuple[str, int]] = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for (unit, length), (lesser, part) in zip(units, [*units[1:], ("", 1)], strict=True):
        if seconds >= length:
            rest = seconds % length // part if lesser else 0
            return f"{seconds // length} {unit} {rest} {lesser}" if rest else f"{seconds // length} {unit}"
    return "0 s"


def ran_for(events: Sequence[Event]) -> str:
    """Return how long the last attempt worked, from claim to kept results; "" where it did not come so far."""
    claimed: datetime | None = None
    took = ""
    for event in events:
        if event.what == "claimed":
            claimed = event.at
        elif event.what == "result_ready" and claimed is not None:
            took = span(event.at - claimed)
    return took
