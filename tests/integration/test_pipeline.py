"""The way of a study inside one process: settled, planned, run, encoded per profile, kept; then looked at again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from models import catalogue
from node.bootstrap import Services
from node.db import events, jobs, results
from node.db.results import Outcome
from node.domain.job import Job, JobState
from node.domain.result import DeliveryState
from node.errors import GpuOutOfMemory
from node.planning import settle_due
from node.testing import part10, thorax_study
from tests.integration.conftest import services_in
from workers.inference import InferenceChild, Ran, Request
from workers.tasks import run_most_urgent

CONFIGURATION = """
quiet_period = 0.001
device = "cpu"
[[profile]]
name = "words"
seg = "none"
sr = "comprehensive"
secondary_capture = false
[[peer]]
name = "pacs"
ae_title = "PACS"
[[peer]]
name = "archive"
ae_title = "ARCHIVE"
profile = "words"
[[rule]]
name = "lungs"
model = "ct-lung"
destinations = ["pacs", "archive"]
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """A node with two destinations of different profiles."""
    return services_in(tmp_path_factory.mktemp("home"), CONFIGURATION)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """The phantom, coarse."""
    files = thorax_study(tmp_path_factory.mktemp("study"), shape=(60, 128, 128))
    return [dcmread(file) for file in files]


def run(services: Services, child: InferenceChild, images: list[Dataset]) -> Job:
    """Receive, settle, plan and run; return the newest job."""
    intake = services.intake()
    for image in images:
        intake.keep(part10(image), calling_ae="PACS")
    settle_due(services.database, services.settings.rules, services.settings.waits, now=services.now())
    run_most_urgent(services, child, hint="test", leaving=threading.Event())
    with services.database.reading() as session:
        return max(jobs.list_jobs(session), key=lambda job: job.revision)


@pytest.fixture(scope="module")
def first(services: Services, child: InferenceChild, images: list[Dataset]) -> Job:
    """The first job, run."""
    return run(services, child, images)


def test_each_destination_has_the_objects_of_its_profile(services: Services, first: Job) -> None:
    """The archive takes words only; nothing is encoded that nobody is sent."""
    assert (first.state, first.reason) == (JobState.RESULT_READY, "")
    with services.database.reading() as session:
        made = {result.id: f"{result.role} {result.variant}" for result in results.results_of(session, first.id)}
        sent = sorted({(one.peer, made[one.result_id]) for one in results.deliveries_of(session, first.id)})
    assert [what for peer, what in sent if peer == "archive"] == ["sr comprehensive en none none 0"]
    assert {what.split()[0] for peer, what in sent if peer == "pacs"} == {"seg", "sr", "sc"}
    assert {"seg binary", "sr comprehensive-3d en binary none 0"} <= {what for peer, what in sent if peer == "pacs"}
    assert len(set(made.values())) >= 4


def preview(services: Services, job: Job, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    line = [sys.executable, "-m", "node.cli", "preview", job.id, "--home", str(services.settings.home)]
    return subprocess.run(
        [*line, "--out", str(out), *more], capture_output=True, text=True, check=False, timeout=120
    )


def test_a_preview_is_what_was_frozen(services: Services, first: Job, tmp_path: Path) -> None:
    """The same bytes, without a run of the model; pictures and a tree beside them."""
    done = preview(services, first, tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert [one["role"] for one in told["objects"]][:2] == ["seg", "sr"]
    with services.database.reading() as session:
        frozen = {one.sop_uid: one for one in results.results_of(session, first.id)}
    for file in tmp_path.glob("*.dcm"):
        same = frozen[str(dcmread(file, stop_before_pixels=True).SOPInstanceUID)]
        assert file.read_bytes() == services.store.path(same.path).read_bytes()
    tree = (tmp_path / "tree.txt").read_text(encoding="utf-8")
    assert "segment 1: Left lung" in tree and "NUM Volume: " in tree
    assert list(tmp_path.glob("page-*.png"))


def test_a_preview_of_what_is_not_there_says_so(services: Services, first: Job, tmp_path: Path) -> None:
    """An unknown profile lists the known ones."""
    done = preview(services, first, tmp_path, "--profile", "rich")
    assert done.returncode == 3 and "known: default, words" in done.stderr


def test_a_revision_names_the_report_that_it_replaces(
    services: Services, child: InferenceChild, images: list[Dataset], first: Job
) -> None:
    """After an accepted result a changed image leads to a report with its predecessor; tracking UIDs stay."""
    with services.database.transaction() as session:
        taken = results.claim(session, first.id, worker="w", now=services.now(), lease=services.settings.lease)
        for delivery, _ in taken:
            results.conclude(session, delivery, Outcome(state=DeliveryState.ACKED), worker="w", at=services.now())
    changed = images[30].copy()
    pixels = np.frombuffer(changed.PixelData, "<i2").copy()
    pixels[:200] += 1
    changed.PixelData = pixels.tobytes()
    second = run(services, child, [changed])
    assert (second.revision, second.state) == (2, JobState.RESULT_READY)
    with services.database.reading() as session:
        sets = [results.results_of(session, job.id) for job in (first, second)]
    reports = [
        {one.variant: dcmread(services.store.path(one.path)) for one in made if one.role == "sr"} for made in sets
    ]
    for variant, report in reports[1].items():
        study = report.PredecessorDocumentsSequence[0]
        named = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        assert named == reports[0][variant].SOPInstanceUID
    tracked = [
        sorted(one.TrackingUID for one in dcmread(services.store.path(made[0].path)).SegmentSequence) for made in sets
    ]
    assert tracked[0] == tracked[1]


@pytest.mark.usefixtures("first")
def test_a_model_that_was_changed_meanwhile_fails_the_job_and_says_so(
    services: Services, child: InferenceChild, images: list[Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody may take the new model's results for those of the one that was asked."""
    changed = images[31].copy()
    changed.PixelData = bytes(len(changed.PixelData))
    real = catalogue.digest("ct-lung")
    digests = iter([real])  # planning asks first
    monkeypatch.setattr(catalogue, "digest", lambda _: next(digests, "0" * 64))
    job = run(services, child, [changed])
    assert job.state is JobState.FAILED
    assert "has changed since this job was planned" in job.reason
    with services.database.reading() as session:
        assert results.results_of(session, job.id) == []


class FullGpu(InferenceChild):
    """A child whose GPU has no memory: it says so as a real one does, and works without."""

    devices: list[str]

    def run(self, request: Request, **how: Any) -> Ran:
        """Fail where a GPU is wanted."""
        self.devices.append(request.device)
        if request.device != "cpu":
            raise GpuOutOfMemory("the GPU has not enough memory")
        return super().run(request, **how)


@pytest.mark.usefixtures("first")
def test_a_full_gpu_costs_time_and_not_the_result(services: Services, images: list[Dataset]) -> None:
    """Once more on the processor within the same attempt; the job's story says so."""
    changed = images[32].copy()
    changed.PixelData = bytes(len(changed.PixelData))
    wide = replace(services, settings=services.settings.model_copy(update={"device": "cuda"}))
    child = FullGpu()
    child.devices = []
    try:
        job = run(wide, child, [changed])
    finally:
        child.kill()
    assert (job.state, job.attempts, child.devices) == (JobState.RESULT_READY, 1, ["cuda", "cpu"])
    with services.database.reading() as session:
        assert "without GPU" in [one.what for one in events.story(session, job_id=job.id)]
