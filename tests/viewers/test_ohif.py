"""What a radiologist sees in OHIF of each kind of result, on each kind of source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from node.domain.profile import Profile, SegType, SrClass
from tests.geometry.sources import DOUBLE_OBLIQUE
from tests.viewers.conftest import Stage
from tests.viewers.ohif import Shown, hue_of, show
from tests.viewers.studies import BLUE, GREEN, GRID, ORANGE, Case, study, write

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(300)]

PLAIN = Profile(name="viewer", secondary_capture=False)
DESCRIPTION = "AI Phantom 1.0.0"
#: What OHIF says on its console whatever it shows.
HARMLESS = ("favicon", "Failed to load resource", "ResizeObserver")


def look(
    case: Case, stage: Stage, browser: Browser, screenshots: Path, tmp_path: Path, name: str, modality: str = "SEG",
    scroll: int = 12,
) -> Shown:  # fmt: skip
    """Put the study into the PACS and open its result."""
    stage.orthanc.upload(write(case, tmp_path / name))
    return show(
        browser, stage.ohif, case.uid, DESCRIPTION, screenshots / f"ohif-{name}.png", scroll=scroll, modality=modality
    )


def column(found: np.ndarray) -> float:
    """The mean column of what is painted."""
    return float(np.nonzero(found)[1].mean())


SOURCES = {
    "binary": GRID,
    "reversed": replace(GRID, order="descending"),
    "oblique": replace(GRID, cosines=DOUBLE_OBLIQUE),
    "tilted": replace(GRID, tilt=15.0),
    "missing slices": replace(GRID, missing=(9, 10)),
    "enhanced": replace(GRID, container="enhanced"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_segments_are_painted_in_their_colours_on_their_side(
    stage: Stage, browser: Browser, screenshots: Path, tmp_path: Path, name: str
) -> None:
    """Both labels in the list; the right one on the left of the screen; nothing else painted."""
    case = study(10 + list(SOURCES).index(name), SOURCES[name])
    seen = look(case, stage, browser, screenshots, tmp_path, name.replace(" ", "-"))
    assert [label.split("\n")[-1] for label in seen.labels] == ["Right letter", "Left ball"], seen.labels
    letter, ball = seen.painted(hue_of(ORANGE)), seen.painted(hue_of(BLUE))
    assert letter.sum() > 1500 and ball.sum() > 3000
    assert column(letter) < seen.picture.width / 2 < column(ball)


def test_overlapping_segments_are_all_painted(
    stage: Stage, browser: Browser, screenshots: Path, tmp_path: Path
) -> None:
    """A core inside the ball."""
    seen = look(study(20, overlap=True), stage, browser, screenshots, tmp_path, "overlap")
    assert len(seen.labels) == 3
    assert seen.painted(hue_of(BLUE)).sum() > 2000
    assert seen.painted(hue_of(GREEN), 25).sum() > 300 or seen.painted(185, 30).sum() > 300  # mixed with the ball's


@pytest.mark.parametrize("kind", [SegType.BINARY, SegType.FRACTIONAL])
def test_columns_that_fill_no_byte(
    stage: Stage, browser: Browser, screenshots: Path, tmp_path: Path, kind: SegType
) -> None:
    """Debian's Orthanc refuses the frames of a one-bit image 122 columns wide; eight bits are painted."""
    grid = replace(GRID, shape=(24, 128, 122))
    case = study(30 + (kind is SegType.FRACTIONAL), grid, replace(PLAIN, seg=kind))
    seen = look(case, stage, browser, screenshots, tmp_path, f"columns-122-{kind}")
    painted = int(seen.painted(hue_of(BLUE)).sum())
    if kind is SegType.BINARY:
        assert painted == 0  # if this fails, the server has learned it: say so in docs/viewers.md
    else:
        assert painted > 3000


@pytest.mark.parametrize("kind", [SrClass.COMPREHENSIVE_3D, SrClass.COMPREHENSIVE])
def test_a_report_shows_outlines_and_volumes(
    stage: Stage, browser: Browser, screenshots: Path, tmp_path: Path, kind: SrClass
) -> None:
    """Not black; both lines are listed with their volume."""
    case = study(40 + (kind is SrClass.COMPREHENSIVE), profile=replace(PLAIN, sr=kind))
    seen = look(case, stage, browser, screenshots, tmp_path, f"sr-{kind}", "SR", scroll=0)
    assert not seen.is_black
    assert "Left ball" in seen.text and "Right letter" in seen.text
    assert "Volume" in seen.text


def test_a_report_without_a_segmentation_is_drawn(
    stage: Stage, browser: Browser, screenshots: Path, tmp_path: Path
) -> None:
    """Outlines on every slice in the volumetric group."""
    case = study(45, profile=replace(PLAIN, seg=SegType.NONE))
    seen = look(case, stage, browser, screenshots, tmp_path, "sr-outlines", "SR", scroll=0)
    assert not seen.is_black
    assert "Left ball" in seen.text
