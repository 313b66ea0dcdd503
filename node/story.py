"""The whole story of one study in plain sentences: what came, what was decided, what it waits for, what helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from node.db import arrivals, chosen, events, jobs, pauses, results, studies, verdicts
from node.db.arrivals import Arrival
from node.db.chosen import Choice
from node.domain.job import ENDED, HELD, Event, Job, JobState
from node.domain.pause import is_paused
from node.domain.result import Delivery, DeliveryState
from node.domain.study import DECLINED, Series, Study, StudyState
from node.domain.waits import span

_J, _D = JobState, DeliveryState
_CONFIRMED = frozenset(arrivals.TAKEN)  # nobody waits for these any more


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One thing that happened."""

    at: datetime
    says: str
    who: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerState:
    """How far the results of one job are on their way to one peer."""

    job_id: str
    model: str
    peer: str
    states: dict[str, int]  # deliveries by state
    reason: str  # why the first that is not confirmed is not


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """All that the node knows of a study, without a word of who the patient is."""

    study: Study
    lines: tuple[Line, ...]  # oldest first
    peers: tuple[PeerState, ...]
    waits_for: tuple[str, ...]
    next_steps: tuple[str, ...]  # what a person should do


def tell(session: Session, uid: str, *, now: datetime, quiet: timedelta) -> Story:
    """Return the story of a study; NotFound where there is none."""
    study = studies.get_study(session, uid)
    asked = sorted(jobs.list_jobs(session, study_uid=uid, limit=1000), key=lambda job: (job.created_at, job.id))
    lines = [*_arrivals(session, uid, quiet), *_decisions(session, study)]
    for job in asked:
        lines += [_of_job(job, event) for event in events.story(session, job_id=job.id) if event.what != "started"]
    peers = tuple(one for job in asked for one in _peers(job, results.deliveries_of(session, job.id)))
    given = verdicts.list_verdicts(session, job_ids=[job.id for job in asked])
    unanswered = [job for job in asked if job.state is _J.DONE and job.id not in {one.job_id for one in given}]
    now_waits, steps = _open_ends(study, asked, peers, pauses.paused(session), now=now, quiet=quiet)
    if lost := arrivals.count_lost(session, uid):
        steps.append(f"{lost} of its images are missing from the store: have them sent again")
    for job_id, peer in arrivals.sent_from_set_aside(session, uid):
        why = "made from instances that were set aside: they may name the wrong patient"
        steps.append(f"have the results of job {job_id[:8]} removed from {peer}: they were {why}")
    if unanswered and not now_waits:
        now_waits.append("nothing; no radiologist's verdict has come back yet")
    return Story(
        study=study, lines=tuple(sorted(lines, key=lambda line: line.at)), peers=peers,
        waits_for=tuple(now_waits or ["nothing"]), next_steps=tuple(steps or ["nothing"]),
    )  # fmt: skip


def _arrivals(session: Session, uid: str, quiet: timedelta) -> Iterator[Line]:
    for one in arrivals.arrivals_of(session, uid, gap=quiet):
        yield Line(at=one.first_at, says=_arrival(one), who=one.calling_ae)
    for reason, count, at in arrivals.set_aside(session, uid):
        yield Line(at=at, says=f"of these, {_count(count, 'instance')} are set aside now: {reason}")


def _arrival(one: Arrival) -> str:
    took = f" within {span(one.last_at - one.first_at)}" if one.instances > 1 else ""
    again = f"; {one.other_versions} of them are other versions of what was there" if one.other_versions else ""
    what = f"{_count(one.instances, 'instance')} of {one.series} series"
    return f"{one.calling_ae} sent {what}{took}{again}"


def _plainly(event: Event) -> str:
    """Return an event that has no sentence of its own."""
    return f"{event.what.replace('_', ' ')}: {event.detail}" if event.detail else event.what.replace("_", " ")


_STUDY_WORDS: dict[str, Callable[[Event], str]] = {
    "settled": lambda e: f"the study settled, {e.detail}",
    "mpps": lambda e: f"the modality says of its work (MPPS): {e.detail}",
    "association broke off": lambda _: "an association broke off before its end; what it brought is kept",
    "reopened": lambda _: "a late instance came: the study opened again",
    "planned again": lambda _: "a person has it planned again",
    "conflict": lambda e: f"{e.detail.partition(';')[0]}: everything of it stopped",
    "conflict resolved": lambda e: f"a person decided of which patient the study is: {e.detail}",
}


def _decisions(session: Session, study: Study) -> Iterator[Line]:
    """Yield the events of the study; behind its last settling, what each rule said of each series."""
    story = events.story(session, study_uid=study.uid)
    settled = [event for event in story if event.what == "settled"]
    for event in story:
        word = _STUDY_WORDS.get(event.what, _plainly)
        yield Line(at=event.at, says=word(event), who=short_who(event.who))
        if settled and event is settled[-1]:
            series = {one.uid: one for one in studies.series_of(session, study.uid)}
            for choice in chosen.of_study(session, study.uid):
                yield Line(at=event.at, says=_choice(choice, series.get(choice.series_uid)))


def _choice(choice: Choice, series: Series | None) -> str:
    if series is None:
        named = choice.series_uid
    else:
        number = series.number if series.number is not None else "without a number"
        named = f"{number} ({series.modality or 'no modality'}, {_count(series.instances, 'image')})"
    if choice.reason.startswith(DECLINED):
        return f"rule {choice.rule} took series {named} for {choice.model}, but {choice.reason}"
    if choice.reason:
        return f"rule {choice.rule} refused series {named}: {choice.reason}"
    return f"rule {choice.rule} took series {named} for {choice.model}"


