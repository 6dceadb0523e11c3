"""Training as a whole: held-out evaluation first, then one model from all rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selector import profiles
from selector.learn import model
from selector.learn.dataset import Dataset
from selector.learn.evaluation import Evaluation, evaluate
from selector.learn.fallback import shipped
from selector.learn.model import Ensemble
from selector.learn.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """A model and how good it is where it was not trained."""

    dataset: Dataset
    recipe: Recipe
    ensemble: Ensemble  # from all rows
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
    ensemble = model.fit(dataset, recipe, model.tune(dataset, recipe))
    alike = {}
    if modelled is not None:
        first, second = (shipped(ensemble, dataset, data, recipe.thresholds) for data in (dataset, modelled))
        alike = agreement(dataset, first, second)
    return Trained(dataset, recipe, ensemble, evaluation, alike, time.monotonic() - start)


def agreement(dataset: Dataset, first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Share of the rows of each target for which two policies choose the same; choices are (rows,) bool."""
    return {str(name): float((first == second)[dataset.targets == name].mean()) for name in np.unique(dataset.targets)}


def _modelled(dataset: Dataset) -> Dataset | None:
    """The rows of the targets that have modelled profiles, with these; None where none has."""
    folder = profiles.modelled_folder()
    known = [str(name) for name in np.unique(dataset.targets) if (folder / f"{name}.json").is_file()]
    return dataset.with_profiles(folder, known) if known else None
