"""Receiving: an instance is kept when its bytes and the row that finds them would survive a power cut."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from node.db import jobs, results, studies, verdicts
from node.db.session import Database
from node.dicom.geometry import orientation_name
from node.dicom.header import read_facts
from node.domain.study import InstanceFacts
from node.domain.verdict import BEARERS
from node.errors import StoreFull, UnreadableInstance
from node.failpoints import reach
from node.store import Part, Store

log = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds in which a lost connection to the database is made anew, before the sender is asked to wait


class Mismatch(UnreadableInstance):
    """The data set is another instance than the one that the peer announced."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Arrival:
    """An instance whose data is synced and that waits for its name and its row."""

    part: Part
    kept: studies.Kept
    done: bool = False
    why: Exception | None = None  # it was not kept


class Incoming:
    """One instance on its way in, written piece by piece; what is not kept by the end of the block is dropped."""

    def __init__(self, intake: Intake, part: Part, *, calling_ae: str, sop_class: str, sop_uid: str) -> None:
        self._intake, self._part = intake, part
        self._calling_ae, self._sop_class, self._sop_uid = calling_ae, sop_class, sop_uid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.drop()

    @property
    def size(self) -> int:
        """Return how many bytes were written."""
        return self._part.size

    def write(self, data: bytes | memoryview) -> None:
        """Append to the instance's file (PS3.10 section 7.1); StoreFull where the disk takes no more."""
        self._part.write(data)

    def drop(self) -> None:
        """Forget the instance; one that was kept stays."""
        self._part.drop()

    def keep(self) -> InstanceFacts:
        """Keep what was written durably and return its facts.

        Raises UnreadableInstance where it cannot be filed, Mismatch where it is not the announced one, StoreFull where
        it could not be made durable. Keeping the same bytes again changes nothing.
        """
        facts = _facts_of(self._part)
        _compare(facts, self._sop_class, self._sop_uid)
        self._part.sync()
        sha = self._part.sha256
        path = self._intake.store.instance_name(sha, study_uid=facts.study_uid, sop_uid=facts.sop_uid)
        kept = studies.Kept(
            facts=facts, orientation=orientation_name(facts.orientation), content_sha=sha, path=path,
            size=self._part.size, calling_ae=self._calling_ae, at=self._intake.now(),
        )  # fmt: skip
        self._intake.commit(_Arrival(part=self._part, kept=kept))
        return facts


