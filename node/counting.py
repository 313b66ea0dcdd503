"""Asking peers how many instances they have of the studies that they send: evidence of whether one is complete."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from node.db import completion
from node.db.completion import Counted, Question
from node.db.session import Database
from node.domain.peer import Counts, Peer
from node.errors import PeerAway, PeerRefused
from node.lanes import Lanes
from node.settings import Settings
from node.transport import Transport

log = logging.getLogger(__name__)

_AT_ONCE = 20  # studies that one connection asks about
_WAIT, _LONGEST = timedelta(seconds=10), timedelta(minutes=5)  # between two questions about one study; it doubles


class Counting:
    """Asks what is due, each peer in a lane of its own; the answers go into the table."""

    def __init__(
        self, database: Database, settings: Settings, transport_to: Callable[[Peer], Transport],
        now: Callable[[], datetime], lanes: Lanes,
    ) -> None:  # fmt: skip
        self._database, self._transport_to, self._now, self._lanes = database, transport_to, now, lanes
        self._peers = [peer for peer in settings.peers if peer.count is not Counts.NONE and peer.ae_title]

    def round(self) -> None:
        """Begin to ask every peer that is not being asked, where something is due; wait for none."""
        for peer in self._peers:
            if not self._lanes.is_free(f"count {peer.name}"):
                continue
            with self._database.reading() as session:
                due = completion.to_be_counted(
                    session, peer.ae_title, after=peer.count_after, now=self._now(), limit=_AT_ONCE
                )
            if due:
                self._lanes.offer(f"count {peer.name}", lambda peer=peer, due=due: self.ask(peer, due))  # type: ignore[misc]

    def ask(self, peer: Peer, due: Sequence[Question]) -> None:
        """Ask one peer about some studies and note what it says; what it did not get to say is asked again later."""
        left = list(due)
        reason = "it ended the connection"
        try:
            asked_at = self._now()
            for there in self._transport_to(peer).count(tuple(question.study_uid for question in due)):
                why = "" if there is not None else "it does not count instances"
                self._note(left.pop(0), Counted(peer=peer.name, there=there or {}, reason=why), asked_at)
                asked_at = self._now()
        except (PeerAway, PeerRefused) as why_not:
            reason = str(why_not)
        if left:
            log.warning("a peer did not count: %s", reason, extra={"peer": peer.name, "studies": len(left)})
        for question in left:
            self._note(question, Counted(peer=peer.name, there={}, reason=reason), self._now())

    def _note(self, question: Question, answer: Counted, asked_at: datetime) -> None:
        with self._database.transaction() as session:
            completion.note_count(session, question, answer, asked_at=asked_at, wait=_WAIT, cap=_LONGEST)
