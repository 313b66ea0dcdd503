"""What patients bring along: table, tubes, leads, pacemaker, stents, implants; and the streaks of metal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.generator.body import Point, Wish
from models.generator.frame import Frame, Grid
from models.generator.patient import Dice, Facts, Patient
from models.generator.scene import Scene
from models.generator.stamps import Tubes, cover, none_at_all

_METAL = 3071.0


@dataclass(frozen=True, slots=True, eq=False)
class Device:
    """Tubes of one matter; a *lumen* is painted into them after."""

    tubes: Tubes
    value: float  # HU
    lumen: Tubes
    streaks: float  # HU close by


def draw_devices(seed: int, patient: Patient, wish: Wish, facts: Facts) -> tuple[Device, ...]:
    """Return what one patient carries."""
    dice = Dice(seed, "devices", facts)
    a, dx = patient.aorta, patient.shift
    sources: tuple[tuple[str, float, tuple[Point, ...], float, float, float, float], ...] = (
        # name, share, path, radius, HU, lumen's radius, streaks
        ("tracheal_tube", 0.05, ((dx, -8, 200), (dx, 1, 110), (dx, 9, 34)), 5.2, 180.0, 4.0, 0.0),
        ("feeding_tube", 0.06, ((2, 17, 150), (6, 31, 40), (9, 35, -50), (17, 23, -120), (40, 0, -150)), 2.4, 220.0, 1.2, 0.0),
        ("central_line", 0.12, ((-70, -18, 112), (-24, -20, 58), (-25, -15, 0), (-22, -11, -30)), 1.2, 400.0, 0.0, 0.0),
        ("pacemaker_lead", 0.05, ((88, -66, 74), (60, -20, 90), (-10, -24, 56), (-25, -16, 0), (-16, -22, -60),
                                  (30, -52, -96)), 1.1, _METAL, 0.0, 160.0),
        ("spine_rod", 0.03, ((20, 88, -40), (20, 86, 0), (20, 88, 50)), 3.0, _METAL, 0.0, 320.0),
        ("screw", 0.03, ((20, 88, -20), (12, 60, -20)), 2.6, _METAL, 0.0, 320.0),
        ("drain", 0.03, ((-175, 30, -60), (-128, 30, -40), (-96, 60, 20)), 3.6, 120.0, 2.4, 0.0),
        ("shoulder_joint", 0.02, ((140, 14, 88), (158, 10, 112)), 20.0, _METAL, 0.0, 420.0),
        ("lead_on_skin", 0.15, ((-60, -140, 10), (0, -132, 20), (90, -136, -40)), 1.2, 900.0, 0.0, 60.0),
        ("valve", 0.02, ((-4, -26, -40), (8, -18, -38)), 10.0 * a, 900.0, 8.0 * a, 90.0),
        ("stent", 0.04, ((26 + dx, 46, -20), (22 + dx, 48, -90)), 12.5 * a, 900.0, 11.5 * a, 40.0),
        ("coronary", 0.15, ((14, -56, -40), (34, -62, -60), (48, -60, -80)), 1.4, 900.0, 0.0, 20.0),
    )  # fmt: skip
    found = []
    for name, share, path, radius, value, lumen, streaks in sources:
        if dice.chance(name, share) and not wish.tidy:
            tubes = _bent(patient, path, radius)
            found.append(Device(tubes, value, _bent(patient, path, lumen) if lumen else none_at_all(), streaks))
    if facts["pacemaker_lead"] and not wish.tidy:  # with its box under the left collar bone
        found.append(Device(_bent(patient, ((78, -88, 66), (98, -80, 58)), 9.0), _METAL, none_at_all(), 260.0))
    return tuple(found)


def _bent(patient: Patient, path: tuple[Point, ...], radius: float) -> Tubes:
    """Return a smooth tube through *path*, given in the standard body, in the patient."""
    points = np.array(path, dtype=np.float64)
    at = np.linspace(0, len(points) - 1, 8 * (len(points) - 1) + 1)
    fine = np.stack([np.interp(at, np.arange(len(points)), points[:, i]) for i in range(3)], 1)
    bent = patient.bend.patient(fine)
    return Tubes(bent[:-1], bent[1:], np.full(len(bent) - 1, radius))


def paint_devices(voxels: Grid, frame: Frame, devices: tuple[Device, ...], rng: np.random.Generator) -> None:
    """Paint them and the streaks that metal throws within its slices."""
    for device in devices:
        filled = cover(frame, device.tubes)
        if not filled.any():
            continue
        if len(device.lumen.radius):
            filled *= 1 - cover(frame, device.lumen)
        if device.streaks:
            _streak(voxels, filled, frame, device.streaks, rng)
        voxels += filled * (np.float32(device.value) - voxels)


def _streak(voxels: Grid, metal: Grid, frame: Frame, strength: float, rng: np.random.Generator) -> None:
    """Add rays about the metal of each slice: dark and bright by turns, fading with distance."""
    _, dy, dx = frame.spacing
    rows, columns = np.ogrid[: voxels.shape[1], : voxels.shape[2]]
    turn, number = float(rng.uniform(0, 6)), int(rng.integers(5, 12))
    for z in np.flatnonzero(metal.max(axis=(1, 2)) > 0.2):
        weight = metal[z]
        y, x = (float((weight * axis).sum() / weight.sum()) for axis in (rows, columns))
        back, left = (rows - y) * dy, (columns - x) * dx
        away = np.hypot(back, left) + 1.0
        rays = np.cos(number * np.arctan2(back, left) + turn) + 0.7 * np.cos((2 * number + 3) * np.arctan2(back, left))
        fade = np.exp(-away / 70) * np.minimum(1.0, away / 12)
        voxels[z] += (strength * min(1.0, float(weight.sum()) * dx * dy / 60) * rays * fade).astype(np.float32)


def paint_table(scene: Scene, patient: Patient, dice: Dice) -> None:
    """Paint the table under the patient, and a mattress between; nothing where the patient lies on neither."""
    if not dice.chance("table", 0.85):
        return
    kind = dice.one_of("table_kind", ("curved", "flat", "double"))
    bow = 0.0 if kind == "flat" else dice.between("table_bow", 0.0006, 0.0016)
    gap = dice.between("table_gap", -2, 22)
    top = 118.0 + patient.muscle * 0.7 + patient.fat * 0.55 + gap
    surface = scene.back - (top - bow * scene.left**2)
    wide = np.abs(scene.left) - 215
    scene.paint((scene.everywhere, np.maximum(np.maximum(surface - 32, -surface), wide)), -960.0)
    for at in (0.0, 32.0) if kind != "double" else (0.0, 16.0, 40.0):
        shell = np.maximum(np.abs(surface - at) - dice.between(f"table_wall_{at:.0f}", 0.8, 2.2), wide)
        scene.paint(
            (scene.everywhere, np.asarray(shell, dtype=np.float32)), dice.between(f"table_hu_{at:.0f}", -250, 150)
        )
