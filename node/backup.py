"""Backup of a node that runs, and its restoration elsewhere: one file, every byte in it named with its SHA-256.

The database is copied first, then the files that this copy names. Files are there before the rows that name them, and
nobody deletes any meanwhile, so what was copied is whole, whatever the node does during it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from sqlalchemy.orm import Session

from node import __version__
from node.db import copies, whole
from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.errors import BackupDamaged, SettingsError, StoreFull
from node.settings import Settings, load_settings
from node.store import Store

FORMAT = 1
_MANIFEST = "manifest.json"
_DATABASE = "database"
_BLOCK = 1 << 20
_NOT_OURS = ("store", "run")  # folders of the home: the first is copied by what the table names, the other is of now


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One file of a backup."""

    sha256: str
    size: int


@dataclass(kw_only=True, slots=True)
class Manifest:
    """What a backup holds."""

    format: int
    version: str  # of the node that made it
    at: str
    database: str  # "sqlite" or "postgresql"
    rows: dict[str, int]
    files: dict[str, Entry] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)  # rows name them, and they were not there
    damaged: list[str] = field(default_factory=list)  # their bytes were no longer those that were kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What a restoration did."""

    home: Path
    files: int
    rows: dict[str, int]
    asked_first: int  # deliveries whose peers are asked before anything is sent
    voided: int  # attempts that were under way
    missing: tuple[str, ...]  # what the backup itself did not have
    damaged: tuple[str, ...]


def back_up(settings: Settings, store: Store, file: Path, *, at: datetime) -> Manifest:
    """Write the whole node into *file*, beside everything that it does; the file is there whole or not at all."""
    file = file.absolute()
    if file.exists():
        raise SettingsError(f"there is already a {file}: a backup never overwrites another")
    if file.resolve().is_relative_to(settings.home.resolve()):
        raise SettingsError(f"{file} lies inside the node's home: a backup belongs on another disk")
    with store.undisturbed() as undisturbed:
        if not undisturbed:
            raise StoreFull("the node deletes files just now: try again in a minute")
        try:
            with _made_whole(file) as out, tempfile.TemporaryDirectory(dir=file.parent, prefix=".backup-") as scratch:
                return _write(settings, store, out, Path(scratch) / "copy", at)
        except OSError as why:
            raise StoreFull(f"the backup could not be written: {why.strerror or why}") from why


@contextmanager
def _made_whole(file: Path) -> Iterator[IO[bytes]]:
    """Yield a file for its owner's eyes only that gets its name when the block ends well and the disk has it."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        Path(name).replace(file)
        _sync(file.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def _write(settings: Settings, store: Store, out: IO[bytes], copy: Path, at: datetime) -> Manifest:
    with copies.copied(settings.database, copy) as session, tarfile.open(fileobj=out, mode="w") as tar:
        manifest = Manifest(
            format=FORMAT, version=__version__, at=at.isoformat(), database=copies.kind_of(settings.database),
            rows=copies.count_rows(session),
        )  # fmt: skip
        manifest.files[_DATABASE] = _add(tar, _DATABASE, copy)
        for path in _of_home(settings.home):
            name = f"home/{path.relative_to(settings.home).as_posix()}"
            manifest.files[name] = _add(tar, name, path)
        for kept, sha256 in _of_store(session, store):
            _add_kept(tar, manifest, store, kept, sha256)
        data = json.dumps(asdict(manifest), indent=1).encode()
        info = tarfile.TarInfo(_MANIFEST)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))  # last: a backup that was cut short has none
    return manifest


def _of_home(home: Path) -> Iterator[Path]:
    """Yield the configuration and what else a person laid into the home, e.g. certificates."""
    for path in sorted(home.rglob("*")):
        inside = path.relative_to(home)
        ours = inside.parts[0] in _NOT_OURS or inside.name.startswith("node.db") or inside.name.endswith(".part")
        if path.is_file() and not path.is_symlink() and not ours:
            yield path


def _of_store(session: Session, store: Store) -> Iterator[tuple[str, str]]:
    """Yield (name, SHA-256) of all files of the store; of pictures and findings no row knows the SHA-256."""
    for uid in whole.study_uids(session):
        yield from ((one.path, one.sha256) for one in whole.instances_named(session, [uid])[uid])
    yield from ((one.path, one.sha256) for one in whole.results_named(session))
    for job_id in copies.job_ids_with_results(session):
        for folder in (store.pictures(job_id), store.findings(job_id)):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    yield path.relative_to(store.root).as_posix(), ""


def _add_kept(tar: tarfile.TarFile, manifest: Manifest, store: Store, path: str, sha256: str) -> None:
    name = f"store/{path}"
    if name in manifest.files:
        return  # two rows may name one file
    try:
        manifest.files[name] = _add(tar, name, store.path(path))
    except FileNotFoundError:
        if sha256:  # pictures of a job that runs again come and go
            manifest.missing.append(path)
        return
    if sha256 and manifest.files[name].sha256 != sha256:
        manifest.damaged.append(path)


class _Hashing(io.RawIOBase):
    """Hands a file on, and hashes what it hands on."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes."""
        data = self._file.read(size)
        self.digest.update(data)
        return data


