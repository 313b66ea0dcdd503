"""Heads, necks, legs, and things that are no patient: what a model of the chest must keep silent about.

Each paints a whole scene of its own. Coordinates are mm of the standard body about the region's middle.
"""

from __future__ import annotations

import numpy as np

from models.generator.anatomy import AIR, FAT, MUSCLE
from models.generator.frame import Grid
from models.generator.patient import Dice, Patient
from models.generator.scene import Piece, Scene, smooth_min


def paint_head(scene: Scene, patient: Patient, dice: Dice) -> None:
    """Paint skull, brain, ventricles, orbits, sinuses with air, mastoid cells, and the headrest."""
    if dice.chance("headrest", 0.8):
        bowl = np.abs(np.sqrt(scene.left**2 + (scene.back - 10) ** 2) - 122) - 2.0
        scene.paint((scene.everywhere, np.maximum(bowl, 30 - scene.back).astype(np.float32)), -150.0)
        pad = np.maximum(np.abs(np.sqrt(scene.left**2 + (scene.back - 10) ** 2) - 112) - 8.0, 40 - scene.back)
        scene.paint((scene.everywhere, pad.astype(np.float32)), -940.0)
    skull = _whole(scene, scene.ellipsoid((0, 4, 30), (72, 92, 72)))
    face = _whole(scene, scene.ellipsoid((0, -30, -50), (56, 58, 76)))
    neck = np.asarray(np.sqrt(scene.left**2 + (scene.back - 20) ** 2) - 52, dtype=np.float32)
    neck = np.maximum(neck, scene.head + 30)
    skin = smooth_min(smooth_min(skull, face, 16.0), neck, 10.0)
    nose = scene.ellipsoid((0, -92, -38), (12, 16, 22))
    skin[nose[0]] = smooth_min(skin[nose[0]], nose[1], 8.0)
    scene.paint((scene.everywhere, skin), FAT + 20)
    scene.paint((scene.everywhere, skin + 4), MUSCLE)
    scene.paint((scene.everywhere, np.maximum(skull + 7, -40 - scene.head)), patient.bone * 1.5)
    scene.paint((scene.everywhere, np.maximum(skull + 9.0, -38 - scene.head)), patient.bone * 0.9)
    scene.paint((scene.everywhere, np.maximum(skull + 13, -36 - scene.head)), 12.0)
    scene.paint((scene.everywhere, np.maximum(skull + 16, -34 - scene.head)), 35.0)
    for sign in (-1, 1):
        scene.paint(scene.ellipsoid((sign * 12, 4, 44), (34, 7, 10), (0.1 * sign, 1.0, -0.1)), 6.0)
    _paint_face(scene, patient, dice)


def _paint_face(scene: Scene, patient: Patient, dice: Dice) -> None:
    hard = patient.bone * 1.3
    scene.paint(scene.ellipsoid((0, -62, -26), (44, 26, 26)), hard * 0.7)
    scene.paint(
        scene.tube(((-48, -10, -70), (-30, -62, -92), (0, -80, -96), (30, -62, -92), (48, -10, -70)), [9] * 5), hard
    )
    scene.paint(scene.ellipsoid((0, -70, -72), (30, 18, 6)), 1600.0)  # teeth
    scene.paint(scene.tube(((0, 26, -20), (0, 30, -130)), (17, 17)), hard * 0.6)
    scene.paint(scene.tube(((0, 44, -20), (0, 48, -130)), (7, 7)), 20.0)
    for sign in (-1, 1):
        scene.paint(scene.ellipsoid((sign * 31, -66, -4), (16, 20, 15)), FAT)
        scene.paint(scene.ellipsoid((sign * 31, -74, -4), (12, 12, 12)), 15.0)
        _cells(scene, dice, (sign * 58, 24, -28), 17, 26, hard)
        if dice.chance(f"maxillary_air_{sign}", 0.85):
            scene.paint(scene.ellipsoid((sign * 27, -58, -36), (14, 16, 16)), AIR)
    _cells(scene, dice, (0, -62, -8), 14, 16, 40.0)
    if dice.chance("frontal_air", 0.7):
        scene.paint(scene.ellipsoid((4, -78, 18), (20, 5, 11)), AIR)
    scene.paint(scene.ellipsoid((0, -34, -10), (13, 12, 10)), AIR)
    for sign in (-1, 1):  # nasal passages
        scene.paint(scene.tube(((sign * 5, -94, -46), (sign * 6, -60, -40), (sign * 3, -16, -44)), (4, 4.5, 6)), AIR)
    scene.paint(scene.tube(((0, -8, -44), (0, -2, -84), (0, -10, -140)), (10, 9, 8)), AIR)


