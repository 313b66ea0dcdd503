"""What is wrong with the lungs beside lesions: their outline, what they are made of, what lies in the pleural space."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from models.generator.anatomy import AIR, Chest
from models.generator.body import Wish
from models.generator.frame import Grid, Points
from models.generator.patient import Dice, Facts, Patient
from models.generator.scene import Piece, Scene, smooth_max
from models.generator.stamps import Tubes, none_at_all

DISEASES = (
    "none", "emphysema", "bullae", "ground-glass", "consolidation", "lobe", "lobe-collapse", "collapse", "effusion",
    "massive-effusion", "pneumothorax", "fibrosis", "bands",
)  # fmt: skip
_ODDS = (0.42, 0.1, 0.03, 0.07, 0.06, 0.04, 0.04, 0.03, 0.08, 0.03, 0.03, 0.04, 0.03)
# Diseases in patches: HU, how soft their borders are, how much of the air they take.
_PATCHY = {"ground-glass": (-640.0, 0.9, 0.9), "consolidation": (0.0, 0.35, 1.0), "fibrosis": (-680.0, 0.7, 0.9)}
_SIDES = ("right-lung", "left-lung")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Disease:
    """One disease of one patient; sizes in mm of the standard body."""

    name: str
    side: str  # where it is on one side only
    amount: float  # 0 to 1
    value: float  # HU of what is solid
    lobe: str  # "upper", "lower", "middle"
    fluid: float  # HU
    focus: tuple[float, float, float]  # (L, P, S) of a consolidation
    waves: NDArray[np.float32]  # (n, 4): wave vectors and phases of patches

    def hits(self, side: str) -> bool:
        """Tell whether one side has a disease that spares the other."""
        return side == self.side


def draw_disease(seed: int, wish: Wish, facts: Facts) -> Disease:
    """Return the disease of a *seed*."""
    dice = Dice(seed, "disease", facts)
    name = dice.one_of("disease", DISEASES, _ODDS)
    if wish.disease is not None or wish.tidy:
        name = wish.disease or "none"
    facts["disease"] = name
    direction = dice.rng.normal(size=(12, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    vectors = direction * 2 * np.pi / np.geomspace(110, 17, 12)[:, None]
    waves = np.hstack([vectors, dice.rng.uniform(0, 2 * np.pi, size=(12, 1))]).astype(np.float32)
    side = dice.one_of("disease_side", _SIDES)
    left = dice.between("focus_left", 50, 105) * (1 if side == "left-lung" else -1)
    return Disease(
        name=name, side=side, focus=(left, dice.between("focus_back", -50, 70), dice.between("focus_head", -110, 60)),
        amount=dice.between("disease_amount", 0.15, 1.0),
        value=dice.between("disease_hu", 5, 55), lobe=dice.one_of("disease_lobe", ("upper", "lower", "middle")),
        fluid=dice.between("fluid_hu", 0, 35), waves=waves,
    )  # fmt: skip


def changed_patient(patient: Patient, disease: Disease, rng: np.random.Generator) -> Patient:
    """Return *patient* with the mediastinum where the disease moves it."""
    way = 1.0 if disease.side == "left-lung" else -1.0
    if disease.name == "collapse":
        return replace(patient, shift=patient.shift + way * float(rng.uniform(5, 34)))
    if disease.name == "massive-effusion":
        return replace(patient, shift=patient.shift - way * float(rng.uniform(0, 22)))
    if disease.name == "lobe-collapse":
        return replace(patient, shift=patient.shift + way * float(rng.uniform(0, 14)))
    return patient


def fissures(left: Grid, back: Grid, head: Grid, patient: Patient) -> tuple[Grid, Grid]:
    """Return how far places of the standard body lie above the slanted and above the level fissure, in mm."""
    tilt = 1.25 * patient.fissure_tilt
    wave = 4 * np.sin(left / 23 + patient.rib_phase * 6) + 3 * np.sin(back / 17 + patient.shift)
    major = (head + 34 - tilt * back + wave) / np.float32(np.hypot(1, tilt))
    return np.asarray(major, dtype=np.float32), np.asarray(head + 30 - 0.12 * back + wave, dtype=np.float32)


def outlines(scene: Scene, chest: Chest, disease: Disease) -> tuple[dict[str, Grid], list[tuple[Piece, float]]]:
    """Return both lungs' outlines in disease, and what fills the room that they leave."""
    lungs = {"left-lung": chest.left_lung, "right-lung": chest.right_lung}
    before = lungs[disease.side]
    after, matter = before, disease.fluid
    low = 0.3 + 0.7 * np.clip((70 - scene.head) / 190, 0.0, 1.0)
    if disease.name == "effusion":
        after = before + (12 + 70 * disease.amount) * low * np.clip((scene.back + 30) / 125, 0.0, 1.0) ** 1.5
    elif disease.name == "massive-effusion":
        after = before + (60 + 75 * disease.amount) * low * np.clip((scene.back + 120) / 180, 0.0, 1.0)
    elif disease.name == "pneumothorax":
        high = 0.45 + 0.55 * np.clip((scene.head + 120) / 200, 0.0, 1.0)
        after = before + (8 + 65 * disease.amount) * high * np.clip((70 - scene.back) / 150, 0.0, 1.0) ** 1.3
        matter = AIR
    elif disease.name == "collapse" and disease.amount > 0.5:
        sign = 1.0 if disease.side == "left-lung" else -1.0
        box, hilum = scene.ellipsoid((sign * 52, 26, -38), (40, 46, 78))
        rest = np.full(before.shape, 40.0, dtype=np.float32)
        rest[box] = hilum
        after = smooth_max(before, rest, 4.0)
    if after is before:
        return lungs, []
    lungs[disease.side] = np.asarray(after, dtype=np.float32)
    # without a hard edge between: the fluid is painted first, the lung over it
    return lungs, [((scene.everywhere, before), matter)]


