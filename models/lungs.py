"""The air-filled lungs of a chest CT, by thresholds, shapes and connections; no learning.

After Hu, Hoffman and Reinhardt 2001 (10.1109/42.929615): threshold, take away the air outside the body and the
airways, keep what is as thin as lung, fill vessels, part left from right. Searching happens on a coarse grid of
about 3 mm, the surface is taken from the full one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.contract import Mask, NotApplicable, Progress, Volume
from models.masks import Labels, ball, box_around, closed, components, dilated, filled, largest

Grid = NDArray[np.float32]  # (z, y, x)

_COARSE = 2.8  # mm, about: voxels of the coarse grid
_AERATED = -400.0  # HU: thinner than this is air or lung
_TISSUE = -300.0
_GAS = -940.0  # HU after smoothing: thinner than lung, but for emphysema
_LUNG_MEDIAN = (-945.0, -520.0)  # HU: the median of any aerated lung lies between
_SMALLEST_ML = 40.0  # a part of a lung worth calling one
_AIRWAYS_ML = 120.0  # trachea and main bronchi hold less; more means that the growth broke into the lung
_SMALL_SHARE = 0.12  # a second lung smaller than this share of both is a part of the first


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lungs:
    """Left and right lung on the grid of the volume; a lung that is not in view is empty."""

    left: Mask  # (z, y, x)
    right: Mask
    remarks: tuple[str, ...]


def segment_lungs(volume: Volume, progress: Progress) -> Lungs:
    """Return the lungs of *volume*; NotApplicable, with the reason, where it shows none."""
    if volume.modality != "CT":
        raise NotApplicable(f"lungs are looked for on CT, not on {volume.modality or 'an unknown modality'}")
    steps = _steps(volume.spacing)
    coarse = _shrink(volume.voxels, steps)
    spacing = tuple(mm * step for mm, step in zip(volume.spacing, steps, strict=True))
    voxel_ml = float(np.prod(spacing)) / 1000.0
    progress(0.15, "parting body and air")
    candidates, airways, body = parted_air(coarse, spacing, voxel_ml)
    progress(0.35, "choosing what is lung")
    field = _lung_like(candidates, coarse, body, spacing, voxel_ml)
    progress(0.5, "parting left from right")
    left, right = _sides(field, coarse, airways, spacing, voxel_ml)
    progress(0.65, "following the surface")
    masks = [_refine(one, airways, volume.voxels, steps, spacing) for one in (left, right)]
    progress(0.95, "measuring")
    masks[1] &= ~masks[0]
    return Lungs(left=masks[0], right=masks[1], remarks=remarks(masks[0], masks[1]))


def _steps(spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    dz, dy, dx = (max(1, int(_COARSE / mm + 0.25)) for mm in spacing)
    return dz, dy, dx


def _shrink(voxels: Grid, steps: tuple[int, int, int]) -> Grid:
    """Return block means over *steps* voxels; a rest at the far border is a block of its own."""
    padded = np.pad(voxels, [(0, -n % step) for n, step in zip(voxels.shape, steps, strict=True)], mode="edge")
    nz, ny, nx = (n // step for n, step in zip(padded.shape, steps, strict=True))
    blocks = padded.reshape(nz, steps[0], ny, steps[1], nx, steps[2])
    means: Grid = blocks.mean(axis=(1, 3, 5), dtype=np.float32)
    return means


def _grow(mask: Mask, steps: tuple[int, int, int], shape: tuple[int, ...]) -> Mask:
    """Return a coarse *mask* on the full grid of *shape*."""
    for axis, step in enumerate(steps):
        mask = np.repeat(mask, step, axis=axis)
    return mask[: shape[0], : shape[1], : shape[2]]




def parted_air(coarse: Grid, spacing: tuple[float, ...], voxel_ml: float) -> tuple[Mask, Mask, Mask]:
    """Return aerated voxels inside the body without the airways, the airways, and the body."""
    aerated = coarse < _AERATED
    outside = _outside_air(coarse, spacing)
    inside = aerated & ~outside
    labels, sizes = components(coarse > _TISSUE)
    body = labels == (int(np.argmax(sizes[1:])) + 1) if len(sizes) > 1 else np.zeros_like(aerated)
    airways = _airways(coarse, inside, body, spacing, voxel_ml)
    wall = dilated(airways, 2.0, spacing)
    return inside & ~wall, airways, body


def _outside_air(coarse: Grid, spacing: tuple[float, ...]) -> Mask:
    """Return the air around the body: gas that touches a side of the image, grown to the skin."""
    smooth = ndimage.gaussian_filter(coarse, [1.5 / mm for mm in spacing])
    labels, _ = components(smooth < _GAS)
    return dilated(_at_the_side(labels), 6.0, spacing) & (coarse < _AERATED)


def _at_the_side(labels: Labels) -> Mask:
    """Return the components that touch a side of the image broadly, not in a few voxels as cut emphysema does."""
    sizes = np.bincount(labels.ravel())
    touching = np.zeros_like(sizes)
    for face in (labels[:, 0], labels[:, -1], labels[:, :, 0], labels[:, :, -1]):
        touching += np.bincount(face.ravel(), minlength=len(sizes))
    broad = np.flatnonzero((touching > 0) & (touching >= 0.2 * np.cbrt(sizes)))
    outside: Mask = np.isin(labels, broad[broad > 0])
    return outside


def _airways(coarse: Grid, inside: Mask, body: Mask, spacing: tuple[float, ...], voxel_ml: float) -> Mask:
    """Return trachea and main bronchi: grown from a tube of gas near the body's middle, as far as it stays small."""
    seed = _trachea_seed(coarse, inside, body, spacing)
    best = np.zeros_like(inside)
    if not seed.any():
        return best
    for limit in (-980.0, -965.0, -950.0, -935.0, -920.0, -905.0, -890.0):
        labels, _ = components((coarse < limit) & inside | seed)
        mine = np.unique(labels[seed])
        grown: Mask = np.isin(labels, mine[mine > 0])
        if float(grown.sum()) * voxel_ml > _AIRWAYS_ML:
            break
        best = grown
    return best


