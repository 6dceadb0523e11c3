"""Recipes from TOML, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import pytest

from selector.features import NAMES
from selector.learn import recipe
from selector.learn.errors import RecipeError

DEFAULT = Path(__file__).parents[2] / "training/recipes/default.toml"


def test_default_recipe() -> None:
    made = recipe.load(DEFAULT)
    assert made.name == "default"
    assert set(made.monotone) <= set(NAMES)
    for name, (low, high) in made.tuning.space.items():
        assert low <= getattr(made.boosting, name) <= high


def test_entries_replace_defaults() -> None:
    made = recipe.parse(
        "mine", {"prior": 0.5, "boosting": {"num_leaves": 5}, "tuning": {"space": {"lambda_l2": [1, 2]}}}
    )
    assert (made.name, made.prior, made.boosting.num_leaves) == ("mine", 0.5, 5)
    assert made.tuning.space == {"lambda_l2": (1, 2)}
    assert made.boosting.learning_rate == recipe.Boosting().learning_rate


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("seed = ", "not valid TOML"),
        ("colour = 'red'", "unknown field 'colour'"),
        ("[boosting]\nnum_leafs = 3", "unknown field 'num_leafs'"),
        ("[tuning.space]\nnum_leafs = [1, 2]", "no hyper-parameter: num_leafs"),
        ("[tuning.space]\nnum_leaves = 3", "cannot be used"),
        ("folds = 1", r"Expected `int` >= 2 - at `\$\.folds`"),
        ("prior = 2.0", r"Expected `float` <= 1\.0 - at `\$\.prior`"),
        ("[monotone]\nno_such_feature = 1", "no_such_feature"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, fragment: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=fragment) as error:
        recipe.load(path)
    assert str(path) in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        recipe.load(tmp_path / "absent.toml")
