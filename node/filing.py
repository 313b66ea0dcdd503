"""Filing what is safe in the journal: files, names and rows, for many instances at once, while the senders go on.

The order is that of the journal. Whatever goes wrong is tried again until it goes well: the senders were told success.
While it does, no more is taken in, so what waits here stays little.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from node.db.studies import Kept
from node.errors import StoreFull
from node.journal import Entry, Journal
from node.logs import failure

log = logging.getLogger(__name__)

_TOGETHER = 64  # instances of one transaction
_LULL = 0.1  # seconds without a new instance: now the disk and the processor have time for files
_IDLE = 0.2  # seconds of it after which there is time for other things
LONGEST = 5.0  # seconds that an instance waits for a lull
_AGAIN = 0.5  # seconds between two tries
_PATIENCE = 2.0  # seconds in which trouble may end by itself, before a sender is asked to come again
_STUCK = 20.0  # seconds without any progress
_TRIES = 5  # with an instance that the database does not take for its own sake


@dataclass(frozen=True, kw_only=True, slots=True)
class Logged:
    """An instance that is safe in *journal* and will be kept as *kept* says."""

    journal: Journal
    entry: Entry
    kept: Kept


#: Files all, in one go; says of each why it could not be.
FileAll = Callable[[Sequence[Logged]], list[Exception | None]]
#: Puts one that can never be filed where a person finds it.
SetApart = Callable[[Logged, Exception], None]


class Filing:
    """What waits in journals to be filed, and the thread that does it from `start` until `finish`."""

    def __init__(
        self, file_all: FileAll, hopeless: Callable[[Exception], bool], set_apart: SetApart, idle: Callable[[], bool],
        *, longest: float = LONGEST,
    ) -> None:  # fmt: skip
        """*idle* does a little of what has time when nothing waits; returns whether there is more of it.

        No instance waits for a lull longer than *longest* seconds.
        """
        self._idle, self._has_work, self._longest = idle, False, longest
        self._file_all, self._hopeless, self._set_apart = file_all, hopeless, set_apart
        self._waiting: deque[tuple[Logged, float]] = deque()  # with the time when it came, monotonic seconds
        self._added = self._struck = self._wanted = 0  # all that ever came, was filed, shall be filed without a pause
        self._leaving: set[Journal] = set()  # nothing more comes from these: they go when all in them is filed
        self._together = _TOGETHER
        self._newest = self._progress = 0.0  # monotonic seconds
        self._trouble: Exception | None = None
        self._tries = 0  # with the first that waits
        self._over = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="filing", daemon=True)

    def start(self) -> None:
        """Begin to file."""
        self._thread.start()

    def find_work(self) -> None:
        """Tell that there is something to do where nothing waits."""
        with self._changed:
            self._has_work = True
            self._changed.notify_all()

    def add(self, logged: Sequence[Logged]) -> None:
        """Have these filed, after all that came before."""
        now = time.monotonic()
        with self._changed:
            if not self._waiting:
                self._progress = now
                self._changed.notify_all()
            self._waiting.extend((one, now) for one in logged)
            self._added += len(logged)
            self._newest = now

    def put_off(self) -> None:
        """Somebody sends what does not come this way: for a moment the disk is theirs."""
        self._newest = time.monotonic()

    def retire(self, journal: Journal) -> None:
        """Nothing more comes from *journal*: have it removed when all that is in it is filed."""
        with self._changed:
            self._leaving.add(journal)
            self._changed.notify_all()

    def admit(self) -> None:
        """Raise StoreFull where what is here already cannot be filed; wait a moment for the end of a short trouble."""
        if self._goes_well():
            return
        with self._changed:
            if not self._changed.wait_for(self._goes_well, timeout=_PATIENCE):
                why = str(self._trouble or "the disk or the database stands still")
                raise StoreFull(f"what came before is not filed yet: {why}") from self._trouble

    def _goes_well(self) -> bool:
        if not self._waiting:  # what went wrong, went wrong with nobody's instance
            return True
        return self._trouble is None and time.monotonic() - self._progress <= _STUCK

    def rest(self, limit: float) -> bool:
        """Have all that is here now filed without waiting for a lull; wait for it, *limit* seconds at most.

        Returns whether it is filed.
        """
        return self._hurry(self._added, limit)

    def hurry(self) -> None:
        """Have all that is here now filed without waiting for a lull, and wait for nothing."""
        self._hurry(self._added, 0.0)

    def latest(self) -> Callable[[float], bool]:
        """Return what waits until all that is here now is filed, so many seconds at most, and hurries nobody."""
        wanted = self._added

        def is_filed(limit: float) -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: self._struck >= wanted, timeout=limit)

        return is_filed

    def make_room(self, limit: float) -> bool:
        """Wait until something is filed, *limit* seconds at most; return whether that is so."""
        with self._changed:
            wanted = self._struck + 1
            return wanted <= self._added and self._hurry(wanted, limit)

    def _hurry(self, wanted: int, limit: float) -> bool:
        with self._changed:
            if self._struck < wanted:
                self._wanted = max(self._wanted, wanted)
                self._changed.notify_all()
            return self._changed.wait_for(lambda: self._struck >= wanted, timeout=limit)

    def finish(self, limit: float) -> bool:
        """File what is here, *limit* seconds at most, and end; return whether the thread has ended, too."""
        self.rest(limit)
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout=limit)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                self._step(batch)
            except Exception as why:  # noqa: BLE001 - without this thread nobody could send any more
                log.error("filing failed: %s", failure(why))
                self._be_troubled(why)
        self._let_go()
        for journal in self._leaving:  # another process may file what is left in them
            journal.close(remove=False)

    def _step(self, batch: list[Logged]) -> None:
        if not batch:
            self._let_go()
            if self._idle():
                self.find_work()
            return
        whys = self._try(batch)
        good = next((place for place, why in enumerate(whys) if why is not None), len(batch))
        if good:
            self._together, self._tries = _TOGETHER, 0
            self._strike(batch[:good])
        if good < len(batch):
            self._puzzle(batch[good], whys[good])

    def _let_go(self) -> None:
        """Close and remove the journals that nothing waits in: no other thread does, for this one may be using them."""
        with self._changed:
            held = {logged.journal for logged, _ in self._waiting}
            leaving = self._leaving - held
            self._leaving &= held
        for journal in leaving:
            try:
                journal.close(remove=True)
            except OSError as why:  # the next start finds it, and nothing to file in it
                log.error("a journal that is through stays: %s", failure(why))

    def _try(self, batch: list[Logged]) -> list[Exception | None]:
        try:
            return self._file_all(batch)
        except Exception as why:  # noqa: BLE001 - it is told to whoever sends, and tried again
            return [why] * len(batch)

    def _next(self) -> list[Logged] | None:
        """Wait for a good moment; return what is to be filed now, nothing where there is time, None at the end."""
        with self._changed:
            while not self._over:
                now = time.monotonic()
                if not self._waiting:
                    if self._leaving:
                        return []
                    if self._changed.wait(_IDLE if self._has_work else None) or self._waiting:
                        continue
                    if time.monotonic() >= self._newest + _IDLE:
                        self._has_work = False
                        return []
                    continue
                due = min(self._newest + _LULL, self._waiting[0][1] + self._longest)
                if now >= due or self._struck < self._wanted:  # and senders who come back are not in its way for long
                    return [logged for logged, _ in islice(self._waiting, self._together)]
                self._changed.wait(due - now)
        return None

    def _strike(self, batch: Sequence[Logged]) -> None:
        """Strike what is filed, here and in its journal."""
        is_all = self._struck + len(batch) == self._added
        for journal, number in {one.journal: one.entry.number for one in batch}.items():
            try:  # while more comes, the next append makes the mark durable
                journal.mark(number, durably=is_all or journal in self._leaving)
            except OSError as why:  # without its mark it is filed once more at the next start, which changes nothing
                log.error("the journal does not take its mark: %s", failure(why))
        with self._changed:
            for _ in batch:
                self._waiting.popleft()
            self._struck += len(batch)
            self._progress, self._trouble = time.monotonic(), None
            self._changed.notify_all()
        if self._leaving:
            self._let_go()

    def _puzzle(self, logged: Logged, why: Exception | None) -> None:
        """Have senders come again later; what is hopeless for its own sake is not in the others' way for long."""
        assert why is not None  # noqa: S101 - the caller looked
        what = str(why) if isinstance(why, StoreFull) else failure(why)
        log.error("an acknowledged instance is not filed yet: %s", what, extra={"tries": self._tries})
        is_alone, self._together = self._together == 1, 1  # now each stands for itself
        if is_alone and self._hopeless(why):
            self._tries += 1
            if self._tries >= _TRIES:
                self._tries = 0
                self._set_apart(logged, why)
                self._strike([logged])
                return
        self._be_troubled(why)

    def _be_troubled(self, why: Exception) -> None:
        with self._changed:
            self._trouble = why
            self._changed.wait_for(lambda: self._over, timeout=_AGAIN)
