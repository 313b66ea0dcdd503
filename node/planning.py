"""Planning: whether a study is complete; then which model is asked of which series, and why each other is not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from models import catalogue
from node.db import chosen, completion, events, jobs, studies
from node.db.chosen import Choice
from node.db.session import Database
from node.db.studies import StoredInstance
from node.db.tables import StudyRow
from node.domain.completion import Waits, decide
from node.domain.job import Job, JobState
from node.domain.rule import LateImages, Rule, best_first
from node.domain.study import DECLINED, Series
from node.failpoints import reach
from node.logs import failure

log = logging.getLogger(__name__)

_SILENCE = timedelta(seconds=1)  # a study that instances come of just now is not looked at


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """What became of one study when it settled."""

    study_uid: str
    revision: int
    job_ids: tuple[str, ...]
    reason: str


def settle_due(database: Database, rules: Sequence[Rule], waits: Waits, *, now: datetime) -> list[Planned]:
    """Settle and plan every study of which the evidence says that it is complete; one transaction each."""
    with database.reading() as session:
        waiting = studies.to_look_at(session, now, silence=min(_SILENCE, waits.quiet), longest=waits.longest)
    planned = []
    for uid in waiting:
        try:
            reach("settle.before")
            with database.transaction() as session:
                done = _settle(session, uid, rules, waits, now=now)
                reach("settle.recorded")
            reach("settle.committed")
        except Exception as why:  # noqa: BLE001  # one study that cannot be planned delays no other; it is tried again
            log.error("study not settled: %s", failure(why), extra={"study_uid": uid})
            continue
        if done is not None:
            log.info("study settled", extra={"study_uid": uid, "revision": done.revision, "jobs": len(done.job_ids)})
            planned.append(done)
    return planned


def _settle(session: Session, uid: str, rules: Sequence[Rule], waits: Waits, *, now: datetime) -> Planned | None:
    study = studies.lock_open(session, uid)
    if study is None:
        return None  # another sweep was faster, or its patient is in doubt
    verdict = decide(completion.evidence_of(session, study, rules), waits, now=now)
    if verdict.by is None:
        studies.let_wait(study, reason=verdict.reason, look_at=verdict.look_at)
        return None
    return _plan_all(session, study, rules, verdict.reason, now=now)


def _plan_all(session: Session, study: StudyRow, rules: Sequence[Rule], why: str, *, now: datetime) -> Planned:
    """Settle a study that is complete: what each rule says of it, jobs, and the end of what is outdated."""
    uid = study.uid
    revision = study.revision + 1
    choices, wanted = choose(studies.series_of(session, uid), rules, study.description)
    chosen.add(session, uid, revision, choices)
    job_ids: list[str] = []
    valid: list[str] = []
    for rule, accepted in wanted:
        if rule.late_images is LateImages.KEEP and (kept := jobs.first_sent(session, uid, rule.model)):
            detail = f"revision {revision} brought other images; rule {rule.name} keeps the result that was sent"
            events.record(session, "late images not read", who="sweep", at=now, detail=detail, job_id=kept)
            valid.append(kept)
            continue
        question = _Question(
            study_uid=uid, revision=revision, rule=rule.name, model=rule.model, priority=rule.priority,
            destinations=rule.destinations, deadline=rule.deadline, settled_at=now,
        )  # fmt: skip
        job, new = _plan_best(session, question, accepted, who="sweep", now=now)
        if not new:
            detail = f"revision {revision} has the same images for {rule.model}; its result stands"
            events.record(session, "still valid", who="sweep", at=now, detail=detail, job_id=job.id)
        (job_ids if new else valid).append(job.id)
    jobs.supersede_unfinished(session, uid, revision, at=now, keep=valid)
    reason = f"{why}; {_sentence(len(job_ids), len(valid))}"
    if not studies.mark_settled(session, study, reason=reason):
        raise RuntimeError(f"study {uid} changed under its lock")  # the transaction is rolled back
    events.record(session, "settled", who="sweep", at=now, detail=f"revision {revision}: {reason}", study_uid=uid)
    return Planned(study_uid=uid, revision=revision, job_ids=tuple(job_ids), reason=reason)


def choose(
    series: Sequence[Series], rules: Sequence[Rule], study_description: str
) -> tuple[list[Choice], list[tuple[Rule, list[Series]]]]:
    """Return what each rule says of each series, and the series that each model may be given, the best first.

    A model is given the next only where it declines the one before. The first rule that asks for a model decides; a
    later rule for the same model says so as its reason.
    """
    choices: list[Choice] = []
    wanted: dict[str, tuple[Rule, list[Series]]] = {}
    for rule in rules:
        accepted: list[Series] = []
        for one in sorted(series, key=best_first):
            reason = rule.refusal(one, study_description) or ("" if one.instances else "no image of it is here")
            if not reason and rule.model in wanted:
                reason = f"model {rule.model} is already asked by rule {wanted[rule.model][0].name}"
            place = None
            if not reason:
                place = len(accepted)
                accepted.append(one)
                reason = _suits_better(accepted[0]) if place else ""
            choices.append(Choice(series_uid=one.uid, rule=rule.name, model=rule.model, reason=reason, place=place))
        if accepted:
            wanted[rule.model] = (rule, accepted)
    return choices, list(wanted.values())


def decline(session: Session, job: Job, *, reason: str, now: datetime) -> None:
    """End a job whose model says that its series is not of its kind, and have the next best that its rule took read.

    Both in this transaction. Where the study has changed since it settled, nothing is planned here: it settles again,
    and what was declined is skipped then.
    """
    study = studies.lock_settled(session, job.study_uid)  # before the job, as settling does
    jobs.end(session, job, JobState.NOT_APPLICABLE, reason=reason, at=now)
    if study is None or not _is_asked(session, study.revision, job):
        return
    left = chosen.accepted_after(session, study.uid, study.revision, job.model, job.series_uid)
    chosen.change(
        session, study.uid, study.revision, job.model, job.series_uid, reason=f"{DECLINED}: {reason}"
    )
    if not left:
        return
    question = _Question(
        study_uid=study.uid, revision=study.revision, rule=job.rule, model=job.model, priority=job.priority,
        destinations=job.destinations, settled_at=job.settled_at,
        deadline=job.deadline_at - job.settled_at if job.deadline_at else timedelta(0),
    )  # fmt: skip
    other, new = _plan_best(session, question, left, who=job.owner, now=now)
    if other.state is JobState.NOT_APPLICABLE:
        return  # it has declined the others before
    names = {one.uid: _named(one) for one in studies.series_of(session, study.uid)}
    then = f"series {names[other.series_uid]} {'is tried instead' if new else 'was tried before'}"
    detail = f"series {names[job.series_uid]} was declined: {reason}; {then}"
    for one in (job, other):
        events.record(session, "next series", who=job.owner, at=now, detail=detail, job_id=one.id)


def _is_asked(session: Session, revision: int, job: Job) -> bool:
    """Whether *job* reads what its study, as it settled last, has its model read.

    A person may have a job run again that another series, or another revision, has taken the place of.
    """
    if chosen.taken_for(session, job.study_uid, revision, job.model) != job.series_uid:
        return False
    return _input_digest(studies.instances_of(session, job.study_uid, job.series_uid)) == job.input_digest


@dataclass(frozen=True, kw_only=True, slots=True)
class _Question:
    """What a model is asked of a study at one revision, whichever of its series is read."""

    study_uid: str
    revision: int
    rule: str
    model: str
    priority: int
    destinations: tuple[str, ...]
    deadline: timedelta  # after settling; 0: none
    settled_at: datetime


def _plan_best(
    session: Session, question: _Question, accepted: Sequence[Series], *, who: str, now: datetime
) -> tuple[Job, bool]:
    """Return the job over the best of these series that its model has not declined, and whether it is new.

    Where it has declined them all, the job over the last.
    """
    of = (session, question.study_uid, question.revision, question.model)
    for place, series in enumerate(accepted, start=1):
        job, new = _plan(session, question, series, who=who, now=now)
        if job.state is not JobState.NOT_APPLICABLE:
            chosen.change(*of, series.uid, reason="")
            for worse in accepted[place:]:
                chosen.change(*of, worse.uid, reason=_suits_better(series))
            break
        chosen.change(*of, series.uid, reason=f"{DECLINED}: {job.reason}")
    return job, new


def _plan(session: Session, question: _Question, series: Series, *, who: str, now: datetime) -> tuple[Job, bool]:
    """Return the job that does this work, and whether it is new: one that did, or is doing, it stands."""
    study_uid, model = question.study_uid, question.model
    instances = studies.instances_of(session, study_uid, series.uid)
    digest = _input_digest(instances)
    model_digest = catalogue.digest(model)
    if (same := jobs.same_work(session, study_uid, model, model_digest, digest)) is not None:
        return same, False
    new = jobs.NewJob(
        study_uid=study_uid, series_uid=series.uid, model=model, model_digest=model_digest, revision=question.revision,
        rule=question.rule, priority=question.priority, input_digest=digest, calling_ae=series.calling_ae,
        destinations=question.destinations, deadline=question.deadline, settled_at=question.settled_at,
        instance_ids=tuple(instance.id for instance in instances),
    )  # fmt: skip
    return jobs.get(session, jobs.add(session, new, at=now, who=who)), True


def _suits_better(series: Series) -> str:
    return f"series {_named(series)} suits better ({series.instances} slices)"


def _named(series: Series) -> str:
    """Return what people call a series."""
    return str(series.number or series.uid)


def _input_digest(instances: Iterable[StoredInstance]) -> str:
    return digest_of((instance.sop_uid, instance.content_sha) for instance in instances)


def digest_of(instances: Iterable[tuple[str, str]]) -> str:
    """Return a SHA-256 over pairs of SOP Instance UID and content digest, whatever their order."""
    return hashlib.sha256("".join(sorted(f"{uid} {sha}\n" for uid, sha in instances)).encode()).hexdigest()


def _sentence(planned: int, repeated: int) -> str:
    if planned:
        return f"{planned} job{'s' if planned > 1 else ''} planned"
    return "the results that exist still hold" if repeated else "no rule wants any of its series"
