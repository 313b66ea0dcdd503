"""Lesions of the lungs: where they lie, what they look like, and which voxels are theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.generator.body import KINDS, Lesion, Point, Wish
from models.generator.frame import Box, Frame, Grid, Points
from models.generator.patient import Dice, Facts
from models.generator.stamps import Tubes, cover

_ODDS = (0.34, 0.1, 0.12, 0.1, 0.14, 0.1, 0.05, 0.05)  # of KINDS
_TRIES = 60


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Growth:
    """A lesion and how it is painted."""

    lesion: Lesion
    seed: int  # of its surface
    value: float  # HU of its body
    core: float  # share of the radius that is something else: solid core, dead middle, hole; 0 is none
    core_value: float
    bumps: float  # how far its surface departs from an ellipsoid, as a share of the radius
    spikes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """Lungs as lesions need to know them."""

    sides: tuple[str, ...]
    places: Callable[[str, int, np.random.Generator], Points]  # so many points inside the lung of a side
    depth: Callable[[str, Points], NDArray[np.float64]]  # how deep in the lung of a side points lie, in mm


def place_lesions(seed: int, wish: Wish, facts: Facts, ground: Ground) -> tuple[Growth, ...]:
    """Return the lesions of a *seed* in *ground*, apart from each other."""
    dice = Dice(seed, "lesions", facts)
    wanted = wish.lesions
    if wanted is None:
        usual = int(dice.one_of("lesions", ("0", "1", "2", "3", "5", "8"), (0.35, 0.25, 0.15, 0.1, 0.1, 0.05)))
        wanted = 0 if wish.tidy else usual
    facts["lesions"] = float(wanted)
    found: list[Growth] = []
    for number in range(1, wanted + 1):
        grown = _place(number, dice.rng, wish, ground, found)
        if grown is not None:
            found.append(grown)
    return tuple(found)


def _place(
    number: int, rng: np.random.Generator, wish: Wish, ground: Ground, others: list[Growth]
) -> Growth | None:
    kinds = wish.kinds or KINDS
    odds = np.array([_ODDS[KINDS.index(kind)] for kind in kinds])
    kind = str(rng.choice(kinds, p=odds / odds.sum()))
    low, high = wish.diameters_mm or _sizes(kind)
    diameter = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    for attempt in range(_TRIES):
        if attempt % 12 == 11 and wish.diameters_mm is None:
            diameter = max(3.0, diameter * 0.7)  # a sick lung may have room for a small one only
        side = str(rng.choice(ground.sides))
        points = ground.places(side, 40, rng)
        if not len(points):
            continue
        deep = ground.depth(side, points)
        radius = diameter / 2
        fits = (
            (deep > 0.25 * radius) & (deep < 0.7 * radius + 1) if kind == "juxtapleural" else deep > min(radius + 2, 22)
        )
        for one in others:
            apart = np.linalg.norm(points - np.array(one.lesion.centre_mm), axis=1)
            fits &= apart > (diameter + one.lesion.diameter_mm) / 2 * 1.3 + 4
        if fits.any():
            point = points[int(np.argmax(fits))]
            centre = (float(point[0]), float(point[1]), float(point[2]))
            return _grown(Lesion(number=number, kind=kind, centre_mm=centre, diameter_mm=diameter, side=side), rng)
    return None


def _sizes(kind: str) -> tuple[float, float]:
    return {"mass": (30.0, 60.0), "calcified": (3.0, 12.0), "cavity": (10.0, 40.0), "spiculated": (7.0, 32.0),
            "part-solid": (6.0, 28.0), "ground-glass": (5.0, 30.0)}.get(kind, (3.0, 26.0))  # fmt: skip


def _grown(lesion: Lesion, rng: np.random.Generator) -> Growth:
    value, core, core_value, bumps, spikes = float(rng.uniform(5, 75)), 0.0, 0.0, float(rng.uniform(0.0, 0.24)), 0
    if lesion.kind == "part-solid":
        value, core, core_value = (
            float(rng.uniform(-680, -420)),
            float(rng.uniform(0.3, 0.7)),
            float(rng.uniform(-80, 50)),
        )
    elif lesion.kind == "ground-glass":
        value = float(rng.uniform(-720, -450))
    elif lesion.kind == "calcified":
        value, bumps = float(rng.uniform(180, 900)), bumps * 0.4
    elif lesion.kind == "spiculated":
        bumps, spikes = float(rng.uniform(0.12, 0.2)), int(rng.integers(14, 50))
    elif lesion.kind == "mass":
        core, core_value, bumps = float(rng.uniform(0.0, 0.6)), value - 25.0, float(rng.uniform(0.05, 0.18))
    elif lesion.kind == "cavity":
        core, core_value = float(rng.uniform(0.45, 0.82)), float(rng.uniform(-990, -850))
    return Growth(lesion=lesion, seed=int(rng.integers(2**31)), value=value, core=core, core_value=core_value,
                  bumps=bumps, spikes=spikes)  # fmt: skip


def paint_lesion(
    voxels: Grid, lesion_map: NDArray[np.uint16], frame: Frame, growth: Growth,
    labels: NDArray[np.uint8], side: int,
) -> None:  # fmt: skip
    """Paint one lesion into *voxels* and its number into *lesion_map*, both within the lung labelled *side*."""
    lesion, rng = growth.lesion, np.random.default_rng(growth.seed)
    centre, radius = np.array(lesion.centre_mm), lesion.diameter_mm / 2
    reach = radius * (1.9 if growth.spikes else 1.4) + 4
    box = frame.box(centre - reach, centre + reach, lattice=False)
    here, inside_lung = voxels[box], labels[box] == side
    if not here.size:
        return
    distance, radial = _surface(frame, box, lesion.centre_mm, radius, growth.bumps, rng)
    width = np.float32(max(float(np.mean(frame.spacing)), 0.7)) * (2.5 if growth.value < -300 else 1.0)
    if growth.spikes:
        small = Frame(shape=_shape(here), affine=_moved(frame, box))
        here += cover(small, _spikes(centre, radius, growth.spikes, rng)) * inside_lung * 0.8 * (growth.value - here)
    shade = np.float32(growth.value) + np.float32(0.04 * abs(growth.value)) * _ripple(frame, box, rng)
    here += np.clip(0.5 - distance / width, 0.0, 1.0) * inside_lung * (np.maximum(shade, here) - here)
    if growth.core:
        within = radial - np.float32(growth.core * radius)
        here += np.clip(0.5 - within / width, 0.0, 1.0) * inside_lung * (growth.core_value - here)
    theirs = (distance < 0) & inside_lung
    lesion_map[box][theirs & (lesion_map[box] == 0)] = lesion.number


def _shape(grid: Grid) -> tuple[int, int, int]:
    return grid.shape[0], grid.shape[1], grid.shape[2]


def _moved(frame: Frame, box: Box) -> NDArray[np.float64]:
    """Return the affine of the voxels in *box*."""
    affine = frame.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([part.start for part in box], dtype=np.float64)
    return affine


def _surface(
    frame: Frame, box: Box, centre: Point, radius: float, bumps: float, rng: np.random.Generator
) -> tuple[Grid, Grid]:
    """Return the distance from the bumpy surface, and from the centre, of the voxel centres in *box*.

    The shape is as large as a ball of that *radius*.
    """
    stretch = np.exp(rng.uniform(-0.16, 0.16, 3))
    stretch /= stretch.prod() ** (1 / 3)
    waves = rng.normal(size=(5, 3))
    waves *= rng.uniform(1.5, 4.5, size=(5, 1)) / np.linalg.norm(waves, axis=1, keepdims=True)
    phases = rng.uniform(0, 2 * np.pi, 5)
    round_about = rng.normal(size=(600, 3))
    round_about /= np.linalg.norm(round_about, axis=1, keepdims=True)
    swell = np.maximum(1 + bumps / 2 * np.sin(round_about @ waves.T + phases).sum(1), 0.4)
    radius /= float((swell**3).mean() ** (1 / 3))
    at = [(g - np.float32(c)) / np.float32(s) for g, c, s in zip(frame.places(box), centre, stretch, strict=True)]
    away = np.sqrt(at[0] ** 2 + at[1] ** 2 + at[2] ** 2)
    bump = np.zeros_like(away)
    for wave, phase in zip(waves.astype(np.float32), phases.astype(np.float32), strict=True):
        bump += np.sin((wave[0] * at[0] + wave[1] * at[1] + wave[2] * at[2]) / (away + np.float32(1e-3)) + phase)
    swollen = np.maximum(1 + np.float32(bumps / 2) * bump, np.float32(0.4))
    return np.asarray(away - np.float32(radius) * swollen, dtype=np.float32), away


def _ripple(frame: Frame, box: Box, rng: np.random.Generator) -> Grid:
    """Return a gentle unevenness about 0, of some millimetres."""
    left, back, head = frame.places(box)
    k = rng.normal(size=(3, 3)) * 0.5
    waves = [np.sin(np.float32(a) * left + np.float32(b) * back + np.float32(c) * head) for a, b, c in k]
    return np.asarray(sum(waves, np.float32(0)), dtype=np.float32)


def _spikes(centre: Points, radius: float, count: int, rng: np.random.Generator) -> Tubes:
    way = rng.normal(size=(count, 3))
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    start, tip = centre + way * radius * 0.8, centre + way * radius * rng.uniform(1.1, 1.8, size=(count, 1))
    middle = (start + tip) / 2 + rng.normal(size=way.shape) * radius * 0.06
    thick = rng.uniform(0.45, 1.1, size=count)
    return Tubes(
        np.concatenate([start, middle]), np.concatenate([middle, tip]), np.concatenate([thick * 1.3, thick * 0.8])
    )
