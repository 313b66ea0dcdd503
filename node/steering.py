"""A person's word on jobs: run or send again, or end."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from models import catalogue
from node.db import breakers, jobs, results, retention, studies
from node.db.session import Database
from node.domain.job import Job, JobState
from node.errors import IllegalMove


def retry_job(database: Database, job_id: str, *, who: str, at: datetime) -> str:
    """Do what a person means by retrying a job: run it again, or only send its results again."""
    with database.transaction() as session:  # of its own: breakers are locked before jobs
        breakers.look_soon(session, jobs.get(session, job_id).id, at=at)
    with database.transaction() as session:
        job = jobs.get(session, job_id, lock=True)
        if job.state in (JobState.RESULT_READY, JobState.DELIVERING):
            return _resend(session, job, who=who, at=at)
        if studies.is_in_conflict(session, job.study_uid):
            raise IllegalMove("the study's instances name different patients: nothing of it is run or sent")
        if job.state is JobState.CANCELLED and retention.has_results(session, job.id):
            jobs.advance(session, job, JobState.RESULT_READY, at=at)
            return _resend(session, job, who=who, at=at)
        jobs.retry(session, job.id, model_digest=catalogue.digest(job.model), who=who, at=at)
        return "the model runs again"


def _resend(session: Session, job: Job, *, who: str, at: datetime) -> str:
    count = results.requeue_parked(session, job.id, at=at)
    jobs.note_retry(session, job, who=who, at=at)
    return f"{count} deliver{'y is' if count == 1 else 'ies are'} tried again"


def cancel_job(database: Database, job_id: str, *, who: str, at: datetime) -> None:
    """End a job on a person's word; what a peer has received stays there."""
    with database.transaction() as session:
        job = jobs.cancel(session, job_id, who=who, at=at)
        results.cancel_open(session, job.id, at=at)
