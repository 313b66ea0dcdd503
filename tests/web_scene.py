"""A node's tables with jobs in every state, and its page served on loopback: what the tests of the page look at."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from PIL import Image

from node.db import chosen, events, jobs, results, studies
from node.db.chosen import Choice
from node.db.jobs import Address, NewJob, NewResult
from node.db.results import Outcome
from node.db.schema import migrate
from node.db.session import Database, open_engine
from node.db.studies import Kept
from node.db.tables import StudyRow
from node.domain.job import Job, JobState
from node.domain.result import DeliveryState
from node.domain.study import InstanceFacts
from node.domain.uid import derive_uid
from node.settings import Settings
from node.store import Store
from node.web.app import make_server, make_web_app
from node.web.live import Live

LEASE = timedelta(minutes=5)
WORKER = "worker-gpu@reading-room:abcd1234:4711:99"
PATIENT = "PATIENT-4711"
CANARY = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"


@dataclass
class Clock:
    """A clock that the test moves."""

    at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))

    def __call__(self) -> datetime:
        """Return the time that it is here."""
        return self.at

    def forward(self, **span: float) -> datetime:
        """Let time pass."""
        self.at += timedelta(**span)
        return self.at


@dataclass
class Scene:
    """One node's tables and store, and short words to fill them."""

    database: Database
    store: Store
    settings: Settings
    clock: Clock
    count: int = 0
    live: Live | None = None  # of the page that was served last

    def study(self, description: str = "Chest CT", *, patient: str = PATIENT, uid: str = "") -> str:
        """Keep one instance of one study; return the study's UID."""
        self.count += 1
        uid = uid or f"1.2.826.0.1.3680043.8.498.{10**12 + self.count * 7919}"
        digest = sha256(f"{uid} {self.count}".encode()).hexdigest()
        facts = InstanceFacts(
            sop_uid=f"{uid}.1.{self.count}", sop_class="1.2.840.10008.5.1.4.1.1.2", study_uid=uid,
            series_uid=f"{uid}.1", transfer_syntax="1.2.840.10008.1.2.1", patient_id=patient, study_date="20260314",
            study_description=description, modality="CT", body_part="CHEST", series_number=3,
            series_description=f"series of {description}", rows=512, columns=512, slice_thickness=1.25,
        )  # fmt: skip
        kept = Kept(
            facts=facts, orientation="axial", content_sha=digest, path=f"instances/{digest}.dcm", size=526_000,
            calling_ae="CT_SCANNER", at=self.clock(),
        )  # fmt: skip
        with self.database.transaction() as session:
            studies.keep_instance(session, kept, wakes=True)
        return uid

    def settle(self, uid: str, *choices: Choice, reason: str = "no instance for 60 s; 1 job planned") -> None:
        """Settle a study with what the rules said of its series."""
        with self.database.transaction() as session:
            study = session.get_one(StudyRow, uid)
            chosen.add(session, uid, study.revision + 1, choices)
            studies.mark_settled(session, study, reason=reason)
            events.record(session, "settled", who="sweep", at=self.clock(), detail=reason, study_uid=uid)

    def job(self, description: str = "Chest CT", *, model: str = "ct-lung", rule: str = "lungs") -> str:
        """Plan one job of a new, settled study; it is the most urgent one. Return its id."""
        uid = self.study(description)
        self.settle(uid, Choice(series_uid=f"{uid}.1", rule=rule, model=model, reason=""))
        with self.database.transaction() as session:
            inputs = studies.instances_of(session, uid, f"{uid}.1")
            new = NewJob(
                study_uid=uid, series_uid=f"{uid}.1", model=model, model_digest="5" * 64, revision=1, rule=rule,
                priority=10_000 - self.count, input_digest=sha256(uid.encode()).hexdigest(), calling_ae="CT_SCANNER",
                destinations=("sender",), instance_ids=tuple(instance.id for instance in inputs),
            )  # fmt: skip
            return jobs.add(session, new, at=self.clock())

    def claim(self) -> Job:
        """Let a worker take the job that was planned last."""
        with self.database.transaction() as session:
            job = jobs.claim(session, worker=WORKER, now=self.clock(), lease=LEASE)
        assert job is not None
        return job

    def start(self) -> Job:
        """Let a worker take the job that was planned last, and begin."""
        job = self.claim()
        with self.database.transaction() as session:
            return jobs.start(session, job, at=self.clock())

    def beat(self, job: Job, progress: float, stage: str) -> None:
        """Let the worker say how far it is."""
        with self.database.transaction() as session:
            jobs.beat(session, job, now=self.clock(), lease=LEASE, progress=progress, stage=stage)

    def end(self, job: Job, state: JobState, reason: str) -> Job:
        """End a running job."""
        with self.database.transaction() as session:
            return jobs.end(session, job, state, reason=reason, at=self.clock())

    def publish(self, job: Job, peer: str = "pacs", *, parked: str = "") -> Job:
        """Freeze the results of a running job."""
        made = [
            NewResult(
                role=role, sop_class=f"1.2.840.10008.5.1.4.1.1.{end}", sop_uid=derive_uid("2.25", job.id, role),
                path=f"results/{job.id}/{role}.dcm", sha256="0" * 64, size=size,
            )
            for role, end, size in (("seg", "66.4", 1_234_567), ("sr", "88.34", 18_200))
        ]  # fmt: skip
        with self.database.transaction() as session:
            return jobs.publish(session, job, made, [Address(peer=peer, reason=parked)], at=self.clock())

    def deliver(self, job: Job, *outcomes: Outcome) -> None:
        """Let a worker try the deliveries of a job; each gets its outcome."""
        with self.database.transaction() as session:
            ready = jobs.get(session, job.id)
            if ready.state is JobState.RESULT_READY:
                jobs.advance(session, ready, JobState.DELIVERING, at=self.clock())
            batch = results.claim(session, job.id, worker=WORKER, now=self.clock(), lease=LEASE)
            for (delivery, _), outcome in zip(batch, outcomes, strict=True):
                results.conclude(session, delivery, outcome, worker=WORKER, at=self.clock())

    def finish(self, job: Job) -> None:
        """Let a peer take everything."""
        accepted = Outcome(state=DeliveryState.ACKED, status="0000")
        self.deliver(job, accepted, accepted)
        with self.database.transaction() as session:
            jobs.advance(session, jobs.get(session, job.id), JobState.DONE, at=self.clock())

    def pictures(self, job_id: str, *names: str) -> Path:
        """Draw overlay pictures for a job; return their folder."""
        folder = self.store.pictures(job_id)
        folder.mkdir(parents=True)
        for shade, name in enumerate(names, start=2):
            Image.new("RGB", (240, 180), (20 * shade, 30 * shade, 40 * shade)).save(folder / f"{name}.png")
        return folder


