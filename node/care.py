"""Care: what a crash, a full disk or a hand in the folder left behind is put right, before it surprises anybody."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from node.db import whole
from node.db.session import Database
from node.db.whole import Named
from node.dicom.header import read_facts
from node.errors import NodeError, UnreadableInstance
from node.intake import Intake
from node.store import RESULTS_OF, Lying, Store, sha256_hex

log = logging.getLogger(__name__)

_AT_ONCE = 500  # studies that are compared over one look at the table


@dataclass(kw_only=True, slots=True)
class Found:
    """What a round of care did, in numbers."""

    adopted: int = 0  # whole instances without a row: recorded
    set_apart: int = 0  # other files without a row: moved to the quarantine
    lost: int = 0  # rows without a whole file
    found_again: int = 0  # rows whose file is back
    removed: int = 0  # part files, scratch folders and result sets that nobody writes or names


@dataclass(frozen=True, kw_only=True, slots=True)
class Verified:
    """What rehashing everything showed."""

    files: int
    damaged: tuple[str, ...]  # names whose bytes are not those that were kept
    missing: tuple[str, ...]


class Care:
    """Compares the table with the store. Safe to run at any time, beside everything else, and again."""

    def __init__(self, database: Database, store: Store, intake: Intake, now: Callable[[], datetime]) -> None:
        self._database, self._store, self._intake, self._now = database, store, intake, now

    def reconcile(self) -> Found:
        """Record files without a row or set them apart, mark rows without a file, remove what nobody writes."""
        found = Found(removed=self._store.remove_stale_parts())
        with self._database.reading() as session:
            uids = whole.study_uids(session)
            held = whole.attempts_held(session)
        found.removed += self._store.remove_stale_scratch(held)
        for start in range(0, len(uids), _AT_ONCE):
            self._studies(uids[start : start + _AT_ONCE], found)
        for lying in self._store.folders_besides(uids):
            self._file(lying, "", found)
        self._results(found)
        with self._store.alone() as alone:
            if alone:  # else a backup reads sets that its copy of the table names, and the live one no longer
                self._sets(found)
        if found != Found():
            log.warning("the store was put right", extra={name: getattr(found, name) for name in found.__slots__})
        return found

    def verify(self) -> Verified:
        """Hash every file that a row names, and say which are not what was kept; changes nothing."""
        with self._database.reading() as session:
            uids = whole.study_uids(session)
        seen = 0
        damaged: list[str] = []
        missing: list[str] = []
        for named in self._named(uids):
            seen += len(named)
            missing += [one.path for one in named if self._store.size_of(one.path) < 0]
            damaged += [one.path for one in named if one.path not in missing and not self._is_as_kept(one)]
        return Verified(files=seen, damaged=tuple(damaged), missing=tuple(missing))

    def _named(self, uids: list[str]) -> Iterator[list[Named]]:
        """Yield the files that rows name, study by study, then those of all results."""
        for uid in uids:
            with self._database.reading() as session:
                named = whole.instances_named(session, [uid])[uid]
            yield named
        with self._database.reading() as session:
            named = list(whole.results_named(session))
        yield named

    def _is_as_kept(self, one: Named) -> bool:
        return self._store.verify(one.path, one.sha256)

    def _studies(self, uids: Sequence[str], found: Found) -> None:
        """Compare some studies: folders first, then rows, so that what is received meanwhile is no stray file."""
        lying = {uid: self._store.lying_of(uid) for uid in uids}
        with self._database.reading() as session:
            named = whole.instances_named(session, uids)
            garbage = whole.garbage_of(session, uids)
        for uid in uids:
            if lying[uid] or named[uid]:
                self._study(uid, lying[uid], named[uid], garbage, found)

    def _study(
        self, uid: str, lying: dict[str, Lying], named: Sequence[Named], garbage: frozenset[str], found: Found
    ) -> None:
        lost = [one.id for one in named if not one.lost and not self._is_whole(one, lying)]
        back = [one.id for one in named if one.lost and self._is_whole(one, lying)]
        for ids, gone in ((lost, True), (back, False)):
            if ids:
                with self._database.transaction() as session:
                    count = whole.mark_instances(session, uid, ids, lost=gone, at=self._now())
                found.lost += count if gone else 0
                found.found_again += 0 if gone else count
        known = garbage | {one.path for one in named}
        self._file({name: facts for name, facts in lying.items() if name not in known}, uid, found)

    def _is_whole(self, named: Named, lying: dict[str, Lying]) -> bool:
        """Whether a file is there with all its bytes; it may have come, or lie elsewhere, since the folder was read."""
        listed = lying.get(named.path)
        size = self._store.size_of(named.path) if listed is None else listed.size
        return size == named.size

    def _file(self, strays: dict[str, Lying], uid: str, found: Found) -> None:
        """Record each file that no row names where it is a whole instance; else set it apart."""
        for name, facts in strays.items():
            if not facts.settled:
                continue  # it is being received: its row comes in a moment
            try:
                adopted = self._adopt(name, uid)
            except (NodeError, OSError) as why:
                log.warning("a stray file waits: %s", type(why).__name__, extra={"path": name})
                continue  # e.g. the disk is full; the next round tries again
            found.adopted += adopted
            found.set_apart += not adopted

    def _adopt(self, name: str, uid: str) -> bool:
        """Keep the instance of a stray file as if it came now; False where it is none, and lies apart now.

        The name holds a digest of the bytes, so a file that was cut short is not taken for an instance.
        """
        data = self._store.path(name).read_bytes()
        try:
            facts = read_facts(data)
            meant = self._store.instance_name(sha256_hex(data), study_uid=facts.study_uid, sop_uid=facts.sop_uid)
        except UnreadableInstance:
            meant = ""
        if meant != name:
            self._store.set_apart(name)
            return False
        with self._database.reading() as session:
            sender = whole.sender_of(session, uid or facts.study_uid)
        self._intake.keep(data, calling_ae=sender)
        return True

    def _results(self, found: Found) -> None:
        lost: dict[str, list[int]] = defaultdict(list)
        back: dict[str, list[int]] = defaultdict(list)
        with self._database.reading() as session:
            for one in whole.results_named(session):
                is_whole = self._store.size_of(one.path) == one.size
                if one.lost == is_whole:
                    (back if is_whole else lost)[one.owner].append(one.id)
        for marks, gone in ((lost, True), (back, False)):
            for job_id, ids in marks.items():
                with self._database.transaction() as session:
                    count = whole.mark_results(session, job_id, ids, lost=gone, at=self._now())
                found.lost += count if gone else 0
                found.found_again += 0 if gone else count

    def _sets(self, found: Found) -> None:
        """Remove sets that no row names; of a job that nobody knows, the whole folder is set apart."""
        sets = self._store.frozen_sets()  # before the rows: a set that is recorded meanwhile is named by then
        with self._database.reading() as session:
            known = whole.results_known(session, sets)
            held = whole.attempts_held(session)
        for job_id, epochs in sets.items():
            if job_id not in known:
                self._store.set_apart(RESULTS_OF.format(job_id))
                found.set_apart += 1
                continue
            for epoch in epochs:
                if epoch not in known[job_id] and (job_id, epoch) not in held:
                    self._store.drop_set(job_id, epoch)
                    found.removed += 1
