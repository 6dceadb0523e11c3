"""Where policy ``learned`` would not follow a model: what is evaluated is the policy as it is released."""

from __future__ import annotations

import numpy as np

from selector.learn.dataset import Dataset
from selector.learn.model import Ensemble
from selector.policy.release import Thresholds
from selector.policy.roofline import RATIO


def shipped(ensemble: Ensemble, train: Dataset, test: Dataset, thresholds: Thresholds) -> np.ndarray:
    """Choices of policy ``learned`` with this ensemble, (rows of test,) bool: true where int16 is chosen.

    The roofline decides for instruction sets that were not trained on, features far outside of their range in
    training, and predictions too close to zero (see ``selector.policy.release.Thresholds``).
    """
    mean, spread = ensemble.predict(test.features)
    unsure = thresholds.unsure(mean, spread)
    doubtful = unsure | _unseen_target(train, test) | _out_of_range(ensemble, train, test, thresholds)
    return np.where(doubtful, test.features[:, RATIO] < 0, mean <= 0)


def _unseen_target(train: Dataset, test: Dataset) -> np.ndarray:
    known, sets = set(train.instruction_sets().values()), test.instruction_sets()
    return np.array([sets[str(name)] not in known for name in test.targets])


def _out_of_range(ensemble: Ensemble, train: Dataset, test: Dataset, thresholds: Thresholds) -> np.ndarray:
    used = np.any([member.feature_importance("split") > 0 for member in ensemble.members], axis=0)
    low, high = train.features[:, used].min(axis=0), train.features[:, used].max(axis=0)
    outside, _ = thresholds.outside(test.features[:, used], low, high)
    return outside
