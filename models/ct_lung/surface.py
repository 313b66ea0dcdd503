"""From what the network takes each sample for to two lungs on the scan's own voxels.

The network knows what is lung and where the airways are; that air hangs together, and where it ends, the scan says
better. So pieces of air are taken or left whole, by what the network sees in most of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, NotApplicable, Volume
from models.lungs import enclosed_by, left_and_right, parted_air, two_parts
from models.masks import Box, ball, box_around, closed, components, dilated, filled, largest
from models.sampling import LOWEST, Grid, Values

Classes = NDArray[np.uint8]  # (z, y, x): 0 none, 1 left lung, 2 right lung, 3 airways

LEFT, RIGHT, AIRWAYS = 1, 2, 3
_AERATED = -300.0  # HU: thinner than this is lung; of -400, -300, -200 the one that gives the elastix mask its volume
_GAS = -965.0  # HU: a piece whose median is thinner is gas of bowel, sinus or phantom; emphysema is denser
_INSIDE = 0.6  # share of a piece between tissue on two sides: a cushion's foam is as thin as lung
_MOSTLY = 0.5  # share of a piece of air that the network has to take for lung
_SMALLEST_ML = 2.0  # a piece of lung worth drawing
_BOTH = 0.2  # share of one piece that the network has to give to each side to have it cut in two
_SURE = 0.95  # share of the votes that tells the side of a lone lung; at 0.9 some are wrong
_AIRWAYS_ML = 2.0  # of airways that tell it: less may be a bronchus inside the lung, or a stray sample
_BESIDE = 10.0  # mm from the middle of the lung to that of the airways, at least
_SIDE_BY_SIDE = 60.0  # mm between the middles of two lungs, at least
_REACH = 6.0  # mm beyond the coarse surface in which voxels may still be lung


def lung_field(classes: Classes, hounsfield: Values, spacing: tuple[float, ...]) -> Mask:
    """Return what is lung of either side on the network's grid (z, y, x)."""
    voxel_ml = float(np.prod(spacing)) / 1000.0
    air, airways, body = parted_air(hounsfield, spacing, voxel_ml)
    within = enclosed_by(body)
    seen = np.isin(classes, (LEFT, RIGHT))
    pieces, sizes = components(ndimage.binary_opening(air, ball(3.0, spacing)))
    lung = np.bincount(pieces[seen], minlength=len(sizes)) >= _MOSTLY * sizes
    lung[0] = False
    whole = dilated(lung[pieces], 4.0, spacing) & air
    field = (whole | seen) & ~airways & ~((classes == AIRWAYS) & ~whole)
    pieces, sizes = components(field)
    kept = sizes * voxel_ml >= _SMALLEST_ML
    kept[0] = False
    for piece, box in enumerate(ndimage.find_objects(pieces), start=1):
        if kept[piece] and box is not None:
            part = pieces[box] == piece
            kept[piece] = float(np.median(hounsfield[box][part])) > _GAS and float(within[box][part].mean()) > _INSIDE
    chosen: Mask = kept[pieces]
    return chosen


def sides(field: Mask, classes: Classes, spacing: tuple[float, ...]) -> tuple[Mask, Mask]:
    """Return the left and the right lung of *field*: parted where it is thinnest, and named by where they lie.

    A lone lung is named by the airways beside it and by the network's votes. NotApplicable where both are silent, or
    where they disagree: a lung of the wrong side is worse than none.
    """
    first, second = two_parts(field, spacing, float(np.prod(spacing)) / 1000.0)
    if second is not None:
        return left_and_right(first, second)
    votes = [field & (classes == side) for side in (LEFT, RIGHT)]
    share = int(votes[0].sum()) / max(1, sum(int(one.sum()) for one in votes))
    if _BOTH <= share <= 1.0 - _BOTH and _apart(votes, spacing) >= _SIDE_BY_SIDE:
        nearest = ndimage.distance_transform_edt(~(votes[0] | votes[1]), return_distances=False, return_indices=True)
        left = field & votes[0][tuple(nearest)]
        return left, field & ~left
    empty = np.zeros_like(field)
    return (field, empty) if _lies_left(field, share, classes == AIRWAYS, spacing) else (empty, field)


