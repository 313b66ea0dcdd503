"""A body as layers: each a shape with a signed distance in mm (negative inside) and what it is made of.

Layers are painted one over the other with soft edges as wide as a voxel, which is the partial volume of a surface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.generator.body import Point
from models.generator.frame import Box, Frame, Grid, Points, upsampled

_SLAB = 24  # slices painted at once: bounds the memory of a fine scan
_MARGIN = 6.0  # mm beyond a shape's own box: soft edges and interpolation

Piece = tuple[Box, Grid]  # a signed distance, and the part of the lattice where it is known


@dataclass(frozen=True, slots=True, eq=False)
class Bend:
    """A patient's way from his own places to those of the standard body: scaled, shifted and gently warped."""

    scale: Point
    waves: NDArray[np.float64]  # (n, 7): wave vector (3), phase, amplitude (3), in mm

    def standard(self, left: Grid, back: Grid, head: Grid) -> tuple[Grid, Grid, Grid]:
        """Return places of the standard body for places in the patient."""
        out = [axis / np.float32(one) for axis, one in zip((left, back, head), self.scale, strict=True)]
        for wave in self.waves.astype(np.float32):
            swing = np.sin(wave[0] * left + wave[1] * back + wave[2] * head + wave[3])
            for axis in range(3):
                out[axis] = out[axis] + wave[4 + axis] * swing
        return out[0], out[1], out[2]

    def on_lattice(self, frame: Frame) -> tuple[Grid, Grid, Grid]:
        """Return the places of the standard body of a frame's lattice: as `standard`, in a third of the time.

        On a regular grid a wave is a sum of products of waves along single axes.
        """
        out = [axis / np.float32(one) for axis, one in zip(frame.coordinates(), self.scale, strict=True)]
        for wave in self.waves:
            step = wave[:3] @ frame.affine[:3, :3] * frame.steps  # radians from node to node along (z, y, x)
            z, y, x = (np.arange(n) * one for n, one in zip(frame.nodes, step, strict=True))
            plane = z[:, None] + y + (wave[:3] @ frame.affine[:3, 3] + wave[3])
            swing = np.sin(plane).astype(np.float32)[..., None] * np.cos(x).astype(np.float32)
            swing += np.cos(plane).astype(np.float32)[..., None] * np.sin(x).astype(np.float32)
            for axis in range(3):
                out[axis] += np.float32(wave[4 + axis]) * swing
        return out[0], out[1], out[2]

    def patient(self, points: Points) -> Points:
        """Return places in the patient (n, 3) for places of the standard body, to a tenth of a millimetre."""
        scale = np.array(self.scale)
        guess = points * scale
        for _ in range(4):
            guess = (points - self._swing(guess)) * scale
        return np.asarray(guess)

    def _swing(self, points: Points) -> Points:
        return np.asarray(np.sin(points @ self.waves[:, :3].T + self.waves[:, 3]) @ self.waves[:, 4:])


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """One shape and its matter; *sheet* mm thick about the surface where that is not 0."""

    box: Box
    distance: Grid
    value: float | Grid  # HU, one number or known on the same box
    sheet: float = 0.0
    over: tuple[float, float] | None = None  # paints only where the value so far lies between these


