"""Which models there are. Cards are read without importing a model, so that the node runs without torch."""

from __future__ import annotations

import hashlib
import importlib
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, cast

from models.contract import Card, Code, Model, SegmentKind

_HERE = Path(__file__).parent
_PARTS = ("*.toml", "*.py", "*.safetensors")
_SHARED = ("contract.py", "lungs.py")  # what the models' own folders build on


class CardError(ValueError):
    """A card is incomplete; the message names its file and field."""


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
    values = tomllib.loads(file.read_text(encoding="utf-8"))
    try:
        return Card(
            name=values["name"], title=values["title"], version=values["version"], kind=values["kind"],
            purpose=values["purpose"], modality=values["modality"],
            segments=tuple(_kind(one) for one in values["segment"]),
            sites=tuple(_kind(one) for one in values.get("site", [])),
            limits=tuple(values["limits"]),
            figures=tuple((one["data"], one["measure"], float(one["value"])) for one in values.get("figure", [])),
            qualification=values["qualification"],
        )  # fmt: skip
    except KeyError as why:
        raise CardError(f"{file}: {why.args[0]} is missing") from why


@cache
def digest(name: str) -> str:
    """Return a SHA-256 over everything that decides what the model answers: card, code, weights."""
    folder = _folder(name)
    files = [*(_HERE / shared for shared in _SHARED), *(file for part in _PARTS for file in sorted(folder.glob(part)))]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(_HERE)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()


def load(name: str, device: str) -> Model:
    """Return the model, ready to run on the torch *device*."""
    module = importlib.import_module(f"models.{_folder(name).name}.model")
    return cast(Model, module.load(device))


def _folder(name: str) -> Path:
    if name not in card_names():
        raise KeyError(f"there is no model {name!r}")
    return _HERE / name.replace("-", "_")


def _kind(values: dict[str, Any]) -> SegmentKind:
    red, green, blue = values["colour"]
    return SegmentKind(
        key=values["key"], label=values["label"], category=Code(**values["category"]), type=Code(**values["type"]),
        colour=(int(red), int(green), int(blue)),
        site=Code(**values["site"]) if "site" in values else None,
        laterality=Code(**values["laterality"]) if "laterality" in values else None,
    )  # fmt: skip
