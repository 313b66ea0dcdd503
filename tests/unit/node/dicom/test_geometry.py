"""Axes: sorting, regularity, the turn to the models' orientation and back, image coordinates."""

from __future__ import annotations

import re
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from node.dicom import geometry
from node.dicom.geometry import AXIAL, CORONAL, SAGITTAL, GeometryError, Stack

Array = NDArray[np.float64]

AXIAL_COSINES = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
components = st.floats(-1, 1, allow_nan=False)
quaternions = st.tuples(components, components, components, components).filter(lambda q: np.linalg.norm(q) > 0.1)
directions = st.permutations([0, 1, 2])
signs = st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)


def rotation(quaternion: tuple[float, ...]) -> Array:
    """Return the rotation matrix of a quaternion."""
    w, x, y, z = np.array(quaternion) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def stack_of(cosines: tuple[float, ...], *, slices: int = 4, step: float = 2.5) -> Stack:
    """Return a stack, unequal along all axes, away from the origin."""
    normal = geometry.slice_normal(cosines)
    positions = np.array([10.0, -20.0, 30.0]) + np.arange(slices)[:, None] * step * normal
    return geometry.make_stack(cosines, positions, (0.7, 0.9), 5, 6)


@st.composite
def affines(draw: st.DrawFn) -> Array:
    """Any grid: rotated, its axes in any order and direction, with unequal spacing."""
    turned = rotation(draw(quaternions)) @ np.eye(3)[:, draw(directions)] * np.array(draw(signs))
    affine = np.eye(4)
    affine[:3, :3] = turned * np.array([2.5, 0.7, 0.9])
    affine[:3, 3] = (12.0, -34.0, 56.0)
    return affine


@given(affines())
@settings(max_examples=60, deadline=None)
def test_turning_and_turning_back_changes_nothing(affine: Array) -> None:
    """A mask comes back to its source grid voxel by voxel, whatever the orientation."""
    source = np.random.default_rng(1).random((3, 4, 5))
    turn = geometry.canonical(affine)
    np.testing.assert_array_equal(turn.undo(turn.apply(source)), source)


@given(affines(), st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 4)))
@settings(max_examples=60, deadline=None)
def test_a_marked_voxel_stays_where_it_is_in_the_patient(affine: Array, index: tuple[int, int, int]) -> None:
    """The voxel and its affine are turned together."""
    source = np.zeros((3, 4, 5), dtype=bool)
    source[index] = True
    turn = geometry.canonical(affine)
    turned = turn.apply(source)
    (found,) = np.argwhere(turned)
    place = geometry.to_patient(geometry.canonical_affine(affine, (3, 4, 5), turn), found)
    np.testing.assert_allclose(place, geometry.to_patient(affine, index), atol=1e-9)


@given(affines())
@settings(max_examples=60, deadline=None)
def test_axes_run_to_the_head_the_back_and_the_left(affine: Array) -> None:
    """No other choice of axes and directions lies nearer to S, P and L."""
    turn = geometry.canonical(affine)
    turned = geometry.canonical_affine(affine, (3, 4, 5), turn)[:3, :3]
    fit = sum(turned[row, column] / np.linalg.norm(turned[:, column]) for row, column in ((2, 0), (1, 1), (0, 2)))
    unit = np.abs(affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0))
    best = max(unit[2, a] + unit[1, b] + unit[0, c] for a, b, c in permutations(range(3)))
    assert fit == pytest.approx(best)


@given(quaternions, st.permutations(range(6)))
@settings(max_examples=40, deadline=None)
def test_slices_are_sorted_along_their_normal(quaternion: tuple[float, ...], order: list[int]) -> None:
    """Any order of arrival gives the same stack."""
    turned = rotation(quaternion)
    cosines = (*turned[:, 0], *turned[:, 1])
    positions = np.array([-5.0, 6.0, 7.0]) + np.arange(6)[:, None] * 3.0 * turned[:, 2]
    shuffled = positions[order]
    np.testing.assert_allclose(shuffled[geometry.order_along_normal(cosines, shuffled)], positions)


