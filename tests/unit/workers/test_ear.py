"""A worker that no longer hears its doorbell knows it; one that works, or has nothing to hear, does not think so."""

from __future__ import annotations

from node.errors import BrokerAway
from workers.ear import Ear


class Queue:
    """A broker whose queue is as long as the test says; below 0 it is away."""

    def __init__(self) -> None:
        self.length = 0

    def waiting(self) -> dict[str, int]:
        """Return the length."""
        if self.length < 0:
            raise BrokerAway("away: test")
        return {"io": self.length}


def test_bells_beside_an_idle_worker_mean_that_it_is_deaf() -> None:
    """Not at once: only where they lie there for longer than a busy moment."""
    queue, now = Queue(), [0.0]
    ear = Ear(queue, "io", clock=lambda: now[0])  # type: ignore[arg-type]
    queue.length = 2
    assert not ear.is_deaf()
    now[0] = 19.0
    assert not ear.is_deaf()
    now[0] = 21.0
    assert ear.is_deaf()


def test_a_worker_that_works_is_not_deaf() -> None:
    """However long its work takes; its time begins anew behind it."""
    queue, now = Queue(), [0.0]
    ear = Ear(queue, "io", clock=lambda: now[0])  # type: ignore[arg-type]
    queue.length = 5
    assert not ear.is_deaf()
    with ear.busy():
        now[0] = 900.0
        assert not ear.is_deaf()
    now[0] = 915.0
    assert not ear.is_deaf()
    now[0] = 936.0
    assert ear.is_deaf()


def test_silence_and_an_absent_broker_are_no_deafness() -> None:
    """A new process would hear no more."""
    queue, now = Queue(), [0.0]
    ear = Ear(queue, "io", clock=lambda: now[0])  # type: ignore[arg-type]
    for length in (0, -1, 1, 0, 1):
        queue.length = length
        assert not ear.is_deaf()
        now[0] += 15.0
