"""Solid lung nodules on chest CT: blobs of the lung field that have a nodule's shape.

Beside its marks the model tells what it nearly marked: a map of every region that it rated above 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Detection, Findings, Mask, Model, NotApplicable, Progress, ValueMap, Volume
from models.ct_lung_nodule.filters import blobs
from models.ct_lung_nodule.shapes import Grid, Region, region_of, score
from models.lungs import Lungs, segment_lungs
from models.masks import closed

_SIGMAS = (1.6, 2.2, 3.0, 4.0, 5.4, 7.2, 9.4)  # mm: diameters of about 5 to 33 mm
_WEAKEST = 140.0  # HU: least answer of the filter
_MOST_BLOBS = 400  # candidates looked at, the strongest first
_CLOSING = 9.0  # mm: a nodule at the pleura is closed into the lung
_LEAST_SCORE = 0.75  # chosen on the cases that the card names
_MOST_MARKS = 10
_THICKEST = 5.0  # mm between slices: beyond, vessels that run across look like nodules
_BACKGROUND = -850.0


@dataclass(frozen=True, kw_only=True, slots=True)
class NoduleModel:
    """Finds nodules; the filter runs on *device*, the shape tests on the CPU."""

    device: str

    def run(self, volume: Volume, progress: Progress) -> Findings:
        """Return the nodules of *volume*, best first; NotApplicable where it shows no lung."""
        if volume.spacing[0] > _THICKEST + 0.01:
            raise NotApplicable(f"slices lie {volume.spacing[0]:.1f} mm apart; nodules need at most {_THICKEST:g} mm")
        lungs = segment_lungs(volume, lambda done, stage: progress(0.4 * done, stage))
        scores: Grid = np.zeros(volume.voxels.shape, np.float32)  # what stays 0 costs nothing
        found: list[Detection] = []
        for place, (site, lung) in enumerate((("left-lung", lungs.left), ("right-lung", lungs.right))):
            progress(0.4 + 0.3 * place, f"looking for nodules in the {site.replace('-', ' ')}")
            if lung.any():
                found += self._in_lung(volume, lung, site, scores)
        found.sort(key=lambda one: (-one.score, one.centre_mm))
        marks = tuple(found[:_MOST_MARKS])
        for mark in reversed(marks):  # where a candidate overlaps a mark, the mark's own score stands
            scores[mark.mask] = mark.score
        maps = (ValueMap(key="candidates", values=scores),)
        return Findings(detections=marks, maps=maps, remarks=_remarks(lungs))

    def _in_lung(self, volume: Volume, lung: Mask, site: str, scores: Grid) -> list[Detection]:
        """Return the marks of one lung; every candidate's score goes into *scores* (z, y, x), the higher one wins."""
        box = _box_around(lung, 3)
        field = _field(lung[box], volume.spacing)
        values = np.where(field, np.clip(volume.voxels[box], -1000.0, 150.0), _BACKGROUND).astype(np.float32)
        taken = np.zeros_like(field)
        found: list[Detection] = []
        for blob in blobs(values, volume.spacing, _SIGMAS, _WEAKEST, self.device)[:_MOST_BLOBS]:
            if taken[blob.index]:
                continue
            region = region_of(blob, values, volume.voxels[box], volume.spacing)
            if region is None or (rating := score(region, blob)) <= 0:
                continue
            _raise_to(scores[box][region.box], region.mask, rating)
            if rating < _LEAST_SCORE:
                continue
            if not (taken[region.box] & region.mask).any():
                taken[region.box] |= region.mask
                found.append(_detection(volume, region, box, site, rating))
        return found


def _field(lung: Mask, spacing: tuple[float, float, float]) -> Mask:
    """Return the lung with nodules at the pleura and in it closed over."""
    steps = tuple(max(1, int(2.0 / mm)) for mm in spacing)
    coarse = lung[:: steps[0], :: steps[1], :: steps[2]]
    wide = closed(coarse, _CLOSING, tuple(mm * step for mm, step in zip(spacing, steps, strict=True)))
    for axis, step in enumerate(steps):
        wide = np.repeat(wide, step, axis=axis)
    field: Mask = wide[: lung.shape[0], : lung.shape[1], : lung.shape[2]] | lung
    return field


def _box_around(mask: Mask, margin: int) -> tuple[slice, ...]:
    (box,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(slice(max(0, s.start - margin), min(n, s.stop + margin)) for s, n in zip(box, mask.shape, strict=True))


def _raise_to(scores: Grid, mask: Mask, rating: float) -> None:
    """Let *scores* be at least *rating* inside *mask*."""
    scores[mask] = np.maximum(scores[mask], np.float32(round(rating, 4)))


def _detection(volume: Volume, region: Region, box: tuple[slice, ...], site: str, rating: float) -> Detection:
    mask = np.zeros(volume.voxels.shape, dtype=bool)
    mask[box][region.box] = region.mask
    corner = [outer.start + inner.start for outer, inner in zip(box, region.box, strict=True)]
    points = np.argwhere(region.mask) + corner
    z, y, x = (float(v) for v in points.mean(axis=0))
    return Detection(
        key="nodule", mask=mask, centre_mm=volume.to_patient((z, y, x)), site=site, score=round(rating, 4),
        diameter_mm=_widest(points, volume), volume_ml=float(region.mask.sum()) * volume.voxel_ml,
    )  # fmt: skip


def _widest(points: NDArray[np.int64], volume: Volume) -> float:
    """Return the longest in-plane diameter in mm on the slice (z) of the largest area.

    Between pixel centres, and half a pixel more: the border runs through the outermost pixels, not around them.
    """
    slices, counts = np.unique(points[:, 0], return_counts=True)
    plane = points[points[:, 0] == slices[int(np.argmax(counts))]][:, 1:].astype(float)
    _, dy, dx = volume.spacing
    edge = _extremes(plane * (dy, dx))
    distances = np.linalg.norm(edge[:, None, :] - edge[None, :, :], axis=2)
    return float(distances.max()) + 0.25 * (dy + dx)


def _extremes(outline: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the first and last point of each row: the farthest pair is among them."""
    order = outline[np.lexsort((outline[:, 1], outline[:, 0]))]
    rows = order[:, 0]
    first = np.concatenate([[True], rows[1:] != rows[:-1]])
    last = np.concatenate([rows[1:] != rows[:-1], [True]])
    return np.asarray(order[first | last])


def _remarks(lungs: Lungs) -> tuple[str, ...]:
    return tuple(remark for remark in lungs.remarks if "cut" in remark or "judged" in remark)


def load(device: str) -> Model:
    """Return the model with its filters on *device*."""
    return NoduleModel(device=device)
