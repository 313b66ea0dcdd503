"""The grid that a body is evaluated on: every place in mm, and a coarser lattice of the same grid.

Smooth shapes are evaluated on the lattice, about 3 mm apart, and interpolated linearly between: the interpolant *is*
the shape, so labels stay exact. What is finer than that (vessels, bronchi, lesions) is evaluated voxel by voxel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float32]  # (z, y, x)
Points = NDArray[np.float64]  # (n, 3): (L, P, S) in mm
Box = tuple[slice, slice, slice]

_LATTICE = 3.3  # mm, the widest step of the lattice
_AXES = np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])  # z is S, y is P, x is L


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """A regular grid in patient space."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]  # (4, 4): index (z, y, x, 1) -> (L, P, S, 1) in mm

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (z, y, x), in mm."""
        dz, dy, dx = (float(np.linalg.norm(self.affine[:3, axis])) for axis in range(3))
        return dz, dy, dx

    @property
    def steps(self) -> tuple[int, int, int]:
        """Voxels between neighbouring nodes of the lattice."""
        z, y, x = (max(1, int(_LATTICE / mm)) for mm in self.spacing)
        return z, y, x

    @property
    def nodes(self) -> tuple[int, int, int]:
        """Nodes of the lattice along (z, y, x); the last lies on or behind the last voxel."""
        z, y, x = (-(-(n - 1) // step) + 1 for n, step in zip(self.shape, self.steps, strict=True))
        return z, y, x

    def index(self, points: Points) -> NDArray[np.float64]:
        """Return the voxel index (z, y, x), with fractions, of places in the patient (L, P, S)."""
        return np.asarray(np.linalg.solve(self.affine[:3, :3], (points - self.affine[:3, 3]).T).T)

    def coordinates(self) -> tuple[Grid, Grid, Grid]:
        """Return (L, P, S) in mm of the nodes of the lattice."""
        z, y, x = np.ogrid[: self.nodes[0], : self.nodes[1], : self.nodes[2]]
        a = self.affine[:3] * np.array([*self.steps, 1.0])
        left, back, head = ((a[i, 0] * z + a[i, 1] * y + a[i, 2] * x + a[i, 3]).astype(np.float32) for i in range(3))
        return left, back, head

    def places(self, box: Box) -> tuple[Grid, Grid, Grid]:
        """Return (L, P, S) in mm of the voxel centres in *box*."""
        z, y, x = np.ogrid[box]
        a = self.affine
        left, back, head = ((a[i, 0] * z + a[i, 1] * y + a[i, 2] * x + a[i, 3]).astype(np.float32) for i in range(3))
        return left, back, head

    def box(self, low: Points, high: Points, *, lattice: bool) -> Box:
        """Return the part of the grid, or of its lattice, that covers all between two corners (L, P, S) in mm."""
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), -1).reshape(-1, 3)
        index = self.index(corners)
        if lattice:
            index = index / self.steps
        bounds = self.nodes if lattice else self.shape
        first = np.maximum(np.floor(index.min(0)), 0).astype(int)
        last = np.minimum(np.ceil(index.max(0)).astype(int) + 1, bounds)
        z, y, x = (slice(int(a), max(int(a), int(b))) for a, b in zip(first, last, strict=True))
        return z, y, x

    def between_slices(self, count: int) -> Frame:
        """Return this grid with *count* (odd) slices for each, about the same centres."""
        affine = self.affine.copy()
        affine[:3, 0] /= count
        affine[:3, 3] -= affine[:3, 0] * (count // 2)
        return Frame(shape=(self.shape[0] * count, *self.shape[1:]), affine=affine)


def make_frame(
    centre: tuple[float, float, float], spacing: tuple[float, float, float], shape: tuple[int, int, int],
    turn: NDArray[np.float64] | None = None,
) -> Frame:  # fmt: skip
    """Return a grid of *shape* at *spacing* (z, y, x) about *centre* (L, P, S), turned by a rotation (3, 3)."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if turn is None else turn) @ _AXES @ np.diag(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Frame(shape=shape, affine=affine)


def upsampled(field: Grid, box: Box, slices: range, frame: Frame) -> tuple[Box, Grid] | None:
    """Return *field*, known on the *box* of the lattice, at the voxels of *slices*; with the voxels' box.

    None where the box has no voxel in those slices.
    """
    places: list[slice] = []
    for axis, (part, step, n) in enumerate(zip(box, frame.steps, frame.shape, strict=True)):
        low, high = part.start * step, min((part.stop - 1) * step + 1, n)
        if axis == 0:
            low, high = max(low, slices.start), min(high, slices.stop)
        if low >= high:
            return None
        places.append(slice(low, high))
    for axis, (part, step, place) in enumerate(zip(box, frame.steps, places, strict=True)):
        voxels = np.arange(place.start, place.stop)
        node = voxels // step - part.start
        if step == 1:
            field = field[tuple(slice(int(node[0]), int(node[-1]) + 1) if a == axis else slice(None) for a in range(3))]
            continue
        after = np.minimum(node + 1, field.shape[axis] - 1)
        share = ((voxels % step) / step).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        near = np.take(field, node, axis)
        field = near + share * (np.take(field, after, axis) - near)
    return (places[0], places[1], places[2]), field
