"""Real cases for training: only where the licence allows it, and every label on its own voxel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from models.evaluate.labels import read_label
from models.sampling import UNKNOWN
from workers.prepare import SOURCES, LicenceRefused, licence_of, prepare


@pytest.mark.parametrize("words", ["CC BY-NC 3.0 (see file)", "free; NOT for commercial use", "non-commercial"])
def test_a_licence_for_non_commercial_use_is_refused_by_name(words: str, tmp_path: Path) -> None:
    """What ships must not have learnt from it."""
    (tmp_path / "reference.json").write_text(json.dumps({"licence": words}))
    with pytest.raises(LicenceRefused, match=words[:5]):
        licence_of(tmp_path)
    (tmp_path / "reference.json").write_text(json.dumps({"licence": "repo MIT; data CC BY 3.0 (TCIA LIDC-IDRI)"}))
    assert "CC BY 3.0" in licence_of(tmp_path)


def test_no_source_is_for_non_commercial_use_alone(data_dir: Path) -> None:
    """The list itself keeps to it, and the two cases that are not to be used would be refused."""
    assert all(licence_of(data_dir / one.folder) for one in SOURCES)
    for name in ("ct-chest-lung1-001", "ct-chest-ibsi-pat1"):
        with pytest.raises(LicenceRefused, match=name):
            licence_of(data_dir / name)


def test_a_right_lung_is_labelled_right(data_dir: Path) -> None:
    """As many voxels as the reference has, each where its file says; the rest is background or not known."""
    (source,) = (one for one in SOURCES if one.folder == "ct-chest-elastix-small")
    case = prepare(source, data_dir)
    assert (case.labels == 2).sum() == 90245  # reference.json
    assert np.array_equal(case.labels == 2, read_label(data_dir / source.folder / source.lungs, case.volume) == 1)
    assert set(np.unique(case.labels)) <= {0, 2, UNKNOWN}
    assert case.facts["licence"].startswith("Apache-2.0")


def test_bases_stored_from_right_to_left_are_on_their_sides(data_dir: Path) -> None:
    """TotalSegmentator's example runs the other way: its left lung must lie at the greater x all the same."""
    (source,) = (one for one in SOURCES if one.folder == "ct-abdomen-totalseg-converted")
    case = prepare(source, data_dir)
    left, right = (np.argwhere(case.labels == n) for n in (1, 2))
    assert len(left) + len(right) == 4307  # reference.json
    assert np.median(left[:, 2]) > np.median(right[:, 2])
    assert case.volume.voxels[case.labels > 0].mean() < -400
