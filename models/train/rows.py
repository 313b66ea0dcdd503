"""Rows of slices changed as scans differ: a box alone in view, or the table in front of a patient who lies prone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.generator import REGIONS
from models.sampling import LOWEST, UNKNOWN

_CHEST = REGIONS.index("chest")
_BOX_MM = (60.0, 270.0)  # side of a box that is seen alone
_BODY = -900  # HU: air lies below
_LUNG = (-990, -500)  # HU
_LEAST_LUNG = 0.15  # share of a box
_FLESH = -200  # HU: a table is thin or light, and lies below on the training grid
_GAP, _THICK = 5, 3  # samples at most between patient and table, and through the table
_TABLE = (-500, 150)  # HU


def boxed(
    voxels: NDArray[np.int16], labels: NDArray[np.uint8], spacing: float, rng: np.random.Generator
) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """Return a row of slices (slices, y, x) of which a box in the patient alone is seen, moved to the middle.

    A slice of chest whose box holds next to no lung is not settled any more. *spacing* is that of the plane in mm.
    """
    side = rng.uniform(*_BOX_MM) / spacing
    half = np.maximum(1, np.rint(side * rng.uniform(0.8, 1.25, 2) / 2)).astype(int)
    there = np.argwhere(voxels[len(voxels) // 2] > _BODY)
    middle = np.array(voxels.shape[1:]) // 2
    at = there[int(rng.integers(len(there)))] if len(there) else middle
    moved = np.full_like(voxels, int(LOWEST))
    (low_y, low_x), (high_y, high_x) = np.maximum(at - half, 0), np.minimum(at + half, voxels.shape[1:])
    seen = voxels[:, low_y:high_y, low_x:high_x]
    top, start = np.maximum(middle - np.array(seen.shape[1:]) // 2, 0)
    moved[:, top : top + seen.shape[1], start : start + seen.shape[2]] = seen
    lung = ((seen > _LUNG[0]) & (seen < _LUNG[1])).mean(axis=(1, 2)) >= _LEAST_LUNG
    return moved, np.where((labels == _CHEST) & ~lung, UNKNOWN, labels).astype(np.uint8)


def prone(voxels: NDArray[np.int16], rng: np.random.Generator) -> NDArray[np.int16]:
    """Return a row of slices (slices, y, x) with air behind the patient and a table in front of him.

    Which way a picture lies is to be told by the patient, not by his table. Without room in front there is none.
    """
    parts, count = ndimage.label((voxels > _FLESH).any(axis=0))  # (y, x), of all slices together
    if not count:
        return voxels
    patient = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    height, across = len(patient), patient.any(axis=0)
    behind = height - patient[::-1].argmax(axis=0)
    behind = np.where(across, behind, np.median(behind[across]))  # (x,)
    changed = np.where(np.arange(height)[:, None] > behind, np.int16(LOWEST), voxels)
    bottom = int(patient.any(axis=1).argmax()) - int(rng.integers(_GAP))
    top = bottom - int(rng.integers(1, _THICK + 1))
    if top >= 0:
        changed[:, top:bottom, across] = rng.integers(*_TABLE)
    return changed
