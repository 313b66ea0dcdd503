"""Where voxels lie in the patient. The only file that names axes.

Patient coordinates are DICOM's (PS3.3 C.7.6.2.1.1): L towards the patient's left, P towards the back, S towards the
head, in millimetres. A stack's own axes are (slice, row, column): slices in the order of their positions along the
slice normal, rows downwards in the image, columns to the right in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = Sequence[float] | NDArray[np.floating | np.integer]  # three numbers

_UNIT_TOLERANCE = 1e-3  # how far direction cosines may be from unit length and right angles
_SPACING_TOLERANCE = 0.01  # share of the spacing by which a step may differ from the others
_SPACING_FLOOR = 0.02  # mm; positions are written with few decimals
_SHEAR_TOLERANCE = 0.01  # sine of the angle between step and normal: 0.6 degrees
_SAME_PLACE = 0.02  # mm
_FEW_GAPS = 0.25  # share of steps that may be longer before we speak of irregular spacing, not of missing slices
_WIDEST_GAP = 4.05  # usual steps: at most three slices missing in one place
_WIDEST_MM = 25.0
_STEEPEST = 35.0  # degrees; no gantry tilts further
_DRIFT = 1.0  # mm that a slice may lie beside the line of the others
_LETTER = 0.26  # direction cosines below are not named: 15 degrees
_NAMES = ("sagittal", "coronal", "axial")  # by the patient axis that the slice normal is nearest to: L, P, S


class GeometryError(ValueError):
    """Slices do not form a regular stack; the message says what and where."""


def slice_normal(orientation: Sequence[float]) -> Array:
    """Return the unit normal (L, P, S) of an image of that orientation: row direction x column direction."""
    along_row, along_column = np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float)
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    if not np.allclose(lengths, 1.0, atol=_UNIT_TOLERANCE) or abs(along_row @ along_column) > _UNIT_TOLERANCE:
        raise GeometryError("the image orientation is no pair of perpendicular unit vectors")
    normal: Array = np.cross(along_row, along_column)
    return normal / np.linalg.norm(normal)


@lru_cache(maxsize=256)  # it is the same for each slice of a series
def orientation_name(orientation: tuple[float, ...]) -> str:
    """Return "axial", "coronal", "sagittal", "oblique" (over 30 degrees from each), or "" where it is unknown."""
    if len(orientation) != 6:
        return ""
    try:
        normal = np.abs(slice_normal(orientation))
    except GeometryError:
        return ""
    nearest = int(np.argmax(normal))
    return _NAMES[nearest] if normal[nearest] >= np.cos(np.radians(30)) else "oblique"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stack:
    """A regular, rectangular stack of slices."""

    orientation: tuple[float, ...]  # ImageOrientationPatient of every slice
    positions: Array  # (slices, 3): ImagePositionPatient (L, P, S) in mm, in stack order
    pixel_spacing: tuple[float, float]  # (between rows, between columns) in mm
    rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return len(self.positions), self.rows, self.columns

    @property
    def normal(self) -> Array:
        """(3,): unit normal (L, P, S) of the slices."""
        return slice_normal(self.orientation)

    @property
    def heights(self) -> Array:
        """(slices,): mm along the normal."""
        heights: Array = self.positions @ self.normal
        return heights

    @property
    def spacing(self) -> float:
        """Usual distance between neighbouring slices in mm: the mean of a regular stack, else the median."""
        steps = np.diff(self.heights)
        return float(np.mean(steps) if _is_even(steps) else np.median(steps))

    @property
    def is_regular(self) -> bool:
        """Whether the slices lie straight above each other at one distance."""
        return _is_even(np.diff(self.heights)) and not self.tilt_degrees

    @property
    def tilt_degrees(self) -> float:
        """Angle between the stack's own direction and the slice normal: that of a tilted gantry; 0 where upright."""
        slope = float(np.linalg.norm(_slope(self.positions, self.normal)))
        angle = float(np.degrees(np.arctan(slope)))
        return angle if np.sin(np.radians(angle)) > _SHEAR_TOLERANCE else 0.0

    @property
    def extents(self) -> Array:
        """(slices,): mm along the normal that each slice stands for: half the way to each neighbour."""
        steps = np.diff(self.heights)
        if _is_even(steps):
            return np.full(len(self.positions), self.spacing)
        padded = np.concatenate([[self.spacing], steps, [self.spacing]])
        halves: Array = (padded[:-1] + padded[1:]) / 2
        return halves

    @property
    def irregularities(self) -> tuple[str, ...]:
        """What a reader of the results should know, in sentences; none of a regular stack."""
        found = []
        if angle := self.tilt_degrees:
            found.append(
                f"The gantry was tilted by {angle:.1f} degrees: the volume was straightened for the model, "
                "masks lie on the original slices"
            )
        steps = np.diff(self.heights)
        if not _is_even(steps):
            found.append(_unevenness(steps, self.spacing))
        return tuple(found)

    @property
    def affine(self) -> Array:
        """(4, 4): index (slice, row, column, 1) -> (L, P, S, 1) in mm (PS3.3 equation C.7.6.2.1-1)."""
        between_rows, between_columns = self.pixel_spacing
        affine = np.eye(4)
        affine[:3, 0] = (self.positions[-1] - self.positions[0]) / (len(self.positions) - 1)
        affine[:3, 1] = np.array(self.orientation[3:]) * between_rows  # one row further: along the column
        affine[:3, 2] = np.array(self.orientation[:3]) * between_columns
        affine[:3, 3] = self.positions[0]
        return affine

    def to_image(self, number: int, point: Point) -> tuple[float, float]:
        """Return (column, row) of a patient position (L, P, S) seen along the normal on slice *number*.

        These are the coordinates of an SCOORD: the first pixel reaches from 0 to 1, its centre is (0.5, 0.5)
        (PS3.3 C.18.6.1.1).
        """
        between_rows, between_columns = self.pixel_spacing
        offset = np.asarray(point, dtype=float) - self.positions[number]
        column = offset @ np.array(self.orientation[:3]) / between_columns
        row = offset @ np.array(self.orientation[3:]) / between_rows
        return float(column) + 0.5, float(row) + 0.5

    def to_patient(self, number: int, column: float, row: float) -> tuple[float, float, float]:
        """Return the patient position (L, P, S) in mm of SCOORD coordinates on slice *number*."""
        between_rows, between_columns = self.pixel_spacing
        along_row = np.array(self.orientation[:3]) * between_columns * (column - 0.5)
        along_column = np.array(self.orientation[3:]) * between_rows * (row - 0.5)
        left, posterior, superior = self.positions[number] + along_row + along_column
        return float(left), float(posterior), float(superior)


