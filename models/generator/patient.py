"""Who lies in the scanner: everything that differs from one body to the next, drawn at random and written down."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.generator.body import PHASES
from models.generator.scene import Bend

Facts = dict[str, float | str]


class Dice:
    """Random numbers of one topic of one seed, each written down under its name.

    Each topic has a stream of its own: another grid or another noise leaves the anatomy as it is.
    """

    def __init__(self, seed: int, topic: str, facts: Facts) -> None:
        self.rng = np.random.default_rng([seed, zlib.crc32(topic.encode())])
        self.facts = facts

    def between(self, name: str, low: float, high: float) -> float:
        """Return a number from *low* to *high*, all equally likely."""
        value = float(self.rng.uniform(low, high))
        self.facts[name] = round(value, 4)
        return value

    def chance(self, name: str, share: float) -> bool:
        """Return true in a *share* of all cases."""
        value = bool(self.rng.random() < share)
        self.facts[name] = float(value)
        return value

    def one_of(self, name: str, options: Sequence[str], weights: Sequence[float] | None = None) -> str:
        """Return one of *options*, by *weights* where given."""
        odds = None if weights is None else np.array(weights) / sum(weights)
        value = str(options[int(self.rng.choice(len(options), p=odds))])
        self.facts[name] = value
        return value


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Patient:
    """One adult; lengths in mm of the standard body, densities in HU."""

    bend: Bend
    female: bool
    fat: float  # thickness under the skin
    muscle: float
    breast: float  # radius; 0 is none
    heart: float  # size, 1 is usual
    shift: float  # of the mediastinum, to the left
    right_dome: float  # S of its top
    left_dome: float
    dome_drop: float
    arms: str  # "up", "down", "none"
    kyphosis: float
    rib_slant: float
    rib_pitch: float
    rib_phase: float
    fissure_tilt: float
    aorta: float  # radius, 1 is usual
    trachea: float  # radius of its lumen
    lung_hu: float  # median of healthy parenchyma, upper front
    lung_slope: float  # HU per mm towards the back
    blood: float  # without contrast, or veins with it
    pulmonary: float  # arteries of the lungs and right heart
    systemic: float  # left heart and aorta
    liver: float
    bone: float
    gas: tuple[float, ...]  # random numbers 0 to 1 for the bowel's pockets


def draw_patient(seed: int, facts: Facts, contrast: str | None) -> Patient:
    """Return the patient of a *seed*."""
    dice = Dice(seed, "patient", facts)
    female = dice.chance("female", 0.48)
    size = dice.between("size", 0.9, 1.08) * (0.93 if female else 1.0)
    wide, deep, tall = (dice.between(f"size_{name}", 1 - by, 1 + by) for name, by in _ASPECTS)
    phase = contrast or dice.one_of("contrast", PHASES, (0.45, 0.25, 0.3))
    facts["contrast"] = phase
    blood = dice.between("blood_hu", 35, 55)
    early, late = dice.between("contrast_early", 150, 420), dice.between("contrast_late", 90, 220)
    pulmonary = {"none": blood, "arterial": early, "venous": late}[phase]
    systemic = {"none": blood, "arterial": early * dice.between("aorta_share", 0.4, 1.1), "venous": late}[phase]
    return Patient(
        bend=Bend(scale=(size * wide, size * deep, size * tall), waves=_waves(dice.rng)),
        female=female, fat=dice.between("fat_mm", 4, 34), muscle=dice.between("muscle_mm", 6, 16),
        breast=dice.between("breast_mm", 28, 62) if female else dice.between("breast_mm", -60, 24),
        heart=dice.between("heart", 0.9, 1.28), shift=dice.between("shift_mm", -6, 6),
        right_dome=dice.between("right_dome", -118, -72), left_dome=dice.between("left_dome", -126, -84),
        dome_drop=dice.between("dome_drop", 62, 100),
        arms=dice.one_of("arms", ("up", "down"), (0.75, 0.25)), kyphosis=dice.between("kyphosis", -0.04, 0.12),
        rib_slant=dice.between("rib_slant", 60, 100), rib_pitch=dice.between("rib_pitch", 23, 27),
        rib_phase=dice.between("rib_phase", 0, 1), fissure_tilt=dice.between("fissure_tilt", 0.6, 1.1),
        aorta=dice.between("aorta", 0.85, 1.2), trachea=dice.between("trachea_mm", 6.5, 9.5),
        lung_hu=dice.between("lung_hu", -888, -800), lung_slope=dice.between("lung_slope", 0.05, 0.45),
        blood=blood, pulmonary=pulmonary, systemic=systemic,
        liver=dice.between("liver_hu", 20, 65) + (0.0 if phase == "none" else dice.between("liver_uptake", 5, 50)),
        bone=dice.between("bone_hu", 350, 900), gas=tuple(float(g) for g in dice.rng.random(80)),
    )  # fmt: skip


_ASPECTS = (("wide", 0.08), ("deep", 0.11), ("tall", 0.13))


def _waves(rng: np.random.Generator) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Return eight waves of 60 to 300 mm that shift places by some millimetres."""
    count = 8
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    length = np.exp(rng.uniform(np.log(60), np.log(300), size=(count, 1)))
    swing = rng.normal(size=(count, 3)) * length * rng.uniform(0.006, 0.011)
    return np.hstack([direction * 2 * np.pi / length, rng.uniform(0, 2 * np.pi, size=(count, 1)), swing])
