"""Findings survive the way from the inference child to its parent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from models.contract import Detection, Findings, Mask, Segment
from workers import findings_io

SHAPES = hnp.array_shapes(min_dims=3, max_dims=3, max_side=7)


@given(mask=hnp.arrays(np.bool_, SHAPES), volume=st.floats(0, 1e6), score=st.floats(0, 1))
def test_masks_and_numbers_come_back_as_they_were(
    tmp_path_factory: object, mask: Mask, volume: float, score: float
) -> None:
    """Whatever the shape, also where it fills no whole byte."""
    folder = Path(str(tmp_path_factory.mktemp("findings")))  # type: ignore[attr-defined]
    found = Detection(
        key="nodule", mask=~mask, centre_mm=(1.5, -2.25, 1e3), diameter_mm=7.5, volume_ml=volume, score=score,
        site="left-lung",
    )  # fmt: skip
    findings = Findings(
        segments=(Segment(key="left-lung", mask=mask, volume_ml=volume),), detections=(found,), remarks=("cut",)
    )
    findings_io.save(folder, findings)
    back = findings_io.load(folder)
    assert np.array_equal(back.segments[0].mask, mask)
    assert np.array_equal(back.detections[0].mask, ~mask)
    assert back.segments[0].volume_ml == volume
    assert (back.detections[0].centre_mm, back.detections[0].score) == (found.centre_mm, score)
    assert back.remarks == ("cut",)
