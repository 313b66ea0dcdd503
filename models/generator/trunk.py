"""The belly of the standard body: organs below the diaphragm, bowel with gas, pelvis."""

from __future__ import annotations

import numpy as np

from models.generator.anatomy import AIR, FAT, Chest
from models.generator.patient import Patient
from models.generator.scene import Piece, Scene, smooth_min


def paint_belly(scene: Scene, patient: Patient, chest: Chest) -> None:
    """Paint what lies below the diaphragm; nothing of it reaches into the lungs."""
    below = np.minimum(np.minimum(chest.left_dome, chest.right_dome), scene.head + 150)
    below = np.maximum(below, chest.cage).astype(np.float32)
    scene.paint((scene.everywhere, below), FAT + 5)
    right, left = patient.right_dome, patient.left_dome
    drop = patient.dome_drop

    def kept(piece: Piece, depth: float = 3.0) -> Piece:
        return piece[0], np.maximum(piece[1], below[piece[0]] + np.float32(depth))

    liver = smooth_min(chest.right_dome + 3, _somewhere(scene, (-10, -34, left - 34), (80, 46, 42)), 10)
    liver = np.maximum(np.maximum(liver, below + 2), right - 130 - 0.5 * scene.left - scene.head)
    scene.paint((scene.everywhere, np.asarray(liver, dtype=np.float32)), patient.liver)
    scene.paint(kept(scene.ellipsoid((88, 32, left - 46), (34, 48, 44))), patient.liver + 8)
    stomach = scene.ellipsoid((62, -22, left - 38), (46, 48, 38), (0.4, -0.6, -0.6))
    scene.paint(kept(stomach, 2.0), 35.0)
    fill = -60 + 60 * patient.gas[0]
    gas = np.maximum(stomach[1] + 4, scene.back[stomach[0]] - np.float32(fill))
    scene.paint(kept((stomach[0], np.asarray(gas, dtype=np.float32)), 5.0), AIR)
    for side, sign in ((right - drop, -1), (left - drop + 8, 1)):
        kidney = scene.ellipsoid((sign * 62, 48, side - 42), (28, 24, 52), (0.2 * sign, 0.2, 1.0))
        scene.paint(kept((kidney[0], kidney[1])), 30.0 + (patient.systemic - 40) * 0.7)
        scene.paint(scene.tube(((sign * 22, 50, -190), (sign * 45, 44, -290), (sign * 70, 10, -430)), (8, 24, 24)), 55.0)
    _paint_bowel(scene, patient, kept)


def _somewhere(scene: Scene, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    box, distance = scene.ellipsoid(centre, radii)
    result = np.full(scene.left.shape, 60.0, dtype=np.float32)
    result[box] = distance
    return result


def _paint_bowel(scene: Scene, patient: Patient, kept: object) -> None:
    """Paint colon and small bowel: strings of bags with fluid, stool and gas, the gas in front."""
    assert callable(kept)  # noqa: S101
    g = patient.gas
    top = min(patient.left_dome - 30 + 24 * g[1], patient.left_dome - 12)  # the left bend may touch the diaphragm
    path = np.array([(-86, 22, -400), (-90, 14, -320), (-88, -6, -262), (-60, -52, -250), (0, -64, -262), (48, -60, -230),
                     (80, -30, top), (98, 6, top - 30), (104, 24, -300), (100, 26, -390)])  # fmt: skip
    bags = 44
    for number, at in enumerate(np.linspace(0, len(path) - 1.001, bags)):
        low = int(at)
        centre = path[low] + (at - low) * (path[low + 1] - path[low]) + (np.array(g[number : number + 3]) - 0.5) * 14
        _paint_bag(scene, kept, centre, 13 + 10 * g[number + 5], g[number + 9], g[number + 11])
    for number in range(30):
        centre = np.array([(g[number] - 0.5) * 130, -48 + 60 * g[number + 7], -300 - 110 * g[number + 13]])
        _paint_bag(scene, kept, centre, 11 + 6 * g[number + 3], g[number + 17] * 0.6, 0.1)


def _paint_bag(scene: Scene, kept: object, centre: np.ndarray, radius: float, gas: float, stool: float) -> None:
    assert callable(kept)  # noqa: S101
    box, bag = scene.ellipsoid(centre, (radius, radius * 0.95, radius * 1.1))
    if not bag.size or bag.min() > 0:
        return
    scene.paint(kept((box, bag), 1.0), 45.0)
    scene.paint(kept((box, bag + 2.5), 3.0), 20.0 if stool < 0.4 else -60.0)
    level = centre[1] + radius * (2.6 * gas - 1.3)
    air = np.maximum(bag + 2.5, scene.back[box] - np.float32(level))
    scene.paint(kept((box, np.asarray(air, dtype=np.float32)), 3.0), AIR)
