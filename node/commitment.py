"""Storage commitment as a provider (PS3.4 annex J): what is on disk, byte for byte, and nothing else, is committed.

A question stands in the table before it is answered. Its report goes over the association that it came by where that
still lives, else over one of our own, again and again until the peer takes it or it is too old.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta

from pydicom import Dataset

from node.db import commit_requests
from node.db.commit_requests import CommitRequest
from node.db.session import Database
from node.dicom.commitment import make_report
from node.domain.peer import Peer
from node.domain.waits import back_off
from node.errors import PeerAway, PeerRefused
from node.failpoints import reach
from node.lanes import Lanes
from node.logs import failure
from node.processes import is_dead
from node.settings import Settings
from node.store import Store
from node.transport.reports import report_to

log = logging.getLogger(__name__)

NO_SUCH_INSTANCE, CONFLICT, PROCESSING_FAILURE = 0x0112, 0x0119, 0x0110  # PS3.3 C.14.1.1
_LEASE = timedelta(minutes=30)  # to hash and to report; where the process dies on this machine, it ends at once
_CHUNK = 500

#: Tells a peer: takes the event type and the report, returns the status that it answered.
Tell = Callable[[int, Dataset], int]


class Reporter:
    """Reports on the questions of peers that asked for storage commitment."""

    def __init__(
        self, database: Database, store: Store, settings: Settings, now: Callable[[], datetime], owner: str
    ) -> None:
        self._database, self._store, self._settings, self._now, self._owner = database, store, settings, now, owner

    def round(self, lanes: Lanes) -> None:
        """Begin to report what is due, each peer in a lane of its own; wait for none."""
        self._free_abandoned()
        with self._database.reading() as session:
            due = commit_requests.due(session, now=self._now())
        by_title: dict[str, list[int]] = {}
        for number, title in due:
            by_title.setdefault(title, []).append(number)
        for title, numbers in by_title.items():
            lanes.offer(f"report {title}", lambda numbers=numbers: self._report_all(numbers))  # type: ignore[misc]

    def _free_abandoned(self) -> None:
        with self._database.reading() as session:
            gone = [(number, owner) for number, owner in commit_requests.held(session) if is_dead(owner)]
        for number, owner in gone:
            with self._database.transaction() as session:
                commit_requests.put_off(
                    session, number, owner=owner, reason="its process died", next_at=self._now()
                )

    def _report_all(self, numbers: list[int]) -> None:
        for number in numbers:
            if not self.report(number):
                return  # it is away: the others are put off when their turn comes

    def report(self, number: int, tell: Tell | None = None) -> bool:
        """Report on one question, by *tell* or over an association of our own; return whether the peer took it."""
        with self._database.transaction() as session:
            request = commit_requests.claim(session, number, owner=self._owner, now=self._now(), lease=_LEASE)
        if request is None:
            return True
        try:
            reach("commitment.claimed")
            if tell is not None:
                told = self._tell(request, tell)
            else:
                with self._association(request) as ours:
                    told = self._tell(request, ours)
        except (PeerAway, PeerRefused) as why:
            return self._put_off(request, str(why), at_once=tell is not None)
        except Exception as why:
            self._put_off(request, f"reporting failed: {type(why).__name__}", at_once=False)
            log.error("a report on storage commitment failed: %s", failure(why))
            raise
        return told

    def _tell(self, request: CommitRequest, tell: Tell) -> bool:
        failed = self._failed(request.instances)
        kind, report = make_report(request.transaction_uid, request.instances, failed)
        reach("commitment.checked")
        status = tell(kind, report)
        reach("commitment.told")
        extra = {"peer": request.calling_ae, "instances": len(request.instances), "failed": len(failed)}
        if status != 0:
            return self._put_off(request, f"the peer answered {status:04X} to the report", at_once=False)
        with self._database.transaction() as session:
            committed = len(request.instances) - len(failed)
            commit_requests.reported(session, request.id, owner=self._owner, committed=committed, at=self._now())
        reach("commitment.reported")
        log.info("storage commitment reported", extra=extra)
        return True

    def _put_off(self, request: CommitRequest, reason: str, *, at_once: bool) -> bool:
        """Try again after a while, or give up where the question is too old; *at_once*: another way is still open."""
        at = self._now()
        old = at - request.asked_at > self._settings.delivery_age_limit
        wait = timedelta(0) if at_once else back_off(request.tries, self._settings.retry_base, self._settings.retry_cap)
        with self._database.transaction() as session:
            if old:
                commit_requests.give_up(session, request.id, owner=self._owner, reason=reason, at=at)
            else:
                commit_requests.put_off(session, request.id, owner=self._owner, reason=reason, next_at=at + wait)
        log.warning("no report on storage commitment: %s", reason, extra={"peer": request.calling_ae, "given_up": old})
        return False

    @contextmanager
    def _association(self, request: CommitRequest) -> Iterator[Tell]:
        peer = peer_titled(self._settings, request.calling_ae)
        if peer is None:
            raise PeerRefused(f"{request.calling_ae} is no [[peer]] with host and port any more")
        with report_to(peer, calling_ae=self._settings.ae_title) as tell:
            yield tell

    def _failed(self, instances: Mapping[str, str]) -> dict[str, int]:
        """Return why the node does not commit itself to some of these instances: every file is hashed anew."""
        failed: dict[str, int] = {}
        uids = list(instances)
        for start in range(0, len(uids), _CHUNK):
            part = uids[start : start + _CHUNK]
            with self._database.reading() as session:
                rows = commit_requests.kept(session, part)
            for uid in part:
                mine = [row for row in rows if row.sop_uid == uid]
                if reason := self._reason(instances[uid], mine):
                    failed[uid] = reason
        return failed

    def _reason(self, sop_class: str, mine: list[commit_requests.Kept]) -> int:
        if not mine:
            return NO_SUCH_INSTANCE
        if any(row.sop_class != sop_class for row in mine):
            return CONFLICT
        return 0 if all(self._is_whole(row) for row in mine) else PROCESSING_FAILURE

    def _is_whole(self, row: commit_requests.Kept) -> bool:
        try:
            return self._store.verify(row.path, row.sha256)
        except OSError:
            log.exception("a file of the store cannot be read")
            return False


def peer_titled(settings: Settings, ae_title: str) -> Peer | None:
    """Return the peer that is reached under this AE title by DICOM; None where the configuration names none."""
    return next((peer for peer in settings.peers if peer.ae_title == ae_title and not peer.url), None)
