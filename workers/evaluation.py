"""One series, as it is or changed, through the models and beside its reference."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from models import catalogue
from models.contract import Detection, Findings, Mask, NotApplicable, Volume
from models.evaluate import pictures
from models.evaluate.metrics import NOWHERE, Objects, dice, objects_of, struck_objects
from models.evaluate.perturb import PERTURBATIONS, NothingToChange, Scene
from models.evaluate.pictures import Fault
from models.evaluate.planted import plant
from models.evaluate.results import PLANTED, Agreement, Lesion, Run, agree, ball_diameter
from models.evaluate.scores import Mark
from node.dicom.reader import read_series
from node.errors import InputInvalid
from workers.inference import pass_gate
from workers.reference_cases import Case, images_of, lungs_of, nodules_of, tumour_of
from workers.storage_order import ORDERS

_SIDES = {"left-lung": ("left-lung",), "right-lung": ("right-lung",), "lungs": ("left-lung", "right-lung")}
_NODULE = "nodule"  # the key of marks that are compared with nodules
_PLANTED_EACH = 12  # nodules that are tried in one planted scan
_MOST_PICTURES = 4  # of one run: no more of it are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One process's work."""

    case: Case
    variant: str  # "", a perturbation, a storage order, or "planted-<seed>"
    models: tuple[str, ...]
    data: Path
    device: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Truth:
    """What is known of a volume, on its grid."""

    lungs: Mapping[str, Mask]  # by structure
    nodules: Objects | None  # None where nobody has looked
    lesions: tuple[Lesion, ...]  # of the nodules, in the order of their numbers
    ignored: Mask  # a mark there is neither right nor false: a mass, or a patient's own nodules beside planted ones


def evaluate(task: Task) -> tuple[list[Run], list[Fault]]:
    """Return what each model makes of the task's series, and its worst slices; a refusal is a result too."""
    runs = blank_runs(task)
    try:
        volume, truth = _seen(task)
    except InputInvalid as why:
        return [replace(run, refused=f"not read: {why}") for run in runs], []
    except NothingToChange as why:
        return [replace(run, skipped=str(why)) for run in runs], []
    faults: list[Fault] = []
    for place, run in enumerate(runs):
        runs[place], findings = _with_findings(run, volume, task.device)
        runs[place] = _compared(runs[place], findings, volume, truth)
        faults += _faults(runs[place], findings, volume, truth)
    return runs, faults


def blank_runs(task: Task) -> list[Run]:
    """Return a run for each of the task's models, with nothing in it yet."""
    return [
        Run(
            model=name, version=catalogue.card(name).version, case=task.case.name, variant=task.variant,
            other_body=task.case.other_body, repeats=task.case.repeats,
        )
        for name in task.models
    ]  # fmt: skip


def _seen(task: Task) -> tuple[Volume, Truth]:
    """Return the volume that the models get, and the truth on its grid."""
    paths = images_of(task.case, task.data)
    with tempfile.TemporaryDirectory() as folder:
        if task.variant in ORDERS:
            paths = ORDERS[task.variant](read_series(paths), Path(folder))
        volume = read_series(paths).volume
    lungs, tumour = lungs_of(task.case, task.data, volume), tumour_of(task.case, task.data, volume)
    nodules = nodules_of(task.case, task.data, volume)
    if task.variant.startswith(PLANTED):
        own = tumour if nodules is None else tumour | nodules
        garden = plant(volume, _together(lungs, volume) & ~own, _seed(task.variant), _PLANTED_EACH)
        lesions = tuple(Lesion(kind=one.kind, diameter_mm=one.diameter_mm) for one in garden.nodules)
        return garden.volume, Truth(lungs=lungs, nodules=garden.objects, lesions=lesions, ignored=own)
    truth = _truth(volume, lungs, None if nodules is None else objects_of(nodules), tumour)
    return _changed(volume, truth, task.variant) if task.variant in PERTURBATIONS else (volume, truth)


def _changed(volume: Volume, truth: Truth, variant: str) -> tuple[Volume, Truth]:
    """Return both after a perturbation. A nodule stays one object where its voxels part; what is cut away is gone."""
    known: dict[str, Mask] = {**truth.lungs, "ignored": truth.ignored}
    if truth.nodules is not None:
        known |= {f"nodule-{n}": np.equal(truth.nodules, n) for n in range(1, len(truth.lesions) + 1)}
    scene = PERTURBATIONS[variant](Scene(volume=volume, reference=known))
    left = [mask for name, mask in scene.reference.items() if name.startswith("nodule-") and mask.any()]
    objects: Objects | None = None
    if truth.nodules is not None:
        objects = np.zeros(scene.volume.voxels.shape, np.int32)
        for number, mask in enumerate(left, start=1):
            objects[mask] = number
    lungs = {name: scene.reference[name] for name in truth.lungs}
    return scene.volume, _truth(scene.volume, lungs, objects, scene.reference["ignored"])


def _seed(variant: str) -> int:
    return int(variant.removeprefix(f"{PLANTED}-"))


def _together(lungs: Mapping[str, Mask], volume: Volume) -> Mask:
    together: Mask = np.logical_or.reduce([np.zeros(volume.voxels.shape, dtype=bool), *lungs.values()])
    return together


def _truth(volume: Volume, lungs: Mapping[str, Mask], objects: Objects | None, tumour: Mask) -> Truth:
    if objects is None:
        return Truth(lungs=lungs, nodules=None, lesions=(), ignored=tumour)
    sizes = np.bincount(objects.ravel())[1:] * volume.voxel_ml
    lesions = tuple(Lesion(kind="labelled", diameter_mm=round(ball_diameter(float(ml)), 2)) for ml in sizes)
    return Truth(lungs=lungs, nodules=objects, lesions=lesions, ignored=tumour)


