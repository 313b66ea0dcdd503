"""What a worker does when a model declines: the job ends, what it shows is kept, the next series is planned."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from node.bootstrap import Services
from node.db import jobs
from node.domain.job import Job, JobState
from node.errors import ModelNotApplicable, StoreFull
from node.pictures import encode_declined
from node.planning import settle_due
from node.store import Store
from node.testing import part10, synthetic_ct
from tests.integration.conftest import ONE_RULE, services_in
from workers.inference import InferenceChild, Ran, Request
from workers.tasks import run_most_urgent

PICTURE = encode_declined(np.full((3, 5, 3), 80, np.uint8))


class Declining(InferenceChild):
    """A child whose model declines whatever it is given, and shows it as told."""

    def __init__(self, **shows: Any) -> None:
        super().__init__()
        self._shows = shows

    def run(self, request: Request, **how: Any) -> Ran:  # noqa: ARG002  # the signature is the child's
        """Decline."""
        raise ModelNotApplicable("no lung is in view", **self._shows)


def receive(services: Services, images: list[Dataset]) -> None:
    """Receive and settle."""
    intake = services.intake()
    for image in images:
        intake.keep(part10(image), calling_ae="PACS")
    settle_due(services.database, services.settings.rules, services.settings.waits, now=services.now())


def run(services: Services, child: InferenceChild) -> list[Job]:
    """Answer one doorbell; return all jobs, oldest first."""
    run_most_urgent(services, child, hint="test", leaving=threading.Event())
    with services.database.reading() as session:
        return sorted(jobs.list_jobs(session), key=lambda job: job.created_at)


@pytest.fixture
def services(tmp_path: Path) -> Services:
    """A node with one settled study of two series."""
    made = services_in(tmp_path, ONE_RULE)
    receive(made, [*synthetic_ct(slices=6, series_number=3), *synthetic_ct(slices=4, series_number=5)])
    return made


def test_what_was_declined_is_kept_and_named(services: Services) -> None:
    """As PNG among the job's pictures, alone, under a name that tells nothing; the command names it."""
    with services.database.reading() as session:
        (job,) = jobs.list_jobs(session)
    kept = services.store.pictures(job.id)
    kept.mkdir(parents=True)
    (kept / "axial.png").write_bytes(b"of an attempt that died")
    first, second = run(services, Declining(picture=PICTURE))
    assert (first.state, second.state) == (JobState.NOT_APPLICABLE, JobState.PENDING)
    assert {file.name: file.read_bytes() for file in kept.iterdir()} == {"declined.png": PICTURE}
    line = [sys.executable, "-m", "node.cli", "job", first.id, "--home", str(services.settings.home), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(done.stdout)["pictures"] == [str(kept / "declined.png")]


def _full(*_: object) -> None:
    raise StoreFull("the store could not keep a picture: no space left on device")


@pytest.mark.parametrize(
    ("shows", "fault"), [({"picture": PICTURE}, "no space left"), ({"not_shown": "3000 x 2 pixels"}, "3000 x 2 pixels")]
)
def test_a_picture_that_cannot_be_kept_changes_nothing_else(
    services: Services, shows: dict[str, Any], fault: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The job ends as it would, the next series is read, and the log names what failed."""
    monkeypatch.setattr(Store, "put_declined", _full)
    with caplog.at_level(logging.WARNING):
        first, second = run(services, Declining(**shows))
    assert (first.state, first.reason) == (JobState.NOT_APPLICABLE, "no lung is in view")
    assert second.state is JobState.PENDING
    assert not services.store.pictures(first.id).exists()
    (told,) = [one for one in caplog.records if "picture" in one.getMessage()]
    assert fault in told.getMessage() and told.levelno == logging.WARNING


def test_a_worker_that_lost_its_lease_leaves_no_picture(services: Services) -> None:
    """Somebody cancelled the job while the model looked."""

    class Late(Declining):
        """Declines a job that was taken away."""

        def run(self, request: Request, **how: Any) -> Ran:
            """Have it cancelled first."""
            with services.database.transaction() as session:
                jobs.cancel(session, jobs.list_jobs(session)[0].id, who="web", at=services.now())
            return super().run(request, **how)

    (job,) = run(services, Late(picture=PICTURE))
    assert job.state is JobState.CANCELLED
    assert not services.store.pictures(job.id).exists()
