"""The rehearsal: a node with work in flight is backed up, goes on, is lost, and is restored elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from node import backup, bootstrap
from node.bootstrap import Services
from node.cli import common
from node.cli.common import app
from node.db import results
from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.domain.job import JobState
from node.domain.result import DeliveryState
from node.errors import BackupDamaged, SettingsError, StoreFull
from node.settings import Settings, load_settings
from node.testing import NOON, FixedClock, ScriptedPacs, part10, synthetic_ct
from tests.unit.node.conftest import SEG_CLASS, World, postgres  # noqa: F401  # a fixture

CANARY = "PATIENT-OF-THE-BACKUP"


def invoke(*words: str) -> str:
    """Run a command that has to succeed; return what it printed."""
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def new_url(request: pytest.FixtureRequest) -> Callable[[], str]:
    """Return a function that gives the URL of an empty database, "" for the SQLite file of a home."""
    if request.param == "sqlite":
        return lambda: ""
    server = request.getfixturevalue("postgres")

    def make() -> str:
        name = f"backup_{os.urandom(6).hex()}"
        server.administer(f"CREATE DATABASE {name}")
        return str(server.url(name))

    return make


@pytest.fixture
def pacs(tmp_path: Path) -> Iterator[ScriptedPacs]:
    """A PACS that counts how often it is sent each instance."""
    with ScriptedPacs(tmp_path / "pacs", ae_title="PACS") as running:
        yield running


_ENGINES: list[Engine] = []


@pytest.fixture(autouse=True)
def nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections end with their test, not in somebody else's: those of commands, too, which are processes else."""

    def build(*words: Any) -> Services:
        services = bootstrap.build(*words)
        _ENGINES.append(services.database.engine)
        return services

    monkeypatch.setattr(common, "build", build)
    yield
    while _ENGINES:
        _ENGINES.pop().dispose()


def opened(home: Path, url: str, pacs: ScriptedPacs | None = None) -> World:
    """Return the node in *home* over its database."""
    peers = [pacs.peer("pacs")] if pacs else []
    engine = open_engine(url or f"sqlite:///{home / 'node.db'}")
    _ENGINES.append(engine)
    return World(Database(engine), home, peers=peers)


def busy_node(home: Path, url: str, pacs: ScriptedPacs) -> World:
    """Make a node that has one study waiting, one running, one in a delivery that is cut off, one frozen."""
    invoke("init", "--home", str(home))
    (home / "tls").mkdir()
    (home / "tls" / "ca.pem").write_text("a certificate")
    if url:
        migrate(url)
    world = opened(home, url, pacs)
    for number in range(1, 5):
        world.keep(*synthetic_ct(slices=3, uid_prefix=f"2.25.{number}", patient_id=CANARY))
    world.settle()
    for number in (1, 2):
        job = world.start(f"gpu@elsewhere:{number}:1:1")
        world.publish(job, [("seg", SEG_CLASS, f"2.25.50{number}", make_seg(f"2.25.50{number}"))], ["pacs"])
    world.start("gpu@elsewhere:3:1:1")
    sending = next(job for job in world.jobs() if job.state is JobState.RESULT_READY)
    assert world.deliverer("io@elsewhere:4:1:1")._claim(sending.id)
    return world


def make_seg(sop_uid: str) -> bytes:
    """Return a result that a PACS takes."""
    (ds,) = synthetic_ct(slices=1)
    ds.SOPClassUID, ds.SOPInstanceUID = SEG_CLASS, sop_uid
    return part10(ds)


