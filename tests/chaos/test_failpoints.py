"""Every named place: killed there, failed there, hung there; nothing is lost, nothing doubled, all comes to an end.

One running node is led through all of them: each time the file of failpoints is written anew and a study sent. `make
test-faults` kills at each place on SQLite; ``FAULTS=all`` also fails and hangs there, on both databases (an hour).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from node.failpoints import POINTS
from tests.chaos.oracle import at_rest, ends_of, judge
from tests.chaos.senders import Ledger, Modality
from tests.chaos.stand import Stand, running_stand
from tests.chaos.talker import Talker
from tests.rig import wait_for

pytestmark = [
    pytest.mark.chaos, pytest.mark.timeout(300),
    # The modality is pynetdicom: a report that comes while it releases its association ends its thread. The node's
    # threads are in processes of their own.
    pytest.mark.filterwarnings(r"ignore:Exception in thread Thread-\d+ .run_reactor:"
                               "pytest.PytestUnhandledThreadExceptionWarning"),
]  # fmt: skip

SAID = ("mpps.", "commitment.")  # only there the modality also tells its steps and asks for storage commitment
DECLINED = "declined."  # there the model has declined a series of water first
HANG = "hang:25"  # longer than a lease
ALL = os.environ.get("FAULTS") == "all"
ACTIONS = ["kill", "raise", HANG] if ALL else ["kill"]
DATABASES = ["sqlite", "postgres"] if ALL else ["sqlite"]


@dataclass
class Scene:
    """A node that was started once, and what was sent to it."""

    stand: Stand
    ledger: Ledger
    modality: Modality
    talker: Talker
    points: Path
    number: int = 0


@pytest.fixture(scope="module", params=DATABASES)
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A node under failpoints, an Orthanc behind a good line."""
    folder = tmp_path_factory.mktemp(f"failpoints-{request.param}")
    points = folder / "failpoints"
    with running_stand(folder, db=request.param, failpoints=points) as stand:
        ledger = Ledger()
        talker = Talker(stand.port, stand.called, stand.modality_port)
        with talker.listening():
            # A sender that is silent for longer than a study must be quiet would bring its rest as a second revision.
            modality = Modality(folder / "modality", 1, ledger, patience=2.5)
            yield Scene(stand, ledger, modality, talker, points)


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_lost_wherever_it_happens(point: str, action: str, scene: Scene) -> None:
    """The study ends as one set in the PACS, whatever happened at *point*; what was answered and reported is true."""
    hits = scene.points.with_name("failpoints.hits")
    shutil.rmtree(hits, ignore_errors=True)
    part = scene.points.with_suffix(".part")
    part.write_text(f"{point}={action}\n", encoding="ascii")
    part.replace(scene.points)
    study = scene.modality.make(scene.number, water=point.startswith(DECLINED))
    scene.number += 1
    talks = point.startswith(SAID)
    if talks:
        scene.talker.begin(study)
    scene.modality.send(study, scene.stand.port, scene.stand.called, threading.Event())
    if talks:
        scene.talker.end(study)
        scene.talker.ask(study)
    wait_for(f"{point} to be reached", lambda: list(hits.glob("*")) if hits.is_dir() else [], limit=60)
    runs = 3 if point.startswith(DECLINED) else 2  # of the model: the killed one again, there with the next series
    wait_for("all to come to rest", lambda: at_rest(scene.stand), limit=75 * runs)
    verdict = judge(scene.stand, scene.ledger, scene.talker.said)
    assert verdict.is_clean, verdict
    wanted = ["done", "not_applicable"] if point.startswith(DECLINED) else ["done"]
    assert ends_of(scene.stand, study.study_uid) == wanted
