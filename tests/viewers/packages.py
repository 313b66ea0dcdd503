"""The viewers, fetched from npm by exact version and checked against the digest that they were first seen with."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

OHIF = (
    "@ohif/app", "3.13.2",
    "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA==",
)  # fmt: skip
DWV = (
    "dwv", "0.36.4",
    "kXGlujGcCKSJD6s0THa2z4Kn/aVCdltvbgrn8g2WcTA8TgLZJHp6Z0Tbu3gxkerIaMCrTC4TbaWJI0nq9tPAFg==",
)  # fmt: skip
#: What dwv imports, and the bundler that makes one module of each.
BESIDE_DWV = ("jszip@3.10.1", "konva@10.2.0", "magic-wand-tool@1.1.7", "esbuild@0.27.0")


def cache() -> Path:
    """Where packages are kept between runs."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "pacs-ai-node" / "viewers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def missing(what: str) -> None:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} on a CI machine")
    pytest.skip(what)


def fetched(package: tuple[str, str, str]) -> Path:
    """Return the unpacked package."""
    name, version, digest = package
    folder = cache() / f"{name.replace('/', '-').strip('@')}-{version}"
    if (folder / "done").is_file():
        return folder / "package"
    if shutil.which("npm") is None:
        missing("npm is not installed, so viewers cannot be fetched")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    run = subprocess.run(
        ["npm", "pack", f"{name}@{version}", "--json", "--pack-destination", str(folder)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if run.returncode:
        missing(f"{name} {version} could not be fetched")
    archive = folder / json.loads(run.stdout)[0]["filename"].replace("@", "").replace("/", "-")
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != digest:
        raise AssertionError(f"{name} {version} is not what it was: {found}")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    archive.unlink()
    (folder / "done").touch()
    return folder / "package"


def dwv_page() -> Path:
    """Return a folder with dwv and its imports as modules that a browser loads."""
    package = fetched(DWV)
    folder = cache() / f"dwv-page-{DWV[1]}"
    if (folder / "done").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "build").mkdir(parents=True)
    run = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts=false", *BESIDE_DWV],
        cwd=folder / "build", capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    if run.returncode:
        missing("what dwv needs could not be fetched")
    for name in ("jszip", "konva", "magic-wand-tool"):
        subprocess.run(
            ["node_modules/.bin/esbuild", f"node_modules/{name}", "--bundle", "--format=esm",
             f"--outfile=../{name}.js", "--log-level=error"],
            cwd=folder / "build", check=True, timeout=120,
        )  # fmt: skip
    shutil.copytree(package / "dist", folder / "dwv")
    (folder / "done").touch()
    return folder
