"""The chest of the standard body: wall, bones, mediastinum, lungs.

Places are in mm from a point in front of the spine at the height of the carina: (L, P, S). The lungs fill what the
rib cage leaves to them beside the mediastinum and above the diaphragm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from models.generator.body import Point
from models.generator.frame import Box, Grid
from models.generator.patient import Patient
from models.generator.scene import Piece, Scene, smooth_max, smooth_min

FAT, MUSCLE, AIR = -100.0, 52.0, -1000.0

# The inner rib cage: height S, half width, half depth, and how far its axis lies to the back.
_CAGE = (
    (-420.0, 128.0, 96.0, 0.0), (-300.0, 126.0, 98.0, 0.0), (-200.0, 127.0, 100.0, 0.0), (-120.0, 129.0, 101.0, -2.0),
    (-60.0, 127.0, 99.0, -2.0), (-20.0, 122.0, 95.0, 0.0), (20.0, 113.0, 87.0, 2.0), (55.0, 99.0, 73.0, 8.0),
    (85.0, 80.0, 57.0, 15.0), (104.0, 62.0, 42.0, 21.0), (116.0, 44.0, 27.0, 25.0), (124.0, 27.0, 12.0, 27.0),
    (130.0, 8.0, 4.0, 28.0), (160.0, 3.0, 3.0, 28.0),
)  # fmt: skip

#: The airways that are labelled: (from, to, radius there relative to the trachea's), in the standard body.
CARINA = (0.0, 14.0, 0.0)
AIRWAY_TREE: tuple[tuple[Point, Point, float, float], ...] = (
    ((0.0, -6.0, 190.0), (0.0, 2.0, 110.0), 1.0, 1.0), ((0.0, 2.0, 110.0), CARINA, 1.0, 1.0),
    (CARINA, (-24.0, 19.0, -17.0), 0.82, 0.78), ((-24.0, 19.0, -17.0), (-36.0, 21.0, -42.0), 0.68, 0.6),
    ((-24.0, 19.0, -17.0), (-50.0, 19.0, -8.0), 0.58, 0.45), ((-36.0, 21.0, -42.0), (-46.0, 32.0, -62.0), 0.5, 0.4),
    ((-36.0, 21.0, -42.0), (-52.0, 4.0, -56.0), 0.45, 0.35),
    (CARINA, (22.0, 20.0, -14.0), 0.75, 0.7), ((22.0, 20.0, -14.0), (43.0, 25.0, -25.0), 0.7, 0.64),
    ((43.0, 25.0, -25.0), (50.0, 35.0, -52.0), 0.52, 0.4), ((43.0, 25.0, -25.0), (58.0, 12.0, -18.0), 0.48, 0.4),
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Chest:
    """Shapes that others build on, on the whole lattice (negative inside)."""

    cage: Grid  # inner surface of the rib cage
    turn: Grid  # cosine of the way round the cage: 1 at the back, -1 in front
    mediastinum: Grid
    left_dome: Grid  # what lies below each half of the diaphragm
    right_dome: Grid
    left_lung: Grid
    right_lung: Grid


def shape_chest(scene: Scene, patient: Patient) -> Chest:
    """Return the shapes of the chest, before disease."""
    cage, turn = _cage(scene)
    middle = _mediastinum(scene, patient)
    right = _dome(scene, (-62.0, -8.0), (74.0, 92.0), patient.right_dome, patient.dome_drop)
    left = _dome(scene, (66.0, -4.0), (70.0, 90.0), patient.left_dome, patient.dome_drop)
    floor = -152.0 - 0.4 * scene.back - scene.head  # the pleura's lowest fold, deepest at the back
    room = smooth_max(cage, floor, 4.0)
    room = np.maximum(room, 2.0 - _ribs(scene, patient, cage, turn))  # the ribs dent it
    shift = np.float32(patient.shift) + 4.0
    lungs = [
        smooth_max(smooth_max(room, -middle, 3.0), smooth_max(-dome, side * (scene.left - shift), 4.0), 2.5)
        for side, dome in ((-1.0, left), (1.0, right))
    ]
    return Chest(cage, turn, middle, left, right, lungs[0], lungs[1])


def _cage(scene: Scene) -> tuple[Grid, Grid]:
    heights = np.arange(-420.0, 161.0, 2.0)
    table = PchipInterpolator([row[0] for row in _CAGE], [row[1:] for row in _CAGE])(heights)
    wide, deep, axis = (np.interp(scene.head, heights, table[:, i]).astype(np.float32) for i in range(3))
    back = scene.back - axis
    power = 2.4  # flatter than an ellipse
    away = np.sqrt(scene.left**2 + back**2) + np.float32(1e-3)
    ratio = ((np.abs(scene.left) / wide) ** power + (np.abs(back) / deep) ** power) ** (1 / power) + np.float32(1e-4)
    return np.asarray(away - away / ratio, dtype=np.float32), back / away


def _mediastinum(scene: Scene, patient: Patient) -> Grid:
    """Return what lies between the lungs: heart, great vessels, hila, spine, and the fat that joins them."""
    left = scene.left - np.float32(patient.shift)
    front = np.clip((scene.back + 62) / 40, 0.0, 1.0)
    high, low = np.clip((scene.head - 55) / 45, 0.0, 1.0), np.clip((-70 - scene.head) / 60, 0.0, 1.0)
    core = np.abs(left) - (
        4.0 + 9.0 * front + 14.0 * high - 4.0 * low + 9.0 * np.clip((-72 - scene.back) / 22, 0, 1)
    ).astype(np.float32)
    result = np.maximum(core, scene.back - 105)
    spine = np.sqrt((left / 1.15) ** 2 + (scene.back - spine_at(scene, patient)) ** 2) - 22.5
    result = smooth_min(result, spine.astype(np.float32), 4.0)
    arch = np.sqrt((left / 1.6) ** 2 + (scene.back - spine_at(scene, patient) - 34) ** 2) - 19.0
    result = smooth_min(result, arch.astype(np.float32), 6.0)
    for box, distance in (*heart(scene, patient, 4.0), *great_vessels(scene, patient, 3.0), *_hila(scene, patient)):
        result[box] = smooth_min(result[box], distance, 7.0)
    return result


def spine_at(scene: Scene, patient: Patient) -> Grid:
    """Return how far to the back the middle of the vertebrae lies."""
    bow = patient.kyphosis * (scene.head + 20)
    return np.asarray(60.0 - np.clip(np.abs(scene.head + 30) - 70, 0, 200) * 0.16 + bow * 0.3, dtype=np.float32)


def heart(scene: Scene, patient: Patient, wall: float = 0.0) -> list[Piece]:
    """Return ventricles, right atrium and left atrium, each *wall* mm wider than its muscle."""
    h, dx = patient.heart, patient.shift
    return [
        scene.ellipsoid((22 + dx, -28, -74), (66 * h + wall, 46 * h + wall, 44 * h + wall), (0.78, -0.38, -0.5)),
        scene.ellipsoid((-20 * h + dx, -22, -62), (30 * h + wall, 32 * h + wall, 40 * h + wall)),
        scene.ellipsoid((6 + dx, 16, -46), (38 * h + wall, 20 * h + wall, 24 * h + wall)),
    ]


def great_vessels(scene: Scene, patient: Patient, wall: float = 0.0) -> list[Piece]:
    """Return aorta, pulmonary trunk with both arteries, caval and neck veins, neck arteries, oesophagus."""
    a, dx, w = patient.aorta, patient.shift, wall

    def at(*path: Point) -> tuple[Point, ...]:
        return tuple((x + dx, y, z) for x, y, z in path)

    aorta = at((0, -22, -38), (-14, -28, -8), (-12, -24, 18), (0, -8, 34), (16, 14, 34), (25, 34, 16),
               (26, 46, -20), (22, 48, -100), (10, 40, -190), (4, 34, -290))  # fmt: skip
    return [
        scene.tube(aorta, [r * a + w for r in (16, 16, 15.5, 14, 13.5, 13, 12.5, 12, 11, 9)]),
        scene.tube(at((16, -36, -40), (18, -28, -12), (13, -10, -8)), (15 + w, 14 + w, 12 + w)),
        scene.tube(at((13, -10, -8), (-14, -1, -14), (-42, 8, -20)), (11 + w, 10 + w, 8 + w)),
        scene.tube(at((13, -10, -8), (32, 6, 2), (46, 24, -8)), (11 + w, 10 + w, 8 + w)),
        scene.tube(at((-24, -20, 60), (-25, -16, 0), (-22, -10, -40)), (8 + w, 9 + w, 9 + w)),
        scene.tube(at((-20, 2, -90), (-20, 12, -150), (-18, 20, -290)), (11 + w, 11 + w, 10 + w)),
        scene.tube(
            at((-24, -20, 58), (14, -26, 54), (36, -14, 90), (70, -16, 114), (120, -8, 108)),
            (7 + w, 6 + w, 5 + w, 4, 4),
        ),
        scene.tube(at((-24, -20, 58), (-32, -12, 90), (-70, -16, 114), (-120, -8, 108)), (7 + w, 6 + w, 4, 4)),
        scene.tube(at((-10, -8, 36), (-20, -4, 70), (-24, 4, 140)), (6 + w, 5 + w, 4)),
        scene.tube(at((6, 4, 38), (20, 4, 80), (24, 6, 140)), (4.5 + w, 4 + w, 4)),
        scene.tube(at((14, 14, 36), (28, 12, 90), (60, 0, 122), (120, 0, 112)), (5 + w, 4.5 + w, 4, 4)),
        scene.tube(at((2, 18, 150), (5, 30, 40), (8, 34, -50), (16, 22, -120), (30, 6, -140)), [7 + w] * 5),
    ]


def _hila(scene: Scene, patient: Patient) -> list[Piece]:
    """Return what surrounds the bronchi and the arteries where they enter the lungs."""
    dx, r = patient.shift, patient.trachea
    tree = [scene.tube(((a[0] + dx, a[1], a[2]), (b[0] + dx, b[1], b[2])), (ra * r + 4.5, rb * r + 2.0))
            for a, b, ra, rb in AIRWAY_TREE]  # fmt: skip
    return [*tree, scene.tube(((-12 + dx, 12, -16), (-34 + dx, 14, -30)), (17, 13)),
            scene.tube(((12 + dx, 14, -12), (38 + dx, 20, -22)), (16, 12))]  # fmt: skip


def _dome(scene: Scene, middle: tuple[float, float], radii: tuple[float, float], top: float, drop: float) -> Grid:
    """Return all below one half of the diaphragm: half an ellipsoid on a column."""
    above = np.maximum(scene.head - np.float32(top - drop), 0.0)
    near = np.sqrt(
        ((scene.left - middle[0]) / radii[0]) ** 2 + ((scene.back - middle[1]) / radii[1]) ** 2 + (above / drop) ** 2
    )
    return np.asarray((near - 1) * np.float32(0.9 * min(*radii, drop)), dtype=np.float32)


def _ribs(scene: Scene, patient: Patient, cage: Grid, turn: Grid) -> Grid:
    """Return twelve pairs of ribs at once: each falls from the spine to the front, the same distance apart."""
    along = scene.head + np.float32(patient.rib_slant) * (1 - turn) / 2 + np.float32(patient.rib_phase * 20)
    number = along / np.float32(patient.rib_pitch)
    height = (number - np.floor(number) - 0.5) * np.float32(patient.rib_pitch * 0.86)  # the slant narrows the gap
    outwards = cage - 5.2
    tube = np.sqrt((height / 1.4) ** 2 + outwards**2) - 3.7
    first, last = -6.6 * patient.rib_pitch, 4.95 * patient.rib_pitch + 12
    ends = np.maximum(np.maximum(first - along, along - last), 14.0 - np.abs(scene.left))
    return np.asarray(np.maximum(tube, ends), dtype=np.float32)


def paint_wall(scene: Scene, patient: Patient, chest: Chest) -> None:
    """Paint skin, fat, muscle, ribs and what fills the cage beside the lungs."""
    box = scene.everywhere
    side = 1 - chest.turn**2
    back = np.clip(chest.turn, 0.0, 1.0)
    high = np.clip((scene.head - 20) / 70, 0.0, 1.0)
    muscle = patient.muscle * (0.7 + 0.9 * side * (0.6 + high)) + 24 * back**2 * (1 - 0.6 * np.abs(scene.left) / 140)
    muscle = muscle + 26 * high * (1 - np.abs(chest.turn)) ** 0.5 + 11
    neck = np.sqrt((scene.left / 1.05) ** 2 + (scene.back - 22) ** 2) - 52  # the cage ends, the neck goes on
    flesh = smooth_min((chest.cage - muscle).astype(np.float32), neck.astype(np.float32), 14.0)
    for sign in (-1.0, 1.0):
        shoulder = scene.ellipsoid((sign * 128, 16, 82), (52, 42, 48), margin=70.0)
        flesh[shoulder[0]] = smooth_min(flesh[shoulder[0]], shoulder[1], 16.0)
    thick = np.float32(patient.fat) * (0.55 + 0.45 * (1 - back) + 0.25 * side)
    skin = _breasts(scene, patient, np.asarray(flesh - thick, dtype=np.float32))
    for piece in limbs(scene, patient, patient.fat * 0.5):
        skin[piece[0]] = np.minimum(skin[piece[0]], piece[1])
    scene.paint((box, skin - 1.5), 10.0)
    scene.paint((box, skin), FAT)
    scene.paint((box, flesh), MUSCLE)
    for piece in limbs(scene, patient, 0.0):
        scene.paint(piece, MUSCLE)
    scene.paint((box, np.maximum(np.abs(chest.cage - 14.5) - 1.3, skin)), FAT - 0.0, over=(0.0, 80.0))
    scene.paint((box, chest.cage - 1.5), FAT + 10)


def _breasts(scene: Scene, patient: Patient, skin: Grid) -> Grid:
    if patient.breast <= 0:
        return skin
    for sign in (-1.0, 1.0):
        r = patient.breast
        box, distance = scene.ellipsoid((sign * 76, -92, -48), (r * 1.2, r * 0.85, r * 1.15), margin=30.0)
        skin[box] = smooth_min(skin[box], distance, 18.0)
    return skin


def limbs(scene: Scene, patient: Patient, fat: float) -> list[Piece]:
    """Return both arms, *fat* mm wider than their muscles."""
    paths: dict[str, tuple[Point, ...]] = {
        "up": ((140, 14, 90), (172, 0, 150), (182, -30, 260), (150, -40, 380)),
        "down": ((158, 16, 88), (208, 20, 20), (222, 22, -140), (226, 0, -380)),
    }
    return [
        scene.tube([(sign * x, y, z) for x, y, z in paths[patient.arms]], [r + fat for r in (42, 38, 34, 28)])
        for sign in (-1, 1)
    ]


def paint_bones(scene: Scene, patient: Patient, chest: Chest) -> None:
    """Paint spine, ribs, sternum, collar bones, shoulder blades and upper arms."""
    hard, soft = patient.bone * 1.25, patient.bone * 0.45
    ribs = _ribs(scene, patient, chest.cage, chest.turn)
    front = np.clip((-chest.turn - 0.78) / 0.12, 0.0, 1.0)  # cartilage towards the sternum
    scene.paint((scene.everywhere, ribs), (hard + front * (110 - hard)).astype(np.float32))
    scene.paint((scene.everywhere, ribs + 1.8), (soft * 0.7 + front * (110 - soft * 0.7)).astype(np.float32))
    _paint_spine(scene, patient, hard, soft)
    _bone(scene, scene.ellipsoid((0, -99, -12), (17, 7, 78)), hard * 0.7, soft * 0.5)
    for sign in (-1, 1):
        _bone(
            scene,
            scene.tube(((sign * 16, -46, 84), (sign * 70, -50, 104), (sign * 138, 4, 112)), (7, 6, 6)),
            hard,
            soft,
        )
        box, blade = scene.ellipsoid((sign * 100, 74, 30), (5.5, 38, 66), (0.55 * sign, 0.83, 0.12))
        _bone(scene, (box, np.maximum(blade, 15 - chest.cage[box])), hard, soft)
        _bone(scene, scene.tube(((sign * 100, 66, 70), (sign * 142, 34, 96)), (5, 9)), hard, soft)
        arm = {
            "up": ((146, 14, 92), (174, 0, 150), (182, -30, 280)),
            "down": ((150, 14, 90), (208, 20, 10), (222, 22, -180)),
        }
        _bone(scene, scene.tube([(sign * x, y, z) for x, y, z in arm[patient.arms]], (22, 12, 11)), hard, soft)


def _bone(scene: Scene, piece: Piece, hard: float, soft: float) -> None:
    scene.paint(piece, hard)
    scene.paint((piece[0], piece[1] + 2.2), soft)


def _paint_spine(scene: Scene, patient: Patient, hard: float, soft: float) -> None:
    box: Box = scene.within((-50, 20, -1000), (50, 125, 1000))
    left, head = scene.left[box] - np.float32(patient.shift * 0.3), scene.head[box]
    back = scene.back[box] - spine_at(scene, patient)[box]
    level = head / np.float32(25.5) - np.floor(head / np.float32(25.5)) - 0.5
    body = np.sqrt((left / 1.2) ** 2 + back**2) - (16.0 + 5.0 * np.abs(level))
    disc = (0.42 - np.abs(level)) * 25.5
    scene.paint((box, body), 90.0)
    vertebra = np.maximum(body, -disc)
    arch = np.maximum(np.abs(np.sqrt(left**2 + (back - 27) ** 2) - 13) - 3.5, 17 - back)
    arch = np.maximum(arch, (np.abs(level) - 0.36) * 25.5)
    process = np.maximum(np.abs(left) - 3.2, np.maximum(38 - back, back - 62) + 18 * np.abs(level))
    wing = np.maximum(
        np.maximum(np.abs(back - 26 - 0.3 * np.abs(left)) - 5, np.abs(left) - 38), (np.abs(level) - 0.2) * 25
    )
    wing = np.maximum(wing, 12 - np.abs(left))
    for one in (vertebra, arch, process, wing):
        _bone(scene, (box, np.asarray(one, dtype=np.float32)), hard * 0.8, soft)
    canal = np.sqrt(left**2 + (back - 26) ** 2) - 9
    scene.paint((box, np.asarray(canal, dtype=np.float32)), 25.0)


def paint_middle(scene: Scene, patient: Patient) -> None:
    """Paint heart and great vessels between the lungs."""
    dx, h = patient.shift, patient.heart
    for piece, matter in zip(
        heart(scene, patient), (patient.blood + 20, patient.pulmonary, patient.systemic), strict=True
    ):
        scene.paint(piece, matter)
    scene.paint(scene.ellipsoid((34 + dx, -22, -78), (46 * h, 24 * h, 24 * h), (0.78, -0.38, -0.5)), patient.systemic)
    scene.paint(scene.ellipsoid((14 + dx, -50, -78), (44 * h, 18 * h, 30 * h), (0.85, -0.1, -0.4)), patient.pulmonary)
    kinds = (patient.systemic, *[patient.pulmonary] * 4, patient.systemic * 0.5 + 25, patient.pulmonary, patient.blood,
             patient.systemic, patient.systemic, patient.systemic, 38.0)  # fmt: skip
    for piece, matter in zip(great_vessels(scene, patient), kinds, strict=True):
        scene.paint(piece, float(matter))
