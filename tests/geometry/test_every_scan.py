"""Where things are: the phantom by every kind of scan, through reader, model and encoders, read back by two others.

`make test` runs a selection in which every two choices meet; `GEOMETRY=all` the whole product of all choices, and
`GEOMETRY=300` so many of it, drawn with a fixed seed.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from models.contract import Findings
from node.dicom.reader import LoadedSeries, read_series
from tests.geometry.product import (
    LABELS,
    Results,
    ThresholdModel,
    context_of,
    encoded,
    seen_by_dcmqi,
    slices_in,
    told_to_dcmqi,
    tool,
    true_findings,
    truths_of,
)
from tests.geometry.readback import Slice, faults_of, truth_of
from tests.geometry.scanner import (
    FACTORS,
    Scan,
    Scanned,
    covering_scans,
    every_scan,
    pairs_of,
    scan_phantom,
    volume_of_formula,
)
from workers.inference import on_source_grid

SELECTION = covering_scans()


def _asked_for(how_many: str) -> list[Scan]:
    if not how_many:
        return SELECTION
    scans = list(every_scan())
    if how_many == "all":
        return scans
    order = np.random.default_rng(300).permutation(len(scans))
    return [scans[place] for place in order[: int(how_many)]]


SCANS = _asked_for(os.environ.get("GEOMETRY", ""))
REGULAR = [scan for scan in SELECTION if scan.is_regular]
TENTH, HALF = 0.1, 0.5  # of a voxel


def border(scan: Scan) -> float:
    """By how much of itself a thing as small as the ball may change on its way through a resampled volume."""
    return 0.05 if scan.tilt != "0" and scan.spacing == "irregular" else 0.03


@dataclass(frozen=True, kw_only=True, eq=False)
class Sent:
    """One scan's way through the product."""

    seen: Scanned
    slices: list[Slice]  # by the oracle's own reading of the files
    series: LoadedSeries
    found: Findings  # on the source grid
    made: Results


@lru_cache(maxsize=64)
def sent(scan: Scan) -> Sent:
    """Files, reader, threshold, masks on the source grid, SEG and SR."""
    seen = scan_phantom(scan)
    with tempfile.TemporaryDirectory() as folder:
        paths = seen.write(Path(folder))
        slices, series = slices_in(paths), read_series(paths)
    found = on_source_grid(ThresholdModel().run(series.volume), series)
    made = encoded(found, context_of(series.source.headers, series.source.frames))
    return Sent(seen=seen, slices=slices, series=series, found=found, made=made)


@pytest.mark.parametrize("scan", SCANS, ids=str)
def test_results_say_where_things_are(scan: Scan) -> None:
    """Middles, volumes, voxels, outlines and sides, as read back by the oracle.

    Of a tilted or uneven stack the model sees a resampled volume, so that voxels of the border may differ: the
    encoders are held to the phantom's own masks there, and the way through the model to half a voxel and 3 percent
    (5 where both meet: a tenth of a voxel all round the ball).
    """
    one, within = sent(scan), TENTH * scan.finest
    if scan.is_regular:
        assert faults_of(one.made.seg, one.made.report, one.slices, truths_of(one.seen), within_mm=within) == []
        return
    drawn = {segment.key: truth_of(segment.mask, one.slices) for segment in one.found.segments}
    for key, mask in drawn.items():
        assert np.linalg.norm(mask.centroid - one.seen.centroid(key)) < HALF * scan.finest
        assert mask.volume_ml == pytest.approx(one.seen.volume_ml(key), rel=border(scan))
    truths = {LABELS[key]: mask for key, mask in drawn.items()}
    assert faults_of(one.made.seg, one.made.report, one.slices, truths, within_mm=within) == []
    exact = encoded(true_findings(one.seen, one.series), context_of(one.seen.headers, one.seen.frames))
    assert faults_of(exact.seg, exact.report, one.slices, truths_of(one.seen), within_mm=within) == []


@pytest.mark.parametrize("scan", REGULAR, ids=str)
def test_dcmqi_sees_the_same(scan: Scan, tmp_path: Path) -> None:
    """A reader that shares no line with ours, nor with pydicom: voxels, middles and volumes of each segment."""
    one = sent(scan)
    seg, report = one.made.write(tmp_path)
    drawn, told = seen_by_dcmqi(seg, tmp_path), told_to_dcmqi(report, tmp_path)
    for number, (key, label) in enumerate(LABELS.items(), start=1):
        assert drawn[label].voxels == one.seen.masks[key].sum()
        assert np.linalg.norm(drawn[label].centroid - one.seen.centroid(key)) < TENTH * scan.finest
        assert drawn[label].volume_ml == pytest.approx(one.seen.volume_ml(key), rel=1e-3)
        assert told[label][0] == number
        assert told[label][1] == pytest.approx(one.seen.volume_ml(key), rel=1e-3)


