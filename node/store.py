"""Instance files and result sets on disk: temporary name, sync, rename, sync of the directory.

Nothing outside this file builds a path: callers hold the relative names that it gives them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from node.errors import StoreFull
from node.failpoints import reach
from node.part import PART, Part, told

_STALE_PART = 3600.0  # seconds; longer than any instance takes to arrive
DECLINED_PICTURE = "declined.png"  # among the pictures of a job: what its model declined
RESULTS_OF = "results/{}"  # the name of all that was kept of a job's results
_REMEMBERED = 10_000  # folders; a forgotten one is synced once more


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of *data* as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Lying:
    """A file as it lies in the store."""

    size: int
    settled: bool  # so old that nobody can be about to record it


class Store:
    """A folder of instances as received and of frozen result sets."""

    def __init__(self, root: Path, *, min_free: int = 0) -> None:
        self.root = root
        self._min_free = min_free
        self._synced: set[Path] = set()  # folders whose entries this process has synced
        _make_synced(root)
        for room in ("instances", "results", "scratch", "incoming"):
            self._room(root / room)

    def open_part(self, *, reserve: bool = False) -> Part:
        """Begin to take an instance in; StoreFull where there is no room for any, the *reserve* left out."""
        with told():
            if not reserve:
                self._check_room(0)
            return Part(self.root / "incoming" / f"{uuid4().hex}{PART}", self._check_room)

    def check_room(self, wanted: int = 0) -> None:
        """Raise StoreFull where there is no room for so many bytes more."""
        with told():
            self._check_room(wanted)

    @property
    def journals(self) -> Path:
        """Where the journals of listeners lie; it may not exist yet."""
        return self.root / "journal"

    def file(self, parts: Sequence[tuple[Part, str]]) -> list[StoreFull | None]:
        """Give synced parts their names so that the names survive a power cut; each folder is synced once.

        Returns, in order, why one could not be filed; a neighbour's failure is its own.
        """
        whys = [self._rename(part, self.root / name) for part, name in parts]
        folders = {(self.root / name).parent for (_, name), why in zip(parts, whys, strict=True) if why is None}
        failed = {folder: why for folder in folders if (why := _sync_told(folder)) is not None}
        return [why or failed.get((self.root / name).parent) for (_, name), why in zip(parts, whys, strict=True)]

    def _rename(self, part: Part, path: Path) -> StoreFull | None:
        try:
            with told():
                self._room(path.parent)
                part.path.replace(path)
                reach("intake.renamed")
        except StoreFull as why:
            return why
        return None

    def instance_name(self, content_sha: str, *, study_uid: str, sop_uid: str) -> str:
        """Return the name under which an instance of these bytes is kept."""
        instance = hashlib.sha256(sop_uid.encode()).hexdigest()[:24]
        return f"{study_folder(study_uid)}/{instance}-{content_sha[:16]}.dcm"

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

    def put_declined(self, job_id: str, data: bytes) -> None:
        """Keep what shows why a model declined as the one picture of its job; StoreFull where it cannot be kept."""
        folder = self.pictures(job_id)
        try:
            self._check_room(len(data))
            self._put(folder / DECLINED_PICTURE, data)
            for other in folder.iterdir():  # of an attempt that died
                if other.name != DECLINED_PICTURE:
                    other.unlink()
        except OSError as why:
            raise StoreFull(f"the store could not keep a picture: {why.strerror or why}") from why

    def path(self, name: str) -> Path:
        """Return where *name* lies; refuse names that lead out of the store."""
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name!r} lies outside the store")
        return self.root / name

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
            with self.path(name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def remove_stale_parts(self) -> int:
        """Remove files that no process can still be writing; return how many. None of them was acknowledged."""
        parts = [*(self.root / "incoming").glob(f"*{PART}"), *(self.root / "results").rglob(f"*{PART}")]
        parts += (self.root / "instances").glob(f"*/*/*{PART}")  # of a release that wrote them there
        removed = 0
        for part in parts:
            if _is_settled(part):
                part.unlink(missing_ok=True)
                removed += 1
        return removed

    def remove_stale_scratch(self, held: Collection[tuple[str, int]]) -> int:
        """Remove the folders of attempts that nobody is at; *held* are (job, epoch) of those that are."""
        kept = {f"{job_id}-{epoch}" for job_id, epoch in held}
        stale = [f for f in (self.root / "scratch").iterdir() if f.name not in kept and _is_settled(f)]
        for folder in stale:
            shutil.rmtree(folder, ignore_errors=True)
        return len(stale)

    def lying_of(self, study_uid: str) -> dict[str, Lying]:
        """Return the whole files that lie in a study's folder, by name."""
        return self._lying(study_folder(study_uid))

    def folders_besides(self, study_uids: Iterable[str]) -> Iterator[dict[str, Lying]]:
        """Yield what lies in each folder that belongs to none of these studies."""
        known = {study_folder(uid) for uid in study_uids}
        for folder in sorted((self.root / "instances").glob("*/*")):
            name = folder.relative_to(self.root).as_posix()
            if folder.is_dir() and name not in known:
                yield self._lying(name)

    def _lying(self, folder: str) -> dict[str, Lying]:
        found: dict[str, Lying] = {}
        with suppress(FileNotFoundError), os.scandir(self.root / folder) as entries:
            for entry in entries:
                if entry.is_file(follow_symlinks=False) and not entry.name.endswith(PART):
                    facts = entry.stat(follow_symlinks=False)
                    settled = time.time() - facts.st_mtime > _STALE_PART
                    found[f"{folder}/{entry.name}"] = Lying(size=facts.st_size, settled=settled)
        return found

    def size_of(self, name: str) -> int:
        """Return how many bytes *name* has, -1 where it is not there."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return -1

    def frozen_sets(self) -> dict[str, list[int]]:
        """Return, for each job that has a folder of results, the epochs of the sets that nobody can be writing."""
        found: dict[str, list[int]] = {}
        for folder in (self.root / "results").iterdir():
            if folder.is_dir() and _is_settled(folder):
                sets = [one for one in folder.iterdir() if one.name.isdigit() and _is_settled(one)]
                found[folder.name] = sorted(int(one.name) for one in sets)
        return found

    def drop_set(self, job_id: str, epoch: int) -> None:
        """Remove a set that no row names: its attempt lost its lease, or the job ran again."""
        shutil.rmtree(self.root / RESULTS_OF.format(job_id) / str(epoch), ignore_errors=True)

    def set_apart(self, name: str) -> None:
        """Move what nobody can file out of the way, into the quarantine; it stays there for a person."""
        target = self.quarantine / name
        if target.exists():
            target = target.with_name(f"{target.name}.{uuid4().hex}")
        _make_synced(target.parent)
        self.path(name).replace(target)
        sync_folder(target.parent)

    def set_apart_bytes(self, name: str, data: bytes | memoryview) -> str:
        """Keep what is in no file yet in the quarantine; return its name there."""
        target = self.quarantine / name
        _make_synced(target.parent)
        self._put(target, bytes(data))
        return name

    def delete(self, names: Sequence[str]) -> None:
        """Delete files and folders so that they stay deleted after a power cut; one that is not there is fine."""
        for name in names:
            path = self.path(name)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for folder in {self.path(name).parent for name in names}:
            if folder.is_dir():  # a study's empty folder stays: a listener may be about to fill it
                sync_folder(folder)

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep others from deleting for as long as the block lasts; yields False where a backup reads the store."""
        with self._lock(fcntl.LOCK_EX) as held:
            yield held

    @contextmanager
    def undisturbed(self) -> Iterator[bool]:
        """Keep everybody from deleting for as long as the block lasts; yields False where somebody does just now."""
        with self._lock(fcntl.LOCK_SH) as held:
            yield held

    @contextmanager
    def _lock(self, how: int) -> Iterator[bool]:
        with (self.root / "care.lock").open("a") as lock:
            try:
                fcntl.flock(lock, how | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True  # the lock goes with the file, whatever ends the process

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

    def quarantined(self) -> list[str]:
        """Return the names, relative to it, of the files that wait there for a person."""
        return sorted(str(path.relative_to(self.quarantine)) for path in self.quarantine.rglob("*") if path.is_file())

    def drop_quarantined(self, name: str) -> None:
        """Delete a file of the quarantine so that it stays deleted after a power cut."""
        path = self.quarantine / name
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def _check_room(self, wanted: int) -> None:
        if self.free_bytes() - wanted < self._min_free:
            raise StoreFull("the disk of the store is nearly full: free some space, or lower min_free_bytes")

    def _put(self, path: Path, data: bytes) -> None:
        """Write *data* to *path* so that both survive a power cut; a file of that name is replaced whole."""
        self._room(path.parent)
        part = path.with_name(f"{path.name}.{uuid4().hex}{PART}")
        try:
            with part.open("wb") as file:
                reach("result.opened")
                half = len(data) // 2
                file.write(data[:half])
                reach("result.mid")
                file.write(data[half:])
                file.flush()
                reach("result.last_byte")
                os.fsync(file.fileno())
                reach("result.fsynced")
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        reach("result.renamed")
        sync_folder(path.parent)
        reach("result.dir_fsynced")

    def _room(self, folder: Path) -> None:
        """Make *folder* below the root. Its entry is synced even where it exists: who made it may not be so far yet."""
        if folder == self.root or (folder in self._synced and folder.is_dir()):
            return
        self._room(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
        if len(self._synced) >= _REMEMBERED:
            self._synced.clear()
        self._synced.add(folder)


def study_folder(study_uid: str) -> str:
    """Return the name of the folder of a study's instances."""
    study = hashlib.sha256(study_uid.encode()).hexdigest()[:32]
    return f"instances/{study[:2]}/{study}"


def _sync_told(folder: Path) -> StoreFull | None:
    """Sync a folder of instances; return why it could not be."""
    try:
        with told():
            sync_folder(folder)
            reach("intake.dir_fsynced")
    except StoreFull as why:
        return why
    return None


def _is_settled(path: Path) -> bool:
    """Return whether a file or folder was not touched for so long that nobody is at it."""
    with suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime > _STALE_PART
    return False


def _make_synced(folder: Path) -> None:
    """Make *folder* and its parents so that their directory entries survive a power cut."""
    if folder.is_dir():
        return
    _make_synced(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in *folder* survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
