"""`pacs-node run`: a folder in, results out, the same bytes each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

from node.readback import read_measures, read_segments
from node.testing import synthetic_ct, thorax_study, write_series


def run(folder: Path, model: str, out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    line = [sys.executable, "-m", "node.cli", "run", str(folder), "--model", model, "--out", str(out), *more]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=150)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample study's folder."""
    folder = tmp_path_factory.mktemp("study")
    thorax_study(folder)
    return folder


@pytest.mark.slow
@pytest.mark.system
def test_the_same_study_run_twice_gives_the_same_bytes(study: Path, tmp_path: Path) -> None:
    """SEG, SR and pages are byte-equal, under the same SOP Instance UIDs."""
    for name in ("first", "second"):
        done = run(study, "ct-lung-nodule", tmp_path / name, "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["detections"]
    for name in (f"ct-lung-nodule-{role}.dcm" for role in ("seg", "sr", "sc", "sc-2", "sc-3")):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.mark.slow
@pytest.mark.system
def test_the_results_say_what_the_phantom_contains(study: Path, tmp_path: Path) -> None:
    """Read back by position: the left lung is on the left, volumes stand in the report as in the segmentation."""
    assert run(study, "ct-lung", tmp_path).returncode == 0
    lungs = {segment.label: segment for segment in read_segments(tmp_path / "ct-lung-seg.dcm")}
    assert lungs["Left lung"].centre_mm[0] > 40 > -40 > lungs["Right lung"].centre_mm[0]
    volumes = sorted(m.value for m in read_measures(tmp_path / "ct-lung-sr.dcm") if "olume" in m.name)
    assert volumes == pytest.approx(sorted(segment.volume_ml for segment in lungs.values()), rel=1e-3)
    assert dcmread(tmp_path / "ct-lung-sr.dcm").ContentQualification == "RESEARCH"
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["axial.png", "coronal.png", "page-1.png", "sagittal.png"]
    assert dcmread(tmp_path / "ct-lung-sc.dcm").BurnedInAnnotation == "YES"


def test_a_folder_without_lungs_says_so_and_writes_nothing(tmp_path: Path) -> None:
    """A volume that is not the model's kind ends with a reason and exit code 1."""
    write_series(synthetic_ct(), tmp_path / "in")
    done = run(tmp_path / "in", "ct-lung", tmp_path / "out")
    assert done.returncode == 1
    assert "no air-filled lung" in done.stderr
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_a_folder_that_is_not_there_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """3: there is no such thing."""
    assert run(tmp_path / "nowhere", "ct-lung", tmp_path).returncode == 3
    assert run(tmp_path, "ct-nothing", tmp_path).returncode == 3
