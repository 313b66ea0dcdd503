"""The embedded Redis: one of them on one socket."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from node import embedded_redis


def test_one_that_a_killed_supervisor_left_is_ended_by_the_next() -> None:
    """Else each kill -9 of `pacs-node up` would leave one more behind."""
    with TemporaryDirectory() as folder:  # a path that is short enough for a unix socket
        socket = Path(folder) / "redis.sock"
        former = embedded_redis.start(socket)
        following = embedded_redis.start(socket)
        try:
            assert former.wait(timeout=20) is not None
            assert embedded_redis.answers(socket) and following.poll() is None
        finally:
            for one in (former, following):
                one.kill()
                one.wait()
