"""From a seed to a body: the patient, the view, the scan."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume
from models.generator import anatomy
from models.generator.body import AIRWAYS, LEFT_LUNG, REGIONS, RIGHT_LUNG, Body, Wish
from models.generator.devices import paint_devices, paint_table
from models.generator.disease import fissures, outlines, parenchyma
from models.generator.elsewhere import paint_head, paint_legs, paint_object, paint_throat
from models.generator.frame import Frame, Grid
from models.generator.lesions import paint_lesion
from models.generator.patient import Dice, Facts
from models.generator.plan import Plan, make_plan
from models.generator.scanner import draw_scanner, scanned, slices_for
from models.generator.scene import Bend, Scene
from models.generator.stamps import Tubes, cover, depth
from models.generator.trunk import paint_belly
from models.generator.view import draw_view

_DEFAULT = Wish()
_ODDS = (0.64, 0.09, 0.06, 0.06, 0.05, 0.04, 0.06)  # of REGIONS
_STRAIGHT = Bend(scale=(1.0, 1.0, 1.0), waves=np.zeros((1, 7)))  # things are not warped

Voxels = tuple[Grid, NDArray[np.uint8], NDArray[np.uint16]]  # HU, labels, lesion numbers


def draw_body(seed: int, wish: Wish = _DEFAULT) -> Body:
    """Return the body of a *seed*: the same bits every time."""
    facts: Facts = {"seed": float(seed)}
    region = wish.region or ("chest" if wish.tidy else Dice(seed, "region", facts).one_of("region", REGIONS, _ODDS))
    if region not in REGIONS:
        raise ValueError(f"there is no region {region!r}; there are {', '.join(REGIONS)}")
    facts["region"] = region
    plan = make_plan(seed, region, wish, facts)
    frame = draw_view(seed, wish, region, plan.patient, facts)
    return scan(seed, plan, frame, wish, region, facts)


def scan(seed: int, plan: Plan, frame: Frame, wish: Wish, region: str, facts: Facts) -> Body:
    """Return what a scan of a planned patient on a *frame* shows."""
    thin = slices_for(frame.spacing)
    scanner = draw_scanner(seed, wish, facts)
    voxels, labels, lesion_map = _evaluate(seed, plan, frame.between_slices(thin), region, facts)
    voxels = scanned(voxels, frame, thin, scanner, np.random.default_rng([seed, 2]))
    labels, lesion_map = labels[thin // 2 :: thin], lesion_map[thin // 2 :: thin]
    seen = set(np.unique(lesion_map).tolist())
    return Body(
        volume=Volume(voxels=voxels, affine=frame.affine), labels=np.ascontiguousarray(labels),
        lesion_map=np.ascontiguousarray(lesion_map), region=region, facts=facts,
        lesions=tuple(g.lesion for g in plan.growths if g.lesion.number in seen),
    )  # fmt: skip


def _evaluate(seed: int, plan: Plan, frame: Frame, region: str, facts: Facts) -> Voxels:
    """Return HU, labels and lesion numbers of every voxel, before the scanner."""
    scene = Scene(frame, _STRAIGHT if region == "object" else plan.patient.bend)
    dice = Dice(seed, "elsewhere", facts)
    if region in {"head", "legs", "object"}:
        if region == "head":
            paint_head(scene, plan.patient, dice)
        elif region == "legs":
            paint_legs(scene, plan.patient, dice)
        else:
            paint_object(scene, dice)
        return scene.render(), np.zeros(frame.shape, dtype=np.uint8), np.zeros(frame.shape, dtype=np.uint16)
    paint_table(scene, plan.patient, dice)
    chest = anatomy.shape_chest(scene, plan.patient)
    anatomy.paint_wall(scene, plan.patient, chest)
    if region == "neck":
        paint_throat(scene, plan.patient, dice)
    scene.paint((scene.everywhere, chest.mediastinum + np.maximum(chest.cage, 0)), anatomy.FAT + 10)
    paint_belly(scene, plan.patient, chest)
    anatomy.paint_bones(scene, plan.patient, chest)
    lungs = _paint_lungs(scene, plan, chest)
    anatomy.paint_middle(scene, plan.patient)
    voxels = scene.render()
    labels = np.zeros(frame.shape, dtype=np.uint8)
    labels[scene.inside((scene.everywhere, lungs["right-lung"]))] = RIGHT_LUNG
    labels[scene.inside((scene.everywhere, lungs["left-lung"]))] = LEFT_LUNG
    lesion_map = _paint_details(seed, voxels, labels, plan, frame)
    return voxels, labels, lesion_map


def _paint_lungs(scene: Scene, plan: Plan, chest: anatomy.Chest) -> dict[str, Grid]:
    """Paint lungs, what lies around them in the pleura, and their fissures; return their outlines."""
    before = {"left-lung": chest.left_lung, "right-lung": chest.right_lung}
    lungs, around = outlines(scene, chest, plan.disease)
    for piece, value in around:
        scene.paint(piece, value)
    for side, lung in lungs.items():
        scene.paint((scene.everywhere, lung), parenchyma(scene, plan.patient, side, lung, before[side], plan.disease))
    major, level = fissures(scene.left, scene.back, scene.head, plan.patient)
    inside = np.minimum(lungs["left-lung"], lungs["right-lung"]) < 2
    for field, here in ((major, inside), (level, inside & (scene.left < 0) & (major > 0))):
        sheet = np.where(here, field, np.float32(99.0))
        scene.paint_sheet((scene.everywhere, sheet), -300.0, 0.5, (-1100.0, -650.0))
    return lungs


def _paint_details(seed: int, voxels: Grid, labels: NDArray[np.uint8], plan: Plan, frame: Frame) -> NDArray[np.uint16]:
    """Paint all that is finer than the lattice, label the airways, and return the lesions' numbers."""
    lung = labels > 0
    lesion_map = np.zeros(frame.shape, dtype=np.uint16)
    if lung.any():
        _paint_trees(voxels, lung, plan, frame)
        for growth in plan.growths:
            side = LEFT_LUNG if growth.lesion.side == "left-lung" else RIGHT_LUNG
            paint_lesion(voxels, lesion_map, frame, growth, labels, side)
    width = np.float32(np.mean(frame.spacing))
    deep = depth(frame, plan.trees.airways)
    wall = np.clip(0.5 + (deep + 1.3) / width, 0.0, 1.0) * (deep > -2.9)
    voxels += wall * (20.0 - voxels)
    voxels += np.clip(0.5 + deep / width, 0.0, 1.0) * (np.float32(-1000) - voxels)
    labels[(deep > 0) & (lesion_map == 0)] = AIRWAYS
    paint_devices(voxels, frame, plan.devices, np.random.default_rng([seed, 5]))
    return lesion_map


def _paint_trees(voxels: Grid, lung: NDArray[np.bool_], plan: Plan, frame: Frame) -> None:
    """Paint vessels, bronchi, holes and strings within the lungs."""
    patient, trees, marks = plan.patient, plan.trees, plan.marks
    walls = Tubes(trees.bronchi.start, trees.bronchi.end, trees.bronchi.radius * 1.2 + 0.25)
    for tubes, value in ((marks.holes, -985.0), (marks.strings, -150.0), (trees.arteries, patient.pulmonary),
                         (trees.veins, patient.systemic), (walls, -220.0), (trees.bronchi, -970.0)):  # fmt: skip
        if len(tubes.radius):
            voxels += cover(frame, tubes) * lung * (np.float32(value) - voxels)
