"""Serving together who come together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(kw_only=True, slots=True, eq=False)
class Waiting:
    """Something that waits for its turn, together with all that came meanwhile."""

    done: bool = False
    why: Exception | None = None  # it was not served


T = TypeVar("T", bound=Waiting)


class Together(Generic[T]):
    """Whoever comes while another one is served waits, and is then served together with all who waited.

    The first of them leads. Alone, nobody waits for anybody, and no other thread is asked.
    """

    def __init__(self, serve: Callable[[list[T]], None]) -> None:
        self._serve = serve
        self._waiting: list[T] = []
        self._door = threading.Lock()  # of the list
        self._leading = threading.Lock()  # held by the one that serves all

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, one: T) -> None:
        """Return when *one* is served; raise what kept it from that."""
        with self._door:
            self._waiting.append(one)
        with self._leading:
            if not one.done:
                with self._door:
                    together, self._waiting = self._waiting, []
                self._lead(together)
        if one.why is not None:
            raise one.why

    @contextmanager
    def nobody(self) -> Iterator[None]:
        """Nobody is served for the block."""
        with self._leading:
            yield

    def _lead(self, together: list[T]) -> None:
        try:
            self._serve(together)
        except BaseException as why:
            for one in together:
                if not one.done:
                    one.why = one.why or (why if isinstance(why, Exception) else RuntimeError("its leader was ended"))
            if not isinstance(why, Exception):  # else each of those who wait raises it in its own thread
                raise
        finally:
            for one in together:
                one.done = True