def _trachea_seed(coarse: Grid, inside: Mask, body: Mask, spacing: tuple[float, ...]) -> Mask:
    """Return the tube of gas that runs along z near the middle of the body, in the upper part of the volume."""
    seed = np.zeros_like(inside)
    area = spacing[1] * spacing[2]
    if not body.any():
        return seed
    middle_y, middle_x = (float(v) for v in ndimage.center_of_mass(body.any(axis=0)))
    last: tuple[float, float] | None = None
    run: list[tuple[int, Mask]] = []
    for z in range(coarse.shape[0] - 1, -1, -1):
        disc = _tracheal_disc(coarse[z] < -880.0, inside[z], (middle_y, middle_x), last, spacing, area)
        if disc is None:
            if len(run) * spacing[0] >= 20.0:
                break
            run, last = [], None
            continue
        run.append((z, disc))
        centre = ndimage.center_of_mass(disc)
        last = float(centre[0]), float(centre[1])
    if len(run) * spacing[0] < 20.0:
        return seed
    for z, disc in run:
        seed[z] = disc
    return seed


def _tracheal_disc(
    gas: Mask, inside: Mask, middle: tuple[float, float], last: tuple[float, float] | None,
    spacing: tuple[float, ...], area: float,
) -> Mask | None:  # fmt: skip
    """Return the spot of one slice that may be the trachea: 40 to 900 mm2, compact, where it was or in the middle."""
    labels, count = ndimage.label(gas & inside)
    best: tuple[float, Mask] | None = None
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or number > count:
            continue
        spot = labels[box] == number
        size = float(spot.sum()) * area
        if not 40.0 <= size <= 900.0 or size < 0.5 * spot.size * area:
            continue
        y = (box[0].start + box[0].stop - 1) / 2
        x = (box[1].start + box[1].stop - 1) / 2
        near = last or middle
        distance = float(np.hypot((y - near[0]) * spacing[1], (x - near[1]) * spacing[2]))
        if distance <= (12.0 if last else 50.0) and (best is None or distance < best[0]):
            best = distance, labels == number
    return None if best is None else best[1]