def parenchyma(scene: Scene, patient: Patient, side: str, outline: Grid, before: Grid, disease: Disease) -> Grid:
    """Return what a lung is made of, in HU, on the whole lattice."""
    back, amount = scene.back, disease.amount
    healthy = patient.lung_hu + patient.lung_slope * back + 8 * _patches(scene, disease.waves[:3])
    matter = healthy.astype(np.float64)
    name, hit = disease.name, disease.hits(side)
    if name == "emphysema":
        matter = matter - 25 - 45 * amount
    elif name in _PATCHY:
        goal, sharpness, spread = _PATCHY[name]
        rim = np.clip((outline + 32) / 30, 0.0, 1.0) + 0.7 * np.clip(back / 70, -0.5, 1.0)
        gate = _patches(scene, disease.waves) + 0.8 * rim - 2.9 + 2.2 * amount
        if name == "consolidation":
            gate = gate + 1.6 - _away(scene, disease) / (18 + 45 * amount)
        value = goal + disease.value * 2 if name != "consolidation" else disease.value
        matter = matter + _soft_step(gate, sharpness) * spread * (value - matter)
    elif hit and name in {"lobe", "lobe-collapse"}:
        matter = matter + _soft_step(_lobe(scene, patient, side, disease), 1.5) * (disease.value - matter)
    elif hit and name == "collapse":
        matter = matter + (disease.value - matter) * (1.0 if amount > 0.3 else 0.9)
    elif hit and name in {"effusion", "massive-effusion", "pneumothorax"}:
        pressed = np.clip((outline - before) / 40, 0.0, 1.0) * _soft_step(outline + 9 + 10 * amount, 3.0)
        matter = matter + np.minimum(pressed * 1.3, 1.0) * (disease.value - matter) * (
            0.6 if name == "pneumothorax" else 1.0
        )
    return np.asarray(matter, dtype=np.float32)


def _lobe(scene: Scene, patient: Patient, side: str, disease: Disease) -> Grid:
    """Return how deep each place lies in the sick lobe, in mm; negative outside."""
    major, level = fissures(scene.left, scene.back, scene.head, patient)
    shrunk = np.float32(38 * disease.amount if disease.name == "lobe-collapse" else 0.0)
    if disease.lobe == "lower":
        return -major - shrunk
    if side == "left-lung":
        return major - shrunk
    return np.minimum(major, level if disease.lobe == "upper" else -level) - shrunk * 0.6


