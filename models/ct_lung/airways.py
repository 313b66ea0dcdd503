"""From what the network takes for airways to the lumen of trachea and large bronchi on the scan's own voxels.

The network knows roughly where the airways are; how far a lumen goes, its gas says better. So the gas is followed from
there, limit by limit as far as it does not break out (after Mori et al. 1996, 10.1109/ICPR.1996.547004): a lumen's
gas is thinner than lung, and a wall lies between both, but where slices are thick or lung is destroyed.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from models.contract import Mask, Volume
from models.ct_lung.surface import nearest_voxels
from models.masks import ball, box_around, components, dilated, filled
from models.sampling import Grid, Values

_GAS = -900.0  # HU: the lumen's inside beside tissue; what noise and narrowness leave out, the rim brings back
_LIMITS = (-980.0, -965.0, -950.0, -935.0, -920.0, -905.0)  # HU: gas followed from there, one limit after the other
_WALL = -480.0  # HU: half-way between the lumen's gas (-1000) and its wall (40)
_IN_LUNG = -700.0  # HU: denser than this beside a lumen within lung is its wall
_RIM = 1.5  # mm from gas to where a scanner's blur reaches the wall's middle
_REACH = 4.0  # mm from the network's samples of 3 mm, within which gas is theirs
_AROUND = 40.0  # mm about the network's airways, in which gas is followed
_SEEN = 0.5  # share of a piece of gas that the network has to take for airways
_PIECE_ML = 0.2  # a piece of gas to start from
_THIN = 0.05  # share of lung that may be thinner than a limit: more is emphysema or noise, and the gas would break out
_BURST = 1.5  # times as much gas as to start with: more has broken out
_TWIG = 2.0  # mm: within lung, a bronchus of a smaller radius counts as lung
_LEAST_ML = 2.0  # less may be a stray bronchus, or no airway at all
_MOST_ML = 120.0  # trachea and main bronchi hold less


class Leak(Exception):
    """What was followed is too large for airways; the message says so, for people."""


def airways_on_the_scan(seen: Mask, lungs: tuple[Mask, Mask], grid: Grid, volume: Volume) -> Mask:
    """Return the lumen of the airways on the volume's own grid (z, y, x); nothing where less than 2 mL are found.

    *seen* is what the network takes for airways, on its *grid*; *lungs* are the drawn ones, on the volume's. A
    bronchus that they enclose is among the airways. Leak where it would be more than 120 mL.
    """
    found = np.zeros(volume.voxels.shape, dtype=bool)
    if not seen.any():
        return found
    spacing = tuple(mm * step for mm, step in zip(volume.spacing, grid.step, strict=True))
    box = box_around(seen, tuple(int(np.ceil(_AROUND / mm)) for mm in spacing))
    top = min(box[0].stop, box_around(seen, 2)[0].stop)  # above lie throat and nose, and then the air of the room
    box = (slice(box[0].start, top), *box[1:])
    near = dilated(seen[box], _REACH, spacing)
    fine, samples = nearest_voxels(grid, box)
    hounsfield, lung = volume.voxels[fine], lungs[0][fine] | lungs[1][fine]
    start = _start(hounsfield, near[np.ix_(*samples)] & ~lung, seen[box][np.ix_(*samples)], volume.voxel_ml)
    if not start.any():
        return found
    gas = _followed(hounsfield, start, lung, _MOST_ML / volume.voxel_ml)
    around = box_around(gas, 4)
    lumen = _lumen(hounsfield[around], gas[around], lung[around], volume.spacing[1:])
    size = float(lumen.sum()) * volume.voxel_ml
    if size > _MOST_ML:
        raise Leak(f"Airways are not drawn: {size:.0f} mL of gas hang together there, more than airways hold.")
    if size >= _LEAST_ML:
        found[fine][around] = lumen
    return found


def _start(hounsfield: Values, free: Mask, seen: Mask, voxel_ml: float) -> Mask:
    """Return the pieces of gas in *free* that are mostly *seen* as airways."""
    pieces, sizes = components(free & (hounsfield < _GAS))
    kept = np.bincount(pieces[seen], minlength=len(sizes)) >= _SEEN * sizes
    kept &= sizes * voxel_ml >= _PIECE_ML
    kept[0] = False
    start: Mask = kept[pieces]
    return start


def _followed(hounsfield: Values, start: Mask, lung: Mask, most: float) -> Mask:
    """Return all gas that hangs together with *start*, at the highest limit that keeps it in; *most* in voxels.

    Where a limit lets it out, the one before may have let out a little: the one before that is taken.
    """
    grown = [start]
    size, within = int(start.sum()), hounsfield[lung]
    for limit in _LIMITS:
        if within.size and float((within < limit).mean()) > _THIN:
            break
        pieces, sizes = components((hounsfield < limit) | start)
        mine = np.zeros(len(sizes), dtype=bool)
        mine[pieces[start]] = True
        if int(sizes[mine].sum()) > min(most, _BURST * size):
            grown = grown[:-1] or grown
            break
        grown = [grown[-1], mine[pieces]]
    return grown[-1]


def _lumen(hounsfield: Values, gas: Mask, lung: Mask, pixel: tuple[float, ...]) -> Mask:
    """Return the largest piece of *gas* with its rim, as far as the wall's middle; twigs within *lung* are left out."""
    wide = ndimage.binary_dilation(gas, ball(max(_RIM, *pixel), pixel)[None])
    narrow = ndimage.binary_dilation(gas & lung, ball(max(pixel), pixel)[None])
    lumen = gas | (wide & ~lung & (hounsfield < _WALL)) | (narrow & (hounsfield < _IN_LUNG))
    lumen = filled(lumen, pixel[0] * pixel[1])
    disc = ball(_TWIG, pixel)[None]
    thick = ndimage.binary_dilation(ndimage.binary_opening(lumen, disc), disc)
    lumen &= thick | ~lung
    pieces, sizes = components(lumen)
    sizes[0] = 0
    largest: Mask = (pieces == int(np.argmax(sizes))) & lumen
    return largest
