"""The pages: each reads the table once, in one view of it, and says what it read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.templating import Jinja2Templates

from node.db import chosen, events, jobs, lookups, pauses, results, studies, verdicts
from node.db.session import Database
from node.domain.job import ENDED, Job, JobState
from node.domain.pause import Pause, holds
from node.domain.result import Delivery
from node.domain.study import StudyState
from node.domain.verdict import Verdict
from node.store import DECLINED_PICTURE, Store
from node.verdicts import model_version
from node.web import words
from node.web.guard import Tokens

_LIMIT = 200  # rows of a table
_J = JobState
_WRONG = frozenset({_J.FAILED, _J.INPUT_INVALID})
_SENDING = frozenset({_J.RESULT_READY, _J.DELIVERING})
#: What a filter shows; "person" holds, besides these, the jobs of which a delivery is parked.
JOB_GROUPS: dict[str, tuple[str, frozenset[JobState]]] = {
    "all": ("All", frozenset(JobState)),
    "active": ("Active", frozenset(JobState) - ENDED),
    "person": ("Needs a person", _WRONG | _SENDING),
    "done": ("Ended", ENDED - _WRONG),
}
STUDY_GROUPS: dict[str, tuple[str, frozenset[StudyState]]] = {
    "all": ("All", frozenset(StudyState)),
    "open": ("Receiving", frozenset({StudyState.OPEN})),
    "settled": ("Settled", frozenset({StudyState.SETTLED})),
    "conflict": ("Conflict", frozenset({StudyState.CONFLICT})),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLine:
    """One row of the job table."""

    job: Job
    label: lookups.Label
    took: str  # from settling to the end, or to now
    parked: bool
    tokens: dict[str, str]  # by verb
    verdict: Verdict | None  # the one that counts

    @property
    def unfinished(self) -> bool:
        """Whether something may still happen by itself."""
        return self.job.state not in ENDED

    @property
    def retry_label(self) -> str:
        """What the retry button says; "" where there is none."""
        return words.retry_label(self.job, parked=self.parked)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pages:
    """The pages over one node's tables and store."""

    database: Database
    store: Store
    now: Callable[[], datetime]
    tokens: Tokens
    templates: Jinja2Templates

    def job_table(self, request: Request) -> Response:
        """The first page."""
        return self._render(request, "jobs.html", self._job_table(_group(request, JOB_GROUPS)))

    def job_table_part(self, request: Request) -> Response:
        """The part of the first page that changes."""
        return self._render(request, "_jobs.html", self._job_table(_group(request, JOB_GROUPS)))

    def study_table(self, request: Request) -> Response:
        """All studies, those that no rule wants too."""
        return self._render(request, "studies.html", self._study_table(_group(request, STUDY_GROUPS)))

    def study_table_part(self, request: Request) -> Response:
        """The part of the studies' page that changes."""
        return self._render(request, "_studies.html", self._study_table(_group(request, STUDY_GROUPS)))

    def job(self, request: Request) -> Response:
        """One job's story; the beginning of an id leads to the whole."""
        facts = self._job(request.path_params["job_id"])
        if facts["line"].job.id != request.path_params["job_id"]:
            return RedirectResponse(f"/job/{facts['line'].job.id}")
        return self._render(request, "job.html", facts)

    def job_part(self, request: Request) -> Response:
        """The part of a job's page that changes."""
        return self._render(request, "_job.html", self._job(request.path_params["job_id"]))

    def study(self, request: Request) -> Response:
        """One study, and what was decided about it."""
        return self._render(request, "study.html", self._study(request.path_params["study_uid"]))

    def study_part(self, request: Request) -> Response:
        """The part of a study's page that changes."""
        return self._render(request, "_study.html", self._study(request.path_params["study_uid"]))

    def models(self, request: Request) -> Response:
        """How the results of each model fared with radiologists."""
        return self._render(request, "models.html", self._models())

    def models_part(self, request: Request) -> Response:
        """The part of the models' page that changes."""
        return self._render(request, "_models.html", self._models())

    def picture(self, request: Request) -> Response:
        """One overlay picture of a job: only a name that its folder lists is ever opened."""
        with self.database.reading() as session:
            job = jobs.get(session, request.path_params["job_id"])
        name = request.path_params["name"]
        for listed, path, _ in _pictures(self.store, job.id):
            if listed == name:
                headers = {"Cache-Control": "private, max-age=3600"}  # the address changes with the file
                return FileResponse(path, media_type="image/png", headers=headers)
        raise HTTPException(404, f"The job has no picture {name!r}.")

    def _render(self, request: Request, template: str, facts: dict[str, Any]) -> Response:
        return self.templates.TemplateResponse(request, template, {"now": self.now(), **facts})

    def _job_table(self, group: str) -> dict[str, Any]:
        with self.database.reading() as session:
            parked = lookups.jobs_with_parked(session)
            found = _jobs_in(session, group, parked)
            by_state = jobs.count_by_state(session)
            conflicts = studies.count_by_state(session).get(StudyState.CONFLICT, 0)
            lines = self._lines(session, found, parked)
            halted = pauses.list_pauses(session)
        counts = _counts(by_state, len(parked))
        facts = {"tabs": _job_tabs(counts), "conflicts": conflicts, "pauses": halted}
        return {"group": group, "lines": lines, "counts": counts, **facts}

    def _lines(self, session: Session, found: Sequence[Job], parked: frozenset[str]) -> list[JobLine]:
        """Return rows, the newest planned first: an order that stays while jobs move on."""
        labels = lookups.labels_of(session, {job.study_uid for job in found})
        ordered = sorted(found, key=lambda job: (job.created_at, job.id), reverse=True)
        counting = verdicts.standing_of(session, {job.id for job in found})
        return [
            self._line(job, labels[job.study_uid], parked=job.id in parked, verdict=counting.get(job.id))
            for job in ordered
        ]

    def _line(self, job: Job, label: lookups.Label, *, parked: bool, verdict: Verdict | None) -> JobLine:
        until = job.updated_at if job.state in ENDED else self.now()
        tokens = {verb: self.tokens.make(verb, job.id) for verb in ("retry", "cancel")}
        took = words.span(until - job.settled_at)
        return JobLine(job=job, label=label, took=took, parked=parked, tokens=tokens, verdict=verdict)

    def _study_table(self, group: str) -> dict[str, Any]:
        with self.database.reading() as session:
            found = studies.list_studies(session, limit=_LIMIT)
            by_state = studies.count_by_state(session)
        wanted = STUDY_GROUPS[group][1]
        tabs = [(key, title, sum(by_state.get(s, 0) for s in states)) for key, (title, states) in STUDY_GROUPS.items()]
        return {"group": group, "studies": [study for study in found if study.state in wanted], "tabs": tabs}

    def _job(self, job_id: str) -> dict[str, Any]:
        with self.database.reading() as session:
            job = jobs.get(session, job_id)
            label = lookups.labels_of(session, {job.study_uid})[job.study_uid]
            parked = job.id in lookups.jobs_with_parked(session)
            choices = chosen.of_study(session, job.study_uid)
            story = events.story(session, job_id=job.id)
            deliveries = results.deliveries_of(session, job.id)
            given = verdicts.list_verdicts(session, job_ids=[job.id])
            counting = verdicts.standing_of(session, [job.id]).get(job.id)
            facts = {
                "line": self._line(job, label, parked=parked, verdict=counting),
                "pauses": _holding(job, deliveries, pauses.list_pauses(session)),
                "verdicts": given,
                "expected": lookups.expected_end(session, job, now=self.now()),
                "results": [(r, _to_peers(deliveries, r.id)) for r in results.results_of(session, job.id)],
                "inputs": len(jobs.inputs(session, job.id)),
                "series": studies.series_of(session, job.study_uid),
                "choices": {c.series_uid: c for c in choices if c.model == job.model and c.rule == job.rule},
            }
        pictures = [(name, version) for name, _, version in _pictures(self.store, job.id)]
        declined = [one for one in pictures if one[0] == DECLINED_PICTURE]
        shown = {"pictures": [one for one in pictures if one not in declined], "declined": declined}
        return {**facts, "events": story, "ran_for": words.ran_for(story), **shown}

    def _models(self) -> dict[str, Any]:
        with self.database.reading() as session:
            figures = verdicts.model_figures(session)
            newest = verdicts.list_verdicts(session, limit=_LIMIT)
            pending = verdicts.count_pending(session)
        lines = [(one, model_version(one.model, one.model_digest)) for one in figures]
        return {"figures": lines, "verdicts": newest, "pending": pending}

    def _study(self, study_uid: str) -> dict[str, Any]:
        with self.database.reading() as session:
            study = studies.get_study(session, study_uid)
            found = jobs.list_jobs(session, study_uid=study_uid, limit=_LIMIT)
            choices = chosen.of_study(session, study_uid)
            return {
                "study": study,
                "series": [(s, [c for c in choices if c.series_uid == s.uid])
                           for s in studies.series_of(session, study_uid)],
                "lines": self._lines(session, found, lookups.jobs_with_parked(session)),
                "events": events.story(session, study_uid=study_uid),
            }  # fmt: skip


