"""Measures and labels: exact on small examples."""

from __future__ import annotations

from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pytest

from models.contract import Detection, Volume
from models.evaluate.labels import read_label
from models.evaluate.metrics import Marks, compare_marks, dice, volume_error


@pytest.fixture
def volume() -> Volume:
    """A grid of 3 x 2 x 1 mm that starts at (10, 20, 30)."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = 3.0, 2.0, 1.0
    affine[:3, 3], affine[3, 3] = (10.0, 20.0, 30.0), 1.0
    return Volume(voxels=np.zeros((4, 5, 6), np.float32), affine=affine)


def mark(volume: Volume, index: tuple[int, int, int]) -> Detection:
    """Return a mark whose centre lies at *index*."""
    return Detection(
        key="nodule", mask=np.zeros(volume.voxels.shape, bool), centre_mm=volume.to_patient(index), diameter_mm=5.0,
        volume_ml=0.1, score=0.5,
    )  # fmt: skip


def test_dice_is_twice_the_overlap_over_the_sum() -> None:
    """Two of three and three voxels; nothing and nothing agree."""
    first, second = np.array([1, 1, 1, 0], bool), np.array([0, 1, 1, 1], bool)
    assert dice(first, second) == pytest.approx(2 / 3)
    assert dice(first & False, second & False) == 1.0
    assert dice(first, second & False) == 0.0


def test_a_volume_error_is_signed_and_needs_a_reference() -> None:
    """Too little is negative; of nothing there is no share."""
    assert volume_error(97.0, 100.0) == pytest.approx(-0.03)
    with pytest.raises(ValueError, match="empty"):
        volume_error(3.0, 0.0)


def test_marks_are_counted_by_object(volume: Volume) -> None:
    """Two marks in one object are one hit and no false mark; one beside it, or outside the images, is false."""
    reference = np.zeros(volume.voxels.shape, bool)
    reference[1, 1:3, 1:3] = True
    reference[2, 3, 3] = True  # touches by a corner: the same object
    reference[0, 0, 5] = True
    marks = [mark(volume, index) for index in ((1, 1, 1), (2, 3, 3), (3, 4, 0), (9, 9, 9))]
    assert compare_marks(marks, reference, volume) == Marks(labelled=2, hit=1, false=2)


def labelled() -> np.ndarray:
    """An asymmetric label (z, y, x)."""
    values = np.zeros((4, 5, 6), np.int16)
    values[1, 2, 3], values[3, 0, 5] = 1, 2
    return values


def test_a_flipped_nrrd_lands_on_the_same_places(volume: Volume, tmp_path: Path) -> None:
    """The file runs x, y, z and upside down; its directions say so."""
    file = tmp_path / "label.nrrd"
    header = {
        "space": "left-posterior-superior", "space origin": [10.0, 20.0, 39.0],
        "space directions": [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -3.0]],
    }  # fmt: skip
    nrrd.write(str(file), np.ascontiguousarray(labelled()[::-1].transpose(2, 1, 0)), header)
    assert np.array_equal(read_label(file, volume), labelled())


def test_a_nifti_counts_to_the_right_and_the_front(volume: Volume, tmp_path: Path) -> None:
    """NIfTI's patient axes are R, A, S: the first two have the other sign."""
    file = tmp_path / "label.nii.gz"
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    affine[:3, 3] = (-10.0, -20.0, 30.0)
    nibabel.save(nibabel.Nifti1Image(labelled().transpose(2, 1, 0), affine), file)
    assert np.array_equal(read_label(file, volume), labelled())


def test_a_label_of_part_of_the_volume_is_nought_elsewhere(volume: Volume, tmp_path: Path) -> None:
    """A label may be cropped to its organ."""
    file = tmp_path / "label.nrrd"
    header = {
        "space": "left-posterior-superior", "space origin": [12.0, 22.0, 33.0],
        "space directions": [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]],
    }  # fmt: skip
    nrrd.write(str(file), np.full((2, 1, 1), 7, np.int16), header)
    expected = np.zeros((4, 5, 6), np.int32)
    expected[1, 1, 2:4] = 7
    assert np.array_equal(read_label(file, volume), expected)


def test_a_label_in_another_space_is_refused(volume: Volume, tmp_path: Path) -> None:
    """Guessing the space would mirror the patient."""
    file = tmp_path / "label.nrrd"
    header = {"space": "right-anterior-superior", "space origin": [0.0] * 3, "space directions": np.eye(3).tolist()}
    nrrd.write(str(file), np.zeros((2, 2, 2), np.int16), header)
    with pytest.raises(ValueError, match="right-anterior-superior"):
        read_label(file, volume)
