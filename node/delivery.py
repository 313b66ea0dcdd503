"""Delivery: frozen results to peers, each with its own tries; the model is never run again for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import uuid4

from sqlalchemy.orm import Session

from node.db import breakers, commitments, jobs, lookups, results
from node.db.results import Outcome
from node.db.session import Database
from node.dicom.classes import WRITTEN_IN
from node.domain.job import Job, JobState
from node.domain.peer import SENDER, Answer, AnswerKind, CommitReport, OutgoingFile, Peer, Verify
from node.domain.profile import DEFAULT
from node.domain.result import OTHER_PATIENT, Delivery, DeliveryState, Result
from node.domain.uid import UUID_ROOT
from node.domain.waits import back_off, full_jitter
from node.errors import NotFound, PeerAway, PeerBusy, PeerRefused
from node.failpoints import reach
from node.logs import failure
from node.settings import Settings
from node.store import Store
from node.transport import Transport

log = logging.getLogger(__name__)

LEASE = timedelta(minutes=10)  # a peer that needs longer for one set is asked again
_PROBE_MARGIN = timedelta(seconds=30)  # beyond the peer's own times, before another worker may look for it
_LOOKS = 5  # a peer that took an instance and still does not show it is sent it again
_ASKS = 3  # a peer that still does not report on commitment is queried
_LONGEST_WISH = timedelta(hours=1)  # a peer that asks us to wait longer is tried all the same
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
        """Send what is due of one job, peer by peer, and look whether it is there; return how much was accepted."""
        self._look_for_peers(job_id)
        accepted = 0
        while batch := self._claim(job_id):
            with self._holding(batch):
                reach("deliver.picked")
                taken = sum(self._conclude(delivery, outcome) for delivery, outcome in self._send(batch))
            accepted += taken
            log.info(
                "delivery tried", extra={"job_id": job_id, "peer": batch[0][0].peer, "sent": taken, "of": len(batch)}
            )
        while batch := self._claim_looks(job_id):
            with self._holding(batch):
                for delivery, outcome in self._look(batch):
                    reach("deliver.verified")
                    with self.database.transaction() as session:
                        results.conclude_look(session, delivery, outcome, worker=self.worker, at=self.now())
        self._settle_job(job_id)
        return accepted

    @contextmanager
    def _holding(self, batch: Sequence[tuple[Delivery, Result]]) -> Iterator[None]:
        """Let go of what was taken where something unforeseen ends the block: no lease has to run out first."""
        try:
            yield
        except Exception:
            self._let_go(batch)
            raise

    def _let_go(self, batch: Sequence[tuple[Delivery, Result]]) -> None:
        """Say that the sending failed; where it is the database that is away, once that is back."""

        def tell(session: Session) -> None:
            for delivery, _ in batch:
                results.give_up_sending(session, delivery.id, owner=self.worker, at=self.now(), reason="sending failed")

        self.database.patiently(tell, seconds=LEASE.total_seconds())  # then the sweep does it

    def _look_for_peers(self, job_id: str) -> None:
        """Look for the absent peers of a job whose time has come, each by one worker at a time."""
        with self.database.reading() as session:
            due = breakers.due_for_probe(session, job_id, now=self.now())
        for name in due:
            self._probe(name)

    def _probe(self, name: str) -> None:
        try:
            peer = self.settings.peer_named(name)
        except NotFound:
            peer = None  # no longer configured: what waits for it learns that when it is sent
        lease = timedelta(seconds=3 * peer.timeout if peer else 0.0) + _PROBE_MARGIN
        with self.database.transaction() as session:
            if not breakers.begin_probe(session, name, worker=self.worker, now=self.now(), lease=lease):
                return
        away = self._echo(peer) if peer else ""
        old: list[str] = []
        with self.database.transaction() as session:
            at = self.now()
            if not away:
                breakers.end_probe_back(session, name, worker=self.worker, at=at)
            elif breakers.end_probe_away(
                session, name, worker=self.worker, reason=away, at=at, wait=self._jitter
            ):
                before = at - self.settings.delivery_age_limit
                old = breakers.park_old(session, name, before=before, who=self.worker, at=at)
        log.info("peer looked for", extra={"peer": name, "away": away or "no", "parked": len(old)})
        for job_id in old:
            self._settle_job(job_id)

    def _echo(self, peer: Peer) -> str:
        """Return why the peer is still away; "" where it answers, whatever it answers."""
        try:
            self.transport_to(peer).echo()
        except PeerAway as why:
            return str(why)
        except PeerRefused:
            return ""  # it is there; what it thinks of our results, it says to each of them
        except Exception as why:  # noqa: BLE001  # the next look finds out more
            log.error("looking for a peer failed: %s", failure(why), extra={"peer": peer.name})
            return f"looking for it failed: {type(why).__name__}"
        return ""

    def _note(self, peer: str, trouble: str) -> None:
        """Count a connection that failed, or end the count."""
        with self.database.reading() as session:
            known = breakers.get(session, peer)
        if not trouble and (known is None or not known.failures):
            return
        with self.database.transaction() as session:
            if not trouble:
                breakers.note_success(session, peer)
            elif breakers.note_failure(
                session, peer, reason=trouble, who=self.worker, at=self.now(), wait=self._jitter
            ):
                log.warning("peer is away: nothing is sent to it until it is back", extra={"peer": peer})

    def _jitter(self, tries: int) -> timedelta:
        return full_jitter(tries, self.settings.retry_base, self.settings.retry_cap)

    def _claim(self, job_id: str) -> list[tuple[Delivery, Result]]:
        now = self.now()
        with self.database.transaction() as session:
            job = jobs.get(session, job_id, lock=True)
            if job.state not in (JobState.RESULT_READY, JobState.DELIVERING):
                return []
            batch = results.claim(session, job.id, worker=self.worker, now=now, lease=LEASE)
            if batch and job.state is JobState.RESULT_READY:
                jobs.advance(session, job, JobState.DELIVERING, at=now)
            return batch

    def _send(self, batch: Sequence[tuple[Delivery, Result]]) -> Iterator[tuple[Delivery, Outcome]]:
        """Yield how each delivery of the batch ended; what comes behind a failed one waits with it."""
        waiting = list(batch)
        peer, trouble = None, ""
        try:
            with self.database.reading() as session:
                job = jobs.get(session, batch[0][0].job_id)
            peer = self._peer(batch[0][0].peer, job)
            for delivery, answer in self._answers(self.transport_to(peer), batch, job.study_uid):
                waiting.pop(0)
                yield delivery, self._outcome(delivery, answer)
                trouble = answer.reason if answer.kind is AnswerKind.UNKNOWN else ""
                if answer.kind is not AnswerKind.ACCEPTED:
                    break
            else:
                answer = Answer(kind=AnswerKind.LATER)
            # Behind a parked result the rest is parked too: one retry of the job then sends all of them, in order.
            kind = AnswerKind.REFUSED if answer.kind is AnswerKind.REFUSED else AnswerKind.LATER
            left = Answer(kind=kind, reason="waits behind the result before it")
        except PeerAway as why:
            left = Answer(kind=AnswerKind.LATER, reason=str(why))
            trouble = "" if isinstance(why, PeerBusy) else str(why)
        except (PeerRefused, NotFound) as why:
            left = Answer(kind=AnswerKind.REFUSED, reason=str(why))
        except Exception as why:  # noqa: BLE001  # whether the peer has it nobody knows: it is asked first, and in the end parked
            log.error("sending failed: %s", failure(why), extra={"job_id": batch[0][0].job_id})
            left = Answer(kind=AnswerKind.UNKNOWN, reason=f"sending failed: {type(why).__name__}")
        if peer is not None:
            self._note(peer.name, trouble)
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
        return self._outgoing(result, study_uid)

    def _outgoing(self, result: Result, study_uid: str) -> OutgoingFile:
        return OutgoingFile(
            path=self.store.path(result.path), sop_class=result.sop_class, sop_uid=result.sop_uid,
            transfer_syntax=WRITTEN_IN, study_uid=study_uid,
        )  # fmt: skip

    def _outcome(self, delivery: Delivery, answer: Answer) -> Outcome:
        """Return what an answer means for the delivery: done, another try after a while, or a person's turn."""
        if answer.kind is AnswerKind.ACCEPTED:
            return Outcome(state=DeliveryState.ACKED, status=answer.status, reason=answer.reason)
        if answer.kind is AnswerKind.REFUSED or self._is_too_old(delivery):
            return Outcome(state=DeliveryState.PARKED, status=answer.status, reason=answer.reason)
        # A peer that was away when it should have been asked is still to be asked.
        unsure = answer.kind is AnswerKind.UNKNOWN or delivery.state is DeliveryState.UNKNOWN
        state = DeliveryState.UNKNOWN if unsure else DeliveryState.RETRY_WAIT
        wished = min(timedelta(seconds=answer.retry_after), _LONGEST_WISH)
        wait = max(self._jitter(delivery.tries + 1), wished)
        return Outcome(state=state, status=answer.status, reason=answer.reason, wait=wait)

    def _conclude(self, delivery: Delivery, outcome: Outcome) -> bool:
        reach("deliver.sent")
        with self.database.transaction() as session:
            ours = results.conclude(session, delivery, outcome, worker=self.worker, at=self.now())
        reach("deliver.marked")
        return ours and outcome.state is DeliveryState.ACKED

    def _claim_looks(self, job_id: str) -> list[tuple[Delivery, Result]]:
        with self.database.transaction() as session:
            job = jobs.get(session, job_id, lock=True)
            if job.state not in (JobState.RESULT_READY, JobState.DELIVERING):
                return []
            return results.claim_looks(session, job.id, worker=self.worker, now=self.now(), lease=LEASE)

    def _look(self, batch: Sequence[tuple[Delivery, Result]]) -> list[tuple[Delivery, Outcome]]:
        """Return what is known of the accepted results of one set at one peer, after asking it."""
        try:
            with self.database.reading() as session:
                job = jobs.get(session, batch[0][0].job_id)
            peer = self._peer(batch[0][0].peer, job)
        except NotFound as why:
            return [(one, Outcome(state=DeliveryState.PARKED, reason=str(why))) for one, _ in batch]
        try:
            looked = self._looked(peer, batch, job.study_uid)
        except PeerAway as why:
            self._note(peer.name, "" if isinstance(why, PeerBusy) else str(why))
            return [(one, self._unasked(one, str(why))) for one, _ in batch]
        except Exception as why:  # noqa: BLE001  # the peer took it: what is left is to ask once more
            log.error("looking for results failed: %s", failure(why), extra={"job_id": job.id, "peer": peer.name})
            reason = f"looking for it failed: {type(why).__name__}"
            return [(one, self._unseen(one, reason, one.looks + 1)) for one, _ in batch]
        if peer.verify is not Verify.NONE:
            self._note(peer.name, "")
        return looked

    def _looked(
        self, peer: Peer, batch: Sequence[tuple[Delivery, Result]], study_uid: str
    ) -> list[tuple[Delivery, Outcome]]:
        deliveries = [delivery for delivery, _ in batch]
        if peer.verify is Verify.NONE:
            return [(one, _verified("by its answer: this peer is not asked (verify = none)")) for one in deliveries]
        transport = self.transport_to(peer)
        files = [self._outgoing(result, study_uid) for _, result in batch]
        if peer.verify is Verify.QUERY:
            return self._queried(transport, deliveries, files)
        asks = max(one.looks for one in deliveries)
        if asks >= _ASKS:
            return self._queried(transport, deliveries, files, f"no storage commitment was reported ({asks} questions)")
        reason = "waits for the report on storage commitment"
        try:
            self._ask_to_commit(transport, deliveries[0], files)
        except PeerRefused as why:
            return self._queried(transport, deliveries, files, f"no storage commitment: {why}")
        except PeerBusy as why:
            reason = f"to be asked for storage commitment again: {why}"
        # A report says it of itself: it has moved what it is about. The rest waits for one, which may take its time.
        wait = back_off(1, self.settings.retry_cap, self.settings.retry_cap)
        waits = Outcome(state=DeliveryState.ACKED, reason=reason, wait=wait, looks=asks + 1)
        return [(one, waits) for one in deliveries]

    def _ask_to_commit(self, transport: Transport, of: Delivery, files: Sequence[OutgoingFile]) -> None:
        transaction_uid = f"{UUID_ROOT}.{uuid4().int}"

        def answered() -> bool:
            with self.database.reading() as session:
                return commitments.is_answered(session, transaction_uid)

        with self.database.transaction() as session:
            commitments.ask(
                session, transaction_uid, job_id=of.job_id, peer=of.peer, who=self.worker, at=self.now()
            )
        if (report := transport.commit(files, transaction_uid, answered)) is not None:
            take_report(self.database, self.settings, report, who=self.worker, at=self.now())

    def _queried(
        self, transport: Transport, deliveries: Sequence[Delivery], files: Sequence[OutgoingFile], remark: str = ""
    ) -> list[tuple[Delivery, Outcome]]:
        looked = transport.find_all(files)
        if any(looked) and self._is_of_another(transport, deliveries[0], files[0].study_uid):
            remark = "; ".join(filter(None, (remark, OTHER_PATIENT)))
        return [
            (delivery, self._seen(delivery, there, f"{remark}; " if remark else ""))
            for delivery, there in zip(deliveries, looked, strict=True)
        ]

    def _is_of_another(self, transport: Transport, of: Delivery, study_uid: str) -> bool:
        """Return whether the peer has the study under another patient; no answer is no reason for an alarm."""
        try:
            there = transport.patient_of(study_uid)
        except (PeerAway, PeerRefused) as why:
            log.info("a peer does not say whose a study is: %s", why, extra={"job_id": of.job_id})
            return False
        with self.database.reading() as session:
            ours = lookups.patient_of(session, study_uid)
        if there is None or there == ours:
            return False
        log.error("a peer has the study under another patient", extra={"job_id": of.job_id, "peer": of.peer})
        return True

    def _seen(self, delivery: Delivery, there: bool | None, remark: str) -> Outcome:
        """Return what the answer to a query means; None is the answer of a peer that cannot be asked."""
        if there:
            return _verified(f"{remark}found there")
        if there is None:
            return _verified(f"{remark}by its answer: the peer cannot be asked (no query service)")
        if delivery.looks + 1 < _LOOKS:
            return self._unseen(delivery, f"{remark}accepted, but not found there yet", delivery.looks + 1)
        reason = f"{remark}accepted, but not found there after {_LOOKS} looks"
        if self._is_too_old(delivery):
            return Outcome(state=DeliveryState.PARKED, reason=reason)
        wait = self._jitter(delivery.tries)
        return Outcome(state=DeliveryState.QUEUED, reason=f"{reason}: sent again", wait=wait)

    def _unseen(self, delivery: Delivery, reason: str, looks: int) -> Outcome:
        """Look again after a while; a person looks where that took too long."""
        if self._is_too_old(delivery):
            return Outcome(state=DeliveryState.PARKED, reason=reason)
        wait = back_off(looks + 1, self.settings.retry_base, self.settings.retry_cap)
        return Outcome(state=DeliveryState.ACKED, reason=reason, wait=wait, looks=looks)

    def _unasked(self, delivery: Delivery, reason: str) -> Outcome:
        """The peer could not be asked, which says nothing of the result: the older it is, the longer the wait."""
        reason = f"not looked for yet: {reason}"
        if self._is_too_old(delivery):
            return Outcome(state=DeliveryState.PARKED, reason=reason)
        wait = max(self.settings.retry_base, self.now() - delivery.created_at)
        wait = back_off(1, wait, self.settings.retry_cap)
        return Outcome(state=DeliveryState.ACKED, reason=reason, wait=wait, looks=delivery.looks)

    def _is_too_old(self, delivery: Delivery) -> bool:
        return self.now() - delivery.created_at > self.settings.delivery_age_limit

    def _settle_job(self, job_id: str) -> None:
        """Close the job when every peer is known to have everything; else say on it what it waits for."""
        with self.database.transaction() as session:
            job = jobs.get(session, job_id)
            if job.state is JobState.CANCELLED:  # while something of it was being sent
                results.cancel_open(session, job.id, at=self.now())
            if job.state not in (JobState.RESULT_READY, JobState.DELIVERING):
                return
            deliveries = results.deliveries_of(session, job_id)
            away = {breaker.peer: breaker.words for breaker in breakers.not_closed(session)}
            if results.all_over(deliveries):
                jobs.advance(session, job, JobState.DONE, at=self.now())
            elif (reason := _waits_for(deliveries, away)) != job.reason:
                jobs.set_reason(session, job, reason, at=self.now())


