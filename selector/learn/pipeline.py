"""Training as a whole: held-out evaluation first, then one model from all rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from selector.learn import model
from selector.learn.dataset import Dataset
from selector.learn.evaluation import Evaluation, evaluate
from selector.learn.model import Ensemble
from selector.learn.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """A model and how good it is where it was not trained."""

    dataset: Dataset
    recipe: Recipe
    ensemble: Ensemble  # from all rows
    evaluation: Evaluation  # of models made the same way without the rows that they are held against
    seconds: float


def train(dataset: Dataset, recipe: Recipe, progress: Callable[[str, float], None] | None = None) -> Trained:
    """Evaluate the recipe on held-out rows and train on all of them; ``progress``: see ``evaluate``.

    Raises DatasetError for too few shapes.
    """
    start = time.monotonic()
    evaluation = evaluate(dataset, recipe, progress)
    ensemble = model.fit(dataset, recipe, model.tune(dataset, recipe))
    return Trained(dataset, recipe, ensemble, evaluation, time.monotonic() - start)
