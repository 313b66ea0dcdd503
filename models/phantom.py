"""A thorax made of formulas: a CT that belongs to nobody, with a truth that is exact by construction.

It is asymmetric on purpose: the heart and the smaller lung lie on the patient's left, the liver's dome lifts the
right lung's base, a gas bubble stands in the stomach on the left. A swap of any two directions shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.contract import Mask

Grid = NDArray[np.float32]  # (z, y, x)

_AIR, _FAT, _SOFT, _BLOOD, _LUNG, _BONE, _LIVER, _TABLE = -1000.0, -90.0, 40.0, 45.0, -850.0, 450.0, 60.0, -250.0
_NOISE = 18.0  # HU, standard deviation before smoothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball:
    """One nodule of the truth."""

    centre_mm: tuple[float, float, float]  # (L, P, S)
    diameter_mm: float
    side: str  # "left-lung" or "right-lung"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Phantom:
    """Voxels in the contract's orientation, and what is truly in them."""

    voxels: Grid  # (z, y, x) HU
    affine: NDArray[np.float64]  # (4, 4): index (z, y, x, 1) -> (L, P, S, 1) in mm
    left_lung: Mask  # (z, y, x), nodules and vessels inside it included
    right_lung: Mask
    airways: Mask  # the lumen of trachea and main bronchi
    nodules: tuple[Ball, ...]

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


NODULES = (
    Ball(centre_mm=(-70.0, -10.0, 40.0), diameter_mm=14.0, side="right-lung"),
    Ball(centre_mm=(88.0, 30.0, -20.0), diameter_mm=9.0, side="left-lung"),
)


def thorax_phantom(
    shape: tuple[int, int, int] = (120, 256, 256), spacing: tuple[float, float, float] = (2.5, 1.4, 1.4), seed: int = 0
) -> Phantom:
    """Return a thorax of *shape* (z, y, x) voxels at *spacing* mm, its centre at the patient's origin."""
    left, back, head = _coordinates(shape, spacing)
    body = _ellipsoid(left, back, head, (0, 0, 0), (165, 112, 900))
    voxels = np.where(body, _FAT, _AIR).astype(np.float32)
    voxels[_ellipsoid(left, back, head, (0, 0, 0), (152, 100, 900))] = _SOFT
    voxels[np.broadcast_to((back > 122) & (back < 134) & (np.abs(left) < 190), shape)] = _TABLE
    right_lung, left_lung, airways = _lungs(left, back, head)
    voxels[right_lung | left_lung] = _LUNG
    _vessels(voxels, right_lung | left_lung, left, back, head)
    wall, lumen = airways
    voxels[wall], voxels[lumen] = _SOFT, _AIR
    _skeleton(voxels, left, back, head)
    voxels[_ellipsoid(left, back, head, (75, -35, -148), (30, 25, 14))] = _AIR  # gas in the stomach
    for ball in NODULES:
        voxels[_ellipsoid(left, back, head, ball.centre_mm, (ball.diameter_mm / 2,) * 3)] = _SOFT
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = spacing
    affine[:3, 3] = (left.ravel()[0], back.ravel()[0], head.ravel()[0])
    affine[3, 3] = 1.0
    return Phantom(
        voxels=_scanned(voxels, seed), affine=affine, left_lung=left_lung & ~wall & ~lumen,
        right_lung=right_lung & ~wall & ~lumen, airways=lumen, nodules=NODULES,
    )  # fmt: skip


