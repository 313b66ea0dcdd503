"""Planning: whether a study is complete; then which model is asked of which series, and why each other is not."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from models import catalogue
from node.db import completion, events, jobs, studies
from node.db.session import Database
from node.db.studies import Choice
from node.db.tables import StudyRow
from node.domain.completion import Waits, decide
from node.domain.rule import LateImages, Rule, best_first
from node.domain.study import Series
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
    studies.add_choices(session, uid, revision, choices)
    job_ids: list[str] = []
    valid: list[str] = []
    for rule, series in wanted:
        if rule.late_images is LateImages.KEEP and (kept := jobs.first_sent(session, uid, rule.model)):
            detail = f"revision {revision} brought other images; rule {rule.name} keeps the result that was sent"
            events.record(session, "late images not read", who="sweep", at=now, detail=detail, job_id=kept)
            valid.append(kept)
            continue
        job_id, new = _plan(session, study, revision, rule, series, now=now)
        (job_ids if new else valid).append(job_id)
    jobs.supersede_unfinished(session, uid, revision, at=now, keep=valid)
    reason = f"{why}; {_sentence(len(job_ids), len(valid))}"
    if not studies.mark_settled(session, study, reason=reason):
        raise RuntimeError(f"study {uid} changed under its lock")  # the transaction is rolled back
    events.record(session, "settled", who="sweep", at=now, detail=f"revision {revision}: {reason}", study_uid=uid)
    return Planned(study_uid=uid, revision=revision, job_ids=tuple(job_ids), reason=reason)


def choose(
    series: Sequence[Series], rules: Sequence[Rule], study_description: str
) -> tuple[list[Choice], list[tuple[Rule, Series]]]:
    """Return what each rule says of each series, and the one series that each model is given.

    The first rule that asks for a model decides; a later rule for the same model says so as its reason.
    """
    choices: list[Choice] = []
    wanted: dict[str, tuple[Rule, Series]] = {}
    for rule in rules:
        taken: Series | None = None
        for one in sorted(series, key=best_first):
            reason = rule.refusal(one, study_description) or ("" if one.instances else "no image of it is here")
            if not reason and rule.model in wanted:
                reason = f"model {rule.model} is already asked by rule {wanted[rule.model][0].name}"
            if not reason and taken is not None:
                reason = f"series {taken.number or taken.uid} suits better ({taken.instances} slices)"
            choices.append(Choice(series_uid=one.uid, rule=rule.name, model=rule.model, reason=reason))
            taken = one if not reason else taken
        if taken is not None:
            wanted[rule.model] = (rule, taken)
    return choices, list(wanted.values())


def _plan(
    session: Session, study: StudyRow, revision: int, rule: Rule, series: Series, *, now: datetime
) -> tuple[str, bool]:
    """Return the id of the job that does this work, and whether it is new: one that did, or is doing, it stands."""
    instances = studies.instances_of(session, study.uid, series.uid)
    digest = digest_of((instance.sop_uid, instance.content_sha) for instance in instances)
    model_digest = catalogue.digest(rule.model)
    if (same := jobs.same_work(session, study.uid, rule.model, model_digest, digest)) is not None:
        detail = f"revision {revision} has the same images for {rule.model}; its result stands"
        events.record(session, "still valid", who="sweep", at=now, detail=detail, job_id=same.id)
        return same.id, False
    new = jobs.NewJob(
        study_uid=study.uid, series_uid=series.uid, model=rule.model, model_digest=model_digest, revision=revision,
        rule=rule.name, priority=rule.priority, input_digest=digest, calling_ae=series.calling_ae,
        destinations=rule.destinations, deadline=rule.deadline,
        instance_ids=tuple(instance.id for instance in instances),
    )  # fmt: skip
    return jobs.add(session, new, at=now), True


def digest_of(instances: Iterable[tuple[str, str]]) -> str:
    """Return a SHA-256 over pairs of SOP Instance UID and content digest, whatever their order."""
    return hashlib.sha256("".join(sorted(f"{uid} {sha}\n" for uid, sha in instances)).encode()).hexdigest()


def _sentence(planned: int, repeated: int) -> str:
    if planned:
        return f"{planned} job{'s' if planned > 1 else ''} planned"
    return "the results that exist still hold" if repeated else "no rule wants any of its series"
