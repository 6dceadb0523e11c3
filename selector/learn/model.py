"""Boosted trees on log2(t_int16 / t_int8): sample weights, hyper-parameters, and how far the trees are followed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import lightgbm
import numpy as np

from selector.features import NAMES, RATIO
from selector.learn import splits
from selector.learn.dataset import Dataset
from selector.learn.metrics import efficiency
from selector.learn.recipe import Boosting, Recipe, Weights
from selector.lowering import conv
from selector.policy.forest import Forest
from selector.policy.model import BOUNDED, LEAST_TRUST, Intervals, Model, prior

_BINS = 63  # of a feature; more cost time and change nothing that measurements can tell
_TRUSTS = np.round(np.linspace(LEAST_TRUST, 1, 10), 2)
_TRUST_ROWS = 25  # of a form on one CPU, that say something about the trust
# Where the loops of both lowerings run at about the same rate (log2), which one is faster depends on details that the
# features do not have: direct kernels of psign lose by it on Zen 3 and win on Emerald Rapids and Zen 4.
_EVEN, _EVEN_TRUST = 0.3, 0.2
_INTERVAL_POINTS, _INTERVAL_ROWS = 20, 50  # points of the intervals, and the fewest rows that make one
WORKERS = 2  # threads that train different boosters; each booster is trained by one


T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Fitted:
    """Trees, and the model that they make together with what they were trained on."""

    trees: str  # LightGBM's text model
    boosting: Boosting
    model: Model

    def contributions(self, features: np.ndarray) -> np.ndarray:
        """Shapley values of each feature, (rows, features + 1) float64; the last column is the expected value."""
        booster = lightgbm.Booster(model_str=self.trees)
        values = np.asarray(booster.predict(features, pred_contrib=True, num_threads=1))
        values[:, RATIO] += prior(features, self.model.prior)
        return values


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


def fit(dataset: Dataset, recipe: Recipe, boosting: Boosting, trust: Mapping[str, float] | None = None) -> Fitted:
    """Train on all rows.  The same data set and recipe give the same text model, byte for byte.

    ``trust``: see ``selector.policy.model.Model``; None: the least.
    """
    trees = _booster(dataset, recipe, boosting).model_to_string()
    columns = {name: dataset.features[:, NAMES.index(name)] for name in BOUNDED}
    model = Model(
        forest=Forest.parse(trees),
        prior=recipe.prior,
        dots=frozenset(name for pair in dataset.layers.dots for name in pair),
        cpus=frozenset(map(str, dataset.cpus)),
        ranges={name: (float(column.min()), float(column.max())) for name, column in columns.items()},
        trust=dict(trust or {}),
    )
    return Fitted(trees, boosting, model)


def fit_trust(dataset: Dataset, recipe: Recipe, boosting: Boosting) -> dict[str, float]:
    """Form of a layer -> the trust in the trees that loses least on CPUs left out, each CPU counting as much.

    Forms that no two CPUs have are missing: nothing says how far the trees carry over.
    """
    lost: dict[str, list[np.ndarray]] = {}
    for fold in splits.by_cpu(dataset):
        test = dataset.take(fold.test)
        made = fit(dataset.take(fold.train), recipe, boosting).model
        trees, roofline = made.predict(test.features), test.layers.roofline
        decided = np.array([not why for why in test.judge(made).fallback])
        forms = np.array(test.layers.forms)
        for form in np.unique(forms[decided]):
            rows = (forms == form) & decided
            if rows.sum() >= _TRUST_ROWS:
                blends = np.outer(_TRUSTS, trees[rows]) + np.outer(1 - _TRUSTS, roofline[rows])
                efficient = [efficiency(test.log2_ratio[rows], blend < 0).mean() for blend in blends]
                lost.setdefault(str(form), []).append(1 - np.array(efficient))
    most = {form: _EVEN_TRUST if _is_even(dataset, form) else 1.0 for form in lost}
    found = {form: float(_TRUSTS[np.argmin(np.mean(parts, axis=0))]) for form, parts in sorted(lost.items())}
    return {form: min(trust, most[form]) for form, trust in found.items()}


def _is_even(dataset: Dataset, form: str) -> bool:
    """Whether direct kernels of this form run their loops at about the same rate under both lowerings."""
    rates = dataset.features[[each == form for each in dataset.layers.forms], NAMES.index("ratio_loop_rate")]
    return form.startswith(f"{conv.NAME} ") and abs(float(np.median(rates))) < _EVEN


def fit_intervals(predicted: np.ndarray, measured: np.ndarray) -> Intervals | None:
    """Intervals that hold 80 % of the measured ratios, (rows,) each, of rows that were held out; None: too few rows."""
    count = min(_INTERVAL_POINTS, len(predicted) // _INTERVAL_ROWS)
    if not count:
        return None
    size = np.abs(predicted)
    beyond = (measured - predicted) * np.where(predicted >= 0, 1.0, -1.0)  # above 0: further from zero than predicted
    groups = np.array_split(np.argsort(size, kind="stable"), count)
    ends = np.array([np.quantile(beyond[group], (0.1, 0.9)) for group in groups])
    return Intervals(
        at=tuple(float(np.median(size[group])) for group in groups),
        nearer=tuple((-ends[:, 0]).tolist()),
        further=tuple(ends[:, 1].tolist()),
    )


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
            predicted = fit(train, recipe, boosting).model.predict(test.features)
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


def _booster(dataset: Dataset, recipe: Recipe, boosting: Boosting) -> lightgbm.Booster:
    parameters = {
        **asdict(boosting),
        "objective": "regression",
        "monotone_constraints": [recipe.monotone.get(name, 0) for name in NAMES],
        "max_bin": _BINS,
        "seed": recipe.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(
        dataset.features,
        label=dataset.log2_ratio - prior(dataset.features, recipe.prior),
        weight=sample_weights(dataset, recipe.weights),
        feature_name=list(NAMES),
        params={"verbosity": -1, "max_bin": _BINS},
    )
    return lightgbm.train(parameters, data)
