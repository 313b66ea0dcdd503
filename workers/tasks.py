"""What a worker does when a doorbell rings. Celery neither retries nor decides: the table does."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery
from celery.signals import worker_shutting_down
from sqlalchemy.orm import Session

from node.bootstrap import Services
from node.broker import TASKS, make_app
from node.db import jobs
from node.domain.job import Job, JobState
from node.domain.waits import back_off
from node.errors import InputInvalid, LeaseLost, Leaving, ModelNotApplicable, NodeError, Permanent, StoreFull
from node.failpoints import reach
from node.logs import failure
from node.planning import decline
from workers.ear import Ear
from workers.inference import InferenceChild
from workers.pipeline import run_attempt

log = logging.getLogger(__name__)

_TO_GIVE_BACK = 3.0  # seconds that a worker needs to end its child and to tell the table


def make_worker_app(services: Services, ear: Ear) -> Celery:
    """Return a Celery application that answers both doorbells with *services*."""
    app = make_app(services.settings.broker)
    child = InferenceChild()
    leaving = threading.Event()

    def leave(**_: object) -> None:
        """Let running work go on for most of the time that a stopping node has; then it is given back."""
        patience = max(0.0, services.settings.drain_time.total_seconds() - _TO_GIVE_BACK)
        timer = threading.Timer(patience, leaving.set)
        timer.daemon = True
        timer.start()

    worker_shutting_down.connect(leave, weak=False)

    def answer_run(job_id: str) -> None:
        with ear.busy():
            run_most_urgent(services, child, hint=job_id, leaving=leaving)

    def answer_deliver(job_id: str) -> None:
        with ear.busy():
            services.deliverer().deliver(job_id)

    _bind(app, "run_job", answer_run)
    _bind(app, "deliver", answer_deliver)
    return app


def _bind(app: Celery, topic: str, function: Any) -> None:
    app.task(name=TASKS[topic][0], ignore_result=True)(function)


def run_most_urgent(
    services: Services, child: InferenceChild, *, hint: str, leaving: threading.Event
) -> None:
    """Claim the most urgent job, run one attempt of it, tell the table how it ended."""
    with services.database.transaction() as session:
        job = jobs.claim(session, worker=services.worker, now=services.now(), lease=services.settings.lease)
    if job is None:
        return  # rung twice, or no longer wanted: nothing to do, nothing wrong
    log.info("job claimed", extra={**job.fields, "rung_for": hint})
    try:
        reach("job.claimed")
        with services.database.transaction() as session:
            job = jobs.start(session, job, at=services.now())
        reach("job.started")
        ran = run_attempt(services, child, job, leaving=leaving)
    except LeaseLost as why:
        log.warning("attempt void: %s", why, extra=job.fields)
    except Leaving as why:
        _release(services, job, str(why))
    except InputInvalid as why:
        _end(services, job, JobState.INPUT_INVALID, str(why))
    except ModelNotApplicable as why:
        _decline(services, job, why)
    except Permanent as why:
        _end(services, job, JobState.FAILED, str(why))
    except Exception as why:  # noqa: BLE001  # the outermost frame: record, and let the sweep try again
        reason = str(why) if isinstance(why, NodeError) else failure(why)
        log.error("attempt failed: %s", reason, extra=job.fields)
        _give_back(services, job, reason)
    else:
        log.info("results ready", extra={**job.fields, "seconds": ran.seconds, "peak_mib": ran.peak_mib})


def _end(services: Services, job: Job, state: JobState, reason: str) -> None:
    log.info("job ended", extra={**job.fields, "state": str(state), "reason": reason})
    _tell(services, job, lambda session: jobs.end(session, job, state, reason=reason, at=services.now()))


def _decline(services: Services, job: Job, why: ModelNotApplicable) -> None:
    """End a job that its model declined, with what it shows, and plan the next best series: all of it or nothing.

    The picture is written before the commit, and after the fence: a worker that lost its lease writes none.
    """
    log.info("job ended", extra={**job.fields, "state": str(JobState.NOT_APPLICABLE), "reason": str(why)})

    def tell(session: Session) -> None:
        decline(session, job, reason=str(why), now=services.now())
        reach("declined.recorded")
        if _keep_picture(services, job, why):
            jobs.note_picture(session, job)
        reach("declined.pictured")

    _tell(services, job, tell)
    reach("declined.committed")


def _keep_picture(services: Services, job: Job, why: ModelNotApplicable) -> bool:
    """Keep what the model shows, and return whether it is kept: a picture that cannot be is no reason to try again."""
    fault = why.not_shown
    if why.picture:
        try:
            services.store.put_declined(job.id, why.picture)
        except StoreFull as full:
            fault = str(full)
        else:
            return True
    if fault:
        log.warning("the picture of what the model declined is not kept: %s", fault, extra=job.fields)
    return False


def _release(services: Services, job: Job, reason: str) -> None:
    log.info("job released", extra={**job.fields, "reason": reason})
    _tell(services, job, lambda session: jobs.release(session, job, reason=reason, at=services.now()))


def _give_back(services: Services, job: Job, reason: str) -> None:
    settings = services.settings
    wait = back_off(job.attempts, settings.retry_base, settings.retry_cap)
    given: dict[str, Any] = {"reason": reason, "wait": wait, "max_attempts": settings.max_attempts}
    _tell(services, job, lambda session: jobs.give_back(session, job, at=services.now(), **given))


def _tell(services: Services, job: Job, what: Callable[[Session], object]) -> None:
    """Tell the table how an attempt ended; if the database is away, for as long as the job could still be ours."""
    try:
        services.database.patiently(what, seconds=services.settings.lease.total_seconds())
    except LeaseLost as why:
        log.warning("attempt void: %s", why, extra=job.fields)
