"""From a seed to a body: the patient, the view, the scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume
from models.generator import anatomy
from models.generator.body import AIRWAYS, LEFT_LUNG, REGIONS, RIGHT_LUNG, Body, Wish
from models.generator.frame import Frame, Grid, make_frame
from models.generator.lesions import paint_lesion
from models.generator.patient import Dice, Facts, draw_patient
from models.generator.plan import Plan, make_plan
from models.generator.scanner import Scanner, draw_scanner, scanned, slices_for
from models.generator.scene import Scene
from models.generator.stamps import Tubes, cover, depth
from models.generator.trunk import paint_belly

_DEFAULT = Wish()
_ODDS = (0.64, 0.09, 0.06, 0.06, 0.05, 0.04, 0.06)  # of REGIONS


def draw_body(seed: int, wish: Wish = _DEFAULT) -> Body:
    """Return the body of a *seed*: the same bits every time."""
    facts: Facts = {"seed": float(seed)}
    region = wish.region or Dice(seed, "region", facts).one_of("region", REGIONS, _ODDS)
    patient = draw_patient(seed, facts, wish.contrast)
    plan = make_plan(seed, patient, wish, facts)
    frame = _view(seed, wish, plan, facts)
    return _scan(seed, plan, frame, draw_scanner(seed, wish, facts), region, facts)


def _view(seed: int, wish: Wish, plan: Plan, facts: Facts) -> Frame:
    dice = Dice(seed, "view", facts)
    spacing = wish.spacing or (dice.between("dz", 0.8, 6), *[dice.between("dxy", 0.65, 2.5)] * 2)
    scale = plan.patient.bend.scale
    extent = (340 * scale[2], 290 * scale[1], 400 * scale[0])
    shape = wish.shape or tuple(int(e / mm) for e, mm in zip(extent, spacing, strict=True))
    return make_frame((0.0, 8 * scale[1], -35 * scale[2]), spacing, (shape[0], shape[1], shape[2]))


def _scan(seed: int, plan: Plan, frame: Frame, scanner: Scanner, region: str, facts: Facts) -> Body:
    thin = slices_for(frame.spacing)
    voxels, labels, lesion_map = _evaluate(plan, frame.between_slices(thin))
    voxels = scanned(voxels, frame, thin, scanner, np.random.default_rng([seed, 2]))
    labels, lesion_map = labels[thin // 2 :: thin], lesion_map[thin // 2 :: thin]
    seen = set(np.unique(lesion_map).tolist())
    return Body(
        volume=Volume(voxels=voxels, affine=frame.affine), labels=np.ascontiguousarray(labels),
        lesion_map=np.ascontiguousarray(lesion_map), region=region, facts=facts,
        lesions=tuple(g.lesion for g in plan.growths if g.lesion.number in seen),
    )  # fmt: skip


def _evaluate(plan: Plan, frame: Frame) -> tuple[Grid, NDArray[np.uint8], NDArray[np.uint16]]:
    """Return HU, labels and lesion numbers of every voxel, before the scanner."""
    patient = plan.patient
    scene = Scene(frame, patient.bend)
    chest = anatomy.shape_chest(scene, patient)
    anatomy.paint_wall(scene, patient, chest)
    paint_belly(scene, patient, chest)
    anatomy.paint_bones(scene, patient, chest)
    scene.paint((scene.everywhere, chest.mediastinum + np.maximum(chest.cage, 0)), anatomy.FAT + 10)
    parenchyma = (patient.lung_hu + patient.lung_slope * scene.back).astype(np.float32)
    for lung in (chest.right_lung, chest.left_lung):
        scene.paint((scene.everywhere, lung), parenchyma)
    anatomy.paint_middle(scene, patient, chest)
    voxels = scene.render()
    labels = np.zeros(frame.shape, dtype=np.uint8)
    labels[scene.inside((scene.everywhere, chest.right_lung))] = RIGHT_LUNG
    labels[scene.inside((scene.everywhere, chest.left_lung))] = LEFT_LUNG
    lung = labels > 0
    _paint_trees(voxels, labels, lung, plan, frame)
    lesion_map = np.zeros(frame.shape, dtype=np.uint16)
    for growth in plan.growths:
        side = LEFT_LUNG if growth.lesion.side == "left-lung" else RIGHT_LUNG
        paint_lesion(voxels, lesion_map, frame, growth, labels == side)
    return voxels, labels, lesion_map


def _paint_trees(voxels: Grid, labels: NDArray[np.uint8], lung: NDArray[np.bool_], plan: Plan, frame: Frame) -> None:
    """Paint vessels and bronchi within the lungs, and the airways with their label wherever they are."""
    patient, trees = plan.patient, plan.trees
    bronchi = Tubes(trees.bronchi.start, trees.bronchi.end, trees.bronchi.radius * 1.25 + 0.35)
    for tubes, value in ((trees.arteries, patient.pulmonary), (trees.veins, patient.systemic), (bronchi, 0.0),
                         (trees.bronchi, -970.0)):  # fmt: skip
        voxels += cover(frame, tubes) * lung * (np.float32(value) - voxels)
    width = np.float32(np.mean(frame.spacing))
    deep = depth(frame, trees.airways)
    voxels += np.clip(0.5 + (deep + 1.3) / width, 0.0, 1.0) * (deep > -2.9) * (20.0 - voxels)
    voxels += np.clip(0.5 + deep / width, 0.0, 1.0) * (np.float32(-1000) - voxels)
    labels[deep > 0] = AIRWAYS


def draw_crop(seed: int, *, size_mm: float, spacing: tuple[float, float, float], lesion: bool) -> Body:
    """Return a small box inside a chest, its middle on a lesion, or on something that is none."""
    facts: Facts = {"seed": float(seed)}
    wish = Wish(region="chest", lesions=1 if lesion else 0)
    patient = draw_patient(seed, facts, None)
    plan = make_plan(seed, patient, wish, facts)
    rng = np.random.default_rng([seed, 3])
    side = ("right-lung", "left-lung")[int(rng.integers(2))]
    middle = plan.growths[0].lesion.centre_mm if lesion and plan.growths else tuple(plan.map.places(side, 1, rng)[0])
    z, y, x = (max(1, round(size_mm / mm)) for mm in spacing)
    frame = make_frame((float(middle[0]), float(middle[1]), float(middle[2])), spacing, (z, y, x))
    return _scan(seed, plan, frame, draw_scanner(seed, wish, facts), "chest", facts)