def _group(request: Request, groups: dict[str, Any]) -> str:
    group = request.query_params.get("group", "all")
    if group not in groups:
        raise HTTPException(404, f"There is no group {group!r}; there are {', '.join(groups)}.")
    return group


def _jobs_in(session: Session, group: str, parked: frozenset[str]) -> list[Job]:
    if group != "person":
        return jobs.list_jobs(session, states=sorted(JOB_GROUPS[group][1]), limit=_LIMIT)
    sending = jobs.list_jobs(session, states=sorted(_SENDING), limit=10 * _LIMIT) if parked else []
    waiting = [job for job in sending if job.id in parked][:_LIMIT]
    return [*waiting, *jobs.list_jobs(session, states=sorted(_WRONG), limit=_LIMIT)]


def _holding(job: Job, deliveries: Sequence[Delivery], halted: Sequence[Pause]) -> list[Pause]:
    """Return the pauses that hold back what is next for a job."""
    if job.state in ENDED:
        return []
    if job.state in _SENDING:
        peers = {delivery.peer for delivery in deliveries if delivery.state in results.OPEN}
        return [one for one in halted if any(holds(one, queue="io", peer=peer) for peer in peers)]
    return [one for one in halted if holds(one, queue="gpu", model=job.model)]


def _to_peers(deliveries: Sequence[Delivery], result_id: int) -> list[Delivery]:
    return [delivery for delivery in deliveries if delivery.result_id == result_id]


