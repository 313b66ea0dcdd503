"""Which part of the patient a scan shows, on which grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.generator.body import Wish
from models.generator.frame import Frame, make_frame
from models.generator.patient import Dice, Facts, Patient

#: "top" and "bottom" end in mid-lung there; "half" shows one lung; "narrow" cuts the body's sides.
CUTS = ("whole", "top", "bottom", "slab", "half", "narrow")
_ODDS = (0.6, 0.07, 0.08, 0.06, 0.09, 0.1)
_STEEPEST = 25.0  # degrees

# Where the scans of a region begin and end, S in the standard body, each between two numbers.
_REACH = {
    "chest": ((-290.0, -205.0), (138.0, 190.0)), "abdomen": ((-430.0, -340.0), (-215.0, -120.0)),
    "pelvis": ((-650.0, -560.0), (-440.0, -380.0)), "neck": ((96.0, 190.0), (250.0, 310.0)),
    "head": ((-110.0, -60.0), (100.0, 125.0)), "legs": ((-260.0, -100.0), (60.0, 260.0)),
    "object": ((-160.0, -40.0), (40.0, 160.0)),
}  # fmt: skip
_WIDTH = {"chest": (330.0, 440.0), "abdomen": (330.0, 430.0), "pelvis": (340.0, 440.0), "neck": (190.0, 330.0),
          "head": (205.0, 270.0), "legs": (180.0, 420.0), "object": (200.0, 420.0)}  # fmt: skip
_BUDGET = 6e6  # voxels of a scan whose grid nobody asked for


def draw_view(seed: int, wish: Wish, region: str, patient: Patient, facts: Facts) -> Frame:
    """Return the grid of a *seed*."""
    dice = Dice(seed, "view", facts)
    cut = dice.one_of("cut", CUTS, _ODDS)
    if wish.cut is not None or wish.tidy or region != "chest":
        cut = wish.cut or "whole"
    facts["cut"] = cut
    scale = patient.bend.scale if region != "object" else (1.0, 1.0, 1.0)
    low, high = (
        dice.between(name, *bounds) * scale[2] for name, bounds in zip(("foot", "crown"), _REACH[region], strict=True)
    )
    low, high = _ends(cut, low, high, dice)
    width, depth = dice.between("field_mm", *_WIDTH[region]) * scale[0], dice.between("field_depth", 0.8, 1.0)
    left = dice.between("off_left", -12, 12)
    if cut == "half":
        width, left = (
            dice.between("half_mm", 130, 210),
            (1 if dice.chance("half_left", 0.5) else -1) * dice.between("half_at", 60, 85),
        )
    if cut == "narrow":
        width *= dice.between("narrow_by", 0.6, 0.85)
    depth = width if dice.chance("square", 0.6) else width * depth * 0.9
    centre = (left, dice.between("off_back", -12, 14) * (1.0 if region == "chest" else 0.6), (low + high) / 2)
    spacing = wish.spacing or _spacing(dice, (high - low, depth, width))
    shape = wish.shape or tuple(
        max(1, round(mm / step)) for mm, step in zip((high - low, depth, width), spacing, strict=True)
    )
    turn = _turn(dice, wish)
    return make_frame(centre, spacing, (shape[0], shape[1], shape[2]), turn)


def _ends(cut: str, low: float, high: float, dice: Dice) -> tuple[float, float]:
    middle = dice.between("cut_at", -70, 40)
    if cut == "top":
        return low, middle
    if cut == "bottom":
        return middle, high
    if cut == "slab":
        half = dice.between("slab_mm", 8, 45)
        return middle - half, middle + half
    return low, high


def _spacing(dice: Dice, extent: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a usual spacing, coarser in the plane where the whole would have too many voxels."""
    thick = float(dice.one_of("slice_mm", ("0.6", "1.0", "1.25", "1.5", "2.0", "2.5", "3.0", "5.0", "7.0"),
                              (0.06, 0.14, 0.14, 0.1, 0.12, 0.14, 0.14, 0.12, 0.04)))  # fmt: skip
    plane = (
        dice.between("pixel_mm", 0.6, 1.0)
        if dice.chance("fine_pixels", 0.7)
        else dice.between("pixel_coarse_mm", 1.0, 3.0)
    )
    many = np.prod(extent) / (thick * plane**2)
    plane *= max(1.0, float(many / _BUDGET) ** 0.5)
    return thick, plane, plane


def _turn(dice: Dice, wish: Wish) -> NDArray[np.float64]:
    """Return the rotation of the grid: none, a little as patients lie, or double oblique up to 25 degrees."""
    steep = dice.chance("oblique", 0.12)
    degrees = dice.between("oblique_degrees", 6, _STEEPEST) if steep else dice.between("lying_degrees", 0, 4)
    if wish.oblique_degrees is not None or wish.tidy or not (steep or dice.chance("askew", 0.3)):
        degrees = wish.oblique_degrees or 0.0
    facts_degrees = min(abs(degrees), _STEEPEST)
    dice.facts["turned_degrees"] = round(facts_degrees, 3)
    axis = dice.rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = np.deg2rad(facts_degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)
