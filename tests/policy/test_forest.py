"""The evaluator of boosted trees against LightGBM itself, and what it refuses."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import pytest

from selector.policy.forest import Forest, ForestError

FEATURES = 6


def sample(seed: int, rows: int = 400, *, holes: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features with a share of ``holes`` missing and many exact zeros, and a label."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, FEATURES)) * [1, 1e-3, 1e3, 1, 1, 1]
    x[:, 3] = np.where(rng.random(rows) < 0.4, 0, x[:, 3])
    x[:, 4] = rng.integers(0, 3, rows)
    y = x[:, 0] + np.sin(4 * x[:, 3]) * x[:, 4] + (x[:, 5] > 0) + x[:, 2] / 1e3
    x[rng.random(x.shape) < holes] = np.nan
    return x, y


def train(x: np.ndarray, y: np.ndarray, *, rounds: int = 20, **options: Any) -> lightgbm.Booster:
    """A booster of ``rounds`` trees."""
    settings = {"objective": "regression", "verbose": -1, "num_threads": 1, "min_data_in_leaf": 2, "seed": 1} | options
    data_options = {name: settings.pop(name) for name in ("categorical_feature",) if name in settings}
    return lightgbm.train(settings, lightgbm.Dataset(x, y, **data_options), num_boost_round=rounds)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep": {"num_leaves": 250, "min_data_in_leaf": 1, "rounds": 5},
    "stumps": {"num_leaves": 2, "rounds": 60},
    "missing": {"holes": 0.2},
    "zero is missing": {"holes": 0.1, "zero_as_missing": True},
    "nothing is missing": {"holes": 0.1, "use_missing": False},
    "dart": {"boosting": "dart"},
    "l1": {"objective": "l1"},
    "constant": {"min_data_in_leaf": 1000},
}


@pytest.mark.parametrize("name", CASES)
def test_equals_lightgbm(name: str) -> None:
    options = dict(CASES[name])
    holes = options.pop("holes", 0.0)
    booster = train(*sample(0, holes=holes), **options)
    forest = Forest.parse(booster.model_to_string())
    edges = np.array([[0.0] * FEATURES, [np.nan] * FEATURES, [np.inf] * FEATURES, [-np.inf] * FEATURES, [1e-36] * 6])
    for x in (sample(0, holes=holes)[0], sample(1)[0], sample(2, holes=0.3)[0], edges, edges[:1]):
        np.testing.assert_array_equal(forest.predict(x), booster.predict(x, raw_score=True))


def test_thresholds_themselves_go_left() -> None:
    booster = train(*sample(3), num_leaves=4, rounds=3)
    forest = Forest.parse(booster.model_to_string())
    splits = np.unique(forest.threshold[forest.children[::2] != np.arange(len(forest.feature))])
    x = np.repeat(np.concatenate([splits, np.nextafter(splits, np.inf)])[:, None], FEATURES, axis=1)
    np.testing.assert_array_equal(forest.predict(x), booster.predict(x))


def test_contributions_add_up() -> None:
    x, y = sample(5, holes=0.1)
    forest = Forest.parse(train(x, y).model_to_string())
    changes = forest.explain(x)
    assert changes.shape == x.shape
    np.testing.assert_allclose(changes.sum(axis=1) + forest.bias, forest.predict(x), rtol=0, atol=1e-12)


def test_only_split_features_contribute() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, FEATURES))
    forest = Forest.parse(train(x, np.where(x[:, 2] > 0, 1.0, -1.0), num_leaves=2, rounds=1).model_to_string())
    assert forest.used == (2,)
    changes = forest.explain(x)
    assert not np.delete(changes, 2, axis=1).any()
    assert (np.sign(changes[:, 2]) == np.sign(x[:, 2])).mean() > 0.98


def test_shape_of_features() -> None:
    forest = Forest.parse(train(*sample(7), rounds=1).model_to_string())
    assert forest.predict(np.empty((0, FEATURES))).shape == (0,)
    with pytest.raises(ValueError, match=r"must be \(samples, 6\), got \(3, 5\)"):
        forest.predict(np.zeros((3, 5)))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"categorical_feature": [4]}, "categorical splits: train on numerical"),
        ({"linear_tree": True}, "linear models"),
        ({"boosting": "rf", "bagging_fraction": 0.5, "bagging_freq": 1}, "averages its trees"),
        ({"objective": "multiclass", "num_class": 3}, "one tree an iteration is evaluated, got 3"),
    ],
)
def test_refuses_other_models(options: dict[str, Any], problem: str) -> None:
    x, _ = sample(8)
    booster = train(x, x[:, 4] == 2 if "categorical_feature" in options else x[:, 4], **options)
    with pytest.raises(ForestError, match=problem):
        Forest.parse(booster.model_to_string())


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("end of trees", "", "its end is missing"),
        ("\nTree=1\n", "\nTee=1\n", "1 trees where the header has 2"),
        ("num_leaves=5", "num_leaves=6", "leaf_value needs 6 numbers, got 5"),
        ("num_leaves=5", "num_leaves=0", "has 0 leaves"),
        ("num_leaves=5", "num_leaves=five", "num_leaves holds what is no number"),
        ("internal_value=", "internal_value=~", "internal_value holds what is no number"),
        ("threshold=", "threshold=nan ", "threshold needs 4 numbers, got 5"),
        ("max_feature_idx=5", "max_feature_idx=4", "6 feature names for a max_feature_idx of 4"),
        ("decision_type=2", "decision_type=64", "tree 0 has splits of an unknown kind"),
        ("left_child=1", "left_child=0", "tree 0 has nodes that do not form a tree"),
        ("left_child=1", "left_child=-2", "nodes do not form"),
        ("left_child=1", "left_child=9", "tree 0 has nodes that do not form a tree"),
        ("num_cat=0", "num_cat=1", "tree 0 has categorical splits"),
    ],
)
def test_refuses_damaged_text(old: str, new: str, problem: str) -> None:
    text = train(*sample(9), rounds=2, num_leaves=5).model_to_string()
    assert old in text
    with pytest.raises(ForestError, match=problem):
        Forest.parse(text.replace(old, new, 1))


def test_refuses_numbers_that_are_not_finite() -> None:
    text = train(*sample(9), rounds=2, num_leaves=5).model_to_string()
    first = text.partition("leaf_value=")[2].split()[0]
    with pytest.raises(ForestError, match="leaf_value holds a number that is not finite"):
        Forest.parse(text.replace(f"leaf_value={first}", "leaf_value=inf", 1))
