"""Lung nodules on chest CT: blobs of the lung field, and a small 3-D CNN that judges each of them.

Beside its marks the model tells what it nearly marked, a map of every region that it rated, and where the CNN looked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Detection, Findings, Mask, Model, NotApplicable, Progress, ValueMap, Volume
from models.ct_lung import model as ct_lung
from models.ct_lung_nodule.candidates import THICKEST, Candidate, candidates, cube_grid, values_in
from models.ct_lung_nodule.pieces import piece_of_lung
from models.ct_lung_nodule.shapes import Region, Values, is_nodular, radius_of, region_of
from models.explain import grad_cam
from models.lungs import remarks, segment_lungs
from models.network import NoduleCNN, load_network
from models.sampling import Grid, normalised

SPACING, SIZE = 1.25, 24  # mm between the samples of a cube, and samples a side, as in training
_WEIGHTS = Path(__file__).with_name("weights.safetensors")
_TOGETHER = 32  # cubes in one forward pass
_LEAST_SCORE = 0.95  # chosen on generated boxes and the cases that the card names for it
_LEAST_ROUND = 0.4  # roundness of a mark: false ones in generated bodies without diffuse disease lay below
_NEARLY = 0.1  # least score that the map shows
_MOST_MARKS = 10
_PIECE = "The images show a piece of lung without the body about it; nobody can tell of which side it is."
_MARGIN = 16.0  # mm about a region in which the lung's border is closed as in the whole


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Rated:
    """One candidate and what the CNN makes of it."""

    candidate: Candidate
    site: str
    score: float


class NoduleModel:
    """Finds nodules; filter and networks run on *device*, shapes on the CPU."""

    def __init__(self, lungs: ct_lung.LungModel, judge: NoduleCNN, device: str) -> None:
        self._lungs, self._judge, self._device = lungs, judge, device

    def run(self, volume: Volume, progress: Progress) -> Findings:
        """Return the nodules of *volume*, best first; NotApplicable where it shows no lung."""
        if volume.spacing[0] > THICKEST:
            raise NotApplicable(f"slices lie {volume.spacing[0]:.1f} mm apart; nodules need at most {THICKEST:.0f} mm")
        lungs, told = self._fields(volume, lambda done, stage: progress(0.5 * done, stage))
        rated: list[_Rated] = []
        for place, (site, lung) in enumerate(lungs.items()):
            progress(0.5 + 0.2 * place, f"looking for nodules in the {site.replace('-', ' ') or 'lung'}")
            found = candidates(volume, lung, self._device)
            scores = self.scores(volume, found)
            rated += [_Rated(candidate=one, site=site, score=by) for one, by in zip(found, scores, strict=True)]
        rated.sort(key=lambda one: (-one.score, one.candidate.blob.index))
        progress(0.9, "outlining")
        marks, maps, is_all = self._marked(volume, lungs, rated)
        return Findings(detections=marks, maps=maps, remarks=told if is_all else (*told, more_than_marked()))

    def _fields(self, volume: Volume, progress: Progress) -> tuple[dict[str, Mask], tuple[str, ...]]:
        """Return by site where nodules are looked for, and what is to be said of it; NotApplicable where nowhere.

        Thresholds find two lungs in a fifth of the network's time. Of one alone they mistake the side at times, and
        where they see none there may yet be one: there the network is asked.
        """
        thresholds = _two_lungs(volume, progress)
        if thresholds is not None:
            return thresholds
        try:
            left, right = self._lungs.lungs(volume, progress)
        except NotApplicable:
            piece = piece_of_lung(volume)
            if piece is None:
                raise
            return {"": piece}, (_PIECE,)
        return {"left-lung": left, "right-lung": right}, _told(left, right)

    def scores(self, volume: Volume, found: list[Candidate]) -> list[float]:
        """Return how much each candidate looks like a nodule, 0 to 1."""
        scores: list[float] = []
        for first in range(0, len(found), _TOGETHER):
            some = found[first : first + _TOGETHER]
            cubes = np.stack([self._cube(volume, one)[1] for one in some])[:, None]
            with torch.inference_mode():
                logits = self._judge(torch.from_numpy(cubes).to(self._device))
            scores += [round(one, 4) for one in torch.sigmoid(logits.double()).cpu().tolist()]
        return scores

    def _cube(self, volume: Volume, candidate: Candidate) -> tuple[Grid, Values]:
        grid = cube_grid(volume, candidate.centre_mm, SPACING, SIZE)
        return grid, normalised(grid.sample(volume.voxels))

    def _marked(
        self, volume: Volume, lungs: dict[str, Mask], rated: list[_Rated]
    ) -> tuple[tuple[Detection, ...], tuple[ValueMap, ...], bool]:
        """Return the marks, both maps, whether all is marked; of two marks on the same voxels the better one stands."""
        scores, looks = (np.zeros(volume.voxels.shape, np.float32) for _ in range(2))  # what stays 0 costs nothing
        marks: list[Detection] = []
        is_all = True
        for one in rated:
            if one.score < _NEARLY:
                break
            region = outlined(volume, lungs[one.site], one.candidate)
            if region is None or any(mark.mask[region.box][region.mask].any() for mark in marks):
                continue
            scores[region.box][region.mask] = np.maximum(scores[region.box][region.mask], np.float32(one.score))
            if not (_is_sure(one) and is_nodular(region)):
                continue
            if len(marks) == _MOST_MARKS:
                is_all = False
                continue
            marks.append(_detection(volume, region, one))
            self._look(volume, one, looks)
        for mark in marks:  # where something that is no nodule overlaps a mark, the mark's own score stands
            scores[mark.mask] = mark.score
        maps = (ValueMap(key="candidates", values=scores), ValueMap(key="attention", values=looks))
        return tuple(marks), maps, is_all

    def _look(self, volume: Volume, one: _Rated, looks: Values) -> None:
        """Draw into *looks* (z, y, x) which places of its cube spoke for a mark, the most of them with its score."""
        grid, cube = self._cube(volume, one.candidate)
        image = torch.from_numpy(cube)[None, None].to(self._device)
        heat = grad_cam(self._judge, image, lambda logits: logits[0]).cpu().numpy()
        box, here = on_the_scan(grid, heat)
        looks[box] = np.maximum(looks[box], np.float32(one.score) * here)


def more_than_marked() -> str:
    """Return the remark on a scan with more of what looks like a nodule than is marked."""
    return f"More places look like nodules than are marked: only the best {_MOST_MARKS} are."


def _is_sure(one: _Rated) -> bool:
    return one.score >= _LEAST_SCORE and one.candidate.roundness >= _LEAST_ROUND


def outlined(volume: Volume, lung: Mask, candidate: Candidate) -> Region | None:
    """Return what a candidate fills, on the volume's grid; None where that is no nodule's size."""
    reach = 2.2 * radius_of(candidate.blob) + _MARGIN
    box = tuple(
        slice(max(0, at - int(reach / mm) - 1), min(n, at + int(reach / mm) + 2))
        for at, mm, n in zip(candidate.blob.index, volume.spacing, volume.voxels.shape, strict=True)
    )
    values = values_in(volume.voxels[box], lung[box], volume.spacing)
    z, y, x = (at - one.start for at, one in zip(candidate.blob.index, box, strict=True))
    region = region_of(replace(candidate.blob, index=(z, y, x)), values, volume.voxels[box], volume.spacing)
    if region is None:
        return None
    moved = [slice(a.start + b.start, a.start + b.stop) for a, b in zip(box, region.box, strict=True)]
    return replace(region, box=tuple(moved))


def on_the_scan(grid: Grid, heat: Values) -> tuple[tuple[slice, ...], Values]:
    """Return the box of voxels that lie between the samples of *grid*, and *heat* (z, y, x) at each of them."""
    box: list[slice] = []
    for start, step, samples, voxels in zip(grid.start, grid.step, grid.shape, grid.source, strict=True):
        first = max(0, int(np.ceil(start)))
        box.append(slice(first, max(first, min(voxels, int(np.floor(start + (samples - 1) * step)) + 1))))
    at = [
        (np.arange(one.start, one.stop) - start) / step
        for one, start, step in zip(box, grid.start, grid.step, strict=True)
    ]
    here = ndimage.map_coordinates(heat, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
    return tuple(box), np.asarray(here, dtype=np.float32)


def _detection(volume: Volume, region: Region, one: _Rated) -> Detection:
    mask = np.zeros(volume.voxels.shape, dtype=bool)
    mask[region.box] = region.mask
    points = np.argwhere(region.mask) + [part.start for part in region.box]
    z, y, x = (float(v) for v in points.mean(axis=0))
    return Detection(
        key="nodule", mask=mask, centre_mm=volume.to_patient((z, y, x)), site=one.site, score=one.score,
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


def _two_lungs(volume: Volume, progress: Progress) -> tuple[dict[str, Mask], tuple[str, ...]] | None:
    try:
        lungs = segment_lungs(volume, progress)
    except NotApplicable:
        return None
    if not lungs.left.any() or not lungs.right.any():
        return None
    return {"left-lung": lungs.left, "right-lung": lungs.right}, _told(lungs.left, lungs.right)


def _told(left: Mask, right: Mask) -> tuple[str, ...]:
    return tuple(remark for remark in remarks(left, right) if "cut" in remark or "judged" in remark)


def load(device: str) -> Model:
    """Return the model with filter and weights on the torch *device*."""
    return NoduleModel(ct_lung.load_lungs(device), load_network(_WEIGHTS, device, NoduleCNN), device)