# A command leaves its connections to the end of its process, which here is that of the test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_with_work_in_flight_is_restored_elsewhere_and_delivers_nothing_twice(
    new_url: Callable[[], str], tmp_path: Path, pacs: ScriptedPacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the copy the old node delivered all it had: the new one asks and finds out. Counts and hashes hold."""
    url, other = new_url(), new_url()
    old = busy_node(tmp_path / "old", url, pacs)
    if url:
        monkeypatch.setenv("PACS_NODE_DATABASE_URL", url)
    said = json.loads(invoke("backup", str(tmp_path / "node.backup"), "--home", str(old.home), "--json"))
    assert said["rows"] == {"studies": 4, "instances": 12, "jobs": 4, "results": 2, "deliveries": 2}
    assert (tmp_path / "node.backup").stat().st_mode & 0o077 == 0
    _deliver_everything(old, pacs)

    if url:
        monkeypatch.setenv("PACS_NODE_DATABASE_URL", other)
    done = json.loads(invoke("restore", str(tmp_path / "node.backup"), "--home", str(tmp_path / "new"), "--json"))
    assert (done["rows"], done["asked_first"], done["voided"]) == (said["rows"], 2, 1)
    verified = json.loads(invoke("store", "verify", "--home", str(tmp_path / "new"), "--json"))
    assert verified == {"files": 14, "damaged": [], "missing": []}
    assert (tmp_path / "new" / "node-id").read_text() == (tmp_path / "old" / "node-id").read_text()
    assert (tmp_path / "new" / "tls" / "ca.pem").read_text() == "a certificate"

    new = opened(tmp_path / "new", other, pacs)
    new.clock = FixedClock(datetime.now(UTC))
    assert [job.state for job in new.jobs()].count(JobState.PENDING) == 2
    assert not [job for job in new.jobs() if job.owner]
    _deliver_everything(new, pacs)
    assert dict(pacs.received) == {"2.25.501": 1, "2.25.502": 1}
    assert [job.state for job in new.jobs()].count(JobState.DONE) == 2
    for world in (old, new):
        world.database.engine.dispose()


def _deliver_everything(world: World, pacs: ScriptedPacs) -> None:
    """Let the sweep free what died, then deliver all that is due."""
    world.clock.advance(3600)
    with world.database.transaction() as session:
        for delivery_id, owner, _ in results.sending(session):
            results.give_up_sending(session, delivery_id, owner=owner, at=world.clock())
    for job in world.jobs():
        world.deliverer().deliver(job.id)
        states = {delivery.state for delivery in world.deliveries(job.id)}
        assert states <= {DeliveryState.ACKED, DeliveryState.VERIFIED}


def test_a_backup_beside_a_busy_listener_is_whole(tmp_path: Path) -> None:
    """Instances come in while it is made: whatever the copy of the table names is in it."""
    home = tmp_path / "home"
    invoke("init", "--home", str(home))
    world = opened(home, "")
    stop = threading.Event()

    def receive() -> None:
        number = 0
        while not stop.is_set() and number < 400:
            number += 1
            world.keep(*synthetic_ct(slices=2, uid_prefix=f"2.25.7{number}"))

    listener = threading.Thread(target=receive)
    listener.start()
    try:
        for turn in range(3):
            invoke("backup", str(tmp_path / f"{turn}.backup"), "--home", str(home))
    finally:
        stop.set()
        listener.join()
    counts = []
    for turn in range(3):
        target = tmp_path / f"restored-{turn}"
        done = json.loads(invoke("restore", str(tmp_path / f"{turn}.backup"), "--home", str(target), "--json"))
        verified = json.loads(invoke("store", "verify", "--home", str(target), "--json"))
        assert (verified["damaged"], verified["missing"]) == ([], [])
        assert verified["files"] == done["rows"]["instances"]
        counts.append(verified["files"])
    assert counts == sorted(counts)
    world.database.engine.dispose()


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A backup of a small node."""
    home = tmp_path / "home"
    invoke("init", "--home", str(home))
    world = opened(home, "")
    world.keep(*synthetic_ct(slices=3))
    world.database.engine.dispose()
    invoke("backup", str(tmp_path / "node.backup"), "--home", str(home))
    return tmp_path / "node.backup"


