"""Receiving: an instance is kept when its bytes and the row that finds them would survive a power cut."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
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
from node.filing import LONGEST
from node.logbook import Logbook
from node.part import Part
from node.store import Store
from node.together import Together, Waiting

log = logging.getLogger(__name__)

_PATIENCE = 2.0  # seconds in which a lost connection to the database is made anew, before the sender is asked to wait


class Mismatch(UnreadableInstance):
    """The data set is another instance than the one that the peer announced."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Arrival(Waiting):
    """An instance whose data is synced and that waits for its name and its row."""

    part: Part
    kept: studies.Kept


class Incoming:
    """One instance on its way in, written piece by piece; what is not kept by the end of the block is dropped.

    Where there is a logbook, one of a usual size is in memory until it is whole; a larger one has a part file.
    """

    def __init__(self, intake: Intake, *, calling_ae: str, sop_class: str, sop_uid: str) -> None:
        self._intake = intake
        self._calling_ae, self._sop_class, self._sop_uid = calling_ae, sop_class, sop_uid
        self._memory = intake.logbook.memory() if intake.logbook else None
        self._filled, self._sha = 0, hashlib.sha256()  # of what is in memory
        self._part = intake.store.open_part() if self._memory is None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        self.drop()

    @property
    def size(self) -> int:
        """Return how many bytes were written."""
        return self._filled if self._part is None else self._part.size

    def write(self, data: bytes | memoryview) -> None:
        """Append to the instance's file (PS3.10 section 7.1); StoreFull where the disk takes no more."""
        if self._part is None:
            assert self._memory is not None  # noqa: S101 - it is there until there is a part file
            end = self._filled + len(data)
            if end <= len(self._memory):
                self._memory[self._filled : end] = data
                self._sha.update(data)
                self._filled = end
                return
            self._part = self._intake.store.open_part()
            self._part.write(self._memory[: self._filled])
            self._give_back()
        self._part.write(data)
        if self._intake.logbook is not None:
            self._intake.logbook.put_off()

    def drop(self) -> None:
        """Forget the instance; one that was kept stays."""
        self._give_back()
        if self._part is not None:
            self._part.drop()

    def _give_back(self) -> None:
        if self._memory is not None and self._intake.logbook:
            self._intake.logbook.take_back(self._memory)
            self._memory = None

    def keep(self) -> InstanceFacts:
        """Keep what was written durably and return its facts.

        Raises UnreadableInstance where it cannot be filed, Mismatch where it is not the announced one, StoreFull where
        it could not be made durable. Keeping the same bytes again changes nothing.
        """
        data = None if self._memory is None else self._memory[: self._filled]
        facts = _facts_of(self._part) if self._part else read_facts(data or b"")
        _compare(facts, self._sop_class, self._sop_uid)
        sha = self._part.sha256 if self._part else self._sha.hexdigest()
        kept = self._intake.as_kept(facts, sha, self.size, self._calling_ae, self._intake.now())
        if self._part:
            self._part.sync()
            self._intake.commit(_Arrival(part=self._part, kept=kept))
        elif self._intake.logbook and data is not None:
            self._intake.logbook.note(data, kept)
        return facts


class Intake:
    """Keeps instances. Those that come at the same time share one sync of each folder and one transaction.

    With a logbook they share less, for they are safe before that.
    """

    def __init__(self, database: Database, store: Store, now: Callable[[], datetime], *, manufacturer: str) -> None:
        self.database, self.store, self.now = database, store, now
        self._manufacturer = manufacturer
        self._arrivals = Together(self._keep_together)
        self.logbook: Logbook | None = None

    def open_logbook(self, size: int, *, longest: float = LONGEST) -> None:
        """Take instances by way of a journal of *size* bytes from now on; file what a dead listener left in its own.

        No instance waits for its row longer than *longest* seconds.
        """
        self.logbook = Logbook(self.store, self._keep_all, self.as_kept, size=size, longest=longest)
        self.logbook.open()

    def file_left(self, limit: float) -> None:
        """File what dead listeners left in their journals, *limit* seconds at most."""
        Logbook(self.store, self._keep_all, self.as_kept, size=0).file_left(limit)

    def rest(self, limit: float) -> bool:
        """Wait until what was acknowledged is in the table, *limit* seconds at most; return whether it is."""
        return self.logbook is None or self.logbook.rest(limit)

    def latest(self) -> Callable[[float], bool]:
        """Return what waits until all that is acknowledged now is in the table, so many seconds at most."""
        return (lambda _: True) if self.logbook is None else self.logbook.latest()

    def keep(self, data: bytes, *, calling_ae: str, sop_class: str = "", sop_uid: str = "") -> InstanceFacts:
        """Keep one whole Part-10 encoded instance, as `Incoming.keep` does."""
        with self.receive(calling_ae=calling_ae, sop_class=sop_class, sop_uid=sop_uid) as incoming:
            incoming.write(data)
            return incoming.keep()

    def receive(self, *, calling_ae: str, sop_class: str = "", sop_uid: str = "") -> Incoming:
        """Begin to take in an instance announced as *sop_class* and *sop_uid*; StoreFull where there is no room."""
        return Incoming(self, calling_ae=calling_ae, sop_class=sop_class, sop_uid=sop_uid)

    def as_kept(self, facts: InstanceFacts, sha: str, size: int, calling_ae: str, at: datetime) -> studies.Kept:
        """Return what the row of an instance will say."""
        return studies.Kept(
            facts=facts, orientation=orientation_name(facts.orientation), content_sha=sha, size=size,
            path=self.store.instance_name(sha, study_uid=facts.study_uid, sop_uid=facts.sop_uid),
            calling_ae=calling_ae, at=at,
        )  # fmt: skip

    def commit(self, arrival: _Arrival) -> None:
        """Return when an instance has its name and its row; raise what kept it from that."""
        if self.logbook is not None and not self.logbook.rest():  # of two versions of one instance the later one counts
            raise StoreFull("what came before is not filed yet")
        self._arrivals.join(arrival)

    def _keep_all(self, arriving: Sequence[tuple[Part, studies.Kept]]) -> list[Exception | None]:
        """Keep instances in their order: behind the first that cannot be kept, none is."""
        arrivals = [_Arrival(part=part, kept=kept) for part, kept in arriving]
        self._keep_together(arrivals, in_order=True)
        whys: list[Exception | None] = []
        for one in arrivals:
            whys.append(one.why or (whys[-1] if whys else None))
        return whys

    def _keep_together(self, arrivals: list[_Arrival], *, in_order: bool = False) -> None:
        filed = self.store.file([(one.part, one.kept.path) for one in arrivals])
        for one, why in zip(arrivals, filed, strict=True):
            one.why = why
        if in_order:
            arrivals = list(takewhile(lambda one: one.why is None, arrivals))
        self._record([one for one in arrivals if one.why is None], in_order=in_order)

    def _record(self, arrivals: Sequence[_Arrival], *, in_order: bool = False) -> None:
        """Record all in one transaction; where that fails for one's own sake, each in its own."""
        if not arrivals:
            return
        try:
            self._transact(arrivals)
        except (SQLAlchemyError, StoreFull) as why:
            if len(arrivals) > 1 and not isinstance(why, OperationalError):  # that one is the database's own trouble
                for one in arrivals:
                    self._record([one])
                    if in_order and one.why is not None:
                        break
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
