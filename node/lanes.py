"""Work with peers beside a process's own: one piece at a time for each peer, and an absent one holds up no other."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from node.logs import failure

log = logging.getLogger(__name__)


class Lanes:
    """At most one thread for each peer, at most *most* in all."""

    def __init__(self, *, most: int = 16) -> None:
        self._most = most
        self._busy: set[str] = set()
        self._changed = threading.Condition()

    def is_free(self, peer: str) -> bool:
        """Return whether work for this peer would be begun now."""
        with self._changed:
            return peer not in self._busy and len(self._busy) < self._most

    def offer(self, peer: str, work: Callable[[], None]) -> bool:
        """Begin *work* unless this peer has some already, or too many have; never wait."""
        with self._changed:
            if peer in self._busy or len(self._busy) >= self._most:
                return False
            self._busy.add(peer)
        threading.Thread(target=self._run, args=(peer, work), name=f"lane-{peer}", daemon=True).start()
        return True

    def _run(self, peer: str, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as why:  # noqa: BLE001  # the outermost frame of this thread: what it did not do comes again
            log.error("work with a peer failed: %s", failure(why), extra={"peer": peer})
        finally:
            with self._changed:
                self._busy.discard(peer)
                self._changed.notify_all()

    def rest(self, limit: float) -> bool:
        """Wait until nothing is under way, *limit* seconds at most; return whether that is so."""
        deadline = time.monotonic() + limit
        with self._changed:
            while self._busy and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return not self._busy
