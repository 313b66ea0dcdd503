"""The sweep: what time alone brings. Losing every message of the broker costs one round of it, never a job."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from node.broker import Broker
from node.care import Care
from node.commitment import Reporter
from node.counting import Counting
from node.db import completion, events, jobs, results
from node.db.session import Database
from node.db.waiting import bring_back
from node.delivery import LEASE
from node.domain.job import Job
from node.domain.peer import Peer
from node.errors import BrokerAway, LeaseLost
from node.failpoints import reach
from node.intake import Intake
from node.lanes import Lanes
from node.logs import failure
from node.planning import settle_due
from node.processes import identity, is_dead
from node.retention import delete_what_is_over
from node.settings import Settings
from node.store import Store
from node.transport import Transport, open_transport
from node.verdicts import look_at_pending

log = logging.getLogger(__name__)

_JUMP = timedelta(seconds=5)  # what daily corrections of a clock stay below
_RING_AGAIN = timedelta(seconds=10)  # a pending job that nobody took for so long is rung for once more
_DAY = timedelta(days=1)  # no association lasts so long: its process is gone where nobody here can see it
_CARE_EVERY = timedelta(minutes=10)  # how often the store is looked after
_COMPARE_EVERY = timedelta(hours=1)  # how often it is compared with the table; once at start


class Clock(Protocol):
    """Tells the time."""

    def __call__(self) -> datetime:
        """Return the time now, aware, UTC."""


class Sweep:
    """One round after another of everything that no request brings about."""

    def __init__(
        self, database: Database, store: Store, broker: Broker, settings: Settings, now: Clock,
        monotonic: Callable[[], float],
    ) -> None:  # fmt: skip
        self.database, self.store, self.broker, self.settings, self.now = database, store, broker, settings, now
        self._monotonic, self._read = monotonic, (now(), monotonic())
        self._trusts_from = monotonic()  # from when on times in the table are believed
        self._mended = False
        self._rung: dict[str, datetime] = {}
        intake = Intake(database, store, now, manufacturer=settings.manufacturer)
        self._care_of = Care(database, store, intake, now)
        self._cared: datetime | None = None
        self._compared: datetime | None = None
        self.lanes = Lanes()
        self._reporter = Reporter(database, store, settings, now, identity("sweep"))
        self._counting = Counting(database, settings, self._transport_to, now, self.lanes)

    def _transport_to(self, peer: Peer) -> Transport:
        return open_transport(peer, calling_ae=self.settings.ae_title)

    def round(self) -> None:
        """Do everything that is due now. One part that fails delays no other; each is tried again next round."""
        for part in self._parts():
            try:
                part()
            except BrokerAway as why:
                log.warning("doorbells wait: %s", why)
            except Exception as why:  # noqa: BLE001  # the outermost frame of the sweep: its other parts go on, this one comes again
                log.error("a part of the sweep failed: %s", failure(why), extra={"part": part.__name__})

    def _parts(self) -> tuple[Callable[[], None], ...]:
        """The parts of a round; what may take seconds comes last."""
        due = (self._settle, self._free_abandoned, self._wake, self._tell_late, self._relay, self._ring_again)
        return (self._read_clock, self._ask, *due, self._report, self._look_at_verdicts, self._care, self._compare)

    def _ask(self) -> None:
        """Have peers asked for their counts; nobody waits for an answer here."""
        self._counting.round()

    def _report(self) -> None:
        """Have peers told what they asked the node to commit itself to."""
        self._reporter.round(self.lanes)

    def _read_clock(self) -> None:
        """Notice a clock that was put forward or back.

        Put forward, it makes leases of living workers look over and arriving studies look quiet: for so long as each
        of them needs to show that it lives, nothing is concluded from times. Put back, it makes everything wait.
        """
        was, lived = self._read
        self._read = now, monotonic = self.now(), self._monotonic()
        jumped = now - was - timedelta(seconds=monotonic - lived)
        if abs(jumped) > _JUMP:
            log.error("the clock was put by more than a little", extra={"seconds": jumped.total_seconds()})
            self._trusts_from = monotonic + max(self.settings.lease, self.settings.quiet_period).total_seconds()
            self._mended = False
        if not self._mended:  # at start, too: the clock may have been put while the node was down
            with self.database.transaction() as session:
                count = bring_back(session, now=now, longest=max(self.settings.retry_cap, LEASE))
            self._mended = True
            if count:
                log.warning("times that lay too far ahead were brought back", extra={"count": count})

    @property
    def _trusts_times(self) -> bool:
        return self._monotonic() >= self._trusts_from

    def _settle(self) -> None:
        if not self._trusts_times:
            return
        settle_due(self.database, self.settings.rules, self.settings.waits, now=self.now())

    def _free_abandoned(self) -> None:
        """Take jobs and deliveries from workers that died or fell silent."""
        now = self.now()

        def abandoned(owner: str, lease_until: datetime | None) -> bool:
            return is_dead(owner) or (self._trusts_times and (lease_until is None or lease_until < now))

        with self.database.reading() as session:
            held = [job for job in jobs.held(session) if abandoned(job.owner, job.lease_until)]
            sending = [one for one in results.sending(session) if abandoned(one[1], one[2])]
        for job in held:
            self._free(job, now)
        self._free_associations(now)
        for delivery_id, owner, _ in sending:
            with self.database.transaction() as session:
                results.give_up_sending(session, delivery_id, owner=owner, at=now)

    def _free_associations(self, now: datetime) -> None:
        """Forget associations whose process is dead: nobody sends over them any more."""
        with self.database.reading() as session:
            gone = [key for key, owner, since in completion.held(session) if is_dead(owner) or since < now - _DAY]
        if gone:
            with self.database.transaction() as session:
                completion.release(session, gone)

    def _free(self, job: Job, now: datetime) -> None:
        try:
            with self.database.transaction() as session:
                jobs.give_back(
                    session, job, reason="the worker died or fell silent", at=now, wait=timedelta(0),
                    max_attempts=self.settings.max_attempts,
                )  # fmt: skip
        except LeaseLost:
            return  # its worker was faster
        log.warning("job taken from its worker", extra={**job.fields, "owner": job.owner})

    def _wake(self) -> None:
        with self.database.transaction() as session:
            jobs.wake_due(session, now=self.now())

    def _tell_late(self) -> None:
        with self.database.transaction() as session:
            late = jobs.tell_late(session, now=self.now())
        if late:
            log.error("deadlines missed", extra={"count": late})

    def _relay(self) -> None:
        """Ring the doorbells that were announced; one that rings twice does no harm, one forgotten would."""
        with self.database.reading() as session:
            bells = events.unrung(session)
        for bell, topic, job_id in bells:
            reach("relay.read")
            self.broker.ring(topic, job_id)
            reach("relay.published")
            self._rung[job_id] = self.now()
            with self.database.transaction() as session:
                events.mark_rung(session, [bell])
            reach("relay.marked")

    def _ring_again(self) -> None:
        """Ring for pending jobs that nobody took and for deliveries whose time has come."""
        now = self.now()
        with self.database.reading() as session:
            waiting = [(jobs.RUN_JOB, job_id) for job_id in jobs.long_pending(session, before=now - _RING_AGAIN)]
            due = [(jobs.DELIVER, job_id) for job_id in results.due_jobs(session, now=now)]
        for topic, job_id in [*waiting, *due]:
            if now - self._rung.get(job_id, now - 2 * _RING_AGAIN) >= _RING_AGAIN:
                self.broker.ring(topic, job_id)
                self._rung[job_id] = now
        self._rung = {job_id: at for job_id, at in self._rung.items() if now - at < 6 * _RING_AGAIN}

    def _look_at_verdicts(self) -> None:
        look_at_pending(self.database, self.store, now=self.now)

    def _care(self) -> None:
        """Remove what nobody writes any more, and what has outlived its days."""
        if self._cared is not None and self.now() - self._cared < _CARE_EVERY:
            return
        self._cared = self.now()
        if removed := self.store.remove_stale_parts():
            log.info("stale part files removed", extra={"count": removed})
        delete_what_is_over(self.database, self.store, self.settings, now=self.now)

    def _compare(self) -> None:
        """Put right what the table and the store say differently."""
        if self._compared is not None and self.now() - self._compared < _COMPARE_EVERY:
            return
        self._compared = self.now()
        self._care_of.reconcile()