def _lies_left(lung: Mask, share: float, airways: Mask, spacing: tuple[float, ...]) -> bool:
    """Return whether a lone *lung* is the left one, with a *share* of the votes for it.

    Airways lie in the middle of the chest, so to the right of a left lung. What the images cut, and where most of the
    tissue lies, tells nothing: crops of a lung differ too much.
    """
    said = {True} if share >= _SURE else {False} if share <= 1.0 - _SURE else set[bool]()
    if float(airways.sum()) * float(np.prod(spacing)) / 1000.0 >= _AIRWAYS_ML:
        away = float(ndimage.center_of_mass(lung)[2]) - float(ndimage.center_of_mass(airways)[2])
        if abs(away) * spacing[2] >= _BESIDE:
            said.add(away > 0.0)
    if len(said) != 1:
        raise NotApplicable("one lung is in view, and it cannot be told whether it is the left or the right one")
    return said.pop()


def _apart(votes: list[Mask], spacing: tuple[float, ...]) -> float:
    """Return how far the middle of the left votes lies to the left of that of the right ones, mm."""
    left, right = (float(ndimage.center_of_mass(one)[2]) for one in votes)
    return (left - right) * spacing[2]


def on_the_scan(lung: Mask, other: Mask, tubes: Mask, unseen: Mask, grid: Grid, volume: Volume) -> Mask:
    """Return one *lung* on the volume's own grid: inside as it is, its surface where the voxels say.

    *other* is the other lung, *tubes* are the airways, and *unseen* is what the images do not show, all on the
    network's grid: padding beside a cut lung is as thin as air, and none of it.
    """
    found = np.zeros(volume.voxels.shape, dtype=bool)
    if not lung.any():
        return found
    spacing = tuple(mm * step for mm, step in zip(volume.spacing, grid.step, strict=True))
    box = box_around(lung, tuple(int(np.ceil(_REACH / mm)) + 1 for mm in spacing))
    lung, other, tubes, unseen = lung[box], other[box], tubes[box], unseen[box]
    core = filled(closed(lung, 5.0, spacing), spacing[1] * spacing[2])
    inside = ndimage.binary_erosion(core, border_value=1) & ~tubes & ~other
    padded = ndimage.binary_dilation(unseen)
    near = dilated(lung, _REACH, spacing) & ~ndimage.binary_dilation(tubes) & ~other
    fine, samples = nearest_voxels(grid, box)
    z, y, x = samples
    here, values = found[fine], volume.voxels[fine]
    for place, sample in enumerate(z.tolist()):
        thin = values[place] < _AERATED
        nothing = padded[sample][np.ix_(y, x)] & (values[place] <= LOWEST)
        here[place] = (inside[sample][np.ix_(y, x)] | (near[sample][np.ix_(y, x)] & thin)) & ~nothing
    found[fine] = largest(filled(here, volume.spacing[1] * volume.spacing[2]))
    return found


def nearest_voxels(grid: Grid, box: Box) -> tuple[Box, list[NDArray[np.intp]]]:
    """Return the voxels whose nearest sample lies in *box* of the grid and, along each axis, which sample of it."""
    fine, samples = list[slice](), list[NDArray[np.intp]]()
    for axis, part in enumerate(box):
        at = (np.arange(grid.source[axis]) - grid.start[axis]) / grid.step[axis]
        nearest = np.clip(np.rint(at), 0, grid.shape[axis] - 1).astype(np.intp)
        first, stop = np.searchsorted(nearest, (part.start, part.stop)).tolist()
        fine.append(slice(first, stop))
        samples.append(nearest[first:stop] - part.start)
    return tuple(fine), samples