def _cut_short(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _without_manifest(data: bytes) -> bytes:
    return data[: data.rindex(b"manifest.json\0")]


def _flipped(data: bytes) -> bytes:
    place = data.index(b"DICM") + 2000
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def _nothing(data: bytes) -> bytes:
    return b""


@pytest.mark.parametrize("harm", [_cut_short, _without_manifest, _flipped, _nothing], ids=lambda one: one.__name__)
def test_a_backup_that_is_not_whole_restores_nothing(
    made: Path, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    """No home appears, and nothing of it is left beside it."""
    made.write_bytes(harm(made.read_bytes()))
    with pytest.raises(BackupDamaged):
        backup.restore(made, tmp_path / "new", now=lambda: NOON)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "node.backup"]


@pytest.mark.parametrize("name", ["../outside", "/outside", "home/../../outside", "elsewhere/file", "store"])
def test_a_name_that_leads_out_of_the_home_is_refused(tmp_path: Path, name: str) -> None:
    """A file that somebody made up writes nowhere else."""
    data = b"harm"
    manifest = {"format": 1, "version": "0", "at": "", "database": "sqlite", "rows": {},
                "files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}}}  # fmt: skip
    with tarfile.open(tmp_path / "made-up", "w") as tar:
        for entry, content in ((name, data), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(entry)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(BackupDamaged):
        backup.restore(tmp_path / "made-up", tmp_path / "new" / "home", now=lambda: NOON)
    assert not list(tmp_path.rglob("outside"))


def test_only_an_empty_home_is_restored_into(made: Path, tmp_path: Path) -> None:
    """A node that lives is never written over."""
    with pytest.raises(SettingsError, match="not empty"):
        backup.restore(made, tmp_path / "home", now=lambda: NOON)
    (tmp_path / "empty").mkdir()
    assert backup.restore(made, tmp_path / "empty", now=lambda: NOON).rows["instances"] == 3


def test_a_database_in_use_is_not_written_over(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the old node's database: the restoration refuses it."""
    monkeypatch.setenv("PACS_NODE_DATABASE_URL", f"sqlite:///{tmp_path / 'home' / 'node.db'}")
    with pytest.raises(SettingsError, match="not empty: set database_url"):
        backup.restore(made, tmp_path / "new", now=lambda: NOON)


def test_what_was_not_whole_already_is_said_when_it_is_backed_up(made: Path, tmp_path: Path) -> None:
    """The backup is made all the same; exit code 1, and the names."""
    first, second, *_ = sorted((tmp_path / "home" / "store" / "instances").rglob("*.dcm"))
    first.write_bytes(b"rotten")
    second.unlink()
    done = CliRunner().invoke(app, ["backup", str(tmp_path / "second"), "--home", str(tmp_path / "home"), "--json"])
    said = json.loads(done.stdout)
    assert (done.exit_code, len(said["missing"]), len(said["damaged"])) == (1, 1, 1)


def test_where_a_backup_may_lie(made: Path, tmp_path: Path) -> None:
    """Never over another, never inside the home, and not while files are being deleted."""
    settings = load_settings(tmp_path / "home")
    world = opened(tmp_path / "home", "")
    for file in (made, settings.home / "inside"):
        with pytest.raises(SettingsError):
            backup.back_up(settings, world.store, file, at=NOON)
    with world.store.alone(), pytest.raises(StoreFull, match="try again"):
        backup.back_up(settings, world.store, tmp_path / "third", at=NOON)
    assert not (tmp_path / "third").exists()
    world.database.engine.dispose()


def test_another_kind_of_database_has_its_own_tools(tmp_path: Path) -> None:
    """A clear error, before anything is written."""
    settings = Settings(home=tmp_path / "home", database_url="mysql://node@db/node")  # type: ignore[arg-type]
    world = World.__new__(World)
    world.home = tmp_path / "home"
    World.__post_init__(world)
    with pytest.raises(SettingsError, match="own tools"):
        backup.back_up(settings, world.store, tmp_path / "file", at=NOON)
    assert not (tmp_path / "file").exists()
