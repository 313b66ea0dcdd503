"""The nodule model on the phantom."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from models import catalogue
from models.contract import Detection, Findings, Volume
from models.ct_lung_nodule import model
from models.ct_lung_nodule.candidates import cube_grid
from models.ct_lung_nodule.model import SIZE, SPACING, on_the_scan
from models.ct_lung_nodule.pieces import piece_of_lung
from models.evaluate.metrics import compare_marks
from models.network import read_facts
from models.phantom import Ball, Phantom

from .conftest import SMALL_SPACING, quiet


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


def test_a_report_says_that_there_is_more_than_it_marks(
    thorax: Volume, nodules: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left out for the number of marks is not left out in silence; where all are marked nothing is said."""
    monkeypatch.setattr(model, "_MOST_MARKS", 1)
    few = catalogue.load("ct-lung-nodule", "cpu").run(thorax, quiet)
    assert [one.score for one in few.detections] == [nodules.detections[0].score]
    assert "More places look like nodules than are marked: only the best 1 are." in few.remarks
    assert not any("More places" in one for one in nodules.remarks)


def test_a_thorax_without_nodules_has_an_empty_result(thorax: Volume, phantom: Phantom) -> None:
    """Nothing found is a result, not a failure."""
    voxels = np.where(balls_grown(phantom, thorax), np.float32(-850.0), thorax.voxels)
    findings = catalogue.load("ct-lung-nodule", "cpu").run(Volume(voxels=voxels, affine=thorax.affine), quiet)
    assert findings.detections == ()


def balls_grown(phantom: Phantom, volume: Volume) -> np.ndarray:
    """Return the nodules with a rim, their partial volume included."""
    return np.asarray(ndimage.binary_dilation(balls(phantom, volume), iterations=3))


def cut_out(volume: Volume, ball: Ball, half_mm: float) -> Volume:
    """Return the box of *half_mm* to each side about a nodule."""
    middle = np.linalg.solve(volume.affine, [*ball.centre_mm, 1.0])[:3]
    box = tuple(slice(int(at - half_mm / mm), int(at + half_mm / mm) + 1) for at, mm in zip(
        middle, volume.spacing, strict=True))  # fmt: skip
    affine = volume.affine.copy()
    affine[:3, 3] = volume.to_patient((box[0].start, box[1].start, box[2].start))
    return Volume(voxels=np.ascontiguousarray(volume.voxels[box]), affine=affine)


def test_in_a_piece_of_lung_the_nodule_is_found_and_no_side_is_named(thorax: Volume, phantom: Phantom) -> None:
    """Images cut out about a finding show no body: nobody can tell which lung it is, and the report says so."""
    ball = phantom.nodules[0]
    findings = catalogue.load("ct-lung-nodule", "cpu").run(cut_out(thorax, ball, 24.0), quiet)
    (mark,) = findings.detections
    assert mark.site == ""
    assert distance(ball, mark) < 2.0
    assert any("piece of lung" in remark for remark in findings.remarks)


def test_only_small_images_of_little_but_lung_are_a_piece_of_it(thorax: Volume, phantom: Phantom) -> None:
    """No whole chest, no box of soft tissue, no other modality."""
    piece = cut_out(thorax, phantom.nodules[0], 24.0)
    assert piece_of_lung(piece) is not None
    assert piece_of_lung(thorax) is None
    assert piece_of_lung(replace(piece, modality="MR")) is None
    assert piece_of_lung(replace(piece, voxels=piece.voxels + np.float32(700.0))) is None
    wide = Volume(voxels=np.full((8, 60, 60), -850.0, np.float32), affine=np.diag([3.0, 3.0, 3.0, 1.0]))
    assert piece_of_lung(wide) is None


def test_one_map_tells_each_marks_score_and_the_other_where_the_network_looked(nodules: Findings) -> None:
    """Each mark's voxels hold its score; what spoke for it lies about it and is worth no more than it."""
    scores, looks = ({one.key: one.values for one in nodules.maps}[key] for key in ("candidates", "attention"))
    for mark in nodules.detections:
        assert np.allclose(scores[mark.mask], mark.score)
    best = max(mark.score for mark in nodules.detections)
    assert 0.5 * best < float(looks.max()) <= best + 1e-6
    reach = np.logical_or.reduce([mark.mask for mark in nodules.detections])
    reach = ndimage.distance_transform_edt(~reach, sampling=SMALL_SPACING) <= 30.0  # a cube of 30 mm about each
    assert not looks[~reach].any()
    assert float(looks[~reach].size) > 0.9 * looks.size


def test_what_the_network_saw_comes_back_to_where_it_was() -> None:
    """A ramp along each axis, sampled on a cube and brought back, is that ramp at every voxel between the samples."""
    affine = np.array([[0, 0, 0.8, 4.0], [0, 1.5, 0, -7.0], [2.5, 0, 0, 9.0], [0, 0, 0, 1.0]])
    z, y, x = np.indices((20, 30, 50))
    volume = Volume(voxels=(100.0 * z + 10.0 * y + x - 900.0).astype(np.float32), affine=affine)
    grid = cube_grid(volume, volume.to_patient((9.3, 14.2, 24.9)), 1.25, 16)
    box, here = on_the_scan(grid, grid.sample(volume.voxels))
    inner = tuple(slice(one.start + 1, one.stop - 1) for one in box)  # at its ends a mean has half its voxels outside
    assert here.shape == tuple(one.stop - one.start for one in box) == (8, 13, 23)
    assert here[1:-1, 1:-1, 1:-1] == pytest.approx(volume.voxels[inner], abs=0.5)


def test_the_weights_tell_how_they_were_made_and_of_which_cubes() -> None:
    """Command, seed, generator's digest; the cubes of the recipe are those that the model looks at."""
    facts = read_facts(Path(catalogue.__file__).parent / "ct_lung_nodule" / "weights.safetensors")
    assert facts["seed"] == 1 and "models/train/recipes/ct-lung-nodule.toml" in facts["command"]
    assert len(facts["generator"]) == 64 and facts["samples"]["generated"] == facts["recipe"]["data"]["bodies"]
    assert facts["recipe"]["data"]["spacing"] == [SPACING] * 3 and facts["recipe"]["data"]["size"] == SIZE