def _lung_like(candidates: Mask, coarse: Grid, body: Mask, spacing: tuple[float, ...], voxel_ml: float) -> Mask:
    """Return the components that are lung: big enough, as thin as lung, inside the body, not bowel or sinus."""
    opened = ndimage.binary_opening(candidates, ball(max(2.1, min(spacing) * 1.1), spacing))
    labels, sizes = components(opened)
    field = np.zeros_like(candidates)
    enclosed = enclosed_by(body)
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None or sizes[number] * voxel_ml < _SMALLEST_ML / 4:
            continue
        part = labels[box] == number
        median = float(np.median(coarse[box][part]))
        within = float(enclosed[box][part].mean())
        if _LUNG_MEDIAN[0] <= median <= _LUNG_MEDIAN[1] and within > 0.6 and _textured(coarse[box], part):
            field[box] |= part
    if float(field.sum()) * voxel_ml < _SMALLEST_ML:
        raise NotApplicable("no air-filled lung is in view")
    regrown: Mask = dilated(field, 4.0, spacing) & candidates
    return regrown


def enclosed_by(body: Mask) -> Mask:
    """Return the body with the holes of each axial slice filled, and what lies between body and image border."""
    filled = np.zeros_like(body)
    for z in range(body.shape[0]):
        rows = np.maximum.accumulate(body[z], axis=1) & np.maximum.accumulate(body[z][:, ::-1], axis=1)[:, ::-1]
        columns = np.maximum.accumulate(body[z], axis=0) & np.maximum.accumulate(body[z][::-1], axis=0)[::-1]
        filled[z] = rows | columns
    return filled


def _textured(values: Grid, part: Mask) -> bool:
    """Return whether a region has lung's own values: mostly neither pure gas nor tissue, as bowel's contents are."""
    inner = ndimage.binary_erosion(part)
    sample = values[inner] if int(inner.sum()) > 50 else values[part]
    share = float(((sample > -960.0) & (sample < -550.0)).mean())
    return share > 0.55


def _sides(
    field: Mask, coarse: Grid, airways: Mask, spacing: tuple[float, ...], voxel_ml: float
) -> tuple[Mask, Mask]:
    """Return the left and the right lung of *field*; x grows towards the patient's left."""
    first, second = two_parts(field, spacing, voxel_ml)
    if second is None:
        return (first, np.zeros_like(first)) if is_left(first, coarse, airways) else (np.zeros_like(first), first)
    return left_and_right(first, second)


def left_and_right(first: Mask, second: Mask) -> tuple[Mask, Mask]:
    """Return the left one of two lungs that lie beside each other, and the right one: by place, in any patient."""
    x_first, x_second = (float(ndimage.center_of_mass(one)[2]) for one in (first, second))
    return (first, second) if x_first > x_second else (second, first)


def two_parts(field: Mask, spacing: tuple[float, ...], voxel_ml: float) -> tuple[Mask, Mask | None]:
    """Part *field* where it is thinnest, until two lungs remain that lie side by side; one where there is one."""
    box = box_around(field, 1)
    pair = _parted(field[box], spacing, voxel_ml)
    if pair is None:
        return field, None
    first, second = np.zeros_like(field), np.zeros_like(field)
    first[box], second[box] = pair
    return first, second


def _parted(field: Mask, spacing: tuple[float, ...], voxel_ml: float) -> tuple[Mask, Mask] | None:
    depth = ndimage.distance_transform_edt(field, sampling=spacing)  # at the border of the images it goes on
    for radius in (0.0, 2.5, 4.5, 6.5, 9.0, 12.0):
        labels, sizes = components(depth > radius)
        order = np.argsort(sizes[1:])[::-1] + 1
        pair = _side_by_side(labels, sizes, order, spacing)
        if pair is not None:
            return _share_out(field, labels, pair, spacing, voxel_ml)
    return None


