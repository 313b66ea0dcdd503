"""Measures of agreement between what a model found and a reference on the same grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Detection, Mask, Volume

Objects = NDArray[np.int32]  # (z, y, x): 0 outside, 1.. the number of an object

NOWHERE, IGNORED = 0, -1  # what a mark may lie in beside an object


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


def iou(found: Mask, reference: Mask) -> float:
    """Return the intersection over the union, 0 to 1; two empty masks agree (Jaccard 1912)."""
    either = int((found | reference).sum())
    return int((found & reference).sum()) / either if either else 1.0


def volume_error(found_ml: float, reference_ml: float) -> float:
    """Return the signed error of a volume as a share of the reference, e.g. -0.03 for 3 % too little."""
    if reference_ml <= 0:
        raise ValueError("the reference is empty: a relative error has no meaning")
    return (found_ml - reference_ml) / reference_ml


def objects_of(reference: Mask) -> Objects:
    """Return the 26-connected components of *reference*, numbered from 1: each is an object, as LIDC counts them."""
    objects, _ = ndimage.label(reference, structure=np.ones((3, 3, 3)))
    numbered: Objects = objects
    return numbered


def compare_marks(detections: Sequence[Detection], reference: Mask, volume: Volume) -> Marks:
    """Return hits and false marks; objects are the 26-connected components of *reference*, as LIDC counts hits."""
    objects = objects_of(reference)
    struck = struck_objects(detections, objects, volume)
    return Marks(labelled=int(objects.max(initial=0)), hit=len(set(struck) - {NOWHERE}), false=struck.count(NOWHERE))


def struck_objects(
    detections: Sequence[Detection], objects: Objects, volume: Volume, ignored: Mask | None = None
) -> list[int]:
    """Return, for each mark, the number of the object that its centre lies in.

    NOWHERE where it lies in none or outside the grid; IGNORED where it lies in no object but in *ignored*: a place of
    which nobody says whether a mark is right there, e.g. a mass that is no nodule any more.
    """
    struck = []
    for detection in detections:
        number = _value_at(detection, objects, volume)
        if number == NOWHERE and ignored is not None and _value_at(detection, ignored, volume):
            number = IGNORED
        struck.append(number)
    return struck


def _value_at(detection: Detection, values: NDArray[Any], volume: Volume) -> int:
    """Return the value at the voxel that a mark's centre lies in; 0 outside the grid."""
    place = np.linalg.solve(volume.affine, np.array([*detection.centre_mm, 1.0]))[:3]
    index = tuple(round(float(one)) for one in place)
    if any(not 0 <= one < n for one, n in zip(index, values.shape, strict=True)):
        return 0
    return int(values[index])
