"""The models on patients' images whose contours people have drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import catalogue
from models.contract import Volume
from models.evaluate.labels import read_label
from models.evaluate.metrics import compare_marks, dice
from node.dicom.reader import read_series

from .conftest import quiet


def read(folder: Path) -> Volume:
    """Return the series in *folder*."""
    return read_series(sorted(folder.iterdir())).volume


@pytest.mark.slow
def test_both_lungs_of_a_patient_agree_with_the_contours(data_dir: Path) -> None:
    """LUNG1-001: Dice of at least 0.95 each, beside a tumour that the contours leave out."""
    case = data_dir / "ct-chest-lung1-001"
    volume = read(case / "dicom")
    label = read_label(case / "label-lungs.nrrd", volume)
    found = {one.key: one.mask for one in catalogue.load("ct-lung", "cpu").run(volume, quiet).segments}
    assert dice(found["left-lung"], label == 1) >= 0.95
    assert dice(found["right-lung"], label == 2) >= 0.95


@pytest.mark.slow
def test_the_nodule_that_four_readers_marked_is_found(data_dir: Path) -> None:
    """LIDC-IDRI-0001: the centre lies in the readers' region, and no mark lies elsewhere."""
    case = data_dir / "ct-chest-lidc-0001-slab"
    volume = read(case / "dicom")
    findings = catalogue.load("ct-lung-nodule", "cpu").run(volume, quiet)
    label = read_label(case / "label-nodules.nrrd", volume) > 0
    marks = compare_marks(findings.detections, label, volume)
    assert (marks.labelled, marks.hit, marks.false) == (1, 1, 0)
    best = findings.detections[0]
    assert best.site == "left-lung"
    assert best.diameter_mm == pytest.approx(30.0, abs=8.0)  # its outline spans 26 x 31 mm on the widest slice


def test_the_right_lung_alone_is_the_right_lung_however_it_is_stored(data_dir: Path) -> None:
    """Rows stored bottom up show the same body: the same lung on the same side, the same airways, voxel for voxel."""
    upright = catalogue.load("ct-lung", "cpu").run(read(data_dir / "ct-chest-elastix-small" / "dicom"), quiet)
    flipped = catalogue.load("ct-lung", "cpu").run(read(data_dir / "derived-variants" / "rows-flipped"), quiet)
    assert [one.key for one in upright.segments] == ["right-lung", "airways"]
    for one, other in zip(upright.segments, flipped.segments, strict=True):
        assert one.key == other.key and one.volume_ml == pytest.approx(other.volume_ml)
