"""Boosted trees on log2(t_int16 / t_int8): sample weights, hyper-parameters, an ensemble over bags of shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import lightgbm
import numpy as np

from selector.features import TABLE
from selector.learn import splits
from selector.learn.dataset import Dataset
from selector.learn.metrics import efficiency
from selector.learn.recipe import Boosting, Recipe, Weights
from selector.policy.roofline import RATIO, prior

_BINS = 63  # of a feature; more cost time and change nothing that measurements can tell
WORKERS = 2  # threads that train different boosters; each booster is trained by one

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Ensemble:
    """Boosters whose mean, added to the prior, is the prediction and whose spread says how sure it is."""

    members: tuple[lightgbm.Booster, ...]
    boosting: Boosting
    prior: float  # share of the roofline's answer that they start from

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation over the members of log2(t_int16 / t_int8), each (rows,) float64."""
        each = np.stack([member.predict(features, num_threads=1) for member in self.members])
        return each.mean(axis=0) + prior(features, self.prior), each.std(axis=0)

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Shapley values of each feature, (rows, features + 1) float64; the last column is the expected value."""
        each = [member.predict(features, pred_contrib=True, num_threads=1) for member in self.members]
        values: np.ndarray = np.mean(each, axis=0)
        values[:, RATIO] += prior(features, self.prior)
        return values

    def texts(self) -> list[str]:
        """The members as LightGBM text models."""
        return [member.model_to_string() for member in self.members]


def sample_weights(dataset: Dataset, weights: Weights) -> np.ndarray:
    """Weight of each row, (rows,) float64 with mean 1.

    A mistake costs |r|, the log2 ratio, and is made where the prediction is off by as much, the chance of which falls
    as 1 / r²: what an error of the prediction costs falls as 1 / |r|.  ``floor`` keeps labels near zero, which are
    mostly noise, from counting without bound.
    """
    cost = 1 / (np.abs(dataset.log2_ratio) + weights.floor)
    certainty = 1 / (1 + (dataset.width / weights.width) ** 2)
    product = cost * certainty
    return product / product.mean()


def fit(dataset: Dataset, recipe: Recipe, boosting: Boosting) -> Ensemble:
    """Train the ensemble.  The same data set and recipe give the same text models, byte for byte."""
    bags = _bags(dataset.shapes, recipe)

    def member(number: int) -> lightgbm.Booster:
        return _booster(dataset.take(bags[number]), recipe, boosting, seed=recipe.seed + number)

    return Ensemble(tuple(member(number) for number in range(recipe.members)), boosting, recipe.prior)


def tune(dataset: Dataset, recipe: Recipe) -> Boosting:
    """Hyper-parameters with the least regret on held-out shapes of this data set, the recipe's own among the tried."""
    tuning = recipe.tuning
    if tuning.trials < 1 or not tuning.space:
        return recipe.boosting
    import optuna

    folds = splits.by_shape(dataset, tuning.folds, recipe.seed)
    parts = [(dataset.take(fold.train), dataset.take(fold.test)) for fold in folds]

    def regret(trial: optuna.Trial) -> float:
        boosting = replace(recipe.boosting, **_suggest(trial, recipe))
        lost = []
        for train, test in parts:
            one = Ensemble((_booster(train, recipe, boosting, seed=recipe.seed),), boosting, recipe.prior)
            predicted, _ = one.predict(test.features)
            lost.append(1 - efficiency(test.log2_ratio, predicted < 0))
        return float(np.concatenate(lost).mean())

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=recipe.seed))
    defaults = asdict(recipe.boosting)
    study.enqueue_trial({name: defaults[name] for name in tuning.space})
    study.optimize(regret, n_trials=tuning.trials)
    return replace(recipe.boosting, **_suggest(optuna.trial.FixedTrial(study.best_params), recipe))


def parallel(function: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """``function`` of every item, in order, on WORKERS threads: LightGBM trains outside of Python's lock."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(function, items))


def _suggest(trial: Any, recipe: Recipe) -> dict[str, Any]:
    """Values of one trial; whole numbers and positive ranges are searched on a logarithmic scale."""
    defaults = asdict(recipe.boosting)
    values: dict[str, Any] = {}
    for name, (low, high) in recipe.tuning.space.items():
        if isinstance(defaults[name], int):
            values[name] = trial.suggest_int(name, int(low), int(high), log=low > 0)
        else:
            values[name] = trial.suggest_float(name, low, high, log=low > 0)
    return values


def _bags(shapes: np.ndarray, recipe: Recipe) -> list[np.ndarray]:
    """Rows of each member's bag: whole shapes, so that members disagree where shapes are rare."""
    names = np.unique(shapes)
    rng = np.random.default_rng(recipe.seed)
    size = max(1, round(recipe.bag * len(names)))
    return [np.flatnonzero(np.isin(shapes, rng.choice(names, size, replace=False))) for _ in range(recipe.members)]


def _booster(dataset: Dataset, recipe: Recipe, boosting: Boosting, seed: int) -> lightgbm.Booster:
    names = [feature.name for feature in TABLE]
    parameters = {
        **asdict(boosting),
        "objective": "regression",
        "monotone_constraints": [recipe.monotone.get(name, 0) for name in names],
        "max_bin": _BINS,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(
        dataset.features,
        label=dataset.log2_ratio - prior(dataset.features, recipe.prior),
        weight=sample_weights(dataset, recipe.weights),
        feature_name=names,
        params={"verbosity": -1, "max_bin": _BINS},
    )
    return lightgbm.train(parameters, data)