@dataclass(slots=True, eq=False)
class Scene:
    """Layers on the lattice of one frame, in the order in which they are painted."""

    frame: Frame
    bend: Bend
    left: Grid = field(init=False)  # places in the standard body of the lattice's nodes
    back: Grid = field(init=False)
    head: Grid = field(init=False)
    layers: list[Layer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left, self.back, self.head = self.bend.on_lattice(self.frame)

    @property
    def everywhere(self) -> Box:
        """The whole lattice."""
        z, y, x = self.frame.nodes
        return slice(0, z), slice(0, y), slice(0, x)

    def within(self, low: Sequence[float], high: Sequence[float], margin: float = _MARGIN) -> Box:
        """Return the part of the lattice that covers all between two corners of the standard body."""
        slack = margin + float(np.abs(self.bend.waves[:, 4:]).sum(0).max(initial=0.0))
        scale = np.array(self.bend.scale)
        ends = np.array([np.array(low) - slack, np.array(high) + slack]) * scale
        return self.frame.box(ends[0], ends[1], lattice=True)

    def paint(self, piece: Piece, value: float | Grid, over: tuple[float, float] | None = None) -> None:
        """Add a layer, cut to where its shape is; a *value* given as field is known on the same box."""
        box, distance = piece
        inside = distance < _MARGIN
        if not inside.any():
            return
        trim = []
        for axis in range(3):
            hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
            trim.append(slice(max(int(hits[0]) - 1, 0), int(hits[-1]) + 2))
        cut = (trim[0], trim[1], trim[2])
        place = tuple(
            slice(b.start + t.start, b.start + min(t.stop, n)) for b, t, n in zip(box, cut, distance.shape, strict=True)
        )
        matter = value if isinstance(value, float) else np.ascontiguousarray(value[cut])
        self.layers.append(
            Layer((place[0], place[1], place[2]), np.ascontiguousarray(distance[cut]), matter, 0.0, over)
        )

    def paint_sheet(self, piece: Piece, value: float, thickness: float, over: tuple[float, float]) -> None:
        """Add a sheet of *thickness* mm about the zero surface of a field."""
        if piece[1].size:
            self.layers.append(Layer(piece[0], piece[1], value, thickness, over))

    def render(self) -> Grid:
        """Return the layers painted on every voxel of the frame, in HU."""
        voxels = np.full(self.frame.shape, -1000.0, dtype=np.float32)
        width = np.float32(max(float(np.mean(self.frame.spacing)), 0.6))
        for start in range(0, self.frame.shape[0], _SLAB):
            slices = range(start, min(start + _SLAB, self.frame.shape[0]))
            for layer in self.layers:
                self._paint(voxels, layer, slices, width)
        return voxels

    def _paint(self, voxels: Grid, layer: Layer, slices: range, width: np.float32) -> None:
        found = upsampled(layer.distance, layer.box, slices, self.frame)
        if found is None:
            return
        place, distance = found
        value: float | Grid = layer.value if isinstance(layer.value, float) else self._matter(layer, slices)
        here = voxels[place]
        if layer.sheet:
            cover = np.clip(
                ((layer.sheet + width) / 2 - np.abs(distance)) / width, 0.0, min(1.0, layer.sheet / float(width))
            )
        else:
            cover = np.clip(0.5 - distance / width, 0.0, 1.0)
        if layer.over is not None:
            cover *= (here > layer.over[0]) & (here < layer.over[1])
        here += cover * (value - here)

    def _matter(self, layer: Layer, slices: range) -> Grid:
        assert not isinstance(layer.value, float)  # noqa: S101  # told from a number by the caller
        found = upsampled(layer.value, layer.box, slices, self.frame)
        assert found is not None  # noqa: S101  # the same box has voxels there
        return found[1]

    def inside(self, piece: Piece) -> NDArray[np.bool_]:
        """Return for every voxel of the frame whether its centre lies inside the shape."""
        result = np.zeros(self.frame.shape, dtype=np.bool_)
        for start in range(0, self.frame.shape[0], _SLAB):
            slices = range(start, min(start + _SLAB, self.frame.shape[0]))
            found = upsampled(piece[1], piece[0], slices, self.frame)
            if found is not None:
                result[found[0]] = found[1] < 0
        return result

    def ellipsoid(
        self, centre: Sequence[float], radii: Sequence[float], axis: Point | None = None, margin: float = _MARGIN
    ) -> Piece:
        """Return an ellipsoid of the standard body; with *axis* the first radius lies along that direction."""
        reach = np.array(radii) if axis is None else np.full(3, max(radii))
        box = self.within(np.array(centre) - reach, np.array(centre) + reach, margin)
        at = [g[box] - np.float32(c) for g, c in zip((self.left, self.back, self.head), centre, strict=True)]
        if axis is not None:
            turn = _towards(axis).astype(np.float32)
            at = [turn[i, 0] * at[0] + turn[i, 1] * at[1] + turn[i, 2] * at[2] for i in range(3)]
        r = np.array(radii, dtype=np.float32)
        near = np.sqrt((at[0] / r[0]) ** 2 + (at[1] / r[1]) ** 2 + (at[2] / r[2]) ** 2)
        slope = np.sqrt((at[0] / r[0] ** 2) ** 2 + (at[1] / r[1] ** 2) ** 2 + (at[2] / r[2] ** 2) ** 2)
        return box, near * (near - 1) / np.maximum(slope, np.float32(1e-6))

    def tube(self, points: Sequence[Point], radii: Sequence[float]) -> Piece:
        """Return a tube through *points* of the standard body, its radius changing evenly from point to point."""
        path, r = np.array(points, dtype=np.float32), np.array(radii, dtype=np.float32)
        box = self.within(path.min(0) - r.max(), path.max(0) + r.max())
        grid = [g[box] for g in (self.left, self.back, self.head)]
        result = np.full(grid[0].shape, 99.0, dtype=np.float32)
        for a, b, ra, rb in zip(path[:-1], path[1:], r[:-1], r[1:], strict=True):
            line = b - a
            at = [g - one for g, one in zip(grid, a, strict=True)]
            along = np.clip((at[0] * line[0] + at[1] * line[1] + at[2] * line[2]) / (line @ line), 0.0, 1.0)
            away = np.sqrt(sum((one - along * step) ** 2 for one, step in zip(at, line, strict=True)))
            np.minimum(result, away - (ra + along * (rb - ra)), out=result)
        return box, result


def _towards(axis: Point) -> NDArray[np.float64]:
    """Return a rotation whose first row is the direction *axis*."""
    first = np.array(axis) / np.linalg.norm(axis)
    second = np.cross(first, (0.0, 0.0, 1.0) if abs(first[2]) < 0.9 else (1.0, 0.0, 0.0))
    second /= np.linalg.norm(second)
    return np.array([first, second, np.cross(first, second)])


def smooth_min(a: Grid, b: Grid, blend: float) -> Grid:
    """Return the union of two shapes, rounded over *blend* mm where they meet."""
    near = np.abs(a - b)
    np.subtract(np.float32(blend), near, out=near)
    np.maximum(near, np.float32(0), out=near)
    near *= near
    near *= np.float32(1 / (4 * blend))
    return np.asarray(np.minimum(a, b) - near, dtype=np.float32)


def smooth_max(a: Grid, b: Grid, blend: float) -> Grid:
    """Return the intersection of two shapes, rounded over *blend* mm where they meet."""
    return -smooth_min(-a, -b, blend)