def _cells(scene: Scene, dice: Dice, centre: tuple[float, float, float], reach: float, count: int, wall: float) -> None:
    """Paint a bone full of small cells of air."""
    scene.paint(scene.ellipsoid(centre, (reach, reach, reach * 1.2)), wall)
    for _ in range(count):
        at = (np.array(centre) + dice.rng.normal(size=3) * reach * 0.4).tolist()
        scene.paint(scene.ellipsoid(at, dice.rng.uniform(2.0, 5.5, 3).tolist()), AIR)


def _whole(scene: Scene, piece: Piece) -> Grid:
    """Return a shape on the whole lattice: far from it, outside."""
    result = np.full(scene.left.shape, 60.0, dtype=np.float32)
    result[piece[0]] = np.minimum(piece[1], 60.0)
    return result


def paint_throat(scene: Scene, patient: Patient, dice: Dice) -> None:
    """Paint what a neck has above the chest: throat with air, jaw, tongue bone, thyroid, vertebrae's arteries."""
    dx = patient.shift * 0.3
    head = scene.ellipsoid((0, 10, 330), (80, 98, 92))
    scene.paint(head, MUSCLE)
    scene.paint(scene.ellipsoid((0, 0, 258), (52, 74, 40)), MUSCLE)
    scene.paint(
        scene.tube(((-46, 0, 262), (-30, -52, 238), (0, -68, 232), (30, -52, 238), (46, 0, 262)), [8] * 5),
        patient.bone * 1.3,
    )
    scene.paint(scene.ellipsoid((0, -56, 252), (28, 14, 6)), 1500.0)
    for sign in (-1, 1):
        scene.paint(scene.ellipsoid((sign * 20 + dx, -8, 160), (11, 12, 26)), float(90 + 0.4 * (patient.systemic - 40)))
        scene.paint(scene.tube(((sign * 26, 4, 130), (sign * 32, 6, 260)), (4, 4)), patient.systemic)
        scene.paint(scene.tube(((sign * 34, 4, 110), (sign * 40, 10, 260)), (6, 5)), patient.pulmonary)
    scene.paint(scene.tube(((-18, -20, 192), (0, -30, 194), (18, -20, 192)), (5, 5, 5)), patient.bone * 0.5)
    wide = dice.between("throat_mm", 6, 13)
    scene.paint(
        scene.tube(
            ((0, -6, 190), (0, -4, 200), (0, 2, 225), (0, 0, 258), (0, -20, 290)), (5, 4, wide, wide * 0.8, wide)
        ),
        AIR,
    )


def paint_legs(scene: Scene, patient: Patient, dice: Dice) -> None:
    """Paint one leg or both, each with its bone; at the knee two bones begin."""
    both = dice.chance("both_legs", 0.75)
    for sign in (-1, 1) if both else (-1 if dice.chance("right_leg", 0.5) else 1,):
        bend = dice.between(f"leg_{sign}_bend", -0.06, 0.06)
        x = sign * dice.between(f"leg_{sign}_at", 84, 110)
        path = ((x, 0, 300), (x * 0.95, -bend * 200, 40), (x * 0.95, 6, -60), (x * 0.93, 20, -300))
        flesh = scene.tube(path, (72, 58, 48, 42))
        scene.paint((flesh[0], flesh[1] - np.float32(patient.fat * 0.7)), FAT)
        scene.paint(flesh, MUSCLE)
        thigh = scene.tube(((x, 4, 300), (x * 0.96, 2, 30), (x * 0.95, 0, 0)), (15, 15, 34))
        shin = scene.tube(((x * 0.95, 0, -8), (x * 0.95, -4, -60), (x * 0.93, 0, -300)), (36, 17, 13))
        calf = scene.tube(((x * 0.95 + sign * 26, 16, -30), (x * 0.93 + sign * 26, 20, -300)), (8, 6))
        for box, bone in (thigh, shin, calf):
            scene.paint((box, bone), patient.bone * 1.8)
            scene.paint((box, bone + 4), -20.0)
    flat = scene.back - np.float32(dice.between("legs_table", 78, 120))
    scene.paint_sheet((scene.everywhere, flat), -120.0, 4.0, (-2000.0, -900.0))


