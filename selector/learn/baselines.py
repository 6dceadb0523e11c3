"""What a learned policy has to beat: fixed choices, rules, the roofline, and the simplest learned models."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from selector.learn.dataset import Dataset
from selector.policy.base import Policy
from selector.policy.fixed import Fixed
from selector.policy.rule import Rule

# both give (rows,) bool: true where int16 is chosen
Known = Callable[[Dataset], np.ndarray]
Fitted = Callable[[Dataset, Dataset], np.ndarray]  # (train, test) -> choices on test


def choices(policy: Policy, dataset: Dataset) -> np.ndarray:
    """What a policy chooses, (rows,) bool: true where int16 is."""
    chosen = np.empty(len(dataset), bool)
    for rows, target in dataset.by_profile():
        workloads = [dataset.workloads[row] for row in rows]
        decide_all = getattr(policy, "decide_all", None)
        decisions = (
            [policy.decide(work, target) for work in workloads] if decide_all is None else decide_all(workloads, target)
        )
        chosen[rows] = [decision.lowering == "int16" for decision in decisions]
    return chosen


def expert(dataset: Dataset) -> np.ndarray:
    """What a person who knows the kernels would write down: int16 for 3×3 at stride 1 (Winograd), int8 for the rest."""
    return np.array(
        [
            work.kernel_height == work.kernel_width == 3 and work.stride == (1, 1) and work.groups == 1
            for work in dataset.workloads
        ]
    )


def logistic_regression(train: Dataset, test: Dataset) -> np.ndarray:
    """Which lowering is faster as a linear function of the features, rows weighted by what a mistake costs."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train.log2_ratio < 0)) < 2:
        return np.full(len(test), train.log2_ratio[0] < 0)
    model = make_pipeline(StandardScaler(), LogisticRegression(solver="newton-cholesky", max_iter=100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged: it stays a baseline
        model.fit(
            train.features, train.log2_ratio < 0, logisticregression__sample_weight=np.abs(train.log2_ratio) + 1e-6
        )
    return np.asarray(model.predict(test.features), bool)


def decision_tree(train: Dataset, test: Dataset) -> np.ndarray:
    """One small regression tree, as a person could still read it."""
    from sklearn.tree import DecisionTreeRegressor

    model = DecisionTreeRegressor(max_leaf_nodes=16, min_samples_leaf=10, random_state=0)
    model.fit(train.features, train.log2_ratio)
    return np.asarray(model.predict(test.features) < 0)


KNOWN: dict[str, Known] = {
    "int8": lambda dataset: choices(Fixed("int8"), dataset),
    "int16": lambda dataset: choices(Fixed("int16"), dataset),
    "rule": lambda dataset: choices(Rule(), dataset),
    "expert": expert,
    "roofline": lambda dataset: dataset.layers.roofline < 0,
}
FITTED: dict[str, Fitted] = {"logistic": logistic_regression, "tree": decision_tree}
NAMES = (*KNOWN, *FITTED)
