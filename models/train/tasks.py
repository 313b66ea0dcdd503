"""From a recipe to its task and its network: draws or reads the samples, parts them, says how many there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

from models.network import Network, build
from models.train.lung import LungTask
from models.train.recipe import Data, Recipe
from models.train.samples import draw_lungs, lung_sample
from models.train.sources import Cache, Sample, parted, read_cases
from models.train.task import Task

Counts = dict[str, int]

_DRAWN = ("spacing", "canvas", "pixel", "between", "tidy")  # what of a recipe a generated sample depends on


def network_of(recipe: Recipe) -> Network:
    """Return the recipe's network with weights drawn from torch's generator."""
    return build(recipe.network)


def task_of(recipe: Recipe, cache: Cache, cases: Path | None) -> tuple[Task, Counts]:
    """Return the recipe's task and how many samples of each kind it has."""
    return _lung(recipe, cache, cases)


def _lung(recipe: Recipe, cache: Cache, cases: Path | None) -> tuple[Task, Counts]:
    bodies, held = _drawn(recipe, cache, draw_lungs)
    real = [] if cases is None else [
        lung_sample(one.name, one.volume, one.labels, recipe.data) for one in read_cases(cases)
    ]  # fmt: skip
    learnt, kept = parted([one.name for one in real], recipe.data.real_validation, recipe.seed)
    task = LungTask(
        recipe=recipe, bodies=bodies, real=[real[n] for n in learnt], held=[*held, *(real[n] for n in kept)]
    )
    return task, _counts(bodies, held, len(learnt), len(kept))


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


def _counts(learnt: list[Sample], held: list[Sample], real: int, real_held: int) -> Counts:
    return {
        "generated": len(learnt), "generated for validation": len(held), "real": real,
        "real for validation": real_held,
    }  # fmt: skip
