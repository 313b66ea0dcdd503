"""A node without processes: its table on both databases, its store, its clock."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from pydicom import Dataset

from node.db import events, jobs, results, studies
from node.db.jobs import Address, NewJob, NewResult
from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.db.studies import Kept
from node.db.tables import Base
from node.delivery import Deliverer
from node.domain.job import Event, Job
from node.domain.peer import Peer
from node.domain.result import Delivery
from node.domain.rule import Rule
from node.domain.study import InstanceFacts, Study
from node.errors import BrokerAway
from node.filing import LONGEST
from node.intake import Intake
from node.planning import Planned, settle_due
from node.settings import Settings
from node.store import Store, sha256_hex
from node.sweep import Sweep
from node.testing import FixedClock, part10
from node.transport import Transport, open_transport
from tests.rig import FORGETFUL, Postgres, running_postgres

SEG_CLASS, SR_CLASS = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of this run's own on loopback; its database "node" has the node's tables."""
    with running_postgres(*FORGETFUL) as server:
        migrate(server.url("node"))
        yield server


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the node's tables."""
    file = tmp_path_factory.mktemp("template") / "node.db"
    migrate(f"sqlite:///{file}")
    return file


KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    server, name = request.getfixturevalue("postgres"), f"test_{uuid4().hex}"
    server.administer(f"CREATE DATABASE {name}")
    yield server.url(name)
    server.administer(f"DROP DATABASE {name}")


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with the node's tables, of each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "node.db")
        yield f"sqlite:///{tmp_path / 'node.db'}"
        return
    server = request.getfixturevalue("postgres")
    yield server.url("node")
    emptied = [f"DELETE FROM {table.name}" for table in reversed(Base.metadata.sorted_tables)]  # noqa: S608
    server.administer("; ".join(emptied), "node")  # quicker than a new database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """Transactions over a fresh database, of each kind."""
    engine = open_engine(database_url)
    yield Database(engine)
    engine.dispose()


@pytest.fixture
def sqlite_database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """Transactions over a fresh SQLite database, for what is the same on both."""
    shutil.copy(sqlite_template, tmp_path / "node.db")
    engine = open_engine(f"sqlite:///{tmp_path / 'node.db'}")
    yield Database(engine)
    engine.dispose()


