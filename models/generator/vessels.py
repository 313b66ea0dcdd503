"""The trees inside the lungs: arteries, veins and the smaller bronchi.

A tree is grown as Kitaoka et al. 1999 (10.1152/jappl.1999.87.6.2207) grow an airway: the places to be supplied are
parted again and again, and each part gets a branch towards its middle. So it fills the lung and ends near the pleura.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.generator.anatomy import AIRWAY_TREE
from models.generator.frame import Points
from models.generator.patient import Patient
from models.generator.stamps import Tubes, none_at_all

_LEVELS = 13


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """All thin tubes of one patient, in mm of the patient."""

    arteries: Tubes
    veins: Tubes
    bronchi: Tubes  # beyond the labelled airways
    airways: Tubes  # trachea, main and lobar bronchi: their lumen is labelled


def grow(roots: Points, targets: Points, leaf: float, rng: np.random.Generator, fewest: int = 1) -> Tubes:
    """Return a tree from the *roots* to all *targets* (n, 3), its last twigs of radius *leaf* mm.

    Branches that supply less than *fewest* targets are left out.
    """
    if not len(targets):
        return none_at_all()
    owner = np.argmin(((targets[:, None] - roots[None]) ** 2).sum(2), axis=1)
    tip, pieces = roots.copy(), []
    for level in range(_LEVELS):
        count = np.bincount(owner, minlength=len(tip))
        middle = (
            np.stack([np.bincount(owner, targets[:, i], len(tip)) for i in range(3)], 1) / np.maximum(count, 1)[:, None]
        )
        share = np.where(count <= 1, 1.0, 0.34 + 0.08 * rng.random(len(tip)))[:, None]
        end = tip + (middle - tip) * share
        bent = end + rng.normal(size=end.shape) * 0.05 * np.linalg.norm(end - tip, axis=1, keepdims=True)
        end = np.where(count[:, None] <= 1, end, bent)
        drawn = count >= fewest
        pieces.append(Tubes(tip[drawn], end[drawn], np.asarray(leaf * count[drawn] ** (1 / 2.55), dtype=np.float64)))
        if level == _LEVELS - 1 or count.max() <= 1:
            break
        going = count[owner] > 1  # the other branches have reached their one place
        away, targets, owner = (targets - middle[owner])[going], targets[going], owner[going]
        normal = _split_direction(away, owner, end - tip, rng)
        owner = owner * 2 + ((away * normal[owner]).sum(1) > 0)
        parts, owner = np.unique(owner, return_inverse=True)
        owner, tip = owner.reshape(-1), end[parts // 2]
    return _joined(pieces)


def _split_direction(away: Points, owner: NDArray[np.intp], along: Points, rng: np.random.Generator) -> Points:
    """Return for each branch the direction across it in which its targets lie widest.

    Two steps of the power method are near enough.
    """
    count = len(along)
    normal = rng.normal(size=(count, 3))
    forward = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
    for _ in range(2):
        weight = (away * normal[owner]).sum(1)
        normal = np.stack([np.bincount(owner, away[:, i] * weight, count) for i in range(3)], 1)
        normal -= 0.6 * forward * (normal * forward).sum(1, keepdims=True)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
    return normal


def _joined(pieces: list[Tubes]) -> Tubes:
    return Tubes(
        np.concatenate([p.start for p in pieces]), np.concatenate([p.end for p in pieces]),
        np.concatenate([p.radius for p in pieces]),
    )  # fmt: skip


def airway_tubes(patient: Patient) -> Tubes:
    """Return the labelled airways, each piece bent with the patient and narrowing towards its end."""
    pieces = []
    for start, end, first, last in AIRWAY_TREE:
        parts = max(2, int(np.linalg.norm(np.array(end) - np.array(start)) / 5))
        at = np.linspace(0, 1, parts + 1)[:, None]
        path = patient.bend.patient(np.array(start) + at * (np.array(end) - np.array(start)) + (patient.shift, 0, 0))
        radius = patient.trachea * (first + (at[:-1, 0] + at[1:, 0]) / 2 * (last - first))
        pieces.append(Tubes(path[:-1], path[1:], radius))
    return _joined(pieces)


def trees(
    patient: Patient, places: Callable[[str, int, np.random.Generator], Points], twigs: int, rng: np.random.Generator
) -> Trees:
    """Return the trees of both lungs; *places* gives random points of "left-lung" or "right-lung"."""
    arteries, veins, bronchi = [], [], []
    for side, sign in (("right-lung", -1.0), ("left-lung", 1.0)):
        lift = 0.0 if sign < 0 else 8.0

        def at(*points: tuple[float, float, float], sign: float = sign, lift: float = lift) -> Points:
            return patient.bend.patient(np.array([(sign * x + patient.shift, y, z + lift) for x, y, z in points]))

        artery_roots = at((44, 10, -16), (48, 24, -34), (50, 6, -40), (46, 14, -8))
        supplied = places(side, twigs, rng)
        arteries.append(grow(artery_roots, supplied, 0.55, rng))
        veins.append(grow(at((34, 10, -42), (38, 24, -52), (40, 2, -26)), places(side, twigs, rng), 0.52, rng))
        ends = [end for _, end, _, last in AIRWAY_TREE if last <= 0.45 and end[0] * sign > 0]
        bronchi.append(grow(
            patient.bend.patient(np.array(ends) + np.array([patient.shift, 0, 0])), supplied[: twigs // 4], 0.55, rng, fewest=9
        ))  # fmt: skip
    return Trees(arteries[0] + arteries[1], veins[0] + veins[1], bronchi[0] + bronchi[1], airway_tubes(patient))
