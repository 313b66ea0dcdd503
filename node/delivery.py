"""Delivery: frozen results to peers, each with its own tries; the model is never run again for it."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from models import catalogue
from node.db import jobs, results, studies
from node.db.results import Outcome
from node.db.session import Database
from node.domain.job import Job, JobState
from node.domain.peer import SENDER, Answer, AnswerKind, OutgoingFile, Peer
from node.domain.profile import DEFAULT
from node.domain.result import Delivery, DeliveryState, Result
from node.errors import IllegalMove, NotFound, PeerAway, PeerRefused
from node.logs import failure
from node.settings import Settings
from node.store import Store
from node.transport import Transport

log = logging.getLogger(__name__)

EXPLICIT_VR_LE = "1.2.840.10008.1.2.1"  # what every result is written in
_LEASE = timedelta(minutes=10)  # a peer that needs longer for one set is asked again
_UNKNOWN_SENDER = "the study came from {}, which is no [[peer]] of the configuration: add it, then retry the job"


@dataclass(frozen=True, kw_only=True, slots=True)
class Deliverer:
    """Everything that sending results needs; the only part of the node that talks to a PACS."""

    database: Database
    store: Store
    settings: Settings
    transport_to: Callable[[Peer], Transport]
    now: Callable[[], datetime]
    worker: str

    def deliver(self, job_id: str) -> int:
        """Send what is due of one job, peer by peer; return how many results a peer accepted."""
        accepted = 0
        while batch := self._claim(job_id):
            taken = sum(self._conclude(delivery, outcome) for delivery, outcome in self._send(batch))
            accepted += taken
            log.info(
                "delivery tried", extra={"job_id": job_id, "peer": batch[0][0].peer, "sent": taken, "of": len(batch)}
            )
        self._settle_job(job_id)
        return accepted

    def _claim(self, job_id: str) -> list[tuple[Delivery, Result]]:
        now = self.now()
        with self.database.transaction() as session:
            job = jobs.get(session, job_id, lock=True)
            if job.state not in (JobState.RESULT_READY, JobState.DELIVERING):
                return []
            batch = results.claim(session, job.id, worker=self.worker, now=now, lease=_LEASE)
            if batch and job.state is JobState.RESULT_READY:
                jobs.advance(session, job, JobState.DELIVERING, at=now)
            return batch

    def _send(self, batch: Sequence[tuple[Delivery, Result]]) -> Iterator[tuple[Delivery, Outcome]]:
        """Yield how each delivery of the batch ended; what comes behind a failed one waits with it."""
        waiting = list(batch)
        try:
            with self.database.reading() as session:
                job = jobs.get(session, batch[0][0].job_id)
            peer = self._peer(batch[0][0].peer, job)
            for delivery, answer in self._answers(self.transport_to(peer), batch, job.study_uid):
                waiting.pop(0)
                yield delivery, self._outcome(delivery, answer)
                if answer.kind is not AnswerKind.ACCEPTED:
                    break
            else:
                answer = Answer(kind=AnswerKind.LATER)
            # Behind a parked result the rest is parked too: one retry of the job then sends all of them, in order.
            kind = AnswerKind.REFUSED if answer.kind is AnswerKind.REFUSED else AnswerKind.LATER
            left = Answer(kind=kind, reason="waits behind the result before it")
        except PeerAway as why:
            left = Answer(kind=AnswerKind.LATER, reason=str(why))
        except (PeerRefused, NotFound) as why:
            left = Answer(kind=AnswerKind.REFUSED, reason=str(why))
        except Exception as why:  # noqa: BLE001  # whether the peer has it nobody knows: it is asked first, and in the end parked
            log.error("sending failed: %s", failure(why), extra={"job_id": batch[0][0].job_id})
            left = Answer(kind=AnswerKind.UNKNOWN, reason=f"sending failed: {type(why).__name__}")
        for delivery, _ in waiting:
            yield delivery, self._outcome(delivery, left)

    def _peer(self, name: str, job: Job) -> Peer:
        """Return the peer of that name; for "sender", the peer that sent the study, by now perhaps configured."""
        if name == SENDER:
            name = _address(SENDER, job.calling_ae, self.settings.peers).peer
        if name == SENDER:
            raise NotFound(_UNKNOWN_SENDER.format(job.calling_ae))
        return self.settings.peer_named(name)

    def _answers(
        self, transport: Transport, batch: Sequence[tuple[Delivery, Result]], study_uid: str
    ) -> Iterator[tuple[Delivery, Answer]]:
        """Ask about what may be there already, then send the rest over one association."""
        unsent: list[tuple[Delivery, OutgoingFile]] = []
        for delivery, result in batch:
            file = self._frozen_file(result, study_uid)
            if not unsent and delivery.state is DeliveryState.UNKNOWN and transport.find(file):
                yield delivery, Answer(kind=AnswerKind.ACCEPTED, reason="it was there already")
            else:
                unsent.append((delivery, file))
        if unsent:
            answers = transport.send([file for _, file in unsent])
            yield from zip((delivery for delivery, _ in unsent), answers, strict=False)

    def _frozen_file(self, result: Result, study_uid: str) -> OutgoingFile:
        if not self.store.verify(result.path, result.sha256):
            raise PeerRefused(f"the frozen result {result.sop_uid} is damaged on disk; run the job again")
        return OutgoingFile(
            path=self.store.path(result.path), sop_class=result.sop_class, sop_uid=result.sop_uid,
            transfer_syntax=EXPLICIT_VR_LE, study_uid=study_uid,
        )  # fmt: skip

    def _outcome(self, delivery: Delivery, answer: Answer) -> Outcome:
        """Return what an answer means for the delivery: done, another try after a while, or a person's turn."""
        too_old = self.now() - delivery.created_at > self.settings.delivery_age_limit
        if answer.kind is AnswerKind.ACCEPTED:
            return Outcome(state=DeliveryState.ACKED, status=answer.status, reason=answer.reason)
        if answer.kind is AnswerKind.REFUSED or too_old:
            return Outcome(state=DeliveryState.PARKED, status=answer.status, reason=answer.reason)
        # A peer that was away when it should have been asked is still to be asked.
        unsure = answer.kind is AnswerKind.UNKNOWN or delivery.state is DeliveryState.UNKNOWN
        state = DeliveryState.UNKNOWN if unsure else DeliveryState.RETRY_WAIT
        wait = back_off(delivery.tries + 1, self.settings.retry_base, self.settings.retry_cap)
        return Outcome(state=state, status=answer.status, reason=answer.reason, wait=wait)

    def _conclude(self, delivery: Delivery, outcome: Outcome) -> bool:
        with self.database.transaction() as session:
            ours = results.conclude(session, delivery, outcome, worker=self.worker, at=self.now())
        return ours and outcome.state is DeliveryState.ACKED

    def _settle_job(self, job_id: str) -> None:
        """Close the job when every peer has everything; else say on it what it waits for."""
        with self.database.transaction() as session:
            job = jobs.get(session, job_id)
            if job.state is JobState.CANCELLED:  # while something of it was being sent
                results.cancel_open(session, job.id, at=self.now())
            if job.state not in (JobState.RESULT_READY, JobState.DELIVERING):
                return
            deliveries = results.deliveries_of(session, job_id)
            if results.all_over(deliveries):
                jobs.advance(session, job, JobState.DONE, at=self.now())
            elif (reason := _waits_for(deliveries)) != job.reason:
                jobs.set_reason(session, job, reason, at=self.now())


