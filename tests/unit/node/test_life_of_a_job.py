"""Study, job, lease and delivery under every order of events, with a crash between any two statements.

The machine does what listener, sweep, workers, people and a moody PACS do, in an order that hypothesis draws; each step
may die before any statement of it. Whatever happened, what was acknowledged is there, no work is held twice, the PACS
never holds two contents of one UID, and given peace everything comes to its end.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from sqlalchemy import event, text

from node.db import jobs, studies
from node.db.session import Database, open_engine
from node.db.tables import Base
from node.domain.job import ENDED, HELD, Job, JobState
from node.domain.peer import Answer, AnswerKind, OutgoingFile, Peer
from node.domain.result import DeliveryState
from node.domain.uid import UUID_ROOT, derive_uid
from node.errors import IllegalMove, LeaseLost, PeerAway
from node.intake import Intake
from node.steering import cancel_job, retry_job
from node.store import sha256_hex
from node.testing import part10, synthetic_ct
from tests.rig import Postgres
from tests.unit.node.conftest import SEG_CLASS, SR_CLASS, World

MAX_ATTEMPTS = 3
STUDIES, SLICES = 2, 4
WORKERS = ("gpu-a", "gpu-b")
PEER = Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
FILES = {
    (number, place): part10(ds)
    for number in range(STUDIES)
    for place, ds in enumerate(synthetic_ct(slices=SLICES, uid_prefix=f"2.25.77{number}", patient_id=f"P-{number}"))
}
crashes = st.one_of(st.none(), st.none(), st.integers(0, 12))
moods = st.lists(st.sampled_from(["takes", "takes", "away", "loses", "silent", "busy"]), max_size=4)


class Crash(BaseException):
    """kill -9: nothing catches it, no transaction of it is committed."""


@contextmanager
def dying(database: Database, after: int | None) -> Iterator[None]:
    """Die before statement or commit number *after* of the block; never, where that is none."""
    left = [-1 if after is None else after]

    def count(*_: Any, **__: Any) -> None:
        if left[0] == 0:
            raise Crash
        left[0] -= 1

    names = ("before_cursor_execute", "commit")
    for name in names:
        event.listen(database.engine, name, count)
    try:
        with suppress(Crash):
            yield
    finally:
        for name in names:
            event.remove(database.engine, name, count)


class MoodyPacs:
    """A peer that keeps what it takes, and takes, loses answers or is away as the mood of the moment says."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.moods: list[str] = []

    def echo(self) -> float:
        """It lives."""
        return 0.0

    def find(self, file: OutgoingFile) -> bool | None:
        """It tells the truth of what it holds."""
        return file.sop_uid in self.held

    def find_all(self, files: Sequence[OutgoingFile]) -> list[bool | None]:
        """It tells the truth."""
        return [self.find(file) for file in files]

    def patient_of(self, study_uid: str) -> None:
        """It does not say."""

    def commit(self, files: Sequence[OutgoingFile], transaction_uid: str, answered: Callable[[], bool]) -> None:
        """Nobody asks it: its peer is verified by query."""
        raise AssertionError((files, transaction_uid, answered))

    def send(self, files: Sequence[OutgoingFile]) -> Iterator[Answer]:
        """Take each file as the mood says."""
        for file in files:
            mood = self.moods.pop(0) if self.moods else "takes"
            if mood == "away":
                raise PeerAway("the peer is away: test")
            if mood == "busy":
                yield Answer(kind=AnswerKind.LATER, status="A700", reason="busy")
                continue
            if mood != "silent":
                digest = sha256_hex(file.path.read_bytes())
                assert self.held.setdefault(file.sop_uid, digest) == digest, "two contents under one UID"
            yield Answer(kind=AnswerKind.ACCEPTED if mood == "takes" else AnswerKind.UNKNOWN)


