"""Findings against the grid and the patient, before anything is encoded and again behind it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from models.contract import Card, Detection, Findings, Mask, Measures, Segment, SegmentKind, Volume
from node.dicom.codes import LEFT, RIGHT
from node.dicom.context import Region, ResultContext
from node.errors import OutputInvalid

_EPSILON_MM = 0.01  # decimal strings keep 16 characters: far finer than this
_OVER_THE_MIDDLE = 30.0  # mm that a thing of one side may lie beyond the middle of the body
_TISSUE = -300.0  # HU: denser is body
_SIDES = {LEFT.value: "left", RIGHT.value: "right"}


def check_findings(findings: Findings, context: ResultContext) -> None:
    """Refuse findings that cannot be encoded: masks off the grid of the sources, empty detections, odd numbers."""
    first = context.sources[0]
    grid = (len(context.sources), int(first.get("Rows") or 0), int(first.get("Columns") or 0))
    items: tuple[Segment | Detection, ...] = (*findings.segments, *findings.detections)
    for item in items:
        if item.mask.shape != grid or item.mask.dtype != np.bool_:
            raise OutputInvalid(f"{item.key}: mask is {item.mask.shape} {item.mask.dtype}, the sources are {grid} bool")
        if not _is_known(item.key, context.card):
            raise OutputInvalid(f"the model's card has no segment {item.key!r}")
    for key, numbers in _numbers(findings):
        if not all(math.isfinite(number) for number in numbers) or numbers[0] < 0:
            raise OutputInvalid(f"{key}: not a measurement: {numbers}")
    for found in findings.detections:
        if not found.mask.any():
            raise OutputInvalid(f"{found.key}: a detection without a voxel")
        if not 0 <= found.score <= 1:
            raise OutputInvalid(f"{found.key}: a score of {found.score}")
        if found.site and not _is_known(found.site, context.card):
            raise OutputInvalid(f"the model's card has no site {found.site!r}")
    for one in findings.maps:
        if one.key not in {kind.key for kind in context.card.maps}:
            raise OutputInvalid(f"the model's card has no map {one.key!r}")
        if one.values.shape != grid or not np.isfinite(one.values).all():
            raise OutputInvalid(f"{one.key}: a map of {one.values.shape} with odd numbers, the sources are {grid}")


def _is_known(key: str, card: Card) -> bool:
    return any(kind.key == key for kind in (*card.segments, *card.sites))


def _numbers(findings: Findings) -> Iterator[tuple[str, tuple[float, ...]]]:
    for segment in findings.segments:
        yield segment.key, (segment.volume_ml, *_measured(segment.measures))
    for found in findings.detections:
        numbers = (found.volume_ml, found.diameter_mm, found.score, *found.centre_mm, *_measured(found.measures))
        yield found.key, numbers


def _measured(one: Measures | None) -> tuple[float, ...]:
    if one is None:
        return ()
    values = (one.mean, one.deviation, one.least, one.greatest)
    return one.volume_ml, one.long_mm, one.short_mm, *(value for value in values if value is not None)


def check_sides(findings: Findings, context: ResultContext) -> None:
    """What is called left must say so in label and code, and lie further to the patient's left than what is right."""
    for kind in (*context.card.segments, *context.card.sites):
        _check_label(kind)
    if not context.is_placed:
        return
    middle: dict[str, float] = {}
    for segment in (s for s in findings.segments if s.mask.any()):
        side = context.card.kind_of(segment.key).laterality
        if side is not None:
            middle[side.value] = float(_centroid(segment.mask, context)[0])
    if {LEFT.value, RIGHT.value} <= middle.keys() and middle[LEFT.value] <= middle[RIGHT.value]:
        raise OutputInvalid("the segment called left lies to the right of the one called right")
    for found in findings.detections:
        _check_centre(found, context)


def _check_label(kind: SegmentKind) -> None:
    """The words and the code of one kind name the same side."""
    said = {word for word in re.findall("[a-z]+", f"{kind.key} {kind.label}".lower()) if word in ("left", "right")}
    coded = {_SIDES[kind.laterality.value]} if kind.laterality and kind.laterality.value in _SIDES else set()
    if said and said != coded:
        code = "".join(coded) or "without side"
        raise OutputInvalid(f"{kind.key}: called {' and '.join(sorted(said))}, coded {code}")