def _waits_for(deliveries: Sequence[Delivery]) -> str:
    open_ones = [d for d in deliveries if d.state is not DeliveryState.ACKED and d.reason]
    parked = [d for d in open_ones if d.state is DeliveryState.PARKED]
    first = (parked or open_ones)[:1]
    return f"delivery to {first[0].peer} {first[0].state}: {first[0].reason}" if first else ""


def back_off(tries: int, base: timedelta, cap: timedelta) -> timedelta:
    """Return a random wait between half and all of base * 2^(tries-1), at most *cap*."""
    ceiling = min(cap, base * (1 << min(tries - 1, 20)))
    return ceiling * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, hides nothing


def addresses(job: Job, peers: Sequence[Peer]) -> list[jobs.Address]:
    """Return where a job's results go; a destination that nobody can reach waits for a person, with the reason."""
    found: dict[str, jobs.Address] = {}
    for destination in job.destinations:
        address = _address(destination, job.calling_ae, peers)
        found.setdefault(address.peer, address)
    return list(found.values())


def _address(destination: str, calling_ae: str, peers: Sequence[Peer]) -> jobs.Address:
    if destination != SENDER:
        profile = next((peer.profile for peer in peers if peer.name == destination), DEFAULT)
        return jobs.Address(peer=destination, profile=profile)
    for peer in peers:
        if peer.ae_title == calling_ae:
            return jobs.Address(peer=peer.name, profile=peer.profile)
    return jobs.Address(peer=SENDER, reason=_UNKNOWN_SENDER.format(calling_ae))


def retry_job(database: Database, job_id: str, *, who: str, at: datetime) -> str:
    """Do what a person means by retrying a job: run it again, or only send its results again."""
    with database.transaction() as session:
        job = jobs.get(session, job_id)
        if job.state in (JobState.RESULT_READY, JobState.DELIVERING):
            return _resend(session, job, who=who, at=at)
        if studies.is_in_conflict(session, job.study_uid):
            raise IllegalMove("the study's instances name different patients: nothing of it is run or sent")
        if job.state is JobState.CANCELLED and results.results_of(session, job.id):
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