@pytest.mark.parametrize("container", FACTORS["container"])
def test_dcmqi_fills_missing_slices(container: str, tmp_path: Path) -> None:
    """It places every slice rightly on a regular grid: the missing ones are there, empty."""
    seen = scan_phantom(Scan(missing="two", container=container))
    series = read_series(seen.write(tmp_path / "in"))
    made = encoded(true_findings(seen, series), context_of(series.source.headers, series.source.frames))
    drawn = seen_by_dcmqi(made.write(tmp_path)[0], tmp_path)
    for key, label in LABELS.items():
        assert drawn[label].voxels == seen.masks[key].sum()
        assert np.linalg.norm(drawn[label].centroid - seen.centroid(key)) < TENTH * seen.scan.finest


def test_dcmqi_drops_the_tilt(tmp_path: Path) -> None:
    """A fault of ITK's images, which cannot be sheared: known, and silent; if it ever goes, this test says so."""
    seen = scan_phantom(Scan(tilt="15"))
    series = read_series(seen.write(tmp_path / "in"))
    made = encoded(true_findings(seen, series), context_of(series.source.headers, series.source.frames))
    drawn = seen_by_dcmqi(made.write(tmp_path)[0], tmp_path)
    away = {key: float(np.linalg.norm(drawn[label].centroid - seen.centroid(key))) for key, label in LABELS.items()}
    assert drawn["Left ball"].voxels == seen.masks["ball"].sum()
    assert max(away.values()) > 2 * seen.scan.finest, away


# -- what the oracle itself stands on


@pytest.mark.parametrize("container", FACTORS["container"])
@pytest.mark.parametrize("order", ["ascending", "lying"])
def test_the_sources_are_valid(container: str, order: str, tmp_path: Path) -> None:
    """dciodvfy finds nothing to say about the images that the phantom is written to."""
    paths = scan_phantom(Scan(container=container, order=order, tilt="15")).write(tmp_path)
    ran = subprocess.run([tool("dciodvfy"), "-new", str(paths[0])], capture_output=True, text=True, check=False)
    assert [line for line in ran.stderr.splitlines() if line.startswith(("Error", "Warning"))] == []


def test_the_selection_holds_every_pair() -> None:
    """Over all factors, and over those of regular stacks."""
    regular = FACTORS | {"tilt": ("0",), "missing": ("none",), "spacing": ("isotropic", "oblong")}
    for factors, scans in ((FACTORS, SELECTION), (regular, REGULAR)):
        met = {
            pair for scan in scans for pair in combinations([(name, getattr(scan, name)) for name in FACTORS], 2)
        }
        assert pairs_of(factors) <= met
    assert len(SELECTION) < 60


@pytest.mark.parametrize("spacing", FACTORS["spacing"])
@pytest.mark.parametrize("orientation", FACTORS["orientation"])
def test_the_phantom_is_wholly_in_view_and_has_no_mirror_image(orientation: str, spacing: str) -> None:
    """Its sampled volume is near to that of its formula; turned over along any axis it is another one."""
    seen = scan_phantom(Scan(orientation=orientation, spacing=spacing))
    for key, mask in seen.masks.items():
        assert not any(mask.take(edge, axis).any() for axis in range(3) for edge in (0, -1))
        assert seen.volume_ml(key) == pytest.approx(volume_of_formula(key), rel=0.2)  # a stroke is four voxels wide
    both = seen.masks["letter"] + 2 * seen.masks["ball"].astype(int)
    assert all(not np.array_equal(both, np.flip(both, axes)) for axes in (0, 1, 2, (0, 1), (0, 2), (1, 2), (0, 1, 2)))


@pytest.mark.parametrize("position", FACTORS["position"])
def test_cosines_follow_from_how_the_patient_lies(position: str) -> None:
    """As scanners write axial images of each position (PS3.3 C.7.3.1.1.2): the gantry's right and floor in LPS."""
    wanted = {
        "HFS": (1, 0, 0, 0, 1, 0), "HFP": (-1, 0, 0, 0, -1, 0), "FFS": (-1, 0, 0, 0, 1, 0), "FFP": (1, 0, 0, 0, -1, 0)
    }  # fmt: skip
    header = scan_phantom(Scan(position=position)).headers[0]
    assert tuple(float(v) for v in header.ImageOrientationPatient) == wanted[position]
