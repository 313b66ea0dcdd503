"""The nodule model on the phantom."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from models import catalogue
from models.contract import Detection, Findings, Volume
from models.evaluate.metrics import compare_marks
from models.phantom import Ball, Phantom

from .conftest import quiet


def balls(phantom: Phantom, volume: Volume) -> np.ndarray:
    """Return the truth of the nodules as a mask (z, y, x)."""
    grid = np.indices(volume.voxels.shape).reshape(3, -1)
    place = volume.affine[:3, :3] @ grid + volume.affine[:3, 3:]
    inside = np.zeros(grid.shape[1], dtype=bool)
    for ball in phantom.nodules:
        inside |= np.linalg.norm(place - np.array(ball.centre_mm)[:, None], axis=0) <= ball.diameter_mm / 2
    return inside.reshape(volume.voxels.shape)


def test_every_nodule_is_found_and_nothing_else(nodules: Findings, phantom: Phantom, thorax: Volume) -> None:
    """Vessels, their branchings, the bronchi and the heart's edge are no nodules."""
    marks = compare_marks(nodules.detections, balls(phantom, thorax), thorax)
    assert (marks.labelled, marks.hit, marks.false) == (2, 2, 0)


def distance(ball: Ball, mark: Detection) -> float:
    """Return the mm between the centres."""
    return float(np.linalg.norm(np.subtract(mark.centre_mm, ball.centre_mm)))


def test_size_place_and_side_agree_with_the_truth(nodules: Findings, phantom: Phantom) -> None:
    """Within one pixel for the diameter and 2 mm for the centre; the volume follows from the voxels."""

    for ball in phantom.nodules:
        found = min(nodules.detections, key=partial(distance, ball))
        assert distance(ball, found) < 2.0
        assert found.site == ball.side
        assert found.diameter_mm == pytest.approx(ball.diameter_mm, abs=2.8)
        assert found.volume_ml == pytest.approx(float(found.mask.sum()) * 5.0 * 2.8 * 2.8 / 1000.0)


def test_marks_come_best_first_with_scores_between_nought_and_one(nodules: Findings) -> None:
    """The report lists them in this order."""
    scores = [one.score for one in nodules.detections]
    assert scores == sorted(scores, reverse=True)
    assert all(0.0 <= score <= 1.0 for score in scores)


def test_the_same_volume_gives_the_same_marks_to_the_last_byte(nodules: Findings, thorax: Volume) -> None:
    """Order, masks and figures: a rerun makes the same object."""
    again = catalogue.load("ct-lung-nodule", "cpu").run(thorax, quiet)
    assert len(again.detections) == len(nodules.detections)
    for first, second in zip(nodules.detections, again.detections, strict=True):
        assert first.mask.tobytes() == second.mask.tobytes()
        assert (first.centre_mm, first.diameter_mm, first.score) == (second.centre_mm, second.diameter_mm, second.score)


def test_a_mirrored_patient_has_the_nodules_on_the_other_sides(mirrored: Volume, phantom: Phantom) -> None:
    """The site follows the patient's side."""
    found = catalogue.load("ct-lung-nodule", "cpu").run(mirrored, quiet).detections
    assert len(found) == len(phantom.nodules)
    for ball in phantom.nodules:
        other = "left-lung" if ball.side == "right-lung" else "right-lung"
        (mark,) = [one for one in found if one.site == other]
        assert mark.centre_mm[0] == pytest.approx(-ball.centre_mm[0], abs=3.0)


def test_a_thorax_without_nodules_has_an_empty_result(thorax: Volume, phantom: Phantom) -> None:
    """Nothing found is a result, not a failure."""
    voxels = np.where(balls_grown(phantom, thorax), np.float32(-850.0), thorax.voxels)
    findings = catalogue.load("ct-lung-nodule", "cpu").run(Volume(voxels=voxels, affine=thorax.affine), quiet)
    assert findings.detections == ()


def balls_grown(phantom: Phantom, volume: Volume) -> np.ndarray:
    """Return the nodules with a rim, their partial volume included."""
    return np.asarray(ndimage.binary_dilation(balls(phantom, volume), iterations=3))
