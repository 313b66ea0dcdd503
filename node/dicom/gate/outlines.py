"""Outlines of a report against the masks: each goes round its region's pixels on the image that it names."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.dicom.context import Region, ResultContext
from node.errors import OutputInvalid

Bits = NDArray[np.bool_]


Places = dict[tuple[str, int], int]  # SOP Instance UID and frame (0: the whole image) -> slice of the sources


def places_of(context: ResultContext) -> Places:
    """Return which slice each source image, or frame, is."""
    frames = context.frames or (0,) * len(context.sources)
    named = zip(context.sources, frames, strict=True)
    return {(str(source.SOPInstanceUID), frame): place for place, (source, frame) in enumerate(named)}


def check_outline(item: Dataset, region: Region, places: Places) -> None:
    """The SCOORD *item* goes round a part of *region*, and round nothing else, on the image that it names.

    Wherever the line runs between two pixels, the one inside belongs to the region and the one outside does not; what
    lies wholly within may be a hole.
    """
    reference = item.ContentSequence[0].ReferencedSOPSequence[0]
    named = str(reference.ReferencedSOPInstanceUID), int(reference.get("ReferencedFrameNumber") or 0)
    if (place := places.get(named)) is None:
        raise OutputInvalid("sr: an outline on an image that is no source")
    points = np.array(item.GraphicData, dtype=np.float64).reshape(-1, 2)
    if item.GraphicType != "POLYLINE" or len(points) < 4 or (points[0] != points[-1]).any():
        raise OutputInvalid(f"sr: the outline of {region.label} is no closed line")
    plane = np.pad(region.mask[place], 1)
    within = np.pad(_within(points, region.mask[place].shape), 1)
    if not within.any() or not all(_borders(plane, within, step, axis) for step in (1, -1) for axis in (0, 1)):
        raise OutputInvalid(f"sr: an outline does not go round the pixels of {region.label} at slice {place}")


def _borders(plane: Bits, within: Bits, step: int, axis: int) -> bool:
    """Whether each pixel *within* whose neighbour (*step* along *axis*) is not, is of *plane*, and the other is not."""
    left = within & ~np.roll(within, step, axis)
    return bool(plane[left].all() and not np.roll(plane, step, axis)[left].any())


def _within(points: NDArray[np.float64], shape: tuple[int, ...]) -> Bits:
    """Which pixels' centres a closed line goes round: an odd number of its edges lies to their left.

    *points* are (column, row) as an SCOORD counts: the centre of the first pixel is (0.5, 0.5) (PS3.3 C.18.6.1.1).
    """
    (x0, y0), (x1, y1) = points[:-1].T, points[1:].T
    found = np.zeros(shape, dtype=np.bool_)
    first, last = max(0, int(points[:, 1].min())), min(shape[0], int(points[:, 1].max()) + 1)
    centres = np.arange(shape[1]) + 0.5
    for row in range(first, last):
        height = row + 0.5
        across = (y0 > height) != (y1 > height)
        crossings = x0[across] + (height - y0[across]) / (y1[across] - y0[across]) * (x1[across] - x0[across])
        found[row] = np.searchsorted(np.sort(crossings), centres) % 2 == 1
    return found
