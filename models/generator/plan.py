"""One patient's chest before any scan: where lungs, vessels and lesions are, whatever the grid.

It is worked out on a coarse grid of its own, so that a small box of the same seed shows the same patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.generator.anatomy import Chest, shape_chest
from models.generator.body import Wish
from models.generator.frame import Frame, Grid, Points, make_frame
from models.generator.lesions import Growth, place_lesions
from models.generator.patient import Facts, Patient
from models.generator.scene import Scene
from models.generator.vessels import Trees, trees

_STEP = 7.0  # mm
_TWIGS = 900  # of each tree in each lung


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
    map: Map
    trees: Trees
    growths: tuple[Growth, ...]


def map_lungs(patient: Patient) -> Map:
    """Return the lungs of *patient* on the coarse grid."""
    scale = np.array(patient.bend.scale)
    low, high = np.array((-150.0, -110.0, -215.0)) * scale, np.array((150.0, 110.0, 135.0)) * scale
    shape = np.ceil((high - low) / _STEP).astype(int)[::-1]
    middle = (low + high) / 2
    frame = make_frame(
        (float(middle[0]), float(middle[1]), float(middle[2])), (_STEP,) * 3, (int(shape[0]), int(shape[1]), int(shape[2]))
    )
    chest: Chest = shape_chest(Scene(frame, patient.bend), patient)
    return Map(frame, {"left-lung": chest.left_lung, "right-lung": chest.right_lung})


def make_plan(seed: int, patient: Patient, wish: Wish, facts: Facts) -> Plan:
    """Return the plan of a *seed*."""
    lungs = map_lungs(patient)
    grown = trees(patient, lungs.places, _TWIGS, np.random.default_rng([seed, 1]))
    sides = ("right-lung", "left-lung")
    return Plan(patient, lungs, grown, place_lesions(seed, wish, facts, lungs.places, lungs.depth, sides))
