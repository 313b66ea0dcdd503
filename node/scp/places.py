"""How many associations there may be at once: in all, for one peer, and kept free for the urgent ones."""

from __future__ import annotations

import threading
from collections import Counter


class Places:
    """Places that associations take and leave."""

    def __init__(self, *, total: int, each: int, kept: int, urgent: frozenset[str]) -> None:
        """*each* is for one calling AE title; of *total*, *kept* are for the titles in *urgent* alone."""
        self._total, self._each, self._urgent = total, each, urgent
        self._kept = kept if urgent else 0  # kept for nobody, they would only be missing
        self._taken: Counter[str] = Counter()
        self._alone = threading.Lock()

    def take(self, calling_ae: str) -> str | None:
        """Return a place, or None where there is none for this peer."""
        with self._alone:
            free = self._total - self._taken.total()
            if free <= (0 if calling_ae in self._urgent else self._kept) or self._taken[calling_ae] >= self._each:
                return None
            self._taken[calling_ae] += 1
        return calling_ae

    def leave(self, place: str) -> None:
        """Give a place back."""
        with self._alone:
            self._taken[place] -= 1
            if not self._taken[place]:
                del self._taken[place]

    def taken(self) -> int:
        """Return how many places are taken."""
        with self._alone:
            return self._taken.total()
