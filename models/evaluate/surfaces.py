"""How far two masks' surfaces lie apart, in mm.

The surface of a mask is its voxels with a face neighbour outside it; beyond the grid is outside, so where the images
cut an organ its cut is surface in both masks. Distances run between voxel centres along the axes' spacing, which is
exact where the axes stand at right angles, as all do but those of a tilted stack before it is straightened.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Apart:
    """How far two surfaces lie apart."""

    hd95_mm: float
    mean_mm: float


def surface_distances(found: Mask, reference: Mask, spacing: tuple[float, float, float]) -> Apart | None:
    """Return both distances, the same with the masks exchanged; None where a mask is empty.

    With d(a, B) the distance of a surface voxel a of A to the nearest surface voxel of B: hd95_mm is the greater of
    the 95th percentiles of d(a, B) and d(b, A), mean_mm the sum of all d(a, B) and d(b, A) over their number
    (Taha and Hanbury 2015, 10.1186/s12880-015-0068-x; the greater of both, not the percentile of both together, as
    Maier-Hein et al. 2024, 10.1038/s41592-023-02151-z).
    """
    if not found.any() or not reference.any():
        return None
    box = _box(found | reference)
    first, second = surface(found[box]), surface(reference[box])
    there, back = _to(second, spacing)[first], _to(first, spacing)[second]
    return Apart(
        hd95_mm=float(max(np.percentile(there, 95), np.percentile(back, 95))),
        mean_mm=float((there.sum() + back.sum()) / (len(there) + len(back))),
    )


def surface(mask: Mask) -> Mask:
    """Return the voxels of *mask* that have a face neighbour outside it or outside the grid."""
    edge: Mask = mask & ~ndimage.binary_erosion(mask)
    return edge


def _box(mask: Mask) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(box)


def _to(target: Mask, spacing: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return the distance in mm of each voxel to the nearest of *target*."""
    distance: NDArray[np.float64] = ndimage.distance_transform_edt(~target, sampling=spacing)
    return distance