class Intake:
    """Keeps instances. Those that come at the same time share one sync of each folder and one transaction."""

    def __init__(self, database: Database, store: Store, now: Callable[[], datetime], *, manufacturer: str) -> None:
        self.database, self.store, self.now = database, store, now
        self._manufacturer = manufacturer
        self._waiting: list[_Arrival] = []
        self._door = threading.Lock()  # of the list
        self._leading = threading.Lock()  # held by the one that commits for all

    def keep(self, data: bytes, *, calling_ae: str, sop_class: str = "", sop_uid: str = "") -> InstanceFacts:
        """Keep one whole Part-10 encoded instance, as `Incoming.keep` does."""
        with self.receive(calling_ae=calling_ae, sop_class=sop_class, sop_uid=sop_uid) as incoming:
            incoming.write(data)
            return incoming.keep()

    def receive(self, *, calling_ae: str, sop_class: str = "", sop_uid: str = "") -> Incoming:
        """Begin to take in an instance announced as *sop_class* and *sop_uid*; StoreFull where there is no room."""
        return Incoming(self, self.store.open_part(), calling_ae=calling_ae, sop_class=sop_class, sop_uid=sop_uid)

    def commit(self, arrival: _Arrival) -> None:
        """Return when *arrival* has its name and its row; raise what kept it from that.

        Whoever comes while another one commits waits, and is then kept together with all who waited: the first of them
        leads. Alone, nobody waits for anybody, and no other thread is asked.
        """
        with self._door:
            self._waiting.append(arrival)
        with self._leading:
            if not arrival.done:
                with self._door:
                    together, self._waiting = self._waiting, []
                self._keep_together(together)
        if arrival.why is not None:
            raise arrival.why

    def _keep_together(self, arrivals: list[_Arrival]) -> None:
        try:
            filed = self.store.file([(one.part, one.kept.path) for one in arrivals])
            for one, why in zip(arrivals, filed, strict=True):
                one.why = why
            self._record([one for one in arrivals if one.why is None])
        except Exception as why:  # noqa: BLE001 - each of those who wait raises it in its own thread
            for one in arrivals:
                one.why = one.why or why
        finally:
            for one in arrivals:
                one.done = True

    def _record(self, arrivals: Sequence[_Arrival]) -> None:
        """Record all in one transaction; where that fails for one's own sake, each in its own."""
        if not arrivals:
            return
        try:
            self._transact(arrivals)
        except (SQLAlchemyError, StoreFull) as why:
            if len(arrivals) > 1 and not isinstance(why, OperationalError):  # that one is the database's own trouble
                for one in arrivals:
                    self._record([one])
                return
            for one in arrivals:
                one.why = why if isinstance(why, StoreFull) else _not_recorded(why)
            return
        for _ in arrivals:
            reach("intake.committed")

    def _transact(self, arrivals: Sequence[_Arrival]) -> None:
        self.database.patiently(lambda session: self._write(session, arrivals), seconds=_PATIENCE)

    def _write(self, session: Session, arrivals: Sequence[_Arrival]) -> None:
        outcomes = studies.keep_instances(session, [(one.kept, self._may_wake(one.kept.facts)) for one in arrivals])
        stopped: set[str] = set()
        for one, outcome in zip(arrivals, outcomes, strict=True):
            kept = one.kept
            if not outcome.is_new:
                log.debug("the same bytes again", extra={"sop_instance_uid": kept.facts.sop_uid})
                continue
            # An edited result may keep our Manufacturer: only its UID decides.
            if kept.facts.sop_class in BEARERS and not outcome.is_ours:
                verdicts.mark_pending(session, kept.facts.sop_uid, kept.content_sha, at=kept.at)
            if self.store.size_of(kept.path) < 0:
                # The same instance was just deleted because its time was over: without its file it is not kept.
                raise StoreFull("an instance was deleted while it came in again: it has to be sent once more")
            if outcome.in_conflict and kept.facts.study_uid not in stopped:
                stopped.add(kept.facts.study_uid)
                for job_id in jobs.stop_for_conflict(
                    session, kept.facts.study_uid, who=kept.calling_ae, at=kept.at
                ):
                    results.cancel_open(session, job_id, at=kept.at)

    def _may_wake(self, facts: InstanceFacts) -> bool:
        """Whether a model may read it: not what may bear a verdict, nor what names us as its maker."""
        return facts.sop_class not in BEARERS and facts.manufacturer != self._manufacturer


def _facts_of(part: Part) -> InstanceFacts:
    try:
        return read_facts(part.path)
    except UnreadableInstance as why:
        if isinstance(why.__cause__, OSError) and why.__cause__.errno:  # pydicom's own have no number
            raise StoreFull(f"the store could not read an instance back: {why.__cause__.strerror}") from why
        raise


def _not_recorded(why: SQLAlchemyError) -> StoreFull:
    full = StoreFull(f"the database did not take the record of an instance: {type(why).__name__}")
    full.__cause__ = why
    return full


def _compare(facts: InstanceFacts, sop_class: str, sop_uid: str) -> None:
    if sop_uid and facts.sop_uid != sop_uid:
        raise Mismatch(f"announced as instance {sop_uid}, but the data set is {facts.sop_uid}")
    if sop_class and facts.sop_class != sop_class:
        raise Mismatch(f"announced as SOP class {sop_class}, but the data set is {facts.sop_class}")
