"""A PACS that is away gets its results when it is back, and the model is not run again."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.domain.job import Job, JobState
from node.testing import ScriptedPacs, thorax_study
from tests.rig import RunningNode, free_port, wait_for
from tests.system.conftest import StartNode
from tests.system.test_kills import LUNGS_ONLY, send

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_pacs_that_is_down_gets_its_results_when_it_returns(start_node: StartNode, tmp_path: Path) -> None:
    """The delivery waits, visible with its reason; one attempt of the model is enough."""
    port = free_port()
    node = start_node(f'[[peer]]\nname = "pacs"\nae_title = "PACS"\nport = {port}\n{LUNGS_ONLY}')
    send(thorax_study(tmp_path / "study"), node, "PACS")

    waiting = wait_for("a delivery that waits", lambda: _waiting(node), limit=120)
    assert "does not answer" in waiting.reason

    with ScriptedPacs(tmp_path / "pacs", ae_title="PACS", port=port) as pacs:
        (job,) = node.wait_until_ended(1, limit=60)
        assert (job.state, job.attempts) == (JobState.DONE, 1)
        assert sorted(pacs.received.values()) == [1, 1, 1]


def _waiting(node: RunningNode) -> Job | None:
    return next((job for job in node.jobs() if job.state is JobState.DELIVERING and job.reason), None)
