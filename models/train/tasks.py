"""From a recipe to its task and its network: draws or reads the samples, parts them, says how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from models.generator import REGIONS
from models.network import Network, build
from models.train.cubes import cubes_of, draw_cubes, single
from models.train.lung import LungTask
from models.train.nodule import NoduleTask
from models.train.recipe import Data, Recipe
from models.train.region import RegionTask
from models.train.samples import draw_lungs, draw_series, lungs_of, series_of
from models.train.sources import Cache, Case, Sample, SampleError, parted, read_cases
from models.train.task import Task

Counts = dict[str, int]

#: task -> what draws a sample of a seed, and what makes samples of a real case
_MAKERS: dict[str, tuple[Callable[[Data, int], Sample], Callable[[Case, Data], list[Sample]]]] = {
    "lung": (draw_lungs, lungs_of),
    "nodule": (draw_cubes, cubes_of),
    "region": (draw_series, series_of),
}

_DRAWN = ("spacing", "canvas", "pixel", "between", "tidy")  # what of a recipe a generated sample depends on


def network_of(recipe: Recipe) -> Network:
    """Return the recipe's network with weights drawn from torch's generator."""
    return build(recipe.network)


def task_of(recipe: Recipe, cache: Cache, cases: Path | None) -> tuple[Task, Counts]:
    """Return the recipe's task and how many samples of each kind it has; *cases* holds prepared real ones."""
    draw, from_case = _MAKERS[recipe.task]
    drawn, held = _drawn(recipe, cache, draw)
    real = [made for one in _cases(cases, recipe.data.left_out) for made in from_case(one, recipe.data)]
    learnt, kept = parted([one.name for one in real], recipe.data.real_validation, recipe.seed)
    counts = {
        "generated": len(drawn), "generated for validation": len(held), "real": len(learnt),
        "real for validation": len(kept),
    }  # fmt: skip
    held += [real[n] for n in kept]
    return _task(recipe, drawn, [real[n] for n in learnt], held), counts


def _cases(folder: Path | None, left_out: tuple[str, ...]) -> list[Case]:
    """Return the prepared cases of *folder* but for those left out; SampleError where one of these is not there."""
    read = [] if folder is None else read_cases(folder)
    lacking = sorted(set(left_out) - {one.name for one in read})
    if lacking and folder is not None:
        raise SampleError(f"{folder}: holds no case {', '.join(lacking)} that could be left out")
    return [one for one in read if one.name not in left_out]


def _task(recipe: Recipe, drawn: list[Sample], real: list[Sample], held: list[Sample]) -> Task:
    if recipe.task == "nodule":
        return NoduleTask(recipe=recipe, cubes=single(drawn), real=single(real), held=single(held))
    if recipe.task == "region":
        return RegionTask(recipe=recipe, series=drawn, real=real, held=held, regions=REGIONS)
    return LungTask(recipe=recipe, bodies=drawn, real=real, held=held)


def _drawn(recipe: Recipe, cache: Cache, draw: Callable[[Data, int], Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the generated samples to learn from and to validate with."""
    data = recipe.data
    last = data.first_body + data.bodies
    asked = {name: value for name, value in asdict(data).items() if name in _DRAWN}
    asked["task"] = recipe.task
    return (
        cache.samples(partial(draw, data), range(data.first_body, last), asked, "training bodies"),
        cache.samples(partial(draw, data), range(last, last + data.validation_bodies), asked, "validation bodies"),
    )
