"""The belly and the pelvis of the standard body: organs below the diaphragm, bowel with gas, hips."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.generator.anatomy import AIR, FAT, Chest
from models.generator.frame import Grid
from models.generator.patient import Patient
from models.generator.scene import Piece, Scene, smooth_min

_Kept = Callable[[Piece, float], Piece]


def paint_belly(scene: Scene, patient: Patient, chest: Chest) -> None:
    """Paint what lies below the diaphragm; nothing of it reaches into the lungs."""
    if float(scene.head.min()) > max(patient.left_dome, patient.right_dome) + 20:
        return
    below = np.minimum(np.minimum(chest.left_dome, chest.right_dome), scene.head + 150)
    below = np.maximum(below, chest.cage).astype(np.float32)
    scene.paint((scene.everywhere, below), FAT + 5)

    def kept(piece: Piece, depth: float) -> Piece:
        return piece[0], np.maximum(piece[1], below[piece[0]] + np.float32(depth))

    _paint_organs(scene, patient, chest, below, kept)
    _paint_bowel(scene, patient, kept)
    if float(scene.head.min()) < -400:
        _paint_pelvis(scene, patient, kept)


def _paint_organs(scene: Scene, patient: Patient, chest: Chest, below: Grid, kept: _Kept) -> None:
    right, left, g = patient.right_dome, patient.left_dome, patient.gas
    box, lobe = scene.ellipsoid((-6, -34, left - 34), (84, 46, 42))
    liver = chest.right_dome + 3
    liver[box] = smooth_min(liver[box], lobe, 10)
    edge = right - 125 - 60 * g[2] - 0.6 * scene.left - scene.head
    liver = np.maximum(np.maximum(liver, below + 2), np.maximum(edge, scene.left + 0.4 * scene.back - 66))
    scene.paint((scene.everywhere, np.asarray(liver, dtype=np.float32)), patient.liver)
    scene.paint(kept(scene.ellipsoid((90, 34, left - 44), (30, 44, 46), (0.8, -0.5, 0.1)), 3), patient.liver + 8)
    stomach = scene.ellipsoid((60, -16, left - 44), (62, 42, 36), (0.5, -0.45, -0.75))
    scene.paint(kept(stomach, 3), 45.0)
    scene.paint(kept((stomach[0], stomach[1] + 4), 5), 15.0)
    if g[0] > 0.25:  # gas gathers in front
        gas = np.maximum(stomach[1] + 4, scene.back[stomach[0]] + np.float32(48 - 60 * (g[0] - 0.25)))
        scene.paint(kept((stomach[0], np.asarray(gas, dtype=np.float32)), 5), AIR)
    for side, sign in ((right - 75, -1), (left - 62, 1)):
        kidney = scene.ellipsoid((sign * 60, 46, side - 42), (52, 28, 24), (0.2 * sign, 0.2, 1.0))
        scene.paint(kept(kidney, 3), float(34 + (patient.systemic - 40) * 0.6))
        scene.paint(kept(scene.ellipsoid((sign * 50, 42, side - 42), (26, 12, 8), (0.2 * sign, 0.2, 1.0)), 3), FAT + 20)
        scene.paint(
            scene.tube(((sign * 24, 54, -200), (sign * 42, 46, -290), (sign * 66, 14, -430)), (8, 23, 24)), 55.0
        )
    scene.paint(
        kept(scene.tube(((-40, -14, left - 120), (0, -18, left - 100), (60, 10, left - 80)), (14, 11, 9)), 3), 45.0
    )


def _paint_bowel(scene: Scene, patient: Patient, kept: _Kept) -> None:
    """Paint colon and small bowel: strings of bags with fluid, stool and gas, the gas in front.

    All walls come first, then what is in them: neighbours open into each other.
    """
    bags = [bag for bag in _bags(patient) if _in_view(scene, bag)]
    shapes = [kept(scene.ellipsoid(centre, (radius, radius * 0.9, radius * 1.05)), 3) for centre, radius, _, _ in bags]
    for shape in shapes:
        scene.paint(shape, 45.0)
    for shape, (_, _, _, stool) in zip(shapes, bags, strict=True):
        scene.paint((shape[0], shape[1] + 2.2), 18.0 if stool < 0.6 else -40.0 - 250.0 * (stool - 0.6))
    for shape, (centre, radius, gas, _) in zip(shapes, bags, strict=True):
        level = np.float32(centre[1] + radius * (2.8 * gas - 1.5))
        scene.paint((shape[0], np.maximum(shape[1] + 2.2, scene.back[shape[0]] - level)), AIR)


_Bag = tuple[tuple[float, float, float], float, float, float]  # centre, radius, share of gas, stool


def _bags(patient: Patient) -> list[_Bag]:
    g = patient.gas
    top = min(patient.left_dome - 24 + 30 * g[1], patient.left_dome - 8)  # the left bend may touch the diaphragm
    path = np.array([(-84, 22, -420), (-92, 14, -340), (-90, -6, -270), (-60, -54, -256), (0, -66, -266), (48, -62, -236),
                     (80, -34, top), (100, 6, top - 34), (106, 26, -300), (98, 26, -410), (50, 0, -450), (6, 40, -470),
                     (0, 62, -520), (0, 46, -580)])  # fmt: skip
    result: list[_Bag] = []
    for number, at in enumerate(np.linspace(0, len(path) - 1.001, 56)):
        low = int(at)
        x, y, z = path[low] + (at - low) * (path[low + 1] - path[low]) + (np.array(g[number : number + 3]) - 0.5) * 12
        blown = g[number // 4 + 9] * 0.75 + g[number + 9] * 0.25  # neighbours share their gas
        result.append(((x, y, z), 14 + 17 * g[number + 5] ** 2, blown, g[number + 11]))
    for number in range(34):
        x, y, z = (g[number] - 0.5) * 130, -52 + 70 * g[number + 7], -296 - 150 * g[number + 13]
        result.append(((x, y, z), 12 + 6 * g[number + 3], g[number + 17] * 0.55, 0.1))
    return result


def _in_view(scene: Scene, bag: _Bag) -> bool:
    low, high = ([c + way * bag[1] for c in bag[0]] for way in (-1, 1))
    return all(part.stop > part.start for part in scene.within(low, high, margin=0.0))


def _paint_pelvis(scene: Scene, patient: Patient, kept: _Kept) -> None:
    """Paint sacrum, hip bones, femoral heads and bladder."""
    hard, soft = patient.bone * 1.1, patient.bone * 0.4
    scene.paint(kept(scene.ellipsoid((0, -34, -556), (40, 32, 30)), 3), 8.0)
    bones = [scene.ellipsoid((0, 72, -490), (62, 42, 16), (0.0, 0.35, -0.95))]
    for sign in (-1, 1):
        bones.append(scene.ellipsoid((sign * 98, 26, -458), (64, 56, 7), (0.25 * sign, 0.3, 1.0)))
        bones.append(scene.tube(((sign * 88, 20, -510), (sign * 78, 8, -556), (sign * 30, -40, -592)), (18, 22, 10)))
        bones.append(scene.tube(((sign * 78, 10, -560), (sign * 58, 40, -620)), (18, 15)))
        bones.append(scene.tube(((sign * 98, 8, -556), (sign * 140, 10, -590), (sign * 142, 6, -700)), (24, 20, 16)))
    for box, distance in bones:
        scene.paint((box, distance), hard)
        scene.paint((box, distance + 2.4), soft)
