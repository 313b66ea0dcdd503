"""Thousands of thin tubes put into a grid of voxels, each touching only the voxels near it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.generator.frame import Frame, Grid, Points

_BATCH = 1_500_000  # distances worked out at once: bounds the memory


@dataclass(frozen=True, slots=True, eq=False)
class Tubes:
    """Straight pieces of tube in the patient, each of one radius."""

    start: Points  # (n, 3): (L, P, S) in mm
    end: Points
    radius: NDArray[np.float64]  # (n,) mm

    def __add__(self, other: Tubes) -> Tubes:
        return Tubes(*(np.concatenate([getattr(self, n), getattr(other, n)]) for n in ("start", "end", "radius")))

    def cut(self, longest: float) -> Tubes:
        """Return the same tubes in pieces of at most *longest* mm."""
        length = np.linalg.norm(self.end - self.start, axis=1)
        parts = np.maximum(1, np.ceil(length / longest)).astype(int)
        owner = np.repeat(np.arange(len(parts)), parts)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
        step = (self.end - self.start)[owner] / parts[owner, None]
        start = self.start[owner] + step * number[:, None]
        return Tubes(start, start + step, self.radius[owner])

    def near(self, frame: Frame, margin: float) -> Tubes:
        """Return the tubes that come within *margin* mm of the frame, about."""
        slack = np.array([margin / mm for mm in frame.spacing]) + (self.radius[:, None] / np.array(frame.spacing))
        a, b = frame.index(self.start), frame.index(self.end)
        seen = ((np.maximum(a, b) > -slack) & (np.minimum(a, b) < np.array(frame.shape) - 1 + slack)).all(1)
        return Tubes(self.start[seen], self.end[seen], self.radius[seen])


def none_at_all() -> Tubes:
    """Return no tubes."""
    return Tubes(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))


def depth(frame: Frame, tubes: Tubes, outside: float = 3.0) -> Grid:
    """Return how deep inside the tubes each voxel centre lies, in mm; not less than -*outside*."""
    result = np.full(frame.shape, -outside, dtype=np.float32)
    for index, away, radius in _near_voxels(frame, tubes, outside):
        np.maximum.at(result.reshape(-1), index, radius - away)
    return result


def cover(frame: Frame, tubes: Tubes) -> Grid:
    """Return the share of each voxel that the tubes fill, about: thin tubes fill little of a large voxel."""
    width = max(float(np.mean(frame.spacing)), 0.5)
    result = np.zeros(frame.shape, dtype=np.float32)
    for index, away, radius in _near_voxels(frame, tubes, width / 2):
        soft = np.clip(0.5 + (radius - away) / width, 0.0, 1.0) * np.minimum(1.0, (2.2 * radius / width) ** 1.3)
        np.maximum.at(result.reshape(-1), index, soft.astype(np.float32))
    return result


def _near_voxels(
    frame: Frame, tubes: Tubes, beyond: float
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]]:
    """Yield (flat voxel index, distance to the axis, radius) of all voxels up to *beyond* mm from each tube."""
    fine = float(min(frame.spacing))
    tubes = tubes.near(frame, beyond).cut(max(4.0 * fine, 3.0))
    if not len(tubes.radius):
        return
    middle, half = frame.index((tubes.start + tubes.end) / 2), frame.index(tubes.end) - frame.index(tubes.start)
    centre = np.rint(middle).astype(int)
    reach = np.ceil(np.abs(half) / 2 + (tubes.radius[:, None] + beyond) / np.array(frame.spacing) + 0.5).astype(int)
    _, group = np.unique(reach, axis=0, return_inverse=True)
    group = group.reshape(-1)
    order = np.argsort(group, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(group[order])) + 1):
        z, y, x = (np.arange(-r, r + 1) for r in reach[members[0]])
        stencil = np.stack(np.meshgrid(z, y, x, indexing="ij"), -1).reshape(-1, 3)
        many = max(1, _BATCH // len(stencil))
        for first in range(0, len(members), many):
            yield from _batch(frame, tubes, centre, stencil, members[first : first + many], beyond)


def _batch(
    frame: Frame, tubes: Tubes, centre: NDArray[np.int_], stencil: NDArray[np.int_], some: NDArray[np.intp],
    beyond: float,
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]]:  # fmt: skip
    matrix = frame.affine[:3, :3].astype(np.float32)
    offset = (stencil @ matrix.T).astype(np.float32)  # (stencil, 3) mm from the middle voxel
    base = (centre[some] @ frame.affine[:3, :3].T + frame.affine[:3, 3] - tubes.start[some]).astype(np.float32)
    line = (tubes.end[some] - tubes.start[some]).astype(np.float32)
    long2 = np.maximum((line**2).sum(1), np.float32(1e-6))[:, None]
    along = np.clip((line @ offset.T + (base * line).sum(1)[:, None]) / long2, 0.0, 1.0)
    away = np.zeros_like(along)
    for axis in range(3):
        away += (offset[None, :, axis] + base[:, axis, None] - along * line[:, axis, None]) ** 2
    away = np.sqrt(away)
    radius = np.broadcast_to(tubes.radius[some].astype(np.float32)[:, None], away.shape)
    voxel = centre[some][:, None, :] + stencil[None]
    seen = (away < radius + np.float32(beyond)) & (voxel >= 0).all(2) & (voxel < np.array(frame.shape)).all(2)
    flat = np.ravel_multi_index(tuple(np.moveaxis(voxel[seen], 1, 0)), frame.shape)
    yield flat, away[seen], radius[seen]