def new_scene(home: Path) -> Scene:
    """Return an empty scene that lives in *home*."""
    settings = Settings(home=home, ae_title="READING_ROOM")
    migrate(settings.database)
    database = Database(open_engine(settings.database))
    return Scene(database=database, store=Store(home / "store"), settings=settings, clock=Clock())


def fill(scene: Scene) -> dict[str, str]:
    """Put one job into each state, one with a parked delivery, and studies without a job; return the job ids."""
    ids: dict[str, str] = {}
    _finished(scene, ids)
    _unlucky(scene, ids)
    _under_way(scene, ids)
    _studies(scene)
    return ids


def _finished(scene: Scene, ids: dict[str, str]) -> None:
    ids["done"] = scene.job("CT thorax with contrast", model="ct-lung-nodule", rule="nodules")
    job = scene.start()
    scene.clock.forward(seconds=42)
    scene.finish(scene.publish(job))
    scene.pictures(job.id, "axial", "coronal", "sagittal", "detection-1")
    ids["superseded"] = scene.job("Chest follow-up")
    with scene.database.transaction() as session:
        jobs.supersede_unfinished(session, jobs.get(session, ids["superseded"]).study_uid, 2, at=scene.clock())
    ids["cancelled"] = scene.job("CT chest low dose")
    with scene.database.transaction() as session:
        jobs.cancel(session, ids["cancelled"], who="web", at=scene.clock())


def _unlucky(scene: Scene, ids: dict[str, str]) -> None:
    scene.clock.forward(minutes=9)
    reasons = {
        JobState.FAILED: "the model needed more GPU memory than there is: 11.2 of 8.0 GiB",
        JobState.INPUT_INVALID: "slices 41 to 43 are missing: the gap is 3.75 mm where 1.25 mm was expected",
        JobState.NOT_APPLICABLE: "no lung in the volume: the scan ends at the diaphragm",
    }
    for state, reason in reasons.items():
        ids[state] = scene.job(f"CT {state.replace('_', ' ')}")
        scene.end(scene.start(), state, reason)
    ids["parked"] = scene.job("HRCT thorax")
    job = scene.publish(scene.start())
    refused = Outcome(state=DeliveryState.PARKED, status="0122", reason="the peer refuses the SOP class")
    scene.deliver(job, refused, Outcome(state=DeliveryState.RETRY_WAIT, reason="waits behind the result before it"))
    with scene.database.transaction() as session:
        reason = "delivery to pacs parked: the peer refuses the SOP class"
        jobs.set_reason(session, jobs.get(session, job.id), reason, at=scene.clock())


def _under_way(scene: Scene, ids: dict[str, str]) -> None:
    scene.clock.forward(minutes=20)
    ids["result_ready"] = scene.job("CT result ready")
    scene.publish(scene.start())
    ids["delivering"] = scene.job("CT delivering")
    away = Outcome(state=DeliveryState.RETRY_WAIT, reason="connection refused by pacs:104", wait=timedelta(minutes=2))
    scene.deliver(scene.publish(scene.start()), Outcome(state=DeliveryState.ACKED, status="0000"), away)
    ids["retry_wait"] = scene.job("CT retry")
    with scene.database.transaction() as session:
        job = jobs.claim(session, worker=WORKER, now=scene.clock(), lease=LEASE)
        assert job is not None
        wait = timedelta(minutes=3)
        jobs.give_back(session, job, reason="the worker died", at=scene.clock(), wait=wait, max_attempts=3)
    ids["leased"] = scene.job("CT claimed")
    scene.claim()
    ids["running"] = scene.job("CT thorax and abdomen, portal venous phase", model="ct-lung-nodule", rule="nodules")
    scene.beat(scene.start(), 0.42, "splitting left from right")
    scene.clock.forward(minutes=1)
    ids["pending"] = scene.job("CT waiting")


def _studies(scene: Scene) -> None:
    knee = scene.study("MR knee")
    refusal = Choice(series_uid=f"{knee}.1", rule="lungs", model="ct-lung", reason="modality is MR, wanted CT")
    scene.settle(knee, refusal, reason="no instance for 60 s; no rule wants any of its series")
    twice = scene.study("CT of two people")
    scene.study("CT of two people", uid=twice, patient="SOMEBODY-ELSE")
    scene.study("CT still coming")


@contextmanager
def served(scene: Scene) -> Iterator[str]:
    """Serve the page of *scene* on a free port of loopback; yield its address."""
    app = make_web_app(database=scene.database, store=scene.store, settings=scene.settings, now=scene.clock)
    scene.live = app.state.live
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = make_server(app, host="127.0.0.1", port=port)
    thread = threading.Thread(target=server.run, name="page")
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        assert not thread.is_alive()
