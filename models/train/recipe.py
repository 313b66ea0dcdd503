"""A recipe: all that decides a training, read from one TOML file; what it does not know it refuses by name."""

from __future__ import annotations

import tomllib
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from models.network import NoduleCNNSettings, Settings, SliceClassifierSettings, UNetSettings

Triple = tuple[float, float, float]
R = TypeVar("R")

TASKS: dict[str, type[Any]] = {
    "lung": UNetSettings,
    "nodule": NoduleCNNSettings,
    "region": SliceClassifierSettings,
}  # task -> what its [network] table says


class RecipeError(ValueError):
    """A recipe is incomplete or wrong; the message names its file and key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """What is learnt from: generated bodies and, where there are any, prepared real cases."""

    bodies: int  # generated for training; body i has the recipe's first_body + i as its seed
    validation_bodies: int  # generated for validation, with the seeds after those
    first_body: int = 0
    spacing: Triple = (3.0, 3.0, 3.0)  # mm (z, y, x) of the training grid
    canvas: int = 160  # samples a side that are kept in memory: what augmentation cuts its pictures from
    size: int = 128  # samples a side that the network sees
    pixel: tuple[float, float] = (1.4, 3.0)  # mm, in the plane of the scans that are drawn, from .. to
    between: tuple[float, float] = (1.2, 6.0)  # mm between their slices
    painted: int = 0  # lesions painted into the lungs of each prepared case, for the nodule task
    tidy: float = 0.0  # share of the bodies drawn without the generator's oddities
    real_share: float = 0.0  # of the samples of a batch, where prepared cases are given
    real_validation: float = 0.25  # share of the prepared cases kept for validation; which, the seed decides
    left_out: tuple[str, ...] = ()  # names of prepared cases that are neither learnt from nor validated with


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How it is learnt."""

    batch: int
    steps: int  # of an epoch
    epochs: int
    rate: float = 1e-3  # of AdamW, at its highest
    weight_decay: float = 1e-4
    warm_up: int = 50  # steps until the rate is reached
    schedule: str = "cosine"  # to nought over all epochs; or "plateau": halved after *patience* epochs without gain
    patience: int = 5  # epochs without gain until the plateau schedule halves the rate
    early_stop: int = 20  # epochs without gain until the training ends
    least_gain: float = 1e-4  # of the validation score, to count as one
    minutes: float = 0.0  # after which no new epoch begins; 0: no limit
    precision: str = "float32"  # or "bfloat16", "float16": the forward pass on CUDA; on the CPU float32 and bfloat16
    half: bool = True  # weights are stored as float16


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """How far samples are changed, each anew each time; 0 leaves a change out."""

    turn: float = 15.0  # degrees about z, either way
    scale: float = 0.2  # larger or smaller by this share
    shift: float = 24.0  # mm in the plane, either way
    flip_z: float = 0.3  # share of samples whose row of slices is reversed
    flip_x: float = 0.0  # share that is mirrored, left and right exchanged in the labels
    brightness: float = 30.0  # HU added, either way
    contrast: float = 0.08  # HU stretched about -500 by this share
    noise: float = 60.0  # HU, standard deviation at most
    blur: float = 1.0  # samples, sigma at most
    circle: float = 0.2  # share of samples with nothing but padding outside a circle
    cut: float = 0.2  # share of samples cut by a straight border
    dropped: float = 0.1  # share of samples in which a neighbour slice is the middle one once more
    joined: float = 0.0  # share of rows of slices that go on into the region above
    boxed: float = 0.0  # share of rows of slices of which a box alone is seen, as in a crop
    prone: float = 0.0  # share of rows of slices with a table in front of the patient, and none behind


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One training."""

    task: str
    seed: int
    network: Settings
    data: Data
    training: Training
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        training = self.training
        _one_of("schedule", training.schedule, ("cosine", "plateau"))
        _one_of("precision", training.precision, ("float32", "bfloat16", "float16"))
        if min(training.batch, training.steps, training.epochs, self.data.bodies, self.data.validation_bodies) < 1:
            raise ValueError("batch, steps, epochs, bodies and validation_bodies must be at least 1")
        if not 0 < self.data.size <= self.data.canvas:
            raise ValueError(f"size is {self.data.size}, canvas {self.data.canvas}: size must be the smaller")

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, for reports."""
        return asdict(self)


def read_recipe(file: Path) -> Recipe:
    """Return the recipe of *file*; RecipeError, naming file and key, where it is no recipe."""
    try:
        return recipe_of(tomllib.loads(file.read_text(encoding="utf-8")))
    except OSError as why:
        raise RecipeError(f"{file}: cannot be read: {why}") from why
    except (TypeError, ValueError) as why:  # a broken TOML file is a ValueError too
        raise RecipeError(f"{file}: {why}") from why


def recipe_of(values: dict[str, Any]) -> Recipe:
    """Return the recipe of plain *values*; ValueError names the key that is wrong."""
    task = values.get("task")
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, not one of {', '.join(TASKS)}")
    return _read(Recipe, values, "", network=TASKS[task])


def _read(kind: type[R], values: dict[str, Any], place: str, **kinds: type[Any]) -> R:
    """Return a dataclass of *kind* from a TOML table; *kinds* says which dataclass a field is, if its type is wider."""
    known = {one.name: one for one in fields(cast(Any, kind))}
    for name in values:
        if name not in known:
            raise ValueError(f"{place}{name} is no key of a recipe; here belong {', '.join(known)}")
    for name, one in known.items():
        if name not in values and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{place}{name} is missing")
    types = {**get_type_hints(kind), **kinds}
    return kind(**{name: _value(types[name], value, f"{place}{name}") for name, value in values.items()})


def _value(kind: Any, value: Any, place: str) -> Any:
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"{place} is {value!r}, not a table")
        return _read(cast(type[Any], kind), value, f"{place}.")
    if get_origin(kind) is tuple:
        return _row(get_args(kind), value, place)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, UnionType) or type(value) is not kind:
        raise ValueError(f"{place} is {value!r}, not of type {getattr(kind, '__name__', kind)}")
    return value


def _row(kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{place} is {value!r}, not a list")
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise ValueError(f"{place} has {len(value)} values, not {len(kinds)}")
    return tuple(_value(kind, one, place) for kind, one in zip(kinds, value, strict=True))


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, not one of {', '.join(allowed)}")
