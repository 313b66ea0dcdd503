"""Images that no model should see, by their numbers: kept as sent, and their job ends with a reason for a person."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable

import pytest
from pydicom import Dataset, dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from node.bootstrap import Services
from node.db import chosen, jobs, studies
from node.domain.job import Job, JobState
from node.planning import settle_due
from node.testing import part10, synthetic_ct
from tests.integration.conftest import ONE_RULE, services_in
from workers.inference import InferenceChild
from workers.tasks import run_most_urgent

CONFIGURATION = ONE_RULE + "max_slices = 100\n"
Change = Callable[[list[Dataset]], object]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Services:
    """A node with one rule."""
    return services_in(tmp_path_factory.mktemp("home"), CONFIGURATION)


def settled(services: Services, images: list[Dataset], study_uid: str) -> list[Job]:
    """Receive a study, settle and plan it; return its jobs."""
    intake = services.intake()
    for image in images:
        intake.keep(part10(image), calling_ae="PACS")
    settle_due(services.database, services.settings.rules, services.settings.waits, now=services.now())
    with services.database.reading() as session:
        return [job for job in jobs.list_jobs(session) if job.study_uid == study_uid]


def _in(syntax: str) -> Change:
    """Give one image a stream of a syntax that is none."""

    def change(images: list[Dataset]) -> None:
        for image in images:
            image.file_meta.TransferSyntaxUID = syntax
            image.PixelData = encapsulate([b"\xff\xd8\xff no picture at all " * 20])
            image["PixelData"].VR = "OB"
            image["PixelData"].is_undefined_length = True

    return change


def _all(**changes: object) -> Change:
    return lambda images: [setattr(image, name, value) for image in images for name, value in changes.items()]


CASES: dict[str, tuple[Change, str]] = {
    "B17 too few pixels": (lambda images: setattr(images[2], "PixelData", bytes(10)), "image 3"),
    "B17 too many pixels": (lambda images: setattr(images[2], "PixelData", b"\1" * 4000), "image 3"),
    "B20 sixteen gigabytes claimed": (_all(Rows=65535, Columns=65535), "larger than any scanner makes"),
    "B20 a million frames claimed": (_all(NumberOfFrames=1_000_000), "frames"),
    "B21 no JPEG": (_in(JPEGBaseline8Bit), ""),
    "B21 no JPEG-LS": (_in(JPEGLSLossless), ""),
    "B21 no JPEG 2000": (_in(JPEG2000Lossless), ""),
    "B21 no HTJ2K": (_in(HTJ2KLossless), ""),
    "B21 no RLE": (_in(RLELossless), ""),
    "B28 slices are missing": (lambda images: images.__delitem__(slice(4, 8)), "without a slice"),
    "B28 one image turned": (lambda images: [setattr(one, "ImageOrientationPatient", [1, 0, 0, 0, 0, -1])
                                             for one in images[::2]], "alike"),
    "B28 another modality among them": (lambda images: setattr(images[3], "Modality", "MR"), "several modalities"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_no_model_should_see_is_kept_and_its_job_says_why(
    case: str, services: Services, child: InferenceChild
) -> None:
    """INPUT_INVALID after one attempt: the same bytes will not become better; the next study is not in its way."""
    change, words = CASES[case]
    study_uid = f"2.25.88.{list(CASES).index(case) + 1}"
    images = synthetic_ct(slices=12, uid_prefix=study_uid)
    change(images)
    (planned,) = settled(services, images, study_uid)
    run_most_urgent(services, child, hint="test", leaving=threading.Event())
    with services.database.reading() as session:
        (job,) = [one for one in jobs.list_jobs(session) if one.id == planned.id]
        study = studies.get_study(session, study_uid)
    assert (job.state, job.attempts) == (JobState.INPUT_INVALID, 1), job.reason
    assert words in job.reason
    assert study.instances == len(images)


def test_b21_b23_what_is_broken_inside_is_kept_byte_for_byte(services: Services) -> None:
    """The store holds what was sent: a name in no character set, a stream that is none."""
    (image,) = synthetic_ct(slices=1, uid_prefix="2.25.89")
    _in(JPEG2000Lossless)([image])
    data = part10(image).replace(b"SYNTHETIC^SERIES", b"\x1b$)C\xff\xfe\xed\xa0\x80^X\x1b(Bxy")
    facts = services.intake().keep(data, calling_ae="PACS")
    assert facts.study_description.isprintable()
    with services.database.reading() as session:
        (stored,) = studies.instances_of(session, "2.25.89", "2.25.89.1")
    kept = services.store.path(stored.path).read_bytes()
    assert kept == data
    assert dcmread(io.BytesIO(kept), stop_before_pixels=True).SOPInstanceUID == "2.25.89.1.1"


def test_b30_a_series_longer_than_a_rule_takes_is_refused_with_its_reason(services: Services) -> None:
    """Kept whole; nothing runs, and the study says why (max_slices)."""
    assert settled(services, synthetic_ct(slices=101, rows=2, columns=2, uid_prefix="2.25.90"), "2.25.90") == []
    with services.database.reading() as session:
        study = studies.get_study(session, "2.25.90")
        said = [choice.reason for choice in chosen.of_study(session, "2.25.90")]
    assert study.instances == 101
    assert len(said) == 1 and "101" in said[0]