def _counts(by_state: dict[str, int], parked: int) -> dict[str, int]:
    """Return how many jobs stand where; each job is counted once, as what it most needs to be seen as."""

    def of(*states: JobState) -> int:
        return sum(by_state.get(state, 0) for state in states)

    return {
        "waiting": of(_J.PENDING, _J.RETRY_WAIT),
        "running": of(_J.LEASED, _J.RUNNING),
        "delivering": of(*_SENDING) - parked,
        "person": of(*_WRONG) + parked,
        "done": of(_J.DONE),
        "aside": of(_J.CANCELLED, _J.SUPERSEDED, _J.NOT_APPLICABLE),
        "parked": parked,
    }


def _job_tabs(counts: dict[str, int]) -> list[tuple[str, str, int]]:
    active = counts["waiting"] + counts["running"] + counts["delivering"] + counts["parked"]
    ended = counts["done"] + counts["aside"]
    sizes = {"all": active + ended + counts["person"] - counts["parked"], "active": active,
             "person": counts["person"], "done": ended}  # fmt: skip
    return [(key, title, sizes[key]) for key, (title, _) in JOB_GROUPS.items()]


def _pictures(store: Store, job_id: str) -> list[tuple[str, Any, int]]:
    """Return (name, path, version) of a job's pictures, whole planes before details."""
    folder = store.pictures(job_id)
    found = sorted(folder.glob("*.png")) if folder.is_dir() else []
    found.sort(key=lambda path: path.name.startswith("detection"))
    return [(path.name, path, path.stat().st_mtime_ns) for path in found if path.is_file() and not path.is_symlink()]