def order_along_normal(orientation: Sequence[float], positions: Array) -> NDArray[np.intp]:
    """Return the order of slices along their normal; InstanceNumber and arrival say nothing reliable."""
    return np.argsort(positions @ slice_normal(orientation), kind="stable")


def same_plane(orientation: Sequence[float], first: Array, second: Array) -> bool:
    """Return whether two slices lie in the same plane."""
    return bool(abs((second - first) @ slice_normal(orientation)) < _SAME_PLACE)


def same_place(first: Array, second: Array) -> bool:
    """Return whether two slices of one orientation lie upon each other."""
    return bool(np.linalg.norm(second - first) < _SAME_PLACE)


def same_orientation(first: Sequence[float], second: Sequence[float]) -> bool:
    """Return whether two images lie parallel and are turned alike, up to the last digits that devices write."""
    return len(first) == len(second) == 6 and bool(np.allclose(first, second, rtol=0, atol=_UNIT_TOLERANCE))


def make_stack(
    orientation: Sequence[float], positions: Array, pixel_spacing: tuple[float, float], rows: int, columns: int
) -> Stack:
    """Return the stack of slices whose *positions* (slices, 3) are in order.

    It may be tilted, unevenly spaced, or lack a few slices. Raises GeometryError where it is not one body of images.
    """
    normal = slice_normal(orientation)
    _check_steps(positions @ normal)
    _check_shear(positions, normal)
    return Stack(
        orientation=tuple(float(v) for v in orientation), positions=positions, pixel_spacing=pixel_spacing,
        rows=rows, columns=columns,
    )  # fmt: skip


