"""The gate over the test data and over generated bodies: what it lets through, beside what is in view."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models import gate
from models.contract import Volume
from models.evaluate.perturb import PERTURBATIONS, NothingToChange, Scene
from models.evaluate.results import Passing
from models.gate.judge import WEIGHTS
from models.gate.whole import SHOWING
from models.generator import REGIONS, Wish, draw_body
from models.network import read_facts
from models.train.rows import prone
from node.dicom.reader import read_series
from node.errors import InputInvalid
from workers.reference_cases import Case, images_of, lungs_of

_ASKED = frozenset({"chest"})
_LITTLE_ML = 20.0  # of lung: a scan with less shows next to none
_FIRST_SEED = 5_000_000  # of the generated bodies: far from those of any recipe
_CHESTS, _OTHERS = 12, 6  # bodies of each region
_PIXEL, _BETWEEN = (1.5, 3.0), (0.8, 7.0)  # mm in the plane and between slices, from .. to


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scan:
    """One scan that the gate is asked about."""

    name: str
    volume: Volume
    variant: str = ""
    generated: bool = False
    learnt: bool = False
    shown: bool | None
    phase: str = ""  # of contrast, where it is known


def passings(cases: Sequence[Case], data: Path, device: str, *, plain: bool, only: str = "") -> Iterator[Passing]:
    """Yield what the gate says of each case, as it is and (unless *plain*) changed, and then of generated bodies.

    Of these, those alone whose name holds *only*. A case that breaks is told, and the next one follows.
    """
    learnt = frozenset(read_facts(WEIGHTS)["real_cases"])
    for case in cases:
        try:
            for one in _of_case(case, data, learnt, plain=plain):
                yield _asked(one, device)
        except Exception as why:  # noqa: BLE001  # the page is to name it, and go on
            yield Passing(case=case.name, admitted=False, error=f"{type(why).__name__}: {why}")
    for one in () if plain else _bodies(only):
        yield _asked(one, device)


def _asked(scan: Scan, device: str) -> Passing:
    began = time.perf_counter()
    judgement = _judged(scan.volume, device)
    seconds = time.perf_counter() - began
    lies = judgement.whole.lies if judgement.whole else {}
    sys.stderr.write(f"gate: {scan.name} {scan.variant} {judgement.reason or 'admitted'}\n")
    return Passing(
        case=scan.name, variant=scan.variant, generated=scan.generated, learnt=scan.learnt, shown=scan.shown,
        admitted=judgement.fits, reason=judgement.reason, evidence=round(judgement.evidence, 4),
        strangeness=round(judgement.score, 3), seconds=round(seconds, 3), phase_true=scan.phase if lies else "",
        phase=judgement.whole.phase if judgement.whole else "", lies=lies, seen=judgement.seen,
        turned={turn: _reversed(scan.volume, turn, device) for turn in lies} if not scan.variant else {},
    )  # fmt: skip


def _judged(volume: Volume, device: str) -> gate.Judgement:
    return gate.load(device).judge(volume, _ASKED, lambda _done, _stage: None)


def _reversed(volume: Volume, turn: str, device: str) -> bool | None:
    """Return whether *volume* surely lies as its header says once that axis alone is reversed and the header is not."""
    axis = {"left-right": 2, "front-back": 1, "head-feet": 0}[turn]
    judgement = _judged(replace(volume, voxels=np.ascontiguousarray(np.flip(volume.voxels, axis))), device)
    return judgement.whole.lies[turn] if judgement.whole else None


def _of_case(case: Case, data: Path, learnt: frozenset[str], *, plain: bool) -> Iterator[Scan]:
    """Give the case and its variants; what cannot be read asks no gate."""
    try:
        volume = read_series(images_of(case, data)).volume
    except InputInvalid:
        return
    known = (case.repeats or case.name).partition("/")[0] in learnt and volume.modality == "CT"
    scene = Scene(volume=volume, reference=lungs_of(case, data, volume))
    yield Scan(name=case.name, volume=volume, learnt=known, shown=_shown(case, scene), phase=case.phase)
    for variant, change in () if plain else PERTURBATIONS.items():
        try:
            changed = change(scene)
        except NothingToChange:
            continue
        yield Scan(
            name=case.name, variant=variant, volume=changed.volume, learnt=known, shown=_shown(case, changed),
            phase=case.phase,
        )


def _shown(case: Case, scene: Scene) -> bool | None:
    """Whether lung is in view: by the reference where there is one, else by what is known of the case."""
    if case.other_body:
        return False
    if not scene.reference:
        return True
    return _enough(sum(float(mask.sum()) for mask in scene.reference.values()) * scene.volume.voxel_ml)


def _enough(lung_ml: float) -> bool | None:
    return True if lung_ml >= _LITTLE_ML else None if lung_ml > 0 else False


def _bodies(only: str) -> Iterator[Scan]:
    """Give bodies of every region with seeds that nothing was trained on."""
    for place, region in enumerate(REGIONS):
        for number in range(_CHESTS if region == "chest" else _OTHERS):
            seed = _FIRST_SEED + 1000 * place + number
            if only not in (name := f"{region}-{seed}"):
                continue
            rng = np.random.default_rng(seed)
            pixel, between = (float(np.exp(rng.uniform(*np.log(ends)))) for ends in (_PIXEL, _BETWEEN))
            body = draw_body(seed, Wish(region=region, spacing=(between, pixel, pixel)))
            lung_ml = float((body.labels > 0).sum()) * body.volume.voxel_ml
            phase = str(body.facts["contrast"]) if region in SHOWING else ""
            of_body = Scan(name=name, volume=body.volume, generated=True, shown=_enough(lung_ml), phase=phase)
            yield of_body
            lying = prone(body.volume.voxels.astype(np.int16), rng).astype(np.float32)
            yield replace(of_body, variant="table in front", volume=replace(body.volume, voxels=lying))
