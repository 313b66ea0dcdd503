"""Measures of agreement between what a model found and a reference on the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from models.contract import Detection, Mask, Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class Marks:
    """How the marks of a detection compare with the labelled objects."""

    labelled: int  # objects of the reference
    hit: int  # of them, with the centre of at least one mark inside
    false: int  # marks whose centre lies in no object


def dice(found: Mask, reference: Mask) -> float:
    """Return Dice's coefficient, 0 to 1; two empty masks agree, so they have 1 (Dice 1945, 10.2307/1932409)."""
    both = int(found.sum()) + int(reference.sum())
    return 2.0 * int((found & reference).sum()) / both if both else 1.0


def volume_error(found_ml: float, reference_ml: float) -> float:
    """Return the signed error of a volume as a share of the reference, e.g. -0.03 for 3 % too little."""
    if reference_ml <= 0:
        raise ValueError("the reference is empty: a relative error has no meaning")
    return (found_ml - reference_ml) / reference_ml


def compare_marks(detections: Sequence[Detection], reference: Mask, volume: Volume) -> Marks:
    """Return hits and false marks; objects are the 26-connected components of *reference*, as LIDC counts hits."""
    objects, labelled = ndimage.label(reference, structure=np.ones((3, 3, 3)))
    struck = [_object_at(detection, objects, volume) for detection in detections]
    return Marks(labelled=int(labelled), hit=len(set(struck) - {0}), false=struck.count(0))


def _object_at(detection: Detection, objects: np.ndarray[tuple[int, ...], np.dtype[np.int32]], volume: Volume) -> int:
    """Return the number of the object that a mark's centre lies in; 0 where it lies in none or outside the grid."""
    place = np.linalg.solve(volume.affine, np.array([*detection.centre_mm, 1.0]))[:3]
    index = tuple(round(float(one)) for one in place)
    if any(not 0 <= one < n for one, n in zip(index, objects.shape, strict=True)):
        return 0
    return int(objects[index])
