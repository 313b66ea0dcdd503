"""The generator's geometry: the bend of a patient, rounded unions, thin tubes."""

from __future__ import annotations

import numpy as np
import pytest

from models.generator.frame import Frame, make_frame
from models.generator.patient import Patient, draw_patient
from models.generator.scene import smooth_max, smooth_min
from models.generator.stamps import Tubes, depth

TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]])


@pytest.fixture(scope="module")
def patient() -> Patient:
    """Somebody."""
    return draw_patient(3, {}, None)


@pytest.fixture(scope="module")
def frame() -> Frame:
    """An oblique grid with steps of its own along each axis."""
    return make_frame((3.0, 4.0, 5.0), (1.3, 2.1, 3.0), (40, 30, 20), TURN)


def test_the_quick_way_to_bend_a_lattice_is_the_plain_one(patient: Patient, frame: Frame) -> None:
    """Products of waves along the axes are the waves themselves."""
    quick, plain = patient.bend.on_lattice(frame), patient.bend.standard(*frame.coordinates())
    for one, other in zip(quick, plain, strict=True):
        assert np.abs(one - other).max() < 1e-3


def test_the_bend_goes_back(patient: Patient) -> None:
    """There and back is within a tenth of a millimetre, so what is planned lies where it is painted."""
    points = np.random.default_rng(0).uniform(-150, 150, (200, 3))
    back = patient.bend.standard(*(patient.bend.patient(points)[:, axis].astype(np.float32) for axis in range(3)))
    assert np.abs(np.stack(back, 1) - points).max() < 0.1


def test_rounded_unions_differ_near_the_seam_only() -> None:
    """Where the shapes are as far apart as the blend, union and intersection are sharp; at the seam they bulge."""
    a, b = np.linspace(-9, 9, 19, dtype=np.float32), np.zeros(19, dtype=np.float32)
    union, both = smooth_min(a, b, 4.0), smooth_max(a, b, 4.0)
    far = np.abs(a) >= 4
    assert np.array_equal(union[far], np.minimum(a, b)[far]) and np.array_equal(both[far], np.maximum(a, b)[far])
    assert union[9] == -1.0 and both[9] == 1.0


def test_a_tube_is_as_deep_as_its_radius(frame: Frame) -> None:
    """Each voxel's depth is its distance from the surface, on an oblique grid too."""
    start, end = np.array([[-20.0, 0.0, 0.0]]), np.array([[18.0, 9.0, 7.0]])
    found = depth(frame, Tubes(start, end, np.array([4.0])))
    left, back, head = frame.places((slice(0, 40), slice(0, 30), slice(0, 20)))
    at = np.stack(np.broadcast_arrays(left, back, head), -1) - start[0]
    line = (end - start)[0]
    along = np.clip(at @ line / (line @ line), 0, 1)[..., None]
    expected = 4.0 - np.linalg.norm(at - along * line, axis=-1)
    assert np.abs(found - np.maximum(expected, -3.0)).max() < 1e-3
