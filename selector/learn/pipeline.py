"""Training as a whole: held-out evaluation first, then one model from all rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from selector import profiles
from selector.learn import model
from selector.learn.dataset import Dataset
from selector.learn.evaluation import Evaluation, evaluate, intervals
from selector.learn.model import Fitted
from selector.learn.recipe import Boosting, Recipe


@dataclass(frozen=True)
class Trained:
    """A model and how good it is where it was not trained."""

    dataset: Dataset
    recipe: Recipe
    fitted: Fitted  # from all rows
    evaluation: Evaluation  # of models made the same way without the rows that they are held against
    agreement: dict[str, float]  # target -> share of rows decided alike from its measured and its modelled profile
    seconds: float


def train(dataset: Dataset, recipe: Recipe, progress: Callable[[str, float], None] | None = None) -> Trained:
    """Evaluate the recipe on held-out rows and train on all of them; ``progress``: see ``evaluate``.

    Raises DatasetError for too few shapes.
    """
    start = time.monotonic()
    modelled = _modelled(dataset)
    evaluation = evaluate(dataset, recipe, progress, modelled)
    fitted = fit(dataset, recipe, model.tune(dataset, recipe))
    held_out = evaluation.held_out
    unknown = intervals(held_out["cpu"]) if "cpu" in held_out else None
    made = replace(fitted, model=replace(fitted.model, known=intervals(held_out["shape"]), unknown=unknown))
    alike = {}
    if modelled is not None:
        first, second = (data.judge(made.model).int16 for data in (dataset, modelled))
        alike = agreement(dataset, modelled, first, second)
    return Trained(dataset, recipe, made, evaluation, alike, time.monotonic() - start)


def fit(dataset: Dataset, recipe: Recipe, boosting: Boosting) -> Fitted:
    """The model of all rows, without the intervals, which need held-out rows."""
    return model.fit(dataset, recipe, boosting, model.fit_trust(dataset, recipe, boosting))


def agreement(dataset: Dataset, other: Dataset, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Share of the rows for which two policies choose the same, of each target with other rates in the other data set.

    Choices are (rows,) bool.
    """
    return {name: float((first == second)[dataset.targets == name].mean()) for name in sorted(other.rates)}


def _modelled(dataset: Dataset) -> Dataset | None:
    """The rows, with the modelled profiles of the targets that have one; None where none has."""
    try:
        return dataset.with_profiles(profiles.modelled_folder())
    except profiles.ProfileError:
        return None
