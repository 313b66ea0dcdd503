"""Instance files and result sets on disk: temporary name, sync, rename, sync of the directory.

Nothing outside this file builds a path: callers hold the relative names that it gives them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from node.errors import StoreFull

PART = ".part"
_STALE_PART = 3600.0  # seconds; longer than any instance takes to arrive
_REMEMBERED = 10_000  # folders; a forgotten one is synced once more


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of *data* as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


class Store:
    """A folder of instances as received and of frozen result sets."""

    def __init__(self, root: Path, *, min_free: int = 0) -> None:
        self.root = root
        self._min_free = min_free
        self._synced: set[Path] = set()  # folders whose entries this process has synced
        _make_synced(root)
        for room in ("instances", "results", "scratch"):
            self._room(root / room)

    def put_instance(self, data: bytes, content_sha: str, *, study_uid: str, sop_uid: str) -> str:
        """Keep *data* so that it survives a power cut; return its name. The same bytes give the same name."""
        study = hashlib.sha256(study_uid.encode()).hexdigest()[:32]
        instance = hashlib.sha256(sop_uid.encode()).hexdigest()[:24]
        name = f"instances/{study[:2]}/{study}/{instance}-{content_sha[:16]}.dcm"
        try:
            self._check_room(len(data))
            self._put(self.root / name, data)
        except OSError as why:
            raise StoreFull(f"the store could not keep an instance: {why.strerror or why}") from why
        return name

    def put_results(self, job_id: str, epoch: int, files: Sequence[tuple[str, bytes]]) -> list[str]:
        """Freeze one result set, all files or none; return their names in order."""
        folder = f"results/{job_id}/{epoch}"
        try:
            self._check_room(sum(len(data) for _, data in files))
            for name, data in files:
                self._put(self.root / folder / name, data)
        except OSError as why:
            raise StoreFull(f"the store could not freeze a result set: {why.strerror or why}") from why
        return [f"{folder}/{name}" for name, _ in files]

    def path(self, name: str) -> Path:
        """Return where *name* lies; refuse names that lead out of the store."""
        path = (self.root / name).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"{name!r} lies outside the store")
        return path

    def pictures(self, job_id: str) -> Path:
        """Return the folder of a job's overlay pictures; it may not exist yet."""
        return self.root / "results" / job_id / "pictures"

    def findings(self, job_id: str) -> Path:
        """Return the folder of what a job's model found; it may not exist yet."""
        return self.root / "results" / job_id / "findings"

    def scratch(self, job_id: str, epoch: int) -> Path:
        """Return a fresh folder for one attempt; the caller removes it with `drop_scratch`."""
        folder = self.root / "scratch" / f"{job_id}-{epoch}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def drop_scratch(self, folder: Path) -> None:
        """Remove an attempt's folder."""
        shutil.rmtree(folder, ignore_errors=True)

    def verify(self, name: str, sha256: str) -> bool:
        """Return whether the bytes of *name* are still those that were kept."""
        try:
            return sha256_hex(self.path(name).read_bytes()) == sha256
        except FileNotFoundError:
            return False

    def remove_stale_parts(self) -> int:
        """Remove files that no process can still be writing; return how many. None of them was acknowledged."""
        removed = 0
        for part in (self.root / "instances").glob(f"*/*/*{PART}"):
            with suppress(FileNotFoundError):
                if time.time() - part.stat().st_mtime > _STALE_PART:
                    part.unlink()
                    removed += 1
        return removed

    def free_bytes(self) -> int:
        """Return how many bytes the disk of the store still takes."""
        return shutil.disk_usage(self.root).free

    def free_percent(self) -> float:
        """Return how much of the disk of the store is free, in percent."""
        usage = shutil.disk_usage(self.root)
        return 100.0 * usage.free / usage.total

    @property
    def quarantine(self) -> Path:
        """Where files lie that belong to nothing and that nobody could file; it may not exist yet."""
        return self.root / "quarantine"

    def count_quarantined(self) -> int:
        """Return how many files wait there for a person."""
        return sum(path.is_file() for path in self.quarantine.rglob("*")) if self.quarantine.is_dir() else 0

    def _check_room(self, wanted: int) -> None:
        if self.free_bytes() - wanted < self._min_free:
            raise StoreFull("the disk of the store is nearly full: free some space, or lower min_free_bytes")

    def _put(self, path: Path, data: bytes) -> None:
        """Write *data* to *path* so that both survive a power cut; a file of that name is replaced whole."""
        self._room(path.parent)
        part = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def _room(self, folder: Path) -> None:
        """Make *folder* below the root. Its entry is synced even where it exists: who made it may not be so far yet."""
        if folder == self.root or (folder in self._synced and folder.is_dir()):
            return
        self._room(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)
        if len(self._synced) >= _REMEMBERED:
            self._synced.clear()
        self._synced.add(folder)


def _make_synced(folder: Path) -> None:
    """Make *folder* and its parents so that their directory entries survive a power cut."""
    if folder.is_dir():
        return
    _make_synced(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
