"""A small box of a chest, about a lesion or about something that looks a little like one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.generator.body import Body, Wish
from models.generator.disease import fissures
from models.generator.draw import scan
from models.generator.frame import Points, make_frame
from models.generator.patient import Dice, Facts
from models.generator.plan import Plan, make_plan

#: What a box without lesion shows in its middle.
DECOYS = ("crossing", "twig", "hilum", "pleura", "dome", "band", "fissure", "parenchyma")
_ODDS = (0.2, 0.14, 0.14, 0.16, 0.1, 0.08, 0.06, 0.12)


def draw_crop(seed: int, *, size_mm: float, spacing: tuple[float, float, float], lesion: bool) -> Body:
    """Return a box of *size_mm* inside the chest of a *seed* at *spacing* (z, y, x) mm, the same bits every time.

    With *lesion* its middle voxel lies on the middle of the only lesion; else there is none, and the fact "decoy"
    says on what it lies. Only the box is evaluated. Raises ValueError where the seed's lungs have no room for a
    lesion; a thousand seeds in a row had it.
    """
    facts: Facts = {"seed": float(seed), "region": "chest"}
    dice = Dice(seed, "crop", facts)
    decoy = dice.one_of("decoy", DECOYS, _ODDS)
    wish = Wish(
        region="chest", lesions=int(lesion), disease="bands" if decoy == "band" and not lesion else None, padding=0.0
    )
    plan = make_plan(seed, "chest", wish, facts)
    if lesion:
        facts["decoy"] = "none"
        if not plan.growths:
            raise ValueError(f"the lungs of seed {seed} have no room for a lesion")
        middle = np.array(plan.growths[0].lesion.centre_mm)
    else:
        middle = _decoy(decoy, plan, dice.rng)
    z, y, x = (max(1, round(size_mm / mm)) for mm in spacing)
    frame = make_frame((float(middle[0]), float(middle[1]), float(middle[2])), spacing, (z, y, x))
    half = (np.array((z, y, x)) % 2 == 0) * 0.5  # an even box has no middle voxel: shift it by half of one
    frame.affine[:3, 3] -= frame.affine[:3, :3] @ half
    return scan(seed, plan, frame, wish, "chest", facts)


def _decoy(kind: str, plan: Plan, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return a place (L, P, S) of one of DECOYS; somewhere in a lung where the patient has no such place."""
    sides = [side for side in ("right-lung", "left-lung") if len(plan.map.places(side, 1, rng))]
    side = sides[int(rng.integers(len(sides)))]
    anywhere = plan.map.places(side, 600, rng)
    vessels = plan.trees.arteries
    found: Points = anywhere
    if kind == "crossing":
        found = vessels.start[(vessels.radius > 0.9) & (vessels.radius < 3)]
    elif kind == "twig":
        found = vessels.end[vessels.radius < 0.7]
    elif kind == "hilum":
        found = vessels.start[vessels.radius > 3]
    elif kind == "band":
        found = (plan.marks.strings.start + plan.marks.strings.end) / 2
    elif kind in {"pleura", "dome"}:
        found = anywhere[plan.map.depth(side, anywhere) < 4]
        if kind == "dome" and len(found):
            found = found[found[:, 2] <= np.quantile(found[:, 2], 0.15)]
    elif kind == "fissure":
        places = (anywhere[:, axis].astype(np.float32) for axis in range(3))
        major, _ = fissures(*plan.patient.bend.standard(*places), plan.patient)
        found = anywhere[np.abs(major) < 2]
    chosen = found if len(found) else anywhere
    return np.asarray(chosen[int(rng.integers(len(chosen)))])
