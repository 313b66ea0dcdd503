"""Which study each open association brings: told to the table now and then, never on an instance's own way.

An association that is over before it was told costs nothing at all. What a killed listener has told is known to be void
by its process, which is dead.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from datetime import datetime
from uuid import uuid4

from sqlalchemy.exc import SQLAlchemyError

from node.db import completion, events
from node.db.completion import Open
from node.db.session import Database
from node.processes import identity

log = logging.getLogger(__name__)

_PAUSE = 0.5  # seconds in which news is gathered into one transaction
_AGAIN = 2.0  # seconds between two tries to reach the database

#: Returns what waits, so many seconds at most, for what was there when it was asked; that returns whether it came.
Latest = Callable[[], Callable[[float], bool]]


class Sendings:
    """The associations of one listener, and a thread that tells the table of them for as long as there is news."""

    def __init__(
        self, database: Database, now: Callable[[], datetime], latest: Latest = lambda: lambda _: True
    ) -> None:
        """*latest* returns what waits until all that the associations brought until then stands in the table."""
        self._database, self._now, self._latest = database, now, latest
        self._open: dict[Hashable, Open] = {}
        self._news: dict[str, Open] = {}  # to be written
        self._told: set[str] = set()  # written
        self._over: dict[str, str] = {}  # to be taken away: id -> study that it broke off in, or ""
        self._telling: threading.Thread | None = None
        self._changed = threading.Condition()

    def brought(self, association: Hashable, study_uid: str, *, calling_ae: str) -> None:
        """Note that an association brought an instance of a study; nearly always that is no news."""
        known = self._open.get(association)
        if known is not None and known.study_uid == study_uid:
            return
        with self._changed:
            key = known.id if known is not None else str(uuid4())
            one = Open(id=key, study_uid=study_uid, calling_ae=calling_ae)
            self._open[association] = self._news[key] = one
            self._tell()

    def ended(self, association: Hashable, *, broke_off: bool) -> None:
        """Note that an association is over; one that brought nothing is nobody's business."""
        with self._changed:
            one = self._open.pop(association, None)
            if one is None:
                return
            self._news.pop(one.id, None)
            if one.id in self._told or broke_off:
                self._over[one.id] = f"{one.study_uid} {one.calling_ae}" if broke_off else ""
                self._tell()

    def rest(self, limit: float) -> bool:
        """Wait until all news is told, *limit* seconds at most; return whether that is so."""
        deadline = time.monotonic() + limit
        with self._changed:
            while self._telling is not None and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return self._telling is None

    def _tell(self) -> None:
        """Have a thread tell what there is; it ends with the last of it."""
        if self._telling is None:
            self._telling = threading.Thread(target=self._tell_all, name="sendings", daemon=True)
            self._telling.start()

    def _tell_all(self) -> None:
        owner = identity("scp")
        time.sleep(_PAUSE)
        while True:
            with self._changed:
                news, over = dict(self._news), dict(self._over)
                if not (news or over):
                    self._telling = None
                    self._changed.notify_all()
                    return
            if news and self._hold_known(news, owner):
                continue
            is_there = self._latest()  # nothing is said of instances that are not in the table yet
            while not is_there(_AGAIN):
                log.debug("what associations brought is not in the table yet")
            try:
                self._write(news, over, owner)
            except SQLAlchemyError as why:
                log.warning("the database does not take word of associations: %s", type(why).__name__)
                time.sleep(_AGAIN)
                continue
            self._forget(news, over)

    def _hold_known(self, news: dict[str, Open], owner: str) -> bool:
        """Tell at once of associations that bring more of a study that the table knows; return whether there were any.

        It might settle before what they bring is in the table.
        """
        try:
            with self._database.transaction() as session:
                there = completion.known(session, {one.study_uid for one in news.values()})
                known = {key: one for key, one in news.items() if one.study_uid in there}
                if known:
                    completion.hold(session, known.values(), owner=owner, at=self._now())
        except SQLAlchemyError as why:
            log.warning("the database does not take word of associations: %s", type(why).__name__)
            time.sleep(_AGAIN)
            return False
        self._forget(known, {})
        return bool(known)

    def _write(self, news: dict[str, Open], over: dict[str, str], owner: str) -> None:
        with self._database.transaction() as session:
            at = self._now()
            completion.hold(session, news.values(), owner=owner, at=at)
            session.flush()
            completion.release(session, over)
            for words in over.values():
                study_uid, _, calling_ae = words.partition(" ")
                if study_uid:
                    events.record(session, "association broke off", who=calling_ae, at=at, study_uid=study_uid)

    def _forget(self, news: dict[str, Open], over: dict[str, str]) -> None:
        """Strike what was told from what is to be told, unless it has changed meanwhile."""
        with self._changed:
            for key, one in news.items():
                self._told.add(key)
                if self._news.get(key) == one:
                    del self._news[key]
                if all(known.id != key for known in self._open.values()):
                    self._over.setdefault(key, "")  # it ended while it was told
            for key in over:
                self._told.discard(key)
                self._over.pop(key, None)
