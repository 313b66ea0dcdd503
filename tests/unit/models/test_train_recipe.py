"""Recipes: what is not known is refused by name, and those that ship can be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import models.train
from models.network import UNetSettings
from models.train.recipe import RecipeError, read_recipe, recipe_of

RECIPES = sorted((Path(models.train.__file__).parent / "recipes").glob("*.toml"))


def values() -> dict[str, Any]:
    """Return the least that makes a recipe."""
    return {
        "task": "lung", "seed": 1, "network": {"channels": 8},
        "data": {"bodies": 2, "validation_bodies": 1, "spacing": [3, 3.0, 3.0]},
        "training": {"batch": 2, "steps": 1, "epochs": 1},
    }  # fmt: skip


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_that_ships_is_one(file: Path) -> None:
    """Each names a task, and a CPU recipe keeps to its ten minutes and to float32."""
    recipe = read_recipe(file)
    if file.stem.endswith("-cpu"):
        assert recipe.training.precision == "float32"
        assert 0 < recipe.training.minutes <= 10


def test_values_are_taken_as_they_stand() -> None:
    """Whole numbers serve as fractions, lists as rows; the rest has its default."""
    recipe = recipe_of(values())
    assert recipe.network == UNetSettings(channels=8)
    assert recipe.data.spacing == (3.0, 3.0, 3.0)
    assert recipe.training.rate == 1e-3


@pytest.mark.parametrize(
    ("table", "key", "value", "words"),
    [
        ("", "colour", 1, "colour is no key"),
        ("training", "rat", 1.0, r"training\.rat is no key of a recipe.*rate"),
        ("network", "depth", 1, r"network\.depth is no key"),
        ("training", "steps", "many", r"training\.steps is 'many', not of type int"),
        ("training", "batch", True, r"training\.batch is True, not of type int"),
        ("training", "batch", 0, "batch"),
        ("training", "schedule", "linear", "schedule is 'linear', not one of cosine, plateau"),
        ("data", "spacing", [3.0, 3.0], r"data\.spacing has 2 values, not 3"),
        ("data", "size", 300, "size is 300"),
        ("", "task", "heart", "task is 'heart', not one of lung"),
        ("", "data", 3, "data is 3, not a table"),
    ],
)
def test_what_is_wrong_is_named(table: str, key: str, value: object, words: str) -> None:
    """A misspelt key must not leave a default in its place."""
    wrong = values()
    (wrong[table] if table else wrong)[key] = value
    with pytest.raises(ValueError, match=words):
        recipe_of(wrong)


def test_what_is_missing_is_named_with_its_file(tmp_path: Path) -> None:
    """The file and the key; a file that is none, and one that is no TOML, too."""
    file = tmp_path / "mine.toml"
    with pytest.raises(RecipeError, match=r"mine\.toml: cannot be read"):
        read_recipe(file)
    file.write_text('task = "lung"\nseed = 1\n[training]\nbatch = 1\nsteps = 1\nepochs = 1\n[network]\n')
    with pytest.raises(RecipeError, match=r"mine\.toml: data is missing"):
        read_recipe(file)
    file.write_text("task = ")
    with pytest.raises(RecipeError, match=r"mine\.toml: "):
        read_recipe(file)