class RecordingBroker:
    """A broker that notes each doorbell; *away* makes it fail as an absent Redis does."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, str]] = []
        self.away = False

    def ring(self, topic: str, job_id: str) -> None:
        """Note one doorbell."""
        if self.away:
            raise BrokerAway("the broker does not answer: test")
        self.rung.append((topic, job_id))

    def waiting(self) -> dict[str, int]:
        """Nothing waits: each bell was heard by this list."""
        return {}


RULE = Rule(
    name="lungs", model="ct-lung", modality=("CT",), min_slices=3, image_type_not=("LOCALIZER",),
    destinations=("pacs",),
)  # fmt: skip


@dataclass
class World:
    """A node's table, store and clock, and what tests do with them all the time."""

    database: Database
    home: Path
    clock: FixedClock = field(default_factory=FixedClock)
    broker: RecordingBroker = field(default_factory=RecordingBroker)
    rules: list[Rule] = field(default_factory=lambda: [RULE])
    peers: list[Peer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = Store(self.home / "store")

    def settings(self, **changes: Any) -> Settings:
        """Return settings with this world's rules and peers."""
        peers = [
            {
                "name": p.name, "ae_title": p.ae_title or None, "host": p.host or "127.0.0.1", "port": p.port or 104,
                "timeout": p.timeout, "verify": p.verify, "url": p.url, "token": p.token, "user": p.user,
                "password": p.password, "count": p.count, "count_after": p.count_after,
            }
            for p in self.peers
        ]  # fmt: skip
        rules = [{"name": r.name, "model": r.model} for r in self.rules]
        return Settings(**{"home": self.home, "peer": peers, "rule": rules, "quiet_period": 60, **changes})

    def keep(self, *datasets: Dataset, calling_ae: str = "SCANNER") -> None:
        """Receive instances, one second after another."""
        intake = Intake(self.database, self.store, self.clock, manufacturer="pacs-ai-node")
        for ds in datasets:
            intake.keep(part10(ds), calling_ae=calling_ae)
            self.clock.advance(1)

    def settle(self, after: float = 61.0) -> list[Planned]:
        """Let *after* seconds go by and settle what is quiet for a minute."""
        self.clock.advance(after)
        return settle_due(self.database, self.rules, self.settings().waits, now=self.clock())

    def study(self, uid: str) -> Study:
        """Return one study."""
        with self.database.reading() as session:
            return studies.get_study(session, uid)

    def jobs(self) -> list[Job]:
        """Return all jobs by revision and model."""
        with self.database.reading() as session:
            return sorted(jobs.list_jobs(session), key=lambda job: (job.revision, job.model))

    def job(self, job_id: str) -> Job:
        """Return one job."""
        with self.database.reading() as session:
            return jobs.get(session, job_id)

    def story(self, **of: str) -> list[Event]:
        """Return the events of a job or study."""
        with self.database.reading() as session:
            return events.story(session, **of)

    def deliveries(self, job_id: str) -> list[Delivery]:
        """Return the deliveries of a job, by peer, in the order of sending."""
        with self.database.reading() as session:
            return results.deliveries_of(session, job_id)

    def bells(self) -> list[tuple[str, str]]:
        """Return the doorbells still to be rung."""
        with self.database.reading() as session:
            return [(topic, job_id) for _, topic, job_id in events.unrung(session)]

    def add_job(self, model: str = "ct-lung", **changes: Any) -> str:
        """Insert a study of one instance and a pending job for it; return the job's id."""
        study_uid = changes.pop("study_uid", f"2.25.{uuid4().int}")
        values = {
            "study_uid": study_uid, "series_uid": f"{study_uid}.1", "model": model, "model_digest": "m" * 64,
            "revision": 1, "rule": "lungs", "priority": 5, "input_digest": "i" * 64, "calling_ae": "SCANNER",
            "destinations": ("pacs",), "instance_ids": (), **changes,
        }  # fmt: skip
        with self.database.transaction() as session:
            studies.keep_instance(session, an_instance(study_uid, self.clock), wakes=True)
            return jobs.add(session, NewJob(**values), at=self.clock())

    def claim(self, worker: str = "gpu-0", lease: float = 60.0) -> Job | None:
        """Claim the most urgent job."""
        with self.database.transaction() as session:
            return jobs.claim(session, worker=worker, now=self.clock(), lease=_seconds(lease))

    def start(self, worker: str = "gpu-0") -> Job:
        """Claim the most urgent job and begin its attempt."""
        job = self.claim(worker)
        assert job is not None
        with self.database.transaction() as session:
            return jobs.start(session, job, at=self.clock())

    def publish(
        self,
        job: Job,
        files: Sequence[tuple[str, str, str, bytes]],
        peers: Sequence[str],
        profiles: dict[str, set[str]] | None = None,
    ) -> list[NewResult]:
        """Freeze files (role, SOP class, SOP UID, bytes) as the results of *job* for *peers*, and record them.

        *profiles* says of a role which profiles it is of, where that is not the default one; of a peer of which it is.
        """
        of = profiles or {}
        named = [(f"{role}.dcm", data) for role, _, _, data in files]
        paths = self.store.put_results(job.id, job.epoch, named)
        made = [
            NewResult(
                role=role, sop_class=sop_class, sop_uid=uid, path=path, sha256=sha256_hex(data), size=len(data),
                profiles=frozenset(of.get(role, {"default"})),
            )
            for (role, sop_class, uid, data), path in zip(files, paths, strict=True)
        ]  # fmt: skip
        where = [Address(peer=peer, profile=next(iter(of.get(peer, {"default"})))) for peer in peers]
        with self.database.transaction() as session:
            jobs.publish(session, job, made, where, at=self.clock())
        return made

    def deliverer(
        self, worker: str = "io-0", transport_to: Callable[[Peer], Transport] | None = None, **changes: Any
    ) -> Deliverer:
        """Return what sends results to this world's peers, by C-STORE unless told otherwise."""
        return Deliverer(
            database=self.database, store=self.store, settings=self.settings(**changes), worker=worker, now=self.clock,
            transport_to=transport_to or (lambda peer: open_transport(peer, calling_ae="PACSAINODE")),
        )  # fmt: skip

    def sweep(self) -> Sweep:
        """Return a sweep that rings this world's broker."""
        return Sweep(
            self.database, self.store, self.broker, self.settings(), self.clock, self.clock.monotonic  # type: ignore[arg-type]
        )


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=seconds)


def an_instance(study_uid: str, clock: FixedClock, *, content: str = "c" * 64, **facts: Any) -> Kept:
    """Return one recorded instance of a study, as the store kept it."""
    values: dict[str, Any] = {
        "sop_uid": f"{study_uid}.1.1", "sop_class": "1.2.840.10008.5.1.4.1.1.2", "study_uid": study_uid,
        "series_uid": f"{study_uid}.1", "transfer_syntax": "1.2.840.10008.1.2.1", "patient_id": "P-1",
        "modality": "CT", "rows": 4, "columns": 4, **facts,
    }  # fmt: skip
    return Kept(
        facts=InstanceFacts(**values), orientation="axial", content_sha=content, path=f"instances/{content[:8]}",
        size=100, calling_ae="SCANNER", at=clock(),
    )  # fmt: skip


@pytest.fixture
def world(database: Database, tmp_path: Path) -> World:
    """A node without processes on each kind of database."""
    return World(database, tmp_path / "home")


@pytest.fixture
def sqlite_world(sqlite_database: Database, tmp_path: Path) -> World:
    """A node without processes on SQLite, for what is the same on both."""
    return World(sqlite_database, tmp_path / "home")


JOURNAL = 8 << 20  # bytes


@pytest.fixture
def opened(world: World) -> Iterator[Callable[..., Intake]]:
    """Return a function that opens the store's listener anew, as a process does that starts."""
    all_of_them: list[Intake] = []

    def start(*, longest: float = LONGEST) -> Intake:
        intake = Intake(world.database, world.store, world.clock, manufacturer="pacs-ai-node")
        intake.open_logbook(JOURNAL, longest=longest)
        all_of_them.append(intake)
        return intake

    yield start
    for intake in all_of_them:
        assert intake.logbook is not None
        intake.logbook.close(limit=10)
