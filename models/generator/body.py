"""What the generator is asked for and what it gives: nouns only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.contract import Volume

#: Values of `Body.labels`; 0 is everything else. Vessels, nodules, consolidation and collapse inside a lung's outline
#: count as that lung, the smaller bronchi too; effusion and free air outside it do not.
LEFT_LUNG, RIGHT_LUNG, AIRWAYS = 1, 2, 3

#: "object": phantoms, bottles, QA blocks, an empty table, noise.
REGIONS = ("chest", "abdomen", "pelvis", "head", "neck", "legs", "object")

#: Of contrast in the blood: before any, in the arteries, everywhere.
PHASES = ("none", "arterial", "venous")

KINDS = ("solid", "part-solid", "ground-glass", "calcified", "spiculated", "juxtapleural", "mass", "cavity")

Point = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Lesion:
    """One lesion of the truth."""

    number: int  # value in `Body.lesion_map`
    kind: str  # one of KINDS
    centre_mm: Point  # (L, P, S)
    diameter_mm: float  # of the ball of the same volume, before the lung's outline cuts it; spikes do not count
    side: str  # "left-lung" or "right-lung"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Body:
    """A scan of nobody, and what is truly in it."""

    volume: Volume  # HU, whole numbers
    labels: NDArray[np.uint8]  # (z, y, x)
    lesion_map: NDArray[np.uint16]  # (z, y, x), 0 = none
    lesions: tuple[Lesion, ...]
    region: str
    facts: dict[str, float | str]  # everything drawn at random, by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Wish:
    """What is settled beforehand; None is drawn at random."""

    region: str | None = None  # one of REGIONS
    spacing: tuple[float, float, float] | None = None  # (z, y, x) mm
    shape: tuple[int, int, int] | None = None  # (z, y, x) voxels about the middle; else from the field of view
    lesions: int | None = None
    kinds: tuple[str, ...] | None = None  # the lesions' kinds are drawn from these
    diameters_mm: tuple[float, float] | None = None  # and their diameters between these
    contrast: str | None = None  # "none", "arterial" or "venous"
    noise: float | None = None  # HU, standard deviation in soft tissue
    oblique_degrees: float | None = None  # angle of the grid to the patient's axes, up to 25
    disease: str | None = None  # one of disease.DISEASES, or "none"
    cut: str | None = None  # one of view.CUTS, or "whole"
    padding: float | None = None  # HU outside a circular field; 0 is no such field
    tidy: bool = False  # a plain healthy chest without artefacts
