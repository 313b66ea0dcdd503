"""dwv, which shares no line with OHIF, holds every voxel of our segmentations in its own buffers."""

from __future__ import annotations

import numpy as np
import pytest

from node.domain.profile import Profile
from tests.viewers import phantom
from tests.viewers.conftest import OUT, Archive
from tests.viewers.dwv import Dwv
from tests.viewers.phantom import SOURCES

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["axial", "oblique", "reversed", "narrow", "odd"])
def test_every_voxel_is_there(kind: str, study: str, archive: Archive, dwv: Dwv) -> None:
    """As many voxels of each segment as in its mask, around the same middle in the patient."""
    source = SOURCES[kind](study)
    findings = phantom.organs(source)
    archive.keep(source, findings, phantom.ORGANS, Profile(binary_always=True))
    drawn = dwv.show(archive.paths(source.study, "ct"), archive.paths(source.study, "seg")[0], 12)
    drawn.picture.save(OUT / f"dwv-{kind}.png")
    assert drawn.complaints == ()
    assert list(drawn.segments) == [1, 2]
    for found, segment in zip(drawn.segments.values(), findings.segments, strict=True):
        assert found["voxels"] == segment.mask.sum()
        where = source.patient(*(found[axis] for axis in ("slice", "row", "column")), origin=found["origin"])
        slices, rows, columns = (axis.mean() for axis in np.nonzero(segment.mask))
        assert where == pytest.approx(source.patient(slices, rows, columns), abs=0.01)
