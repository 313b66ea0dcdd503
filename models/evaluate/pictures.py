"""Slices on which a model is most wrong, as pictures: reference and result in outline."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from models.contract import Mask, Volume

Picture = NDArray[np.uint8]  # (rows, columns, 3) sRGB

REFERENCE, FOUND = (86, 180, 233), (230, 120, 0)  # blue and orange: told apart by the colour-blind too
_LUNG_WINDOW = (-600.0, 1500.0)  # HU: centre and width
_LEAST_SIDE = 384  # pixels
_TINT = 0.3  # share of the colour where only one of both is
_APART = 10.0  # mm between two slices of one run


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One slice on which a model and the reference differ."""

    model: str
    case: str
    variant: str
    slice: int  # z, from 0 at the feet
    what: str  # for people, e.g. "12.1 cm2 differ"
    weight: float  # greater is worse, within one model
    png: bytes


def worst_slices(
    found: Mapping[str, Mask], reference: Mapping[str, Mask], volume: Volume, count: int
) -> list[tuple[int, float]]:
    """Return up to *count* slices and the cm2 on which *found* and *reference* differ, the worst first.

    Two slices of the list lie at least 10 mm apart, or neighbours would fill it.
    """
    differ = np.zeros(volume.voxels.shape, dtype=bool)
    for name in {*found, *reference}:
        empty = np.zeros_like(differ)
        differ |= found.get(name, empty) ^ reference.get(name, empty)
    _, dy, dx = volume.spacing
    areas = differ.sum(axis=(1, 2)) * dy * dx / 100.0
    chosen: list[tuple[int, float]] = []
    for z in np.argsort(-areas, kind="stable"):
        if len(chosen) == count or areas[z] <= 0:
            break
        if all(abs(int(z) - other) * volume.spacing[0] >= _APART for other, _ in chosen):
            chosen.append((int(z), float(areas[z])))
    return chosen


def draw(
    volume: Volume, z: int, found: Mapping[str, Mask], reference: Mapping[str, Mask],
    window: tuple[float, float] | None,
) -> bytes:  # fmt: skip
    """Return slice *z* as a PNG, seen from the feet as radiologists do, with each mask's outline.

    What one of both alone has is tinted: two outlines that lie on each other would hide that only one is filled.
    Shown through the *window* (centre, width), lungs' own for CT without one; other modalities over their own range.
    """
    grey = _grey(volume, z, window)
    _, dy, dx = volume.spacing
    rows, columns = grey.shape
    scale = max(1.0, _LEAST_SIDE / min(rows * dy, columns * dx) * min(dy, dx))
    size = (round(columns * scale * dx / min(dy, dx)), round(rows * scale * dy / min(dy, dx)))
    picture = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BILINEAR).convert("RGB")).copy()
    outlines = []
    for masks, others, colour in ((reference, found, REFERENCE), (found, reference, FOUND)):
        for name, mask in masks.items():
            large = _enlarged(mask[z], size)
            alone = large & ~_enlarged(others[name][z], size) if name in others else large
            picture[alone] = (1 - _TINT) * picture[alone] + _TINT * np.array(colour)
            outlines.append((large & ~ndimage.binary_erosion(large), colour))
    for outline, colour in outlines:
        picture[outline] = colour
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def _enlarged(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST), dtype=bool)


def _grey(volume: Volume, z: int, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    values = volume.voxels[z]
    if volume.modality == "CT":
        centre, width = window or _LUNG_WINDOW
        low, high = centre - width / 2, centre + width / 2
    else:
        low, high = (float(v) for v in np.percentile(values, (1, 99)))
    grey: NDArray[np.uint8] = (np.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0) * 255).astype(np.uint8)
    return grey


def choose(faults: Sequence[Fault], count: int, of_one_run: int = 3) -> list[Fault]:
    """Return the *count* worst of *faults*: at most *of_one_run* of one case and variant, no picture twice."""
    chosen: list[Fault] = []
    for fault in sorted(faults, key=lambda one: (-one.weight, one.case, one.variant, one.slice)):
        same = sum((one.case, one.variant) == (fault.case, fault.variant) for one in chosen)
        seen = any(fault.png == one.png for one in chosen)  # storage orders, and two nodules on one slice, look alike
        if len(chosen) < count and same < of_one_run and not seen:
            chosen.append(fault)
    return chosen
