"""Shapes in masks: parts, balls, growing, closing, filling; each works in the box about what is there."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask

Labels = NDArray[np.int32]
Box = tuple[slice, ...]

_LARGEST_HOLE = 700.0  # mm2 in an axial slice: the widest vessel is about 30 mm across


def box_around(mask: Mask, margin: int | tuple[int, ...] = 0) -> Box:
    """Return the box of all that is in *mask*, *margin* voxels wider on each side as far as there are any.

    Nothing in *mask* gives an empty box.
    """
    margins = (margin,) * mask.ndim if isinstance(margin, int) else margin
    box: list[slice] = []
    for axis, (more, n) in enumerate(zip(margins, mask.shape, strict=True)):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not len(hits):
            return (slice(0, 0),) * mask.ndim
        box.append(slice(max(0, int(hits[0]) - more), min(n, int(hits[-1]) + 1 + more)))
    return tuple(box)


def components(mask: Mask) -> tuple[Labels, NDArray[np.int64]]:
    """Return the connected components of *mask* and the number of voxels of each label; label 0 is outside."""
    labels, _ = ndimage.label(mask)
    return labels, np.bincount(labels.ravel())


def ball(radius: float, spacing: tuple[float, ...]) -> Mask:
    """Return a ball of *radius* mm as a structuring element."""
    reach = [int(radius / mm) for mm in spacing]
    grid = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    distance = sum(((axis * mm) ** 2 for axis, mm in zip(grid, spacing, strict=True)), np.float64(0))
    return np.asarray(distance <= radius**2)


def dilated(mask: Mask, radius: float, spacing: tuple[float, ...]) -> Mask:
    """Return *mask* grown by *radius* mm; exact, through the distance to it."""
    box = box_around(mask, _margin(radius, spacing))
    grown = mask.copy()
    if mask[box].size:
        grown[box] = ndimage.distance_transform_edt(~mask[box], sampling=spacing) <= radius
    return grown


def closed(mask: Mask, radius: float, spacing: tuple[float, ...]) -> Mask:
    """Return *mask* with gaps narrower than twice *radius* mm closed."""
    box = box_around(mask)
    result = mask.copy()
    if not mask[box].size:
        return result
    margin = _margin(radius, spacing)
    padded = np.pad(mask[box], [(n, n) for n in margin])
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing) <= radius
    shrunk = ndimage.distance_transform_edt(grown, sampling=spacing) > radius
    result[box] |= shrunk[tuple(slice(n, -n) for n in margin)]
    return result


def _margin(radius: float, spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Return how many voxels *radius* mm reach along each axis, and one more."""
    return tuple(int(np.ceil(radius / mm)) + 1 for mm in spacing)


def filled(mask: Mask, pixel_mm2: float) -> Mask:
    """Return *mask* with the small holes of each axial slice filled: vessels, but not the dome of the liver."""
    result = mask.copy()
    for picture in result:
        box = box_around(picture)
        if not picture[box].size:
            continue
        holes, sizes = components(ndimage.binary_fill_holes(picture[box]) & ~picture[box])
        small = sizes * pixel_mm2 <= _LARGEST_HOLE
        small[0] = False
        picture[box] |= small[holes]
    return result


def largest(mask: Mask) -> Mask:
    """Return the parts of *mask* of at least 2 % of its largest one."""
    box = box_around(mask)
    labels, sizes = components(mask[box])
    if len(sizes) < 2:
        return mask
    kept = sizes >= 0.02 * sizes[1:].max()
    kept[0] = False
    parts = np.zeros_like(mask)
    parts[box] = kept[labels]
    return parts