@pytest.mark.parametrize(
    ("cosines", "axes", "flips"),
    [
        ((1, 0, 0, 0, 1, 0), (0, 1, 2), (False, False, False)),  # axial, as most scanners send it
        ((-1, 0, 0, 0, -1, 0), (0, 1, 2), (False, True, True)),  # prone: rows and columns reversed
        ((1, 0, 0, 0, -1, 0), (0, 1, 2), (True, True, False)),  # stored bottom-up: the normal points to the feet
        ((1, 0, 0, 0, 0, -1), (1, 0, 2), (True, False, False)),  # coronal
        ((0, 1, 0, 0, 0, -1), (1, 2, 0), (True, False, True)),  # sagittal
    ],
)  # fmt: skip
def test_common_orientations_turn_as_they_should(
    cosines: tuple[float, ...], axes: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    """Written out by hand from PS3.3 C.7.6.2.1.1: which axis becomes z, y, x, and which run backwards."""
    turn = geometry.canonical(stack_of(cosines).affine)
    assert (turn.axes, turn.flips) == (axes, flips)


def test_an_oblique_stack_keeps_its_spacing_and_its_corner() -> None:
    """The affine holds the distances between slices, rows and columns, and the first pixel's place."""
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    affine = stack_of((c, s, 0, -s, c, 0)).affine
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (2.5, 0.7, 0.9))
    assert geometry.to_patient(affine, (0, 0, 0)) == pytest.approx((10, -20, 30))
    assert geometry.to_index(affine, geometry.to_patient(affine, (3, 1, 2))) == pytest.approx((3, 1, 2))


@pytest.mark.parametrize(
    ("along", "words"),
    [
        ([0, 2, 4, 10, 12, 14, 16, 18], "2 slices are missing in 1 gap"),
        ([0, 2, 4, 6, 10, 12, 14, 16], "1 slice is missing in 1 gap"),
        ([0, 2, 4, 6, 8.6, 10.6, 12.6], r"unevenly spaced \(2.00 to 2.60 mm\)"),
        ([0, 2, 4, 6, 8, 10, 12], ""),
    ],
)
def test_irregular_slices_are_said_to_be_so(along: list[float], words: str) -> None:
    """The sentence that stands in the report."""
    stack = geometry.make_stack(AXIAL_COSINES, np.outer(along, (0, 0, 1.0)), (1, 1), 5, 6)
    assert stack.is_regular is not bool(words)
    assert [bool(re.search(words, told)) for told in stack.irregularities] == [True] * bool(words)
    assert stack.spacing == 2.0


@pytest.mark.parametrize(
    ("along", "words"),
    [
        ([0, 2, 4, 14, 16, 18, 20], "10.0 mm without a slice between 4.00 and 14.00 mm"),
        ([0, 8, 16, 48, 56, 64], "32.0 mm without a slice"),
        ([0, 2, 4, 6, 8, 16, 18, 20, 22, 24, 26, 28, 36, 38], "more than a quarter"),
    ],
)
def test_gaps_that_cannot_be_bridged_are_refused_saying_where(along: list[float], words: str) -> None:
    """What lay in them nobody knows."""
    with pytest.raises(GeometryError, match=words):
        geometry.make_stack(AXIAL_COSINES, np.outer(along, (0, 0, 1.0)), (1, 1), 5, 6)


def test_rounded_positions_are_regular_enough() -> None:
    """Devices write few decimals: a hundredth of the spacing is no irregularity."""
    positions = np.outer([0, 2.5, 5.01, 7.5, 10.0], (0, 0, 1.0))
    assert geometry.make_stack(AXIAL_COSINES, positions, (1, 1), 5, 6).spacing == pytest.approx(2.5)


def leaning(degrees: float) -> geometry.Stack:
    """The table moves along the patient while slices lean: a sheared stack."""
    lean = np.radians(degrees)
    positions = np.outer(np.arange(5) * 2.5, (0, 0, 1.0))
    return geometry.make_stack((1, 0, 0, 0, np.cos(lean), -np.sin(lean)), positions, (1, 1), 5, 6)


