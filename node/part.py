"""An instance that is being taken in, in a file that nobody takes for an instance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import StoreFull
from node.failpoints import reach

PART = ".part"
_CHECK_EACH = 32 << 20  # bytes of one instance after which the room on the disk is looked at again


class Part:
    """An instance that is being taken in: its bytes lie in a part file, which nobody takes for an instance.

    However large it becomes, no more of it is held in memory than the caller hands over at once.
    """

    def __init__(self, path: Path, check_room: Callable[[int], None]) -> None:
        self.path, self.size = path, 0
        self._check_room, self._checked = check_room, 0
        self._sha, self._known_sha = hashlib.sha256(), ""
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
        try:
            reach("intake.opened")
        except BaseException:
            self.drop()
            raise

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of what was written, as hexadecimal digits."""
        return self._known_sha or self._sha.hexdigest()

    def write(self, data: bytes | memoryview) -> None:
        """Append *data*; StoreFull where the disk takes no more."""
        with told():
            if self.size - self._checked >= _CHECK_EACH:
                self._check_room(0)
                self._checked = self.size
            self._sha.update(data)
            self._append(data)

    def fill(self, data: memoryview, sha256: str) -> None:
        """Write an instance whole, whose hash is known; StoreFull where the disk takes no more."""
        with told():
            self._known_sha = sha256
            self._append(data)

    def _append(self, data: bytes | memoryview) -> None:
        self.size += len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        reach("intake.mid")

    def hasten(self) -> None:
        """Have the system begin to write to the disk, and wait for nothing: the sync has less to do then."""
        os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self) -> None:
        """Make what was written survive a power cut, under a name that nobody knows yet."""
        with told():
            reach("intake.last_byte")
            os.fsync(self._file)
            reach("intake.fsynced")

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def drop(self) -> None:
        """Remove the part file. One that got its name meanwhile is no part file any more and stays."""
        self.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def told() -> Iterator[None]:
    """Tell what the system says of a sick or full disk in our words: StoreFull."""
    try:
        yield
    except OSError as why:
        raise StoreFull(f"the store could not keep an instance: {why.strerror or why}") from why
