"""A PACS, the viewers in front of it, and a browser; one of each for all cases."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.rig import Orthanc, need_file, running_orthanc
from tests.viewers.packages import OHIF, dwv_page, fetched
from tests.viewers.serve import served

#: Software rendering of WebGL 2: there is no graphics card where tests run.
ARGUMENTS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--disable-background-networking", "--no-first-run",
]  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Where viewers find studies."""

    orthanc: Orthanc
    ohif: str  # address


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    chromium = need_file("/usr/bin/chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Orthanc with DICOMweb, and OHIF in front of it on one origin."""
    files = fetched(OHIF) / "dist"
    pacs = tmp_path_factory.mktemp("pacs")
    with (
        running_orthanc(pacs, dicomweb=True) as orthanc,
        served(files, f"http://127.0.0.1:{orthanc.http}") as address,
    ):
        yield Stage(orthanc, address)


@pytest.fixture(scope="session")
def dwv_folder() -> Path:
    """dwv and what it imports."""
    return dwv_page()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where pictures of the screen are kept for people to look at."""
    folder = Path(__file__).parent / "out"
    folder.mkdir(exist_ok=True)
    return folder