def test_a_tilted_gantry_is_known_by_its_angle() -> None:
    """And told; the way from slice to slice is along the normal, not along the table."""
    stack = leaning(18.5)
    assert stack.tilt_degrees == pytest.approx(18.5)
    assert "tilted by 18.5 degrees" in stack.irregularities[0]
    assert stack.spacing == pytest.approx(2.5 * np.cos(np.radians(18.5)))
    with pytest.raises(GeometryError, match="no gantry tilts so far"):
        leaning(40)


def test_slices_shifted_in_their_plane_are_refused() -> None:
    """One slice of another field of view among the others."""
    positions = np.outer(np.arange(5) * 2.5, (0, 0, 1.0))
    positions[2, 0] = 12.0
    with pytest.raises(GeometryError, match=r"shifted against each other by up to 12\.0 mm"):
        geometry.make_stack(AXIAL_COSINES, positions, (1, 1), 5, 6)


def test_cosines_that_are_no_directions_are_refused() -> None:
    """Zeros, or vectors that are not perpendicular, give no normal."""
    for cosines in ((0, 0, 0, 0, 0, 0), (1, 0, 0, 1, 0, 0), (2, 0, 0, 0, 1, 0)):
        with pytest.raises(GeometryError, match="no pair of perpendicular unit vectors"):
            geometry.slice_normal(cosines)


@pytest.mark.parametrize(
    ("cosines", "name"),
    [
        (AXIAL_COSINES, "axial"), ((1, 0, 0, 0, 0, -1), "coronal"), ((0, 1, 0, 0, 0, -1), "sagittal"),
        ((1, 0, 0, 0, 0.7071, 0.7071), "oblique"), ((1, 0, 0, 0, 0.9483, -0.3173), "axial"), ((), ""), ((0,) * 6, ""),
    ],
)  # fmt: skip
def test_orientations_have_names(cosines: tuple[float, ...], name: str) -> None:
    """What rules look at."""
    assert geometry.orientation_name(cosines) == name


def test_the_centre_of_the_first_pixel_is_half_a_half() -> None:
    """Image coordinates count from the corner of the corner pixel (PS3.3 C.18.6.1.1)."""
    stack = stack_of(AXIAL_COSINES)
    assert stack.to_image(0, stack.positions[0]) == pytest.approx((0.5, 0.5))
    one_right_two_down = stack.positions[1] + np.array([0.9, 1.4, 0])
    assert stack.to_image(1, one_right_two_down) == pytest.approx((1.5, 2.5))


@given(quaternions, st.floats(0, 6), st.floats(0, 5), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_image_coordinates_and_patient_positions_agree(
    quaternion: tuple[float, ...], column: float, row: float, number: int
) -> None:
    """There and back, and the same place as the affine says."""
    turned = rotation(quaternion)
    stack = stack_of((*turned[:, 0], *turned[:, 1]))
    place = stack.to_patient(number, column, row)
    assert stack.to_image(number, place) == pytest.approx((column, row), abs=1e-6)
    assert geometry.to_index(stack.affine, place) == pytest.approx((number, row - 0.5, column - 0.5), abs=1e-6)


def test_views_are_as_radiologists_look_at_them() -> None:
    """The patient's right on the left, the head or the front at the top."""
    affine = stack_of(AXIAL_COSINES).affine
    assert AXIAL.letters(affine) == ("A", "L", "P", "R")
    assert CORONAL.letters(affine) == ("H", "L", "F", "R")
    assert SAGITTAL.letters(affine) == ("H", "P", "F", "A")


def test_oblique_directions_have_two_letters() -> None:
    """A plane 30 degrees off says so."""
    assert geometry.letters(np.array([np.cos(np.radians(30)), np.sin(np.radians(30)), 0])) == "LP"
    assert geometry.letters(np.array([0.05, 0, -1])) == "F"


@pytest.mark.parametrize("view", [AXIAL, CORONAL, SAGITTAL], ids=lambda view: view.name)
def test_a_point_is_drawn_on_the_voxel_that_it_names(view: geometry.View) -> None:
    """Plane and point use the same axes."""
    array = np.zeros((3, 4, 5), dtype=bool)
    array[1, 3, 2] = True
    row, column = view.point(array.shape, (1, 3, 2))
    assert view.plane(array, (1, 3, 2)[view.cut])[int(row), int(column)]