_JOB_WORDS: dict[str, Callable[[Event], str]] = {
    "planned": lambda e: f"was planned {e.detail}",
    "claimed": lambda e: f"was taken by a worker: {e.detail}",
    "attempt failed": lambda e: f"failed once, and is tried again: {e.detail}",
    "pending again": lambda _: "waits for a worker again",
    "result_ready": lambda e: f"has its results: {e.detail}",
    "delivering": lambda _: "is being delivered",
    "done": lambda _: "is done: every peer has every result",
    "retried": lambda _: "is run again on a person's word",
    "delivery retried": lambda _: "is sent again on a person's word",
    "next series": lambda e: f"goes on to the next series: {e.detail}",
    "still valid": lambda e: f"still holds: {e.detail}",
}


def _of_job(job: Job, event: Event) -> Line:
    word = _JOB_WORDS.get(event.what, _plainly)
    return Line(at=event.at, says=f"{job.model} (job {job.id[:8]}) {word(event)}", who=short_who(event.who))


def _peers(job: Job, deliveries: Sequence[Delivery]) -> Iterator[PeerState]:
    for peer in dict.fromkeys(delivery.peer for delivery in deliveries):
        mine = [delivery for delivery in deliveries if delivery.peer == peer]
        reasons = [delivery.reason for delivery in mine if delivery.state not in _CONFIRMED and delivery.reason]
        states = dict(Counter(str(delivery.state) for delivery in mine))
        yield PeerState(job_id=job.id, model=job.model, peer=peer, states=states, reason=(reasons or [""])[0])


def _open_ends(
    study: Study, asked: Sequence[Job], peers: Sequence[PeerState], paused: frozenset[str], *, now: datetime,
    quiet: timedelta,
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Return what the study waits for, and what a person should do."""
    if study.state is StudyState.CONFLICT:
        return ["a person's decision of whose it is, as it stands"], [f"pacs-node resolve {study.uid}"]
    waits: list[str] = []
    steps: list[str] = []
    if study.state is StudyState.OPEN:
        left = max(timedelta(0), study.last_at + quiet - now)
        known = study.reason.partition("waits: ")[2]  # as the sweep saw it last
        waits.append(f"more instances; {known or f'it settles in {span(left)} if none comes'}")
    for job in asked:
        wait, step = _end_of(job, [one for one in peers if one.job_id == job.id], paused, now=now)
        waits += [f"{job.model} (job {job.id[:8]}): {wait}"] if wait else []
        steps += [step] if step else []
    if study.state is StudyState.SETTLED and not asked:
        steps.append(f"where a rule should have taken it: change the rule, then pacs-node replan {study.uid}")
    return waits, steps


def _end_of(job: Job, peers: Sequence[PeerState], paused: frozenset[str], *, now: datetime) -> tuple[str, str]:
    """Return what one job waits for, and what a person should do about it; "" where nothing."""
    short = job.id[:8]
    if job.state is _J.FAILED:
        return "a person: no attempt is left", f"mend this, then pacs-node retry {short}: {job.reason}"
    if job.state is _J.INPUT_INVALID:
        return "", f"the images could not be read: {job.reason}; once mended, pacs-node retry {short}"
    if job.state in ENDED:
        return "", ""
    if job.state in HELD:
        return f"its worker, {job.progress:.0%} done: {job.stage}", ""
    if job.state in (_J.PENDING, _J.RETRY_WAIT):
        if is_paused(paused, queue="gpu", model=job.model):
            return _paused(what for what in sorted(paused) if is_paused((what,), queue="gpu", model=job.model))
        if job.not_before > now:
            return f"its next attempt in {span(job.not_before - now)}", ""
        return f"a free worker, since {span(now - job.updated_at)}", ""
    return _delivery_end(job, peers, paused)


def _delivery_end(job: Job, peers: Sequence[PeerState], paused: frozenset[str]) -> tuple[str, str]:
    waits = [one for one in peers if set(one.states) - _CONFIRMED - {_D.CANCELLED}]
    if not waits:
        return "the last word that it is done", ""
    first = next((one for one in waits if _D.PARKED in one.states), waits[0])
    why = f": {first.reason}" if first.reason else ""
    if _D.PARKED in first.states:
        return f"a person: results for {first.peer} are parked{why}", f"mend it, then pacs-node retry {job.id[:8]}"
    if is_paused(paused, queue="io", peer=first.peer):
        return _paused(what for what in sorted(paused) if is_paused((what,), queue="io", peer=first.peer))
    if _D.RETRY_WAIT in first.states or _D.UNKNOWN in first.states:
        return f"{first.peer} to take its results{why}", f"pacs-node echo {first.peer} tells whether it is there"
    return f"{first.peer} to take its results{why}", ""


def _paused(holding: Iterable[str]) -> tuple[str, str]:
    return "a pause to end", "; ".join(f"pacs-node resume {what}, once it may go on" for what in holding)


def short_who(who: str) -> str:
    """Return who did something without the numbers of the process."""
    role, _, place = who.partition("@")
    return f"{role} on {place.split(':')[0]}" if place else role


def _count(number: int, one: str) -> str:
    return f"{number} {one}{'s' if number != 1 else ''}"
