"""Harder ways to see the same patient: a volume and its reference go through the same change.

Storage order is not among them: the reader undoes it before a model sees anything, so it is tried with files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, Volume

Reference = Mapping[str, Mask]  # name -> (z, y, x), on the grid of the volume

_AIR = -1024.0  # HU: what the reader gives where there is nothing


class NothingToChange(Exception):
    """The volume is so already, or too small; the message is the reason, for people."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scene:
    """A volume with its reference."""

    volume: Volume
    reference: Reference


def grid_64(scene: Scene) -> Scene:
    """Return *scene* with at most 64 x 64 pixels a slice; each is the mean of the area that it covers."""
    _, rows, columns = scene.volume.voxels.shape
    if rows <= 64 and columns <= 64:
        raise NothingToChange("a slice has no more than 64 x 64 pixels")
    factors = (1.0, rows / min(rows, 64), columns / min(columns, 64))
    return _averaged(scene, factors)


def slices_7mm(scene: Scene) -> Scene:
    """Return *scene* in slices of 7 mm, without gaps; each is the mean of those that it covers."""
    factor = 7.0 / scene.volume.spacing[0]
    if factor < 1.01:
        raise NothingToChange(f"slices lie {scene.volume.spacing[0]:.1f} mm apart")
    if scene.volume.voxels.shape[0] / factor < 3:
        raise NothingToChange("fewer than three slices of 7 mm would be left")
    return _averaged(scene, (factor, 1.0, 1.0))


def noise_50(scene: Scene) -> Scene:
    """Return *scene* with white noise of 50 HU more (standard deviation); nothing becomes thinner than air."""
    voxels = scene.volume.voxels
    noise = np.random.default_rng(50).normal(0.0, 50.0, voxels.shape)
    noisy = np.maximum(voxels + noise, _AIR).astype(np.float32)
    return replace(scene, volume=replace(scene.volume, voxels=noisy))


def padding_2000(scene: Scene) -> Scene:
    """Return *scene* with -2000 outside the largest circle in each slice, as some scanners pad; it cuts the reference.

    The reader would put air there; a model that is given raw values must bear it.
    """
    _, rows, columns = scene.volume.voxels.shape
    _, dy, dx = scene.volume.spacing
    y = (np.arange(rows) - (rows - 1) / 2)[:, None] * dy
    x = (np.arange(columns) - (columns - 1) / 2)[None, :] * dx
    inside = np.hypot(y, x) <= min(rows * dy, columns * dx) / 2
    voxels = np.where(inside, scene.volume.voxels, np.float32(-2000.0))
    return Scene(
        volume=replace(scene.volume, voxels=voxels), reference={k: m & inside for k, m in scene.reference.items()}
    )


def upper_half(scene: Scene) -> Scene:
    """Return the half of *scene* towards the head."""
    return _slices(scene, scene.volume.voxels.shape[0] // 2, scene.volume.voxels.shape[0])


def lower_half(scene: Scene) -> Scene:
    """Return the half of *scene* towards the feet."""
    return _slices(scene, 0, scene.volume.voxels.shape[0] // 2)


def double_oblique(scene: Scene) -> Scene:
    """Return *scene* on a grid turned by 12 degrees about x, then 8 about y, round its middle; air beyond the edges.

    Values by linear, the reference by nearest neighbours. The new grid has the old one's spacing and size, so corners
    are lost.
    """
    volume = scene.volume
    if min(volume.voxels.shape) < 8:
        raise NothingToChange("too few slices to turn")
    middle = volume.affine @ np.array([*((n - 1) / 2 for n in volume.voxels.shape), 1.0])
    turn = np.eye(4)
    turn[:3, :3] = _about(0, 12.0) @ _about(1, 8.0)
    turn[:3, 3] = middle[:3] - turn[:3, :3] @ middle[:3]
    affine = turn @ volume.affine
    back = np.linalg.inv(volume.affine) @ affine  # new index -> old index
    voxels = ndimage.affine_transform(volume.voxels, back[:3, :3], back[:3, 3], order=1, cval=_AIR)
    reference = {
        name: ndimage.affine_transform(mask.astype(np.uint8), back[:3, :3], back[:3, 3], order=0).astype(bool)
        for name, mask in scene.reference.items()
    }
    return Scene(volume=replace(volume, voxels=voxels, affine=affine), reference=reference)


PERTURBATIONS: Mapping[str, Callable[[Scene], Scene]] = {
    "64x64": grid_64,
    "7mm": slices_7mm,
    "noise-50": noise_50,
    "padding-2000": padding_2000,
    "upper-half": upper_half,
    "lower-half": lower_half,
    "double-oblique": double_oblique,
}


def _slices(scene: Scene, first: int, last: int) -> Scene:
    if last - first < 3:
        raise NothingToChange("fewer than three slices would be left")
    affine = scene.volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 0]
    voxels = np.ascontiguousarray(scene.volume.voxels[first:last])
    reference = {name: np.ascontiguousarray(mask[first:last]) for name, mask in scene.reference.items()}
    return Scene(volume=replace(scene.volume, voxels=voxels, affine=affine), reference=reference)


def _averaged(scene: Scene, factors: tuple[float, float, float]) -> Scene:
    """Return *scene* in voxels *factors* (z, y, x) times as large; reference is what covers half of one or more."""
    affine = scene.volume.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ ((np.array(factors) - 1) / 2)  # the middle of the first new voxel
    affine[:3, :3] *= factors
    voxels = _means(scene.volume.voxels, factors)
    reference = {name: _means(mask.astype(np.float32), factors) >= 0.5 for name, mask in scene.reference.items()}
    return Scene(volume=replace(scene.volume, voxels=voxels, affine=affine), reference=reference)


def _means(values: NDArray[np.float32], factors: tuple[float, float, float]) -> NDArray[np.float32]:
    for axis, factor in enumerate(factors):
        if factor != 1.0:
            shares = _shares(values.shape[axis], factor)
            values = np.moveaxis(np.tensordot(shares, values, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(values)


def _shares(count: int, factor: float) -> NDArray[np.float32]:
    """Return how much of each old cell (column) goes into each new one (row) of *factor* times its size; rows sum to 1.

    A rest at the far border that fills no new cell is left out.
    """
    edges = np.arange(int(count / factor + 1e-9) + 1) * factor
    cells = np.arange(count)
    low = np.maximum(edges[:-1, None], cells[None, :])
    high = np.minimum(edges[1:, None], cells[None, :] + 1)
    shares: NDArray[np.float32] = (np.clip(high - low, 0.0, None) / factor).astype(np.float32)
    return shares


def _about(axis: int, degrees: float) -> NDArray[np.float64]:
    """Return the rotation (3, 3) by *degrees* about a patient axis (0 left, 1 back)."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    first, second = [n for n in range(3) if n != axis]
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = c
    turn[first, second], turn[second, first] = -s, s
    return turn