def _patches(scene: Scene, waves: NDArray[np.float32]) -> Grid:
    """Return smooth random patches, standard deviation about 1."""
    total = np.zeros(scene.left.shape, dtype=np.float32)
    for a, b, c, phase in waves:
        total += np.sin(a * scene.left + b * scene.back + c * scene.head + phase)
    return total * np.float32(np.sqrt(2 / len(waves)))


def _away(scene: Scene, disease: Disease) -> Grid:
    """Return the distance in mm from the middle of a focus in the sick lung."""
    x, y, z = disease.focus
    return np.asarray(np.sqrt((scene.left - x) ** 2 + (scene.back - y) ** 2 + (scene.head - z) ** 2), dtype=np.float32)


def _soft_step(field: NDArray[np.floating], width: float) -> Grid:
    return np.asarray(np.clip(0.5 + field / np.float32(2 * width), 0.0, 1.0), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Thin things of disease in the lungs: holes of air and strings of tissue."""

    holes: Tubes
    strings: Tubes


def draw_marks(seed: int, disease: Disease, places: object, depth: object) -> Marks:
    """Return emphysema's holes, bullae, the net of fibrosis, bands; in mm of the patient."""
    assert callable(places) and callable(depth)  # noqa: S101
    rng = np.random.default_rng([seed, 4])
    holes, strings = none_at_all(), none_at_all()
    for side in _SIDES:
        if disease.name == "emphysema":
            at = places(side, int(300 + 2200 * disease.amount), rng)
            at = at[rng.random(len(at)) < np.clip(0.55 + at[:, 2] / 160, 0.12, 1.0)]
            holes = holes + _balls(at, rng.uniform(1.5, 3.0 + 5 * disease.amount, len(at)), rng)
        elif disease.name == "bullae":
            at = places(side, 400, rng)
            at = at[depth(side, at) < 16][: int(2 + 7 * disease.amount)]
            holes = holes + _balls(at, rng.uniform(6, 12 + 22 * disease.amount, len(at)), rng)
        elif disease.name == "fibrosis":
            at = places(side, 6000, rng)
            at = at[(depth(side, at) < 14) & (at[:, 2] < 20)]
            strings = strings + _rods(at, rng.uniform(3, 9, len(at)), rng.uniform(0.3, 0.8, len(at)), rng)
            at = at[: len(at) // 3]
            holes = holes + _balls(at, rng.uniform(1, 3.5, len(at)), rng)
        elif disease.name == "bands" or rng.random() < 0.15:
            strings = strings + _bands(places(side, 1 + int(4 * disease.amount), rng), rng)
    return Marks(holes, strings)


def _balls(at: Points, radius: NDArray[np.float64], rng: np.random.Generator) -> Tubes:
    stretch = rng.normal(size=at.shape) * radius[:, None] * 0.3
    return Tubes(at - stretch, at + stretch, radius)


def _rods(at: Points, length: NDArray[np.float64], radius: NDArray[np.float64], rng: np.random.Generator) -> Tubes:
    way = rng.normal(size=at.shape)
    way *= (length / 2 / np.linalg.norm(way, axis=1))[:, None]
    return Tubes(at - way, at + way, radius)


def _bands(at: Points, rng: np.random.Generator) -> Tubes:
    """Return flat bands, each of many rods side by side."""
    result = none_at_all()
    for point in at:
        along, across = rng.normal(size=3) * (1, 1, 0.3), rng.normal(size=3)
        along /= np.linalg.norm(along)
        across -= along * (across @ along)
        across /= np.linalg.norm(across)
        wide, half = rng.uniform(4, 18), rng.uniform(8, 28)
        side = np.arange(-wide / 2, wide / 2, 1.2)[:, None] * across + point
        ends = half * (0.8 + 0.3 * rng.random((len(side), 1))) * along
        result = result + Tubes(side - ends, side + ends, np.full(len(side), rng.uniform(0.6, 1.5)))
    return result
