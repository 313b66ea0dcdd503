"""The viewers: packages of exact versions, fetched once by npm, checked against the lock file beside this one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.rig import need

LOCK = Path(__file__).with_name("packages.json")


class Altered(Exception):
    """A package's bytes are not those that the lock file names."""


def package(name: str) -> Path:
    """Return the unpacked package *name*; skip where npm cannot fetch it, fail in CI.

    Raises Altered where what came is not what the lock file names: that never passes for "not there".
    """
    locked = json.loads(LOCK.read_text(encoding="utf-8"))[name]
    kept = _cache() / f"{name.replace('/', '-').lstrip('@')}-{locked['version']}"
    mark = kept / ".integrity"  # written before the folder gets its name: a folder without it was cut off
    if mark.is_file() and mark.read_text(encoding="utf-8") == locked["integrity"]:
        return kept / "package"
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        archive = _fetch(name, locked["version"], Path(scratch))
        _check(archive, locked["integrity"])
        fresh = Path(scratch) / "fresh"
        with tarfile.open(archive) as tar:
            tar.extractall(fresh, filter="data")
        (fresh / mark.name).write_text(locked["integrity"], encoding="utf-8")
        shutil.rmtree(kept, ignore_errors=True)
        fresh.rename(kept)
    return kept / "package"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pacs-ai-node" / "viewers"


def _fetch(name: str, version: str, folder: Path) -> Path:
    command = [need("npm"), "pack", "--silent", f"{name}@{version}"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    archives = list(folder.glob("*.tgz"))
    if ran.returncode != 0 or len(archives) != 1:
        absent(f"npm could not fetch {name} {version}: {ran.stderr[-400:]}")
    return archives[0]


def _check(archive: Path, integrity: str) -> None:
    """Compare with Subresource Integrity, as npm's own lock files write it."""
    found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != integrity:
        raise Altered(f"{archive.name} is {found}, the lock file says {integrity}")


def absent(what: str) -> None:
    """Skip, saying what is not there; fail where CI promises it."""
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)
