"""Whether a worker still hears its doorbell.

Celery's consumer is known to fall silent for good after its broker was restarted, alive by every other sign. A worker
that does nothing while bells lie unheard in its queue ends itself: whoever supervises it starts a new one.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from node.broker import Broker
from node.errors import BrokerAway
from node.logs import failure

log = logging.getLogger(__name__)

_LOOK_EVERY = 5.0  # seconds
_DEAF_AFTER = 20.0  # seconds of doing nothing beside a bell; the sweep rings each waiting job again every 10


class Ear:
    """Watches one worker of one queue from a thread of its own."""

    def __init__(self, broker: Broker, queue: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker, self._queue, self._clock = broker, queue, clock
        self._busy = 0
        self._still_since: float | None = None  # since when it does nothing although a bell lies there

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A bell was heard, and is answered for as long as the block lasts."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self._still_since = None

    def is_deaf(self) -> bool:
        """Look once; return whether bells have lain unheard for too long beside an idle worker."""
        try:
            waits = self._broker.waiting()[self._queue] > 0
        except BrokerAway:
            waits = False  # nobody can hear anything: a new process would not either
        if self._busy or not waits:
            self._still_since = None
            return False
        now = self._clock()
        if self._still_since is None:
            self._still_since = now
        return now - self._still_since >= _DEAF_AFTER

    def watch(self) -> None:
        """Look from time to time, until this process ends or is deaf; then end it."""
        threading.Thread(target=self._watch, name="ear", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(_LOOK_EVERY)
            try:
                deaf = self.is_deaf()
            except Exception as why:  # noqa: BLE001  # the outermost frame of this thread: it has to go on looking
                log.warning("the queue could not be looked at: %s", failure(why))
                continue
            if deaf:
                log.error("the doorbell is not heard any more: this worker ends, to be started anew")
                os.kill(os.getpid(), signal.SIGKILL)  # idle, so nothing is lost; a gentle stop waits for the broker
