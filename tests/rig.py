"""Whole nodes and real peers on loopback and free ports: for system tests and benchmarks."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from pydicom import Dataset

from node.bootstrap import Services, build
from node.db import jobs
from node.domain.job import ENDED, Job
from node.settings import load_settings
from node.store import Store
from node.supervisor import running_roles
from node.testing import synthetic_ct


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(what: str, true: Callable[[], Any], *, limit: float = 60.0) -> Any:
    """Return the first truthy value of *true*; fail saying *what* never came."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        if value := true():
            return value
        time.sleep(0.1)
    raise AssertionError(f"{what} did not happen within {limit:g} s")


def water_beside(study: Dataset, slices: int) -> list[Dataset]:
    """Return a CT series of nothing but water, of the study that *study* is an image of: ct-lung declines it."""
    made = synthetic_ct(slices=slices, spacing=(4.0, 4.0, 4.0), series_number=3, uid_prefix=study.StudyInstanceUID[:50])
    for ds in made:
        ds.RescaleSlope, ds.RescaleIntercept, ds.PixelData = 1, 0, bytes(len(ds.PixelData))  # 0 HU
        ds.SeriesInstanceUID = f"{study.StudyInstanceUID[:50]}.3"
        for name in ("StudyInstanceUID", "PatientID", "PatientName"):
            setattr(ds, name, study[name].value)
    return made


def put_instance(store: Store, data: bytes, *, study_uid: str, sop_uid: str) -> str:
    """Lay an instance into the store as a listener does before its row; return its name."""
    part = store.open_part()
    try:
        part.write(data)
        part.sync()
        name = store.instance_name(part.sha256, study_uid=study_uid, sop_uid=sop_uid)
        (why,) = store.file([(part, name)])
    finally:
        part.drop()
    if why is not None:
        raise why
    return name


def need(command: str) -> str:
    """Return the path of a peer's program; skip on a laptop without it, fail in CI."""
    for found in (shutil.which(command), f"/usr/sbin/{command}", f"/usr/bin/{command}"):
        if found and Path(found).exists():
            return found
    if os.environ.get("CI"):
        pytest.fail(f"{command} is missing on a CI machine")
    pytest.skip(f"{command} is not installed")


def need_file(path: str) -> str:
    """Return *path*; skip on a laptop without it, fail in CI."""
    if not Path(path).exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is missing on a CI machine")
        pytest.skip(f"{path} is not installed")
    return path


@dataclass
class RunningNode:
    """A node that `pacs-node up` runs for a test."""

    home: Path
    port: int
    web_port: int
    ae_title: str
    process: subprocess.Popen[bytes]
    log: Path

    def services(self) -> Services:
        """Return services over the node's own database, for looking."""
        return build(load_settings(self.home), "test")

    def pid(self, role: str) -> int:
        """Return the process id of a role that runs now."""
        return int(wait_for(f"role {role}", lambda: running_roles(self.home).get(role), limit=20))

    def kill(self, role: str) -> None:
        """kill -9 a role and everything below it."""
        victim = psutil.Process(self.pid(role))
        for one in [*victim.children(recursive=True), victim]:
            one.kill()

    def jobs(self) -> list[Job]:
        """Return all jobs."""
        services = self.services()
        try:
            with services.database.reading() as session:
                return jobs.list_jobs(session)
        finally:
            services.database.engine.dispose()

    def wait_until_ended(self, count: int, *, limit: float = 150.0) -> list[Job]:
        """Return the jobs once *count* of them have ended."""

        def ended() -> list[Job]:
            found = self.jobs()
            return found if sum(job.state in ENDED for job in found) >= count else []

        return list(wait_for(f"the end of {count} jobs", ended, limit=limit))

    def stop(self) -> None:
        """Stop the node as Ctrl-C does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)


def listens(port: int) -> bool:
    """Return whether something accepts connections on *port*."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running_node(
    folder: Path, extra: str = "", *, name: str = "home", quiet: float = 2.0, drain: float = 20.0
) -> Iterator[RunningNode]:
    """Run `pacs-node up` with a fresh home below *folder* and some more lines of configuration."""
    home = folder / name
    home.mkdir()
    port, web_port = free_port(), free_port()
    lines = f'host = "127.0.0.1"\nport = {port}\nweb_port = {web_port}\nquiet_period = {quiet}\n'
    lines += f"sweep_interval = 0.3\nmin_free_bytes = 0\nretry_base = 1\nretry_cap = 2\ndrain_time = {drain}\n"
    (home / "pacs-node.toml").write_text(lines + extra, encoding="utf-8")
    log = folder / f"{name}.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PACS_NODE_")}
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "node.cli", "up", "--home", str(home), "--parent", str(os.getpid())]
        process = subprocess.Popen(command, stderr=stream, stdout=stream, env=environment)
    node = RunningNode(home, port, web_port, "PACSAINODE", process, log)
    try:
        wait_for("the node's DICOM port", lambda: listens(port) or process.poll() is not None, limit=40)
        assert process.poll() is None, log.read_text()
        yield node
    finally:
        node.stop()


