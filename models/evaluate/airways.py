"""`python -m models.evaluate.airways`: ct-lung's airways beside those of generated bodies, whose voxels are known.

The generator labels the lumen of trachea, main, lobar and first segmental bronchi; smaller ones it counts as lung. All
that it labels in view is compared. The bodies are chests as it draws them at random, ill ones and cut ones among them,
with seeds that no training had; the first ones are also made harder. Standard output is a Markdown table, lungs with
and without the bronchi in them, and one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from models.contract import Mask, NotApplicable, Volume
from models.ct_lung.model import LungModel, load_lungs
from models.evaluate.metrics import dice, volume_error
from models.evaluate.perturb import PERTURBATIONS, NothingToChange, Scene
from models.generator import AIRWAYS, LEFT_LUNG, RIGHT_LUNG, Wish, draw_body

_FIRST_SEED = 8_000_000  # far from those of any recipe, and from those on which the limits were settled
_PIXEL, _BETWEEN = (0.7, 2.0), (1.0, 7.0)  # mm in the plane and between slices, from .. to
_LITTLE_ML = 2.0  # of lumen in view: less is not drawn, and rightly


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One body, as drawn or made harder."""

    body: str
    variant: str  # "" for the body as drawn, else of PERTURBATIONS
    spacing: tuple[float, float, float]  # (z, y, x) mm
    reference_ml: float
    found_ml: float
    dice: float
    precision: float | None  # share of what is drawn that is lumen; None where nothing is drawn
    volume_error: float | None  # signed share of the reference; None where that is empty
    lung_dice: float  # of both lungs together
    lung_dice_with_bronchi: float  # had the bronchi in them stayed
    declined: str = ""  # why the model gave nothing


def rows(bodies: int, harder: int, device: str) -> Iterator[Row]:
    """Yield a row for each body, and for each change of the first *harder* ones; then for abdomens."""
    model = load_lungs(device)
    for seed in range(_FIRST_SEED, _FIRST_SEED + bodies):
        scene = _scene(seed, "chest")
        yield _row(model, f"chest-{seed}", "", scene)
        for variant, change in PERTURBATIONS.items() if seed < _FIRST_SEED + harder else ():
            try:
                changed = change(scene)
            except NothingToChange:
                continue
            yield _row(model, f"chest-{seed}", variant, changed)
    for seed in range(_FIRST_SEED + 1000, _FIRST_SEED + 1000 + bodies // 4):
        yield _row(model, f"abdomen-{seed}", "", _scene(seed, "abdomen"))


def _scene(seed: int, region: str) -> Scene:
    rng = np.random.default_rng(seed)
    pixel, between = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (_PIXEL, _BETWEEN))
    body = draw_body(seed, Wish(region=region, spacing=(between, pixel, pixel)))
    lungs = np.isin(body.labels, (LEFT_LUNG, RIGHT_LUNG))
    return Scene(volume=body.volume, reference={"airways": body.labels == AIRWAYS, "lungs": lungs})


def _row(model: LungModel, body: str, variant: str, scene: Scene) -> Row:
    volume, why = scene.volume, ""
    drawn = {key: np.zeros(volume.voxels.shape, dtype=bool) for key in ("left-lung", "right-lung", "airways")}
    with_bronchi = np.zeros(volume.voxels.shape, dtype=bool)
    try:
        findings = model.run(volume, lambda _done, _stage: None)
        drawn |= {one.key: one.mask for one in findings.segments}
        with_bronchi = np.logical_or(*model.lungs(volume, lambda _done, _stage: None))
    except NotApplicable as reason:
        why = str(reason)
    sys.stderr.write(f"{body} {variant} {why}\n")
    lungs = drawn["left-lung"] | drawn["right-lung"]
    return _compared(body, variant, scene, (drawn["airways"], lungs, with_bronchi), why)


def _compared(body: str, variant: str, scene: Scene, drawn: tuple[Mask, Mask, Mask], why: str) -> Row:
    airways, lungs, with_bronchi = drawn
    truth, volume = scene.reference["airways"], scene.volume
    found_ml, reference_ml = _ml(airways, volume), _ml(truth, volume)
    dz, dy, dx = volume.spacing
    return Row(
        body=body, variant=variant, spacing=(round(dz, 2), round(dy, 2), round(dx, 2)),
        reference_ml=round(reference_ml, 2), found_ml=round(found_ml, 2), dice=round(dice(airways, truth), 4),
        precision=round(float((airways & truth).sum() / airways.sum()), 4) if airways.any() else None,
        volume_error=round(volume_error(found_ml, reference_ml), 4) if reference_ml else None,
        lung_dice=round(dice(lungs, scene.reference["lungs"]), 5),
        lung_dice_with_bronchi=round(dice(with_bronchi, scene.reference["lungs"]), 5), declined=why,
    )  # fmt: skip


def _ml(mask: Mask, volume: Volume) -> float:
    return float(mask.sum()) * volume.voxel_ml


def figures(table: Sequence[Row]) -> dict[str, float | int | None]:
    """Return what the *table* comes to, over chests as drawn that show 2 mL of lumen and were not declined."""
    plain = [row for row in table if not row.variant]
    judged = [row for row in plain if row.reference_ml >= _LITTLE_ML and not row.declined]
    drawn = [row for row in judged if row.precision is not None]
    lungs = [row for row in plain if not row.declined]
    errors = [abs(row.volume_error) for row in drawn if row.volume_error is not None]
    return {
        "bodies": len(plain), "declined": sum(bool(row.declined) for row in plain), "judged": len(judged),
        "drawn": len(drawn), "dice_median": _median([row.dice for row in judged]),
        "dice_least": min((row.dice for row in judged), default=None),
        "precision_median": _median([row.precision or 0.0 for row in drawn]),
        "precision_least": min((row.precision or 0.0 for row in drawn), default=None),
        "volume_error_median": _median(errors),
        "drawn_without": sum(row.found_ml > 0 and row.reference_ml < _LITTLE_ML for row in plain),
        "lungs_better": sum(row.lung_dice > row.lung_dice_with_bronchi for row in lungs),
        "lungs_worse": sum(row.lung_dice < row.lung_dice_with_bronchi for row in lungs),
        "harder_dice_median": _median([row.dice for row in table if row.variant and row.reference_ml >= _LITTLE_ML]),
    }  # fmt: skip


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if values else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluate.airways", description=__doc__)
    parser.add_argument("--bodies", type=int, default=24, help="generated chests")
    parser.add_argument("--harder", type=int, default=3, help="how many of them are also changed")
    parser.add_argument("--device", default="cpu", help="torch device, e.g. cuda:0")
    options = parser.parse_args(arguments)
    table = list(rows(options.bodies, options.harder, options.device))
    names = list(asdict(table[0]))
    lines = [names, ["---"] * len(names), *(["" if v is None else str(v) for v in asdict(r).values()] for r in table)]
    sys.stdout.write("".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    sys.stdout.write(json.dumps({"bench": "airways", **figures(table)}) + "\n")


if __name__ == "__main__":
    main()
