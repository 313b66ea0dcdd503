"""One Orthanc, one browser and one web server for all viewer tests; every case brings a study of its own."""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from models.contract import Card, Findings
from node.dicom.context import Pictures, ResultObject
from node.dicom.encode import encode
from node.domain.profile import Profile
from node.testing import part10
from tests.rig import Orthanc, need_file, running_orthanc
from tests.viewers.dwv import PAGE, Dwv
from tests.viewers.ohif import Ohif
from tests.viewers.packages import package
from tests.viewers.phantom import Source
from tests.viewers.site import Site, served

FLAGS = [
    "--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip  # a graphics card made of software
OUT = Path(__file__).with_name("out")


@pytest.fixture(scope="session")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """A real Orthanc with DICOMweb."""
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), dicomweb=True) as one:
        yield one


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which a viewer without DICOMweb takes its files."""
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def site(orthanc: Orthanc, files: Path) -> Iterator[Site]:
    """Both viewers."""
    folders = {"/": package("@ohif/app") / "dist", "/files/": files, "/dwv/": package("dwv") / "dist"}
    folders |= {f"/{name}/": package(name) for name in ("jszip", "konva", "magic-wand-tool")}
    with served(Site(folders, orthanc.http, pages={"/dwv.html": PAGE})) as one:
        yield one


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window."""
    chromium = need_file("/usr/bin/chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def ohif(browser: Browser, site: Site) -> Ohif:
    """The real OHIF."""
    return Ohif(browser, site.address)


@pytest.fixture(scope="session")
def dwv(browser: Browser, site: Site) -> Dwv:
    """The real dwv."""
    return Dwv(browser, site.address)


@dataclass
class Archive:
    """Studies and their results, put where the viewers find them."""

    orthanc: Orthanc
    files: Path

    def keep(
        self, source: Source, findings: Findings, card: Card, profile: Profile, pictures: Pictures | None = None
    ) -> tuple[ResultObject, ...]:
        """Encode as the product does, and store images first, then results in the order in which they are sent."""
        made = encode(findings, source.context(card), (profile,), pictures)
        named = [(f"ct-{number:03d}.dcm", part10(ds)) for number, ds in enumerate(source.instances)]
        named += [(f"{one.role}-{number:03d}.dcm", one.data) for number, one in enumerate(made)]
        folder = self.files / source.study
        folder.mkdir()
        for name, data in named:
            (folder / name).write_bytes(data)
            self.orthanc.call("/instances", data)
        return made

    def status_of_frame(self, one: ResultObject) -> int:
        """Return what Orthanc answers to a request for the first frame of *one* (PS3.18 10.4)."""
        parts = ("studies", one.dataset.StudyInstanceUID, "series", one.dataset.SeriesInstanceUID)
        path = "/".join(("/dicom-web", *parts, "instances", one.dataset.SOPInstanceUID, "frames", "1"))
        asked = http.client.HTTPConnection("127.0.0.1", self.orthanc.http, timeout=30)
        try:
            asked.request("GET", path)
            return asked.getresponse().status
        finally:
            asked.close()

    def paths(self, study: str, what: str) -> list[str]:
        """Return where the site has the files of one role ("ct": of the source)."""
        return [f"/files/{study}/{file.name}" for file in sorted((self.files / study).glob(f"{what}-*"))]


@pytest.fixture(scope="session")
def archive(orthanc: Orthanc, files: Path) -> Archive:
    """Where studies are put."""
    return Archive(orthanc, files)


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    """A Study Instance UID that only this test has: the same in every run."""
    digest = hashlib.sha256(request.node.nodeid.encode()).digest()
    return f"2.25.{int.from_bytes(digest[:12], 'big')}"
