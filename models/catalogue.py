"""Which models there are. Cards are read without importing a model, so that the node runs without torch."""

from __future__ import annotations

import hashlib
import importlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, cast

from models.contract import Card, Code, MapKind, Model, SegmentKind

_HERE = Path(__file__).parent
_PARTS = ("*.toml", "*.py", "*.safetensors")
#: What models run beside their own folder.
_SHARED = ("contract.py", "explain.py", "layers.py", "lungs.py", "masks.py", "network.py", "sampling.py")
_GATE = "gate"  # folder of what decides whether a scan is let through, for models whose card asks for it
#: What a card may ask for; models.generator draws the same, but loading it would load scipy.
_REGIONS = ("chest", "abdomen", "pelvis", "head", "neck", "legs", "object")
_PHASES = ("none", "arterial", "venous")
_INPUT = {"regions": _REGIONS, "phases": _PHASES}
_KINDS = ("segmentation", "detection")
_QUALIFICATIONS = ("PRODUCT", "RESEARCH", "SERVICE")  # ContentQualification (0018,9004), PS3.3 C.8.13.2.1.1


class CardError(ValueError):
    """A card is incomplete or wrong; the message names its file and field."""


@cache
def card_names() -> tuple[str, ...]:
    """Return the names of all models, in alphabetical order."""
    return tuple(sorted(file.parent.name.replace("_", "-") for file in _HERE.glob("*/card.toml")))


def cards() -> tuple[Card, ...]:
    """Return the cards of all models."""
    return tuple(card(name) for name in card_names())


@cache
def card(name: str) -> Card:
    """Return the card of the model of that name; KeyError where there is none."""
    file = _folder(name) / "card.toml"
    try:
        read = _card(tomllib.loads(file.read_text(encoding="utf-8")))
    except KeyError as why:
        raise CardError(f"{file}: {why.args[0]} is missing") from why
    except (TypeError, ValueError) as why:  # a broken TOML file is a ValueError too
        raise CardError(f"{file}: {why}") from why
    if read.name != name:
        raise CardError(f"{file}: name is {read.name!r}, but the folder says {name!r}")
    for other in read.builds_on:
        if other == name or other not in card_names():
            raise CardError(f"{file}: builds_on names {other!r}, which is no other model")
    return read


def _card(values: dict[str, Any]) -> Card:
    segments, sites = tuple(map(_kind, values["segment"])), tuple(map(_kind, values.get("site", [])))
    maps = tuple(map(_map, values.get("map", [])))
    keys = [kind.key for kind in (*segments, *sites)]
    if not segments or len(set(keys)) < len(keys):
        raise ValueError(f"segments and sites need one key each, and there must be a segment: {keys}")
    if len({kind.key for kind in maps}) < len(maps):
        raise ValueError(f"maps need one key each: {[kind.key for kind in maps]}")
    return Card(
        name=values["name"], title=values["title"], version=values["version"],
        kind=_one_of(_KINDS, values["kind"], "kind"), purpose=values["purpose"], modality=values["modality"],
        segments=segments, sites=sites, maps=maps, limits=tuple(values["limits"]),
        figures=tuple((one["data"], one["measure"], float(one["value"])) for one in values.get("figure", [])),
        qualification=_one_of(_QUALIFICATIONS, values["qualification"], "qualification"),
        window=_window(values.get("window")), processor=bool(values.get("processor", True)),
        builds_on=tuple(values.get("builds_on", [])),
        **_input(values.get("input", {})),
    )  # fmt: skip


def _window(values: list[Any] | None) -> tuple[float, float] | None:
    if values is None:
        return None
    if len(values) != 2 or not all(isinstance(one, int | float) for one in values) or values[1] <= 0:
        raise ValueError(f"window is {values}, not a centre and a width above 0")
    return float(values[0]), float(values[1])


def _input(values: dict[str, Any]) -> dict[str, frozenset[str]]:
    """Return the fields of the [input] table: without regions there is no gate that could tell a phase."""
    for name in values:
        if name not in _INPUT:
            raise ValueError(f"input.{name} is no key; here belong {', '.join(_INPUT)}")
    if "phases" in values and "regions" not in values:
        raise ValueError("input.phases needs input.regions, of scans that show the phase")
    return {name: _names(values, name, allowed) for name, allowed in _INPUT.items()}


def _names(values: dict[str, Any], name: str, allowed: tuple[str, ...]) -> frozenset[str]:
    """Return what the [input] table asks for under *name*; nothing where it is not there."""
    if name not in values:
        return frozenset()
    given = values[name]
    if not isinstance(given, list) or not given:
        raise ValueError(f"input.{name} is {given!r}, not a list of {', '.join(allowed)}")
    return frozenset(_one_of(allowed, one, f"one of input.{name}") for one in given)


def _one_of(allowed: tuple[str, ...], value: str, field: str) -> str:
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}, not one of {', '.join(allowed)}")
    return value


@cache
def digest(name: str) -> str:
    """Return a SHA-256 over everything that decides what the model answers: card, code, weights.

    Those of the models that it builds on, and of the gate that it asks for, are among them.
    """
    files = [_HERE / shared for shared in _SHARED]
    gate = [_HERE / _GATE] if card(name).regions else []
    for folder in (*map(_folder, (name, *_foundations(name))), *gate):
        files += (file for part in _PARTS for file in sorted(folder.glob(part)))
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(_HERE)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def _foundations(name: str) -> list[str]:
    """Return the models that the model of that name builds on, and those that they build on, each once."""
    found: list[str] = []
    asked = list(card(name).builds_on)
    while asked:
        other = asked.pop(0)
        if other not in (name, *found):
            found.append(other)
            asked += card(other).builds_on
    return sorted(found)


def load(name: str, device: str) -> Model:
    """Return the model, ready to run on the torch *device*."""
    module = importlib.import_module(f"models.{_folder(name).name}.model")
    return cast(Model, module.load(device))


def _folder(name: str) -> Path:
    if name not in card_names():
        raise KeyError(f"there is no model {name!r}")
    return _HERE / name.replace("-", "_")


def _kind(values: dict[str, Any]) -> SegmentKind:
    colour = values["colour"]
    if len(colour) != 3 or not all(isinstance(one, int) and 0 <= one <= 255 for one in colour):
        raise ValueError(f"the colour of {values['key']!r} is {colour}, not three whole numbers from 0 to 255")
    return SegmentKind(
        key=values["key"], label=values["label"], category=Code(**values["category"]), type=Code(**values["type"]),
        colour=(colour[0], colour[1], colour[2]),
        site=Code(**values["site"]) if "site" in values else None,
        laterality=Code(**values["laterality"]) if "laterality" in values else None,
    )  # fmt: skip


def _map(values: dict[str, Any]) -> MapKind:
    quantity, unit = Code(**values["quantity"]), Code(**values["unit"])
    if unit.scheme != "UCUM":
        raise ValueError(f"the unit of {values['key']!r} is of {unit.scheme!r}; units are of UCUM")
    return MapKind(key=values["key"], label=values["label"], quantity=quantity, unit=unit)
