"""From a volume's grid to the fixed grid that a network sees, and back; exact with respect to voxel centres.

Both grids have the same axes and differ in spacing and extent alone, so each axis is one small matrix. Where a grid
shrinks, each sample is a mean over its own width (no aliasing); where it grows, values are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume

Values = NDArray[np.float32]  # (z, y, x)
Labels = NDArray[np.uint8]  # (z, y, x)
Triple = tuple[float, float, float]

LOWEST, HIGHEST = -1024.0, 400.0  # HU: all below is air or padding, all above bone or metal
UNKNOWN = 255  # the label of voxels of which nothing is known


def normalised(hounsfield: NDArray[np.generic]) -> Values:
    """Return HU clipped to [-1024, 400] and scaled to [-1, 1]: what every network here is shown."""
    clipped = np.clip(np.asarray(hounsfield, dtype=np.float32), LOWEST, HIGHEST)
    return np.asarray((clipped - LOWEST) * (2.0 / (HIGHEST - LOWEST)) - 1.0, dtype=np.float32)


def padding(samples: Values) -> NDArray[np.bool_]:
    """Return where *samples* (HU, means over some mm) show nothing: no mean of real air is as low as padding."""
    nothing: NDArray[np.bool_] = samples <= LOWEST + 1.0
    return nothing


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Grid:
    """A grid laid over a volume along the same axes, and the way between both.

    Sample i of an axis lies at index ``start + i * step`` of the volume, counted between voxel centres.
    """

    source: tuple[int, int, int]  # (z, y, x) voxels of the volume
    shape: tuple[int, int, int]  # (z, y, x) samples
    start: Triple
    step: Triple
    affine: NDArray[np.float64]  # (4, 4): sample (z, y, x, 1) -> (L, P, S, 1) in mm

    @classmethod
    def over(cls, volume: Volume, spacing: Triple, plane: tuple[int, int] | None = None) -> Grid:
        """Return the grid of *spacing* mm that covers *volume* with the same middle.

        With *plane* (y, x) samples the slices are cut or continued to that size about their middle.
        """
        covering = [
            max(1, int(np.ceil(n * mm / to - 1e-6))) for n, mm, to in zip(volume.voxels.shape, volume.spacing, spacing,
            strict=True)
        ]  # fmt: skip
        shape = (covering[0], covering[1], covering[2]) if plane is None else (covering[0], *plane)
        middle = [(n - 1) / 2.0 for n in volume.voxels.shape]
        return cls._about(volume, (middle[0], middle[1], middle[2]), spacing, shape)

    @classmethod
    def around(cls, volume: Volume, centre_mm: Triple, spacing: Triple, shape: tuple[int, int, int]) -> Grid:
        """Return a box of *shape* samples of *spacing* mm whose middle lies at *centre_mm* (L, P, S)."""
        z, y, x = np.linalg.solve(volume.affine, np.array([*centre_mm, 1.0]))[:3]
        return cls._about(volume, (float(z), float(y), float(x)), spacing, shape)

    @classmethod
    def _about(cls, volume: Volume, middle: Triple, spacing: Triple, shape: tuple[int, int, int]) -> Grid:
        step = [to / mm for to, mm in zip(spacing, volume.spacing, strict=True)]
        start = [at - (m - 1) / 2.0 * s for at, m, s in zip(middle, shape, step, strict=True)]
        affine = volume.affine.copy()
        affine[:3, :3] *= step  # one column per axis
        affine[:3, 3] = volume.to_patient((start[0], start[1], start[2]))
        z, y, x = volume.voxels.shape
        return cls(
            source=(z, y, x), shape=shape, start=(start[0], start[1], start[2]), step=(step[0], step[1], step[2]),
            affine=affine,
        )  # fmt: skip

    def sample(self, voxels: NDArray[np.generic], outside: float = LOWEST) -> Values:
        """Return *voxels* (z, y, x) of the volume on this grid, clipped to at least -1024; *outside* where it ends."""
        ways = [_Way.to(n, m, a, s) for n, m, a, s in zip(self.source, self.shape, self.start, self.step, strict=True)]
        along_z, along_y, along_x = ways
        flat = np.empty((along_z.stop - along_z.first, *self.shape[1:]), np.float32)
        for place, z in enumerate(range(along_z.first, along_z.stop)):  # in-plane first: the plane mostly shrinks
            picture = np.maximum(voxels[z, along_y.first : along_y.stop, along_x.first : along_x.stop], LOWEST)
            flat[place] = along_y.weights @ picture.astype(np.float32) @ along_x.weights.T
        result = np.tensordot(along_z.weights, flat, axes=1)
        result[~(along_z.inside[:, None, None] & along_y.inside[:, None] & along_x.inside)] = outside
        return np.asarray(result, dtype=np.float32)

    def sample_labels(self, labels: Labels, outside: int = 0) -> Labels:
        """Return *labels* (z, y, x) of the volume on this grid: at each sample the one that fills most of it."""
        best = np.zeros(self.shape, np.float32)
        result = np.full(self.shape, outside, np.uint8)
        for value in np.unique(labels):
            share = self.sample(labels == value, outside=0.0)
            more = share > best
            result[more], best[more] = value, share[more]
        return result

    def restored(self, values: Values) -> Iterator[Values]:
        """Give the slices (channels, y, x) of the volume, one by one, of *values* (channels, z, y, x) on this grid.

        Where the volume reaches beyond the grid the outermost values go on.
        """
        ways = []
        for n, m, start, step in zip(self.source, self.shape, self.start, self.step, strict=True):
            ways.append(_Way.to(m, n, -start / step, 1.0 / step))
        along_z, along_y, along_x = ways
        for z in range(self.source[0]):
            near = np.flatnonzero(along_z.weights[z])
            slab = values[:, along_z.first + near[0] : along_z.first + near[-1] + 1]
            picture = np.einsum("z,czyx->cyx", along_z.weights[z, near[0] : near[-1] + 1], slab)
            picture = picture[:, along_y.first : along_y.stop, along_x.first : along_x.stop]
            yield np.asarray(along_y.weights @ picture @ along_x.weights.T, dtype=np.float32)

    def restored_labels(self, probabilities: Values) -> Labels:
        """Return on the volume's grid the class of the greatest of *probabilities* (classes, z, y, x)."""
        result = np.empty(self.source, np.uint8)
        for z, picture in enumerate(self.restored(probabilities)):
            result[z] = picture.argmax(axis=0)
        return result


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Way:
    """One axis: each sample as a weighted mean of voxels *first* to *stop*."""

    weights: Values  # (samples, stop - first), each row of sum 1
    first: int
    stop: int
    inside: NDArray[np.bool_]  # (samples,): whether the sample's centre lies in a voxel

    @classmethod
    def to(cls, voxels: int, samples: int, start: float, step: float) -> _Way:
        """Return the way from *voxels* to *samples* at ``start + i * step``.

        The weights are those of linear interpolation, averaged over a box of sqrt(step ** 2 - 1) voxels where the grid
        shrinks: a straight slope stays that slope, whatever the step, so that nothing is moved. Beyond the outermost
        centres the outermost value goes on.
        """
        at = start + np.arange(samples, dtype=np.float64) * step
        inside = (at >= -0.5 - 1e-6) & (at <= voxels - 0.5 + 1e-6)
        width = np.sqrt(max(0.0, step**2 - 1.0))
        reach = int(np.ceil(width / 2.0)) + 1
        held = np.clip(at, -reach, voxels - 1 + reach)  # far outside one value is like another
        near = np.floor(held).astype(np.int64)[:, None] + np.arange(-reach, reach + 2)  # (samples, neighbours)
        share = _share(near - held[:, None], width)
        near = np.clip(near, 0, voxels - 1)
        first, stop = int(near[share > 0].min()), int(near[share > 0].max()) + 1
        weights = np.zeros((samples, stop - first))
        rows = np.broadcast_to(np.arange(samples)[:, None], near.shape)
        np.add.at(weights, (rows[share > 0], near[share > 0] - first), share[share > 0])
        weights /= weights.sum(axis=1, keepdims=True)
        return cls(weights=weights.astype(np.float32), first=first, stop=stop, inside=inside)


def _share(distance: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Return the weight of a voxel at *distance* from a sample: the triangle of linear interpolation under a box."""
    if width < 1e-3:
        return np.maximum(0.0, 1.0 - np.abs(distance))
    share: NDArray[np.float64] = (_below(distance + width / 2.0) - _below(distance - width / 2.0)) / width
    return np.maximum(share, 0.0)


def _below(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of the triangle (1 - |t| between -1 and 1) to the left of *x*."""
    x = np.clip(x, -1.0, 1.0)
    return np.where(x < 0.0, 0.5 * (1.0 + x) ** 2, 1.0 - 0.5 * (1.0 - x) ** 2)


def neighbours(voxels: NDArray[np.generic], z: int, count: int) -> NDArray[np.generic]:
    """Return the *count* slices (count, y, x) about slice *z* of (z, y, x), *z* in the middle; the ends go on."""
    first = z - count // 2
    return voxels[np.clip(np.arange(first, first + count), 0, voxels.shape[0] - 1)]