def _is_even(steps: Array) -> bool:
    """Whether all *steps* (mm) are the usual one, up to what devices round."""
    usual = float(np.median(steps))
    return not bool(np.any(np.abs(steps - usual) > max(_SPACING_FLOOR, _SPACING_TOLERANCE * usual)))


def _missing(steps: Array, usual: float) -> NDArray[np.intp]:
    """How many slices are missing at each of *steps*; nothing where longer steps are no whole numbers of the usual."""
    share = steps / usual
    lost = np.round(share).astype(np.intp) - 1
    whole = np.abs(share - (lost + 1)) < 0.05
    if not whole.all() or (lost < 0).any() or float((lost > 0).mean()) >= _FEW_GAPS:
        return np.zeros(len(steps), dtype=np.intp)
    return lost


def _unevenness(steps: Array, usual: float) -> str:
    lost = _missing(steps, usual)
    if count := int(lost.sum()):
        gaps = int(np.count_nonzero(lost))
        return (
            f"{count} slice{'s are' if count > 1 else ' is'} missing in {gaps} gap{'s' if gaps > 1 else ''}: volumes "
            "across a gap are estimated"
        )
    span = f"{steps.min():.2f} to {steps.max():.2f} mm"
    return f"Slices are unevenly spaced ({span}): volumes count each slice's own part"