def _side_by_side(
    labels: Labels, sizes: NDArray[np.int64], order: NDArray[np.intp], spacing: tuple[float, ...]
) -> tuple[int, int] | None:
    """Return the two largest components that lie beside each other, each a fair share of both."""
    if len(order) < 2:
        return None
    main = int(order[0])
    centre = ndimage.center_of_mass(labels == main)
    for other in order[1:4]:
        if sizes[other] < _SMALL_SHARE * (sizes[main] + sizes[other]):
            return None
        away = np.abs((np.array(ndimage.center_of_mass(labels == other)) - centre) * spacing)
        if away[2] > 60.0 and away[2] > away[1]:
            return main, int(other)
    return None


def _share_out(
    field: Mask, labels: Labels, pair: tuple[int, int], spacing: tuple[float, ...], voxel_ml: float
) -> tuple[Mask, Mask]:
    """Give each voxel of *field* to the nearer of the two cores; small components far from both are dropped."""
    cores = np.where(np.isin(labels, pair), labels, 0)
    nearest = ndimage.distance_transform_edt(cores == 0, sampling=spacing, return_distances=False, return_indices=True)
    owner = cores[tuple(nearest)]
    parts, part_sizes = components(field)
    big = np.flatnonzero(part_sizes * voxel_ml >= 3.0)
    kept = np.isin(parts, big[big > 0])
    return kept & (owner == pair[0]), kept & (owner == pair[1])


def is_left(lung: Mask, coarse: Grid, airways: Mask) -> bool:
    """Return whether a lone lung is the left one.

    The trachea lies to the right of a left lung; without it, the side that the image cuts off is taken for the
    middle of the chest, since such views are crops around one lung; else most of the tissue lies there.
    """
    x = float(ndimage.center_of_mass(lung)[2])
    if airways.any():
        return x > float(ndimage.center_of_mass(airways)[2])
    cut_right, cut_left = bool(lung[:, :, 0].any()), bool(lung[:, :, -1].any())
    if cut_right != cut_left:
        return cut_right
    slices = lung.any(axis=(1, 2))
    tissue = coarse[slices] > -100.0
    return x > float(ndimage.center_of_mass(tissue)[2]) if tissue.any() else False


def _refine(
    lung: Mask, airways: Mask, voxels: Grid, steps: tuple[int, int, int], spacing: tuple[float, ...]
) -> Mask:
    """Return a coarse *lung* on the full grid: its surface where the voxels say, vessels filled, airways left out."""
    full = np.zeros(voxels.shape, dtype=bool)
    if not lung.any():
        return full
    box = box_around(lung, 4)
    inner = lung[box]
    core = filled(closed(inner, 5.0, spacing), spacing[1] * spacing[2])
    tubes = ndimage.binary_dilation(airways[box])
    reach = ndimage.binary_dilation(inner, iterations=2)
    ends = zip(box, steps, voxels.shape, strict=True)
    fine = tuple(slice(s.start * step, min(s.stop * step, n)) for s, step, n in ends)
    shape = tuple(s.stop - s.start for s in fine)
    aerated = (voxels[fine] < _AERATED) & _grow(reach & ~tubes, steps, shape)
    solid = _grow(ndimage.binary_erosion(core, border_value=1) & ~tubes, steps, shape)
    full[fine] = largest(filled(aerated | solid, spacing[1] * spacing[2] / (steps[1] * steps[2])))
    return full




def remarks(left: Mask, right: Mask) -> tuple[str, ...]:
    found: list[str] = []
    for name, mask in (("left", left), ("right", right)):
        if not mask.any():
            found.append(f"No {name} lung is in view; the side of the other is judged from what lies beside it.")
            continue
        faces: tuple[tuple[str, Any], ...] = (
            ("lower", mask[0]), ("upper", mask[-1]), ("front", mask[:, 0]), ("back", mask[:, -1]),
            ("right", mask[:, :, 0]), ("left", mask[:, :, -1]),
        )  # fmt: skip
        cut = [face for face, voxels in faces if voxels.any()]
        if cut:
            where = " and ".join(cut)
            found.append(f"The {name} lung is cut at the {where} border of the images; its volume is partial.")
    return tuple(found)