class Life(RuleBasedStateMachine):
    """What may happen."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="life-"))
        self.world = World(database, self.home, peers=[PEER])
        self.pacs = MoodyPacs()
        self.acked: dict[tuple[int, int], str] = {}
        self.hands: dict[str, Job] = {}
        self.lost: list[Job] = []  # jobs of workers that died: their ghosts may still act
        self.cancelled: set[str] = set()

    def teardown(self) -> None:
        """Given peace, all comes to its end."""
        try:
            self._peace()
        finally:
            self.world.database.engine.dispose()
            shutil.rmtree(self.home)

    # -- listener and sweep

    @rule(number=st.integers(0, STUDIES - 1), place=st.integers(0, SLICES - 1), crash=crashes)
    def receive(self, number: int, place: int, crash: int | None) -> None:
        """An instance is sent; success is said only where nothing died."""
        intake = Intake(self.world.database, self.world.store, self.world.clock, manufacturer="pacs-ai-node")
        with dying(self.world.database, crash):
            facts = intake.keep(FILES[number, place], calling_ae="SCANNER")
            self.acked[number, place] = facts.sop_uid
        self.world.clock.advance(1)

    @rule(seconds=st.sampled_from([5, 61, 400]))
    def time_goes_by(self, seconds: int) -> None:
        """Leases run out, waits end, studies fall quiet."""
        self.world.clock.advance(seconds)

    @rule(crash=crashes)
    def sweep(self, crash: int | None) -> None:
        """One round."""
        with dying(self.world.database, crash):
            self.world.sweep().round()

    # -- workers

    @rule(worker=st.sampled_from(WORKERS), crash=crashes)
    def take(self, worker: str, crash: int | None) -> None:
        """A worker without work claims some and begins."""
        if worker in self.hands:
            return
        with dying(self.world.database, crash):
            if (job := self.world.claim(worker)) is not None:
                with self.world.database.transaction() as session:
                    self.hands[worker] = jobs.start(session, job, at=self.world.clock())

    @rule(worker=st.sampled_from(WORKERS), crash=crashes)
    def beat(self, worker: str, crash: int | None) -> None:
        """Its heart beats; where the job is gone it lets go."""
        if worker not in self.hands:
            return
        with dying(self.world.database, crash), self.world.database.transaction() as session:
            ours = jobs.beat(
                session, self.hands[worker], now=self.world.clock(), lease=timedelta(seconds=60), progress=0.5, stage=""
            )
            if not ours:
                del self.hands[worker]

    @rule(worker=st.sampled_from(WORKERS), crash=crashes)
    def finish(self, worker: str, crash: int | None) -> None:
        """It publishes its set, or learns that the job is another's."""
        if worker in self.hands:
            self._publish(self.hands.pop(worker), crash)

    @rule(worker=st.sampled_from(WORKERS), crash=crashes)
    def fail(self, worker: str, crash: int | None) -> None:
        """Its attempt fails."""
        if worker not in self.hands:
            return
        job = self.hands.pop(worker)
        with dying(self.world.database, crash), suppress(LeaseLost), self.world.database.transaction() as session:
            now, wait = self.world.clock(), timedelta(seconds=30)
            jobs.give_back(session, job, reason="test", at=now, wait=wait, max_attempts=MAX_ATTEMPTS)

    @rule(worker=st.sampled_from(WORKERS))
    def die(self, worker: str) -> None:
        """It is no more; its ghost may come back."""
        if worker in self.hands:
            self.lost.append(self.hands.pop(worker))

    @rule(crash=crashes)
    def ghost(self, crash: int | None) -> None:
        """A worker that was thought dead publishes after all."""
        if self.lost:
            self._publish(self.lost.pop(0), crash)

    def _publish(self, job: Job, crash: int | None) -> None:
        files = [
            (role, sop_class, derive_uid(UUID_ROOT, job.study_uid, job.model, job.revision, job.input_digest, role),
             f"{role} of {job.study_uid} {job.input_digest}".encode())
            for role, sop_class in (("seg", SEG_CLASS), ("sr", SR_CLASS))
        ]  # fmt: skip
        with dying(self.world.database, crash), suppress(LeaseLost):
            self.world.publish(job, files, ["pacs"])

    # -- delivery and people

    @rule(mood=moods, crash=crashes)
    def deliver(self, mood: list[str], crash: int | None) -> None:
        """What is due is sent; the PACS has its moods."""
        self.pacs.moods = list(mood)
        with dying(self.world.database, crash):
            for job in self.world.jobs():
                self._deliverer().deliver(job.id)
        self.pacs.moods = []

    def _deliverer(self) -> Any:
        return self.world.deliverer(transport_to=lambda _: self.pacs)

    @rule(choice=st.integers(0, 5), crash=crashes)
    def cancel(self, choice: int, crash: int | None) -> None:
        """A person ends a job."""
        found = self.world.jobs()
        if choice < len(found):
            with dying(self.world.database, crash), suppress(IllegalMove, LeaseLost):
                cancel_job(self.world.database, found[choice].id, who="person", at=self.world.clock())
                self.cancelled.add(found[choice].id)

    @rule(choice=st.integers(0, 5), crash=crashes)
    def retry(self, choice: int, crash: int | None) -> None:
        """A person has a job tried again."""
        found = self.world.jobs()
        if choice < len(found):
            with dying(self.world.database, crash), suppress(IllegalMove, LeaseLost):
                retry_job(self.world.database, found[choice].id, who="person", at=self.world.clock())

    # -- what is always true

    @invariant()
    def acknowledged_instances_are_there(self) -> None:
        """Bytes and row."""
        with self.world.database.reading() as session:
            rows = {
                row.sop_uid: (row.path, row.content_sha)
                for row in session.execute(text("SELECT sop_uid, path, content_sha FROM instance"))
            }
        for sop_uid in self.acked.values():
            assert self.world.store.verify(*rows[sop_uid])

    @invariant()
    def nothing_is_held_twice(self) -> None:
        """One row for each piece of work; what is held has an owner and a lease; attempts are bounded."""
        found = self.world.jobs()
        assert len({(job.study_uid, job.model, job.revision) for job in found}) == len(found)
        for job in found:
            assert (job.state in HELD) == bool(job.owner) == (job.lease_until is not None)
            assert job.attempts <= MAX_ATTEMPTS

    @invariant()
    def what_is_done_is_in_the_pacs(self) -> None:
        """Each result under its own digest; what is not said to be there may be."""
        with self.world.database.reading() as session:
            rows = session.execute(text(
                "SELECT r.sop_uid, r.sha256, r.path, d.state, j.state AS job FROM result r "
                "JOIN job j ON j.id = r.job_id LEFT JOIN delivery d ON d.result_id = r.id"
            )).all()  # fmt: skip
        for row in rows:
            assert self.world.store.verify(row.path, row.sha256)
            if row.job == JobState.DONE:
                assert row.state == DeliveryState.VERIFIED
            if row.state in (DeliveryState.ACKED, DeliveryState.VERIFIED):
                assert self.pacs.held[row.sop_uid] == row.sha256

    def _peace(self) -> None:
        """Nothing dies any more, everybody is diligent: all studies settle, all jobs end, all results arrive."""
        self.hands.clear()
        for _ in range(12):
            self.world.clock.advance(400)
            self.world.sweep().round()
            while (job := self.world.claim("gpu-a")) is not None:
                with self.world.database.transaction() as session:
                    job = jobs.start(session, job, at=self.world.clock())
                self._publish(job, None)
            for job in self.world.jobs():
                self._deliverer().deliver(job.id)
        for job in self.world.jobs():
            assert job.state in ENDED, (job.state, job.reason)
        with self.world.database.reading() as session:
            known = {study.uid: study for study in studies.list_studies(session)}
        for number in range(STUDIES):
            if sum(key[0] == number for key in self.acked) < 3:
                continue
            study = known[f"2.25.77{number}"]
            assert study.state == "settled"
            mine = [job for job in self.world.jobs() if job.study_uid == study.uid]
            assert any(job.state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED) for job in mine)
            newest = max(mine, key=lambda job: job.revision)
            assert newest.state in (JobState.DONE, JobState.FAILED) or newest.id in self.cancelled, newest


def run(make: Callable[[], Database], examples: int) -> None:
    """Let hypothesis play."""
    found = settings(
        max_examples=examples, stateful_step_count=40, deadline=None, derandomize=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(lambda: Life(make()), settings=found)


@pytest.mark.timeout(280)
def test_life_on_sqlite(sqlite_template: Path, tmp_path: Path) -> None:
    """A fresh file each time."""
    count = iter(range(10**6))

    def make() -> Database:
        file = tmp_path / f"{next(count)}.db"
        shutil.copy(sqlite_template, file)
        return Database(open_engine(f"sqlite:///{file}"))

    run(make, 18)


@pytest.mark.postgres
@pytest.mark.timeout(280)
def test_life_on_postgresql(postgres: Postgres) -> None:
    """Emptied each time."""

    def make() -> Database:
        database = Database(open_engine(postgres.url("node")))
        with database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())
        return database

    run(make, 10)
