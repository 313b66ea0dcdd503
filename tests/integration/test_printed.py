"""A destination whose profile asks for paper gets the printed report; nobody else does."""

from __future__ import annotations

import threading
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from node.bootstrap import Services, build, prepare
from node.db import jobs, results
from node.domain.job import Job, JobState
from node.domain.result import Result
from node.planning import settle_due
from node.settings import load_settings
from node.testing import part10, thorax_study
from workers.inference import InferenceChild
from workers.tasks import run_most_urgent

CONFIGURATION = """
quiet_period = 0.001
device = "cpu"
[[profile]]
name = "paper"
secondary_capture = false
pdf = true
[[peer]]
name = "pacs"
ae_title = "PACS"
[[peer]]
name = "archive"
ae_title = "ARCHIVE"
profile = "paper"
[[rule]]
name = "lungs"
model = "ct-lung"
destinations = {destinations}
"""


def ran(home: Path, destinations: str) -> tuple[Services, Job]:
    """Receive the phantom, settle, plan and run for *destinations*."""
    (home / "pacs-node.toml").write_text(CONFIGURATION.format(destinations=destinations), encoding="utf-8")
    settings = load_settings(home)
    prepare(settings)
    services = build(settings, "worker-gpu")
    intake = services.intake()
    (home / "study").mkdir()
    for file in thorax_study(home / "study", shape=(40, 96, 96)):
        intake.keep(part10(dcmread(file)), calling_ae="PACS")
    settle_due(services.database, settings.rules, settings.waits, now=services.now())
    child = InferenceChild()
    try:
        run_most_urgent(services, child, hint="test", leaving=threading.Event())
    finally:
        child.kill()
    with services.database.reading() as session:
        (job,) = jobs.list_jobs(session)
    assert (job.state, job.reason) == (JobState.RESULT_READY, "")
    return services, job


def sent(services: Services, job: Job, peer: str) -> list[Result]:
    """What *peer* is sent, in order."""
    with services.database.reading() as session:
        made = {one.id: one for one in results.results_of(session, job.id)}
        return [made[one.result_id] for one in results.deliveries_of(session, job.id) if one.peer == peer]


def test_the_report_goes_where_a_profile_asks_for_it(tmp_path: Path) -> None:
    """One set of results: pages for the one destination, the document for the other, the report for both."""
    services, job = ran(tmp_path, '["pacs", "archive"]')
    assert sorted({one.role for one in sent(services, job, "pacs")}) == ["sc", "seg", "sr"]
    paper = {one.role: one for one in sent(services, job, "archive")}
    assert sorted(paper) == ["pdf", "seg", "sr"]
    document = dcmread(services.store.path(paper["pdf"].path))
    assert document.EncapsulatedDocument.startswith(b"%PDF-")
    kept = services.store.pictures(job.id) / "report.pdf"
    assert kept.read_bytes() == document.EncapsulatedDocument[: document.EncapsulatedDocumentLength]
    page = next(one for one in sent(services, job, "pacs") if one.role == "sc")
    pixels = dcmread(BytesIO(services.store.path(page.path).read_bytes())).pixel_array
    assert pixels.shape == (1024, 1024, 3) and pixels.max() > 200


@pytest.mark.slow
def test_nothing_is_printed_that_nobody_asks_for(tmp_path: Path) -> None:
    """It takes time and names the patient."""
    services, job = ran(tmp_path, '["pacs"]')
    assert not (services.store.pictures(job.id) / "report.pdf").exists()
