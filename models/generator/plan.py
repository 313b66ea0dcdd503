"""One patient's chest before any scan: where lungs, vessels and lesions are, whatever the grid.

It is worked out on a coarse grid of its own, so that a small box of the same seed shows the same patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.generator.anatomy import shape_chest
from models.generator.body import Wish
from models.generator.devices import Device, draw_devices
from models.generator.disease import Disease, Marks, changed_patient, draw_disease, draw_marks, outlines
from models.generator.frame import Frame, Grid, Points, make_frame
from models.generator.lesions import Ground, Growth, place_lesions
from models.generator.patient import Facts, Patient, draw_patient
from models.generator.scene import Scene
from models.generator.vessels import Trees, trees

_STEP = 7.0  # mm
_TWIGS = 1300  # of each tree in each lung


@dataclass(frozen=True, slots=True, eq=False)
class Map:
    """Both lungs on the coarse grid: negative inside, in mm."""

    frame: Frame
    lungs: dict[str, Grid]

    def depth(self, side: str, points: Points) -> NDArray[np.float64]:
        """Return how deep inside a lung *points* (n, 3) lie, in mm."""
        return -np.asarray(
            ndimage.map_coordinates(self.lungs[side], self.frame.index(points).T, order=1, mode="nearest"),
            dtype=np.float64,
        )

    def places(self, side: str, count: int, rng: np.random.Generator) -> Points:
        """Return *count* random points inside a lung, evenly spread; none where there is no such lung."""
        voxels = np.argwhere(self.lungs[side] < 2.0)
        found = np.zeros((0, 3))
        for _ in range(4):
            if not len(voxels) or len(found) >= count:
                break
            index = voxels[rng.integers(len(voxels), size=2 * count)] + rng.uniform(-0.5, 0.5, (2 * count, 3))
            points = index @ self.frame.affine[:3, :3].T + self.frame.affine[:3, 3]
            found = np.concatenate([found, points[self.depth(side, points) > 1.0]])
        return found[:count]


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A patient with all that is thin or small in his lungs."""

    patient: Patient
    disease: Disease
    map: Map
    trees: Trees
    marks: Marks
    growths: tuple[Growth, ...]
    devices: tuple[Device, ...]


def map_lungs(patient: Patient, disease: Disease) -> Map:
    """Return the lungs of *patient* on the coarse grid."""
    scale = np.array(patient.bend.scale)
    low, high = np.array((-150.0, -110.0, -215.0)) * scale, np.array((150.0, 110.0, 135.0)) * scale
    shape = np.ceil((high - low) / _STEP).astype(int)[::-1]
    middle = (low + high) / 2
    frame = make_frame(
        (float(middle[0]), float(middle[1]), float(middle[2])),
        (_STEP,) * 3,
        (int(shape[0]), int(shape[1]), int(shape[2])),
    )
    scene = Scene(frame, patient.bend)
    return Map(frame, outlines(scene, shape_chest(scene, patient), disease)[0])


def make_plan(seed: int, region: str, wish: Wish, facts: Facts) -> Plan:
    """Return the plan of a *seed*."""
    disease = draw_disease(seed, wish, facts)
    patient = changed_patient(draw_patient(seed, facts, wish.contrast), disease, np.random.default_rng([seed, 6]))
    lungs = map_lungs(patient, disease)
    grown = trees(patient, lungs.places, _TWIGS, np.random.default_rng([seed, 1]))
    marks = draw_marks(seed, disease, lungs.places, lungs.depth)
    growths: tuple[Growth, ...] = ()
    if region == "chest":
        ground = Ground(sides=("right-lung", "left-lung"), places=lungs.places, depth=lungs.depth)
        growths = place_lesions(seed, wish, facts, ground)
    return Plan(patient, disease, lungs, grown, marks, growths, draw_devices(seed, patient, wish, facts))