@dataclass
class Orthanc:
    """A real Orthanc of this test's own."""

    http: int
    dicom: int
    ae_title: str
    process: subprocess.Popen[bytes]
    opener: urllib.request.OpenerDirector = field(
        default_factory=lambda: urllib.request.build_opener(urllib.request.ProxyHandler({}))
    )

    def call(self, path: str, body: bytes | None = None, *, method: str | None = None) -> Any:
        """Return the JSON answer of Orthanc's REST interface."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http}{path}", data=body, method=method)
        with self.opener.open(request, timeout=120) as answer:
            return json.loads(answer.read() or b"null")

    def instance(self, orthanc_id: str) -> bytes:
        """Return one instance as Orthanc keeps it."""
        with self.opener.open(f"http://127.0.0.1:{self.http}/instances/{orthanc_id}/file", timeout=60) as answer:
            return bytes(answer.read())

    def upload(self, folder: Path) -> None:
        """Put every file of *folder* into Orthanc."""
        for file in sorted(folder.iterdir()):
            self.call("/instances", file.read_bytes())

    def series(self) -> list[dict[str, Any]]:
        """Return all series with their main tags."""
        return [self.call(f"/series/{one}") for one in self.call("/series")]

    def of_modality(self, modality: str) -> list[str]:
        """Return the instances (Orthanc ids) of a modality."""
        found = [one for one in self.series() if one["MainDicomTags"]["Modality"] == modality]
        return [instance for one in found for instance in one["Instances"]]


@contextmanager
def running_orthanc(folder: Path, *, dicomweb: bool = False) -> Iterator[Orthanc]:
    """Run a real Orthanc with a fresh store below *folder*, with Debian's DICOMweb plug-in where asked."""
    program = need("Orthanc")
    http, dicom = free_port(), free_port()
    settings: dict[str, Any] = {
        "HttpPort": http, "DicomPort": dicom, "DicomAet": "ORTHANC", "StorageDirectory": str(folder / "orthanc"),
        "IndexDirectory": str(folder / "orthanc"), "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True, "DicomAlwaysAllowFind": True, "Plugins": [], "DicomScpTimeout": 60,
        "DicomModalitiesInDatabase": True, "StableAge": 1,
    }  # fmt: skip
    if dicomweb:
        settings["Plugins"] = [need_file("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")]
        settings |= {"DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, "UnknownSopClassAccepted": True}
    (folder / "orthanc").mkdir()
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([program, str(file)], stdout=log, stderr=log)
    orthanc = Orthanc(http, dicom, "ORTHANC", process)
    try:
        wait_for("Orthanc", lambda: listens(http) and listens(dicom), limit=40)
        yield orthanc
    finally:
        orthanc.process.terminate()  # it may have been killed and started anew
        orthanc.process.wait(timeout=30)


#: For tests of SQL alone: nothing of it need survive a crash.
FORGETFUL = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


@dataclass
class Postgres:
    """A real PostgreSQL of this test's own, on loopback."""

    folder: Path
    options: Sequence[str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def _programs(self) -> Path:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        return Path(found[-1] if found else need("initdb")).parent

    @property
    def _who(self) -> dict[str, Any]:
        if os.geteuid():
            return {}
        account = pwd.getpwnam("postgres")  # PostgreSQL refuses to run as root
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def make(self) -> None:
        """Make an empty cluster."""
        programs = self._programs  # skips here where there is none
        if who := self._who:
            os.chown(self.folder, who["user"], who["group"])
        command = [str(programs / "initdb"), "-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust"]
        command += ["--no-sync", "-E", "UTF8"]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, **self._who)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [*self.options, "shared_buffers=16MB", "listen_addresses=127.0.0.1"]
        options += [f"unix_socket_directories={self.folder}"]
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self.port)]
        command += [part for option in options for part in ("-c", option)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **self._who)
        wait_for("PostgreSQL", self._answers, limit=60)

    def _answers(self) -> bool:
        said = (self.folder / "log").read_text(encoding="utf-8", errors="replace")[-600:]
        assert self.process is not None and self.process.poll() is None, f"PostgreSQL did not start: {said}"
        try:
            psycopg.connect(f"host=127.0.0.1 port={self.port} user=postgres dbname=postgres").close()
        except psycopg.OperationalError:
            return False
        return True

    def _stopped_family(self) -> list[psutil.Process]:
        """Return the server's processes, it the last and stopped: it can start no other while they are counted."""
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        parent.suspend()
        return [*parent.children(recursive=True), parent]

    def kill(self) -> None:
        """kill -9 the server and all that serve its connections."""
        assert self.process is not None
        family = self._stopped_family()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()
        psutil.wait_procs(family, timeout=10)  # one that lives on holds the shared memory: no server starts beside it

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The server and all that serve its connections stand still for the block: connected, and silent."""
        family = self._stopped_family()
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        try:
            yield
        finally:
            for one in family:
                with suppress(psutil.NoSuchProcess):
                    one.resume()

    def stop(self) -> None:
        """Shut the server down."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # a fast shutdown
            self.process.wait(timeout=30)

    def administer(self, statement: str, database: str = "postgres") -> None:
        """Run one statement of the superuser's."""
        url = f"host=127.0.0.1 port={self.port} user=postgres dbname={database}"
        with closing(psycopg.connect(url, autocommit=True)) as connection:
            connection.execute(statement.encode())

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/{database}"


@contextmanager
def running_postgres(*options: str) -> Iterator[Postgres]:
    """Run a real PostgreSQL with an empty database "node"."""
    folder = Path(tempfile.mkdtemp(prefix="pacs-node-postgres-"))
    server = Postgres(folder, options)
    try:
        server.make()
        server.start()
        server.administer("CREATE DATABASE node")
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


def dead_process() -> str:
    """Return the identity of a listener's process that is over."""
    line = "from node.processes import identity; print(identity('scp'))"
    return subprocess.run([sys.executable, "-c", line], check=True, capture_output=True, text=True).stdout.strip()