def _check_steps(along: Array) -> None:
    """Refuse gaps that cannot be bridged between slices at *along* (slices,) mm on the normal."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    wide = steps > max(min(_WIDEST_GAP * usual, _WIDEST_MM), usual + _SPACING_FLOOR)
    if wide.any():
        first = int(np.argmax(wide))
        where = f"between {along[first]:.2f} and {along[first + 1]:.2f} mm along the slice normal"
        raise GeometryError(
            f"{steps[first]:.1f} mm without a slice {where}, where {usual:.2f} mm are usual: too wide a gap to bridge; "
            "have the series sent again"
        )
    if float(_missing(steps, usual).sum()) > _FEW_GAPS * len(along):
        raise GeometryError("more than a quarter of the slices is missing: have the series sent again")


def _slope(positions: Array, normal: Array) -> Array:
    """Shift in the plane for each mm along *normal*: (L, P, S) mm, the line through the first and the last slice."""
    way = positions[-1] - positions[0]
    height = float(way @ normal)
    slope: Array = (way - height * normal) / height if height else np.zeros(3)
    return slope


def _check_shear(positions: Array, normal: Array) -> None:
    """Refuse a stack whose slices are shifted in their plane otherwise than a tilted gantry shifts them."""
    slope = _slope(positions, normal)
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    if angle > _STEEPEST:
        raise GeometryError(f"slices run off at {angle:.1f} degrees to their normal: no gantry tilts so far")
    heights = (positions - positions[0]) @ normal
    beside = np.linalg.norm(positions - positions[0] - np.outer(heights, normal + slope), axis=1)
    if float(beside.max()) > _DRIFT:
        raise GeometryError(f"slices are shifted against each other by up to {beside.max():.1f} mm in their plane")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Straightening:
    """The way from a tilted or uneven stack to a regular grid for models, and back for their masks.

    The grid keeps the stack's orientation and pixel spacing. Its slices follow each other at the stack's usual
    spacing, or where steps are of all lengths at the least one, so that no slice is passed over; its rows and columns
    are as many as all shifted slices need.
    """

    stack: Stack
    spacing: float  # mm between the slices of the grid
    shifts: Array  # (slices, 2): rows and columns, at least 0, by which each slice lies within the grid
    shape: tuple[int, int, int]  # of the grid: (slices, rows, columns)
    affine: Array  # (4, 4): index of the grid (slice, row, column, 1) -> (L, P, S, 1)

    def apply(self, slices: NDArray[np.float32], outside: float) -> NDArray[np.float32]:
        """Return *slices* (slices, rows, columns) on the grid, linear between them; *outside* where none lies."""
        depths = (self.stack.heights - self.stack.heights[0]) / self.spacing
        made = np.empty(self.shape, dtype=np.float32)
        shifted: dict[int, NDArray[np.float32]] = {}
        for number in range(self.shape[0]):
            below = int(np.clip(np.searchsorted(depths, number, side="right") - 1, 0, len(depths) - 2))
            weight = float(np.clip((number - depths[below]) / (depths[below + 1] - depths[below]), 0, 1))
            for place in (below, below + 1):
                if place not in shifted:
                    shifted[place] = self._shifted(slices[place], place, outside)
            shifted = {place: one for place, one in shifted.items() if place >= below}
            made[number] = (1 - weight) * shifted[below] + weight * shifted[below + 1]
        return made

    def _shifted(self, image: NDArray[np.float32], place: int, outside: float) -> NDArray[np.float32]:
        """One slice (rows, columns) at its place in the grid's plane, linear between pixels."""
        whole = np.floor(self.shifts[place]).astype(int)
        down, right = self.shifts[place] - whole
        rows, columns = image.shape
        padded = np.full((rows + 2, columns + 2), outside, dtype=np.float32)
        padded[1:-1, 1:-1] = image
        part = (
            (1 - down) * (1 - right) * padded[1:, 1:] + down * (1 - right) * padded[:-1, 1:]
            + (1 - down) * right * padded[1:, :-1] + down * right * padded[:-1, :-1]
        )  # fmt: skip
        plane = np.full(self.shape[1:], outside, dtype=np.float32)
        height, width = min(rows + 1, self.shape[1] - whole[0]), min(columns + 1, self.shape[2] - whole[1])
        plane[whole[0] : whole[0] + height, whole[1] : whole[1] + width] = part[:height, :width]
        return plane

    def restore(self, grid: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return what lies on the grid (slices, rows, columns) at each pixel of the stack, by nearest neighbours."""
        depths = np.rint((self.stack.heights - self.stack.heights[0]) / self.spacing).astype(int)
        rows, columns = self.stack.rows, self.stack.columns
        made = np.empty(self.stack.shape, dtype=grid.dtype)
        for place, depth in enumerate(np.clip(depths, 0, self.shape[0] - 1)):
            down, right = np.rint(self.shifts[place]).astype(int)
            made[place] = grid[depth, down : down + rows, right : right + columns]
        return made


def _grid_spacing(stack: Stack) -> float:
    steps = np.diff(stack.heights)
    if _is_even(steps) or _missing(steps, stack.spacing).any():
        return stack.spacing
    return float(max(steps.min(), stack.spacing / 2))


def straighten(stack: Stack) -> Straightening:
    """Return the way from *stack*, regular or not, to a regular grid."""
    normal = stack.normal
    spacing = np.array(stack.pixel_spacing)
    along = np.array([stack.orientation[3:], stack.orientation[:3]])  # to the next row, to the next column
    heights = stack.heights - stack.heights[0]
    offsets = (stack.positions - stack.positions[0] - np.outer(heights, normal)) @ along.T / spacing  # (slices, 2)
    least = offsets.min(axis=0)
    shifts = offsets - least
    more = np.ceil(shifts.max(axis=0) - 1e-6).astype(int)
    affine = np.eye(4)
    depth_mm = _grid_spacing(stack)
    affine[:3, 0] = normal * depth_mm
    affine[:3, 1:3] = (along * spacing[:, None]).T
    affine[:3, 3] = stack.positions[0] + (least * spacing) @ along
    depth = int(np.floor(heights[-1] / depth_mm + 0.5)) + 1
    return Straightening(
        stack=stack, spacing=depth_mm, shifts=shifts, affine=affine,
        shape=(depth, stack.rows + int(more[0]), stack.columns + int(more[1])),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Canonical:
    """How a stack's array is turned so that z runs nearest to the head, y to the back, x to the left."""

    axes: tuple[int, int, int]  # stack axis that becomes z, y, x
    flips: tuple[bool, bool, bool]  # whether z, y, x then run backwards

    def apply(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return *array* (slice, row, column) as (z, y, x)."""
        return np.flip(np.transpose(array, self.axes), axis=self._flipped)

    def undo(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return *array* (z, y, x) as (slice, row, column)."""
        return np.transpose(np.flip(array, axis=self._flipped), np.argsort(self.axes))

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)


def canonical(affine: Array) -> Canonical:
    """Return the turn for a stack with that *affine* (slice, row, column) -> (L, P, S): flips and swaps only."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)  # (patient axis, stack axis)
    best: tuple[float, tuple[int, int, int]] = (-1.0, (0, 1, 2))
    for axes in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        fit = sum(abs(float(directions[patient, axis])) for patient, axis in zip((2, 1, 0), axes, strict=True))
        best = max(best, (fit, axes), key=lambda one: one[0])
    axes = best[1]
    flips = tuple(bool(directions[patient, axis] < 0) for patient, axis in zip((2, 1, 0), axes, strict=True))
    return Canonical(axes=axes, flips=(flips[0], flips[1], flips[2]))


def canonical_affine(affine: Array, shape: tuple[int, int, int], turn: Canonical) -> Array:
    """Return the affine (z, y, x, 1) -> (L, P, S, 1) of a stack of *shape* once *turn* is applied."""
    turned = np.eye(4)
    origin = affine[:3, 3].copy()
    for new, (old, flip) in enumerate(zip(turn.axes, turn.flips, strict=True)):
        step = affine[:3, old]
        turned[:3, new] = -step if flip else step
        if flip:
            origin += step * (shape[old] - 1)
    turned[:3, 3] = origin
    return turned


def to_patient(affine: Array, index: Point) -> tuple[float, float, float]:
    """Return the patient position (L, P, S) in mm of an *index* along the affine's own axes."""
    left, posterior, superior = (affine @ np.array([*index, 1.0]))[:3]
    return float(left), float(posterior), float(superior)


def to_index(affine: Array, point: Point) -> tuple[float, float, float]:
    """Return the index along the affine's own axes of a patient position (L, P, S) in mm."""
    first, second, third = (np.linalg.inv(affine) @ np.array([*point, 1.0]))[:3]
    return float(first), float(second), float(third)


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """How a plane of a canonical volume is shown: the patient's right on the left of the image, or else the front."""

    name: str
    cut: int  # axis of (z, y, x) that the plane is perpendicular to
    down: int  # axis that runs down the image, or up it where it runs towards the head
    right: int  # axis that runs to the right in the image

    def plane(self, array: NDArray[np.generic], index: int) -> NDArray[np.generic]:
        """Return one plane (row, column) of *array* (z, y, x) as it is looked at, head or front at the top."""
        plane: NDArray[np.generic] = np.take(array, index, axis=self.cut)
        return plane[::-1] if self.down == 0 else plane

    def point(self, shape: Sequence[int], index: Sequence[float]) -> tuple[float, float]:
        """Return (row, column) on the plane of a voxel *index* (z, y, x) in a volume of *shape*."""
        row = shape[0] - 1 - index[0] if self.down == 0 else index[self.down]
        return row, index[self.right]

    def letters(self, affine: Array) -> tuple[str, str, str, str]:
        """Return what lies at the top, right, bottom and left of the plane, e.g. ("A", "L", "P", "R")."""
        down = -affine[:3, self.down] if self.down == 0 else affine[:3, self.down]
        right = affine[:3, self.right]
        return letters(-down), letters(right), letters(down), letters(-right)


AXIAL = View(name="axial", cut=0, down=1, right=2)
CORONAL = View(name="coronal", cut=1, down=0, right=2)
SAGITTAL = View(name="sagittal", cut=2, down=0, right=1)


def letters(direction: Array) -> str:
    """Name a *direction* (L, P, S) as viewers do, e.g. "R", or "LA" where it runs obliquely (PS3.3 C.7.6.1.1.1)."""
    unit = direction / np.linalg.norm(direction)
    names = [("RL"[int(unit[0] > 0)], "AP"[int(unit[1] > 0)], "FH"[int(unit[2] > 0)])[axis] for axis in range(3)]
    leading = sorted(range(3), key=lambda axis: -abs(unit[axis]))
    return "".join(names[axis] for axis in leading if abs(unit[axis]) > _LETTER)