def check_body_side(volume: Volume, findings: Findings, card: Card) -> None:
    """Refuse findings on *volume*, as the model gave them, that lie on the other side of the body than they say.

    The middle of the body is that of all tissue (CT above -300 HU, else brighter than the mean) in the slices that
    the finding touches; a thing may lie over it by 30 mm, and a field of view without two sides tells nothing.
    """
    items: tuple[Segment | Detection, ...] = (*findings.segments, *findings.detections)
    for item in items:
        kind = card.kind_of(item.key)
        site = card.kind_of(item.site) if isinstance(item, Detection) and item.site else kind
        side = kind.laterality or site.laterality
        if side is None or side.value not in _SIDES or not item.mask.any():
            continue
        beyond = _left_of_middle(volume, item.mask) * (1 if side.value == LEFT.value else -1)
        if beyond < -_OVER_THE_MIDDLE:
            raise OutputInvalid(
                f"{item.key} is called {_SIDES[side.value]}, but lies {-beyond:.0f} mm on the other side of the body's "
                "middle: is the source's orientation right?"
            )


def _left_of_middle(volume: Volume, mask: Mask) -> float:
    """How far (mm) the middle of *mask* (z, y, x) lies to the patient's left of the middle of the body."""
    touched = np.flatnonzero(mask.any(axis=(1, 2)))
    tissue = volume.voxels[touched][:, ::2, ::2]  # (z, y, x): every second is enough for a middle
    body = tissue > (_TISSUE if volume.modality == "CT" else float(tissue.mean()))
    body |= mask[touched][:, ::2, ::2]
    to_left = volume.affine[0, :3]  # mm to the left for each step along z, y, x
    inside, whole = np.nonzero(mask[touched]), np.nonzero(body)
    steps = [float(a.mean()) - factor * float(b.mean()) for a, b, factor in zip(inside, whole, (1, 2, 2), strict=True)]
    return float(np.dot(steps, to_left))


def check_numbers(drawn: Sequence[Region], context: ResultContext) -> None:
    """The volume that is told is that of the voxels that are drawn, counted anew; half a percent is rounding."""
    if not context.is_placed:
        return
    cells = _cells_ml(context)
    for region in drawn:
        if region.measures is None:
            continue
        counted = float(np.count_nonzero(region.mask, axis=(1, 2)) @ cells)
        if abs(counted - region.measures.volume_ml) > 0.005 * counted + 1e-6:
            raise OutputInvalid(f"{region.label}: {region.measures.volume_ml:.3f} mL told, {counted:.3f} mL drawn")


def _cells_ml(context: ResultContext) -> NDArray[np.float64]:
    """Millilitres (slices,) that one voxel of each slice stands for: half the way to each neighbour."""
    corners, to_next_row, to_next_column = axes(context)
    normal = np.cross(to_next_column, to_next_row)
    heights = corners @ (normal / np.linalg.norm(normal))
    steps = np.abs(np.diff(heights))
    usual = float(np.median(steps)) if len(steps) else float(context.sources[0].get("SliceThickness") or 0)
    padded = np.concatenate([[usual], steps, [usual]])
    cells: NDArray[np.float64] = (padded[:-1] + padded[1:]) / 2 * np.linalg.norm(normal) / 1000.0
    return cells


def axes(context: ResultContext) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positions (slices, LPS) of the first pixels, steps (LPS) to the next row and column (PS3.3 C.7.6.2.1.1)."""
    first = context.sources[0]
    cosines = np.array(first.ImageOrientationPatient, dtype=np.float64)
    down, across = (float(mm) for mm in first.PixelSpacing)
    corners = np.array([s.ImagePositionPatient for s in context.sources], dtype=np.float64)
    return corners, cosines[3:] * down, cosines[:3] * across


def _centroid(mask: Mask, context: ResultContext) -> NDArray[np.float64]:
    """Mean patient position (LPS) of the voxels in *mask*, from how many there are in each slice, row and column."""
    corners, to_next_row, to_next_column = axes(context)
    slices, rows, columns = (np.count_nonzero(mask, axis=axes_) for axes_ in ((1, 2), (0, 2), (0, 1)))
    row, column = rows @ np.arange(rows.size), columns @ np.arange(columns.size)
    total: NDArray[np.float64] = slices @ corners + row * to_next_row + column * to_next_column
    return total / int(slices.sum())


def _check_centre(found: Detection, context: ResultContext) -> None:
    """A detection's centre lies inside the bounding box of its mask, voxels counted whole."""
    corners, to_next_row, to_next_column = axes(context)
    slices, rows, columns = np.nonzero(found.mask)
    places = corners[slices] + rows[:, None] * to_next_row + columns[:, None] * to_next_column
    to_next_slice = (corners[-1] - corners[0]) / max(1, len(corners) - 1)
    half = 0.5 * (np.abs(to_next_row) + np.abs(to_next_column) + np.abs(to_next_slice)) + _EPSILON_MM
    centre = np.array(found.centre_mm)
    if np.any(centre < places.min(axis=0) - half) or np.any(centre > places.max(axis=0) + half):
        raise OutputInvalid(f"{found.key}: its centre {found.centre_mm} lies outside its mask")
