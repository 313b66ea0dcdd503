"""A whole node with the model as it ships: the longest series holds no lung, the next one does."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom import dcmread

from node.db import chosen
from node.domain.job import JobState
from node.testing import ScriptedPacs, thorax_study, write_series
from tests.rig import wait_for, water_beside
from tests.system.conftest import StartNode
from tests.system.test_kills import peer_lines, send

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(400)]


def test_the_result_in_the_pacs_is_of_the_series_that_the_model_took(start_node: StartNode, tmp_path: Path) -> None:
    """Water has more slices and is declined; one set reaches the PACS, and names the images of the chest."""
    chest = thorax_study(tmp_path / "chest", shape=(24, 96, 96))
    first = dcmread(chest[0], stop_before_pixels=True)
    water = write_series(water_beside(first, 40), tmp_path / "water")
    with ScriptedPacs(tmp_path / "pacs") as pacs:
        node = start_node(peer_lines(pacs))
        assert len(send([*water, *chest], node, pacs.ae_title)) == 64
        node.wait_until_ended(2)
        declined, done = sorted(node.jobs(), key=lambda job: job.created_at)
        assert (declined.state, done.state) == (JobState.NOT_APPLICABLE, JobState.DONE), (declined, done)
        wait_for("the last result", lambda: len(pacs.received) >= 3)
    assert done.series_uid == first.SeriesInstanceUID != declined.series_uid
    assert set(pacs.received.values()) == {1}
    (seg,) = [ds for file in (tmp_path / "pacs").glob("*.dcm") if (ds := dcmread(file)).Modality == "SEG"]
    (named,) = seg.ReferencedSeriesSequence
    assert named.SeriesInstanceUID == done.series_uid
    services = node.services()
    with services.database.reading() as session:
        said = {one.series_uid: one.reason for one in chosen.of_study(session, done.study_uid)}
    services.database.engine.dispose()
    assert said == {declined.series_uid: f"the model declined it: {declined.reason}", done.series_uid: ""}