def _with_findings(run: Run, volume: Volume, device: str) -> tuple[Run, Findings]:
    """Return the run with its time and memory, and the findings; none where the model declined."""
    loaded = catalogue.load(run.model, device)
    _forget_peak()
    start = time.perf_counter()
    try:
        pass_gate(volume, catalogue.card(run.model), device, lambda _done, _stage: None)
        findings, why = loaded.run(volume, lambda _done, _stage: None), ""
    except NotApplicable as reason:
        findings, why = Findings(), str(reason)
    seconds = time.perf_counter() - start
    drawn = len(findings.segments) + len(findings.detections)
    return replace(run, refused=why, drawn=drawn, seconds=seconds, peak_mb=_peak_mb()), findings


def _forget_peak() -> None:
    """Have the kernel count this process's peak memory from now on (proc(5), clear_refs)."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _peak_mb() -> float | None:
    if sys.platform != "linux":
        return None
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024.0


def _compared(run: Run, findings: Findings, volume: Volume, truth: Truth) -> Run:
    """Return the run beside the truth, as far as the model draws what the truth knows."""
    keys = {kind.key for kind in catalogue.card(run.model).segments}
    if _NODULE in keys and truth.nodules is not None:
        run = replace(run, marks=_marks(findings.detections, truth, volume), lesions=truth.lesions)
    agreements: list[Agreement] = []
    for structure, reference in truth.lungs.items():
        if keys.issuperset(_SIDES[structure]):
            found = _drawn(findings, _SIDES[structure], volume)
            agreements.append(agree(structure, found, reference, volume))
    return replace(run, agreements=tuple(agreements))


def _drawn(findings: Findings, keys: Sequence[str], volume: Volume) -> Mask:
    empty = np.zeros(volume.voxels.shape, dtype=bool)
    drawn: Mask = np.logical_or.reduce([empty, *(one.mask for one in findings.segments if one.key in keys)])
    return drawn


def _marks(detections: Sequence[Detection], truth: Truth, volume: Volume) -> tuple[Mark, ...]:
    if truth.nodules is None:
        return ()
    struck = struck_objects(detections, truth.nodules, volume, truth.ignored)
    return tuple(
        Mark(
            score=one.score, diameter_mm=one.diameter_mm, object=number,
            dice=dice(one.mask, truth.nodules == number) if number > NOWHERE else None,
        )
        for one, number in zip(detections, struck, strict=True)
    )  # fmt: skip


# -- the worst slices


def _faults(run: Run, findings: Findings, volume: Volume, truth: Truth) -> list[Fault]:
    """Return the slices on which *run* is most wrong; none of a run that cannot be judged."""
    if run.other_body:
        masks = [*(one.mask for one in findings.segments), *(one.mask for one in findings.detections)]
        return _differing(run, {str(n): mask for n, mask in enumerate(masks)}, {}, volume)
    if run.lesions is not None:
        return _false_marks(run, findings, volume, truth) + _missed(run, volume, truth)
    if run.agreements:
        found = {name: _drawn(findings, _SIDES[name], volume) for name in truth.lungs}
        return _differing(run, found, truth.lungs, volume)
    return []


def _differing(run: Run, found: Mapping[str, Mask], reference: Mapping[str, Mask], volume: Volume) -> list[Fault]:
    return [
        _fault(run, volume, z, f"{area:.1f} cm2 differ", area, (found, reference))
        for z, area in pictures.worst_slices(found, reference, volume, _MOST_PICTURES)
    ]


def _false_marks(run: Run, findings: Findings, volume: Volume, truth: Truth) -> list[Fault]:
    return [
        _fault(
            run, volume, _widest(one.mask), f"false mark, score {mark.score:.2f}, {mark.diameter_mm:.0f} mm",
            mark.score, ({_NODULE: one.mask}, _nodules(truth)),
        )
        for one, mark in zip(findings.detections, run.marks, strict=True)
        if mark.object == NOWHERE
    ][:_MOST_PICTURES]  # fmt: skip


def _missed(run: Run, volume: Volume, truth: Truth) -> list[Fault]:
    """Return the nodules without a mark, the largest first; a missed one is worse than any false mark."""
    if truth.nodules is None:
        return []
    objects, struck = truth.nodules, {mark.object for mark in run.marks}
    missed = [(one, n) for n, one in enumerate(truth.lesions, start=1) if n not in struck]
    return [
        _fault(
            run, volume, _widest(np.equal(objects, number)), f"missed: {one.kind}, {one.diameter_mm:.0f} mm",
            1.0 + one.diameter_mm, ({}, _nodules(truth)),
        )
        for one, number in sorted(missed, key=lambda pair: -pair[0].diameter_mm)[:_MOST_PICTURES]
    ]  # fmt: skip


def _nodules(truth: Truth) -> dict[str, Mask]:
    return {} if truth.nodules is None else {_NODULE: truth.nodules > 0}


def _widest(mask: Mask) -> int:
    return int(np.argmax(mask.sum(axis=(1, 2))))


def _fault(
    run: Run, volume: Volume, z: int, what: str, weight: float, masks: tuple[Mapping[str, Mask], Mapping[str, Mask]]
) -> Fault:
    window = catalogue.card(run.model).window
    png = pictures.draw(volume, z, masks[0], masks[1], window)
    return Fault(model=run.model, case=run.case, variant=run.variant, slice=z, what=what, weight=weight, png=png)