def _coordinates(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> tuple[Grid, Grid, Grid]:
    """Return (left, back, head) in mm, each shaped to broadcast over (z, y, x)."""
    axes = [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(shape, spacing, strict=True)]
    return axes[2][None, None, :], axes[1][None, :, None], axes[0][:, None, None]


def _ellipsoid(
    left: Grid, back: Grid, head: Grid, centre: tuple[float, float, float], radii: tuple[float, ...]
) -> Mask:
    axes = zip((left, back, head), centre, radii, strict=True)
    distance = sum((((axis - middle) / radius) ** 2 for axis, middle, radius in axes), np.float32(0))
    return np.asarray(distance <= 1.0)


def _lungs(left: Grid, back: Grid, head: Grid) -> tuple[Mask, Mask, tuple[Mask, Mask]]:
    """Return right lung, left lung and the airways (wall, lumen): trachea and main bronchi."""
    heart = _ellipsoid(left, back, head, (32, -25, -55), (58, 48, 62))
    right_dome = _ellipsoid(left, back, head, (-78, 0, -150), (85, 95, 75))
    left_dome = _ellipsoid(left, back, head, (80, 0, -165), (80, 95, 72))
    middle = np.abs(left) < 22 + 0.02 * np.abs(head) + 0.0 * back
    spine = _ellipsoid(left, back, head, (0, 70, 0), (42, 42, 900))
    right = _ellipsoid(left, back, head, (-78, 2, -15), (64, 84, 145)) & ~right_dome
    left_one = _ellipsoid(left, back, head, (76, 6, -12), (60, 82, 138)) & ~left_dome
    trachea = _tube(left, back, head, (0, 0, 160), (0, 5, 25))
    main_right = _tube(left, back, head, (0, 5, 25), (-42, 8, 0))
    main_left = _tube(left, back, head, (0, 5, 25), (46, 10, -8))
    lumen = (trachea < 8.5) | (main_right < 6.5) | (main_left < 6.0)
    wall = ((trachea < 10.5) | (main_right < 8.5) | (main_left < 8.0)) & ~lumen
    outside = heart | middle | spine
    return right & ~outside, left_one & ~outside, (wall, lumen)


def _tube(
    left: Grid, back: Grid, head: Grid, start: tuple[float, float, float], end: tuple[float, float, float]
) -> Grid:
    """Return the distance in mm of each voxel from the line between two points (L, P, S)."""
    line = [float(e - s) for s, e in zip(start, end, strict=True)]
    length = sum(one * one for one in line)
    along = ((left - start[0]) * line[0] + (back - start[1]) * line[1] + (head - start[2]) * line[2]) / length
    along = np.clip(along, 0.0, 1.0)
    distance = np.sqrt(
        (left - start[0] - along * line[0]) ** 2
        + (back - start[1] - along * line[1]) ** 2
        + (head - start[2] - along * line[2]) ** 2
    )
    return np.asarray(distance, dtype=np.float32)


def _vessels(voxels: Grid, lungs: Mask, left: Grid, back: Grid, head: Grid) -> None:
    """Draw a tree of vessels from each hilum, thinner at each branching, kept clear of the nodules."""
    rng = np.random.default_rng(7)  # the anatomy is the same whatever the noise
    for side in (-1.0, 1.0):
        hilum = np.array([side * 40.0, 8.0, 0.0])
        for _ in range(11):
            direction = rng.normal(size=3) * (0.7, 1.0, 1.2) + (side * 0.9, 0.0, 0.0)
            _branch(voxels, lungs, (left, back, head), hilum, direction / np.linalg.norm(direction), 3.2, rng)


def _branch(
    voxels: Grid, lungs: Mask, grid: tuple[Grid, Grid, Grid], start: NDArray[np.float64],
    direction: NDArray[np.float64], radius: float, rng: np.random.Generator,
) -> None:  # fmt: skip
    if radius < 1.0:
        return
    end = start + direction * 30.0
    if all(np.linalg.norm(np.cross(direction, np.array(b.centre_mm) - start)) > b.diameter_mm for b in NODULES):
        low, high = np.minimum(start, end) - radius, np.maximum(start, end) + radius
        places = [np.searchsorted(grid[i].ravel(), (low[i], high[i])) for i in (2, 1, 0)]
        box = tuple(slice(int(first), int(last)) for first, last in places)
        near = _tube(
            grid[0][:, :, box[2]], grid[1][:, box[1]], grid[2][box[0]], tuple(start), tuple(end)
        )
        voxels[box][(near < radius) & lungs[box]] = _BLOOD
    for _ in range(2):
        turned = direction + rng.normal(size=3) * 0.45
        _branch(voxels, lungs, grid, end, turned / np.linalg.norm(turned), radius * 0.72, rng)


def _skeleton(voxels: Grid, left: Grid, back: Grid, head: Grid) -> None:
    """Draw spine, sternum and ribs, and the liver below the right lung."""
    liver = _ellipsoid(left, back, head, (-70, 0, -155), (78, 88, 72)) & (voxels > _FAT)
    voxels[liver] = _LIVER
    disc = (np.mod(head, 28.0) < 6.0)
    spine = _ellipsoid(left, back, head, (0, 68, 0), (19, 16, 900))
    voxels[spine & ~disc] = _BONE
    voxels[_ellipsoid(left, back, head, (0, -94, 30), (14, 5, 75))] = _BONE
    ring = _ellipsoid(left, back, head, (0, 0, 0), (152, 100, 900)) & ~_ellipsoid(
        left, back, head, (0, 0, 0), (144, 92, 900)
    )
    slant = np.mod(head + 0.35 * back, 26.0) < 9.0
    voxels[ring & slant & (np.abs(left) > 20)] = _BONE


def _scanned(voxels: Grid, seed: int) -> Grid:
    """Return the voxels as a scanner gives them: a little blurred, with correlated noise, whole HU."""
    rng = np.random.default_rng(seed)
    noisy = _smooth(voxels) + _smooth(rng.normal(0.0, _NOISE * 2.0, voxels.shape).astype(np.float32))
    return np.asarray(np.clip(np.rint(noisy), -1024, 3071), dtype=np.float32)


def _smooth(values: Grid) -> Grid:
    """Return *values* blurred in the plane with the kernel (1, 2, 1) / 4."""
    for axis in (1, 2):
        padded = np.pad(values, [(1, 1) if a == axis else (0, 0) for a in range(3)], mode="edge")
        before, after = np.delete(padded, [-1, -2], axis), np.delete(padded, [0, 1], axis)
        values = ((before + 2.0 * values + after) / 4.0).astype(np.float32)
    return values