def _add(tar: tarfile.TarFile, name: str, path: Path) -> Entry:
    with path.open("rb") as file:
        info = tarfile.TarInfo(name)
        info.size, info.mode = os.fstat(file.fileno()).st_size, 0o640
        hashing = _Hashing(file)
        tar.addfile(info, hashing)
    return Entry(sha256=hashing.digest.hexdigest(), size=info.size)


def restore(file: Path, home: Path, *, now: Callable[[], datetime]) -> Restored:
    """Make *home*, which must be empty, the node that *file* holds; every hash is verified before anything is used.

    The home appears whole or not at all. What was under way is void, and peers are asked before anything is sent.
    """
    home = home.expanduser().resolve()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise SettingsError(f"{home} is not empty: a backup is restored into an empty home only")
    home.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}.restoring-"))
    try:
        manifest = _unpack(file, part)
        counts = _revive(manifest, part, home, at=now())
        part.chmod(0o750)
        os.sync()  # the whole home, in one go
        if home.exists():
            home.rmdir()
        part.rename(home)
        _sync(home.parent)
    except OSError as why:
        raise StoreFull(f"the backup could not be restored: {why.strerror or why}") from why
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Restored(
        home=home, files=len(manifest.files), rows=manifest.rows, asked_first=counts["deliveries"],
        voided=counts["jobs"], missing=tuple(manifest.missing), damaged=tuple(manifest.damaged),
    )  # fmt: skip


def _unpack(file: Path, part: Path) -> Manifest:
    """Write the files of a backup below *part*, each checked against the manifest, which comes last."""
    found: dict[str, Entry] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(file, mode="r:") as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is None:
                    raise BackupDamaged(f"{member.name} in {file} is no file: this is no backup of a node")
                if member.name == _MANIFEST:
                    manifest = _manifest(stream.read())
                else:
                    found[member.name] = _extract(stream, _place(member.name, part))
    except (tarfile.TarError, EOFError) as why:
        raise BackupDamaged(f"{file} is no whole backup: {why}") from why
    if manifest is None:
        raise BackupDamaged(f"{file} has no manifest: it was cut short")
    wrong = [name for name in sorted({*found, *manifest.files}) if found.get(name) != manifest.files.get(name)]
    if wrong:
        raise BackupDamaged(f"{len(wrong)} files of {file} are not what its manifest names, first {wrong[0]}")
    return manifest


def _manifest(data: bytes) -> Manifest:
    try:
        said: dict[str, Any] = json.loads(data)
        if said["format"] != FORMAT:
            raise BackupDamaged(f"this backup has format {said['format']}, not {FORMAT}: use the node that made it")
        files = {name: Entry(**entry) for name, entry in said.pop("files").items()}
        return Manifest(**said, files=files)
    except (ValueError, KeyError, TypeError) as why:
        raise BackupDamaged("the backup's manifest cannot be read") from why


def _place(name: str, part: Path) -> Path:
    """Return where a file of a backup belongs; refuse names that lead out of the home."""
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise BackupDamaged(f"{name!r} leads out of the home: this is no backup of a node")
    if name == _DATABASE:
        return part / _DATABASE
    if len(pure.parts) < 2 or pure.parts[0] not in ("home", "store"):
        raise BackupDamaged(f"{name!r} belongs nowhere: this is no backup of a node")
    return part.joinpath(*pure.parts[1:]) if pure.parts[0] == "home" else part / name


def _extract(stream: IO[bytes], path: Path) -> Entry:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as out:
        while block := stream.read(_BLOCK):
            digest.update(block)
            size += out.write(block)
    return Entry(sha256=digest.hexdigest(), size=size)


def _revive(manifest: Manifest, part: Path, home: Path, *, at: datetime) -> dict[str, int]:
    """Put the database back where the configuration says, with the newest schema and nothing under way."""
    settings = load_settings(part)
    url = settings.database
    if copies.kind_of(url) != manifest.database:
        raise SettingsError(
            f"the backup is of a {manifest.database} database, the configuration names another: set database_url, "
            "e.g. as PACS_NODE_DATABASE_URL"
        )
    if not copies.is_empty(url):
        raise SettingsError(f"the database that {home} is to have is not empty: set database_url to an empty one")
    copies.put_back(part / _DATABASE, url)
    migrate(url)
    engine = open_engine(url, patient=True)
    try:
        with Database(engine).transaction() as session:
            return copies.make_safe(session, at=at)
    finally:
        engine.dispose()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