def paint_object(scene: Scene, dice: Dice) -> None:
    """Paint a phantom, bottles, foam, a QA block, a bare table, or nothing at all."""
    kind = dice.one_of("object", ("water", "rods", "lung-like", "bottles", "foam", "block", "table", "air"),
                       (0.16, 0.16, 0.16, 0.16, 0.1, 0.12, 0.08, 0.06))  # fmt: skip
    if kind != "air" and dice.chance("table_under", 0.7):
        flat = np.abs(scene.back - 118) - dice.between("table_half", 1, 9)
        scene.paint((scene.everywhere, np.asarray(flat, dtype=np.float32)), dice.between("table_hu", -950, 60))
    radius, half = dice.between("object_mm", 50, 110), dice.between("object_long", 40, 150)
    if kind in {"water", "rods", "lung-like"}:
        _paint_cylinder(scene, dice, radius, half)
    if kind == "rods":
        _paint_rods(scene, dice, radius, half)
    elif kind == "lung-like":
        _paint_holes(scene, dice, radius, half)
    elif kind == "bottles":
        _paint_bottles(scene, dice, half)
    elif kind in {"foam", "block"}:
        _paint_block(scene, dice, radius, half, foam=kind == "foam")
    elif kind == "table":
        curved = np.abs(scene.back - 60 + 0.001 * scene.left**2) - 14
        scene.paint((scene.everywhere, np.asarray(curved, dtype=np.float32)), -930.0)


def _paint_cylinder(scene: Scene, dice: Dice, radius: float, half: float) -> None:
    """Paint a shell full of something like water."""
    away = np.maximum(np.sqrt(scene.left**2 + scene.back**2) - radius, np.abs(scene.head) - half).astype(np.float32)
    scene.paint((scene.everywhere, away), dice.between("shell_hu", 60, 180))
    within = away + np.float32(dice.between("shell_mm", 2, 9))
    scene.paint((scene.everywhere, within), dice.between("fill_hu", -15, 60))


def _paint_rods(scene: Scene, dice: Dice, radius: float, half: float) -> None:
    for number in range(int(dice.between("rods", 3, 12))):
        turn = dice.between(f"rod_{number}_at", 0, 6.28)
        x, y = np.array((np.cos(turn), np.sin(turn))) * radius * dice.between(f"rod_{number}_out", 0.2, 0.75)
        rod = scene.tube(((x, y, -half * 0.9), (x, y, half * 0.9)), [dice.between(f"rod_{number}_mm", 3, 16)] * 2)
        scene.paint(rod, float(dice.rng.choice([-1000, -820, -100, 120, 340, 900, 1500])))


def _paint_holes(scene: Scene, dice: Dice, radius: float, half: float) -> None:
    """Paint plain holes of air or cork on both sides, and a spine of plastic between them."""
    for sign in (-1, 1):
        long = half * dice.between(f"hole_{sign}", 0.5, 1.3)
        hole = scene.ellipsoid((sign * radius * 0.48, 0, 0), (radius * 0.34, radius * 0.55, long))
        scene.paint(hole, dice.between(f"hole_hu_{sign}", -1000, -650))
    scene.paint(scene.tube(((0, radius * 0.55, -half), (0, radius * 0.55, half)), (radius * 0.14,) * 2), 500.0)


def _paint_bottles(scene: Scene, dice: Dice, half: float) -> None:
    """Paint bottles that lie on their sides, each filled up to its own level."""
    for number in range(int(dice.between("bottles", 1, 6))):
        x, y = dice.rng.uniform(-90, 90, 2)
        size = dice.between(f"bottle_{number}_mm", 14, 48)
        box, wall = scene.tube(((x, y, -half * 0.7), (x, y, half * 0.5)), (size, size))
        scene.paint((box, wall), -20.0)
        level = np.float32(y + size * dice.between(f"bottle_{number}_level", -0.9, 0.9))
        scene.paint((box, wall + 2), AIR)
        below = np.maximum(wall + 2, level - scene.back[box])
        scene.paint((box, below), dice.between(f"bottle_{number}_hu", -120, 200))


def _paint_block(scene: Scene, dice: Dice, radius: float, half: float, *, foam: bool) -> None:
    """Paint a block of foam, or one of plastic with balls in it."""
    across = np.maximum(np.abs(scene.left) - radius * 1.3, np.abs(scene.back) - radius * 0.6)
    block = np.maximum(across, np.abs(scene.head) - half).astype(np.float32)
    scene.paint((scene.everywhere, block), dice.between("foam_hu", -980, -750) if foam else 110.0)
    for _ in range(0 if foam else 9):
        at = (dice.rng.uniform(-1, 1, 3) * (radius * 1.1, radius * 0.5, half * 0.8)).tolist()
        ball = scene.ellipsoid(at, [dice.rng.uniform(3, 14)] * 3)
        scene.paint(ball, float(dice.rng.choice([-1000, -800, 300, 1000])))
