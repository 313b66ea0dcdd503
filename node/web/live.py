"""Server-sent events: one word to every open page when something changed; the page then fetches what it shows.

However many pages are open, the database is asked once a second, and not at all while none is.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError

log = logging.getLogger(__name__)

EVERY = 1.0  # seconds between two looks at the database
HEARTBEAT = 15.0  # seconds of quiet after which a comment keeps proxies from closing the line
AWAY = "away"  # the mark while the database does not answer


class Live:
    """The streams of all open pages over one look at the database."""

    def __init__(self, read_mark: Callable[[], str], *, every: float = EVERY, heartbeat: float = HEARTBEAT) -> None:
        self._read_mark = read_mark
        self._every = every
        self._heartbeat = heartbeat
        self._stopped = asyncio.Event()
        self._looking = asyncio.Lock()
        self._mark, self._seen_at = "", float("-inf")
        self.listeners = 0  # how many pages are connected now

    def stop(self) -> None:
        """End every stream; call it on the event loop when the server stops."""
        self._stopped.set()

    async def stream(self) -> AsyncIterator[str]:
        """Yield the event stream of one page (HTML, section 9.2) until the server stops or the client goes."""
        self.listeners += 1
        try:
            yield "retry: 2000\n\n"
            async for line in self._lines():
                yield line
        finally:
            self.listeners -= 1

    async def _lines(self) -> AsyncIterator[str]:
        told, spoke_at = "", time.monotonic()
        while not self._stopped.is_set():
            mark = await self._current()
            if mark != told:
                told, spoke_at = mark, time.monotonic()
                yield f"event: {'trouble' if mark == AWAY else 'change'}\ndata: {mark}\n\n"
            elif time.monotonic() - spoke_at >= self._heartbeat:
                spoke_at = time.monotonic()
                yield ": still here\n\n"
            await self._pause()

    async def _current(self) -> str:
        """Return the newest mark; of several pages that ask within the same second, one asks the database."""
        async with self._looking:
            if time.monotonic() - self._seen_at >= self._every * 0.9:
                self._mark = await to_thread.run_sync(self._look)
                self._seen_at = time.monotonic()
            return self._mark

    def _look(self) -> str:
        try:
            mark = self._read_mark()
        except SQLAlchemyError:
            log.warning("the database does not answer", exc_info=True)
            return AWAY
        return hashlib.sha256(mark.encode()).hexdigest()[:16]

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), self._every)