def _waits_for(deliveries: Sequence[Delivery], away: dict[str, str]) -> str:
    open_ones = [d for d in deliveries if d.state is not DeliveryState.VERIFIED]
    parked = [d for d in open_ones if d.state is DeliveryState.PARKED and d.reason]
    if not parked and (absent := [away[d.peer] for d in open_ones if d.peer in away]):
        return absent[0]
    first = (parked or [d for d in open_ones if d.reason])[:1]
    return f"delivery to {first[0].peer} {first[0].state}: {first[0].reason}" if first else ""


def _verified(reason: str) -> Outcome:
    return Outcome(state=DeliveryState.VERIFIED, reason=reason)


def take_report(database: Database, settings: Settings, report: CommitReport, *, who: str, at: datetime) -> bool:
    """Record what a peer reports on storage commitment; False where it was never asked under that transaction."""

    def wait(tries: int) -> timedelta:
        return full_jitter(tries, settings.retry_base, settings.retry_cap)

    with database.transaction() as session:
        return commitments.take_report(
            session, report, who=who, at=at, age_limit=settings.delivery_age_limit, wait=wait
        )


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
        if peer.ae_title and peer.ae_title == calling_ae:
            return jobs.Address(peer=peer.name, profile=peer.profile)
    return jobs.Address(peer=SENDER, reason=_UNKNOWN_SENDER.format(calling_ae))
