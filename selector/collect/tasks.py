"""From candidates to tasks: for every target, what the dataset does not have yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np

from selector import features
from selector.collect.active import Predictor, active
from selector.collect.record import measurement_key
from selector.collect.sources import Candidate
from selector.collect.worker import Task
from selector.policy.release import Release
from selector.target import TargetLike, TargetProfile, profile
from selector.workload import ConvWorkload

_DEVIATIONS = 2.56  # of a normal distribution, that an interval of 80 % is wide
_UNKNOWN = 0.5  # log2, where the model has no interval


@dataclass(frozen=True)
class ReleasedModel:
    """A released model as active sampling asks it."""

    release: Release

    def predict(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log2(t_int16 / t_int8), each (len(workloads),) float64."""
        layers = features.describe(workloads, target)
        judged, rows = self.release.model.judge(layers, target), list(layers.row_of)
        width = np.where(np.isnan(judged.low), _UNKNOWN, judged.high - judged.low)
        return judged.ratio[rows], width[rows] / _DEVIATIONS


def pending(
    candidates: Sequence[Candidate],
    targets: Mapping[str, TargetLike],
    finished: Set[str],
    model: Predictor | None = None,
    count: int | None = None,
) -> list[Task]:
    """Tasks whose keys are not ``finished``; those of one convolution next to each other.

    ``targets``: name in the dataset -> target.  With a ``model``, only the ``count`` candidates of each target that it
    is likely to be most wrong about, these first.
    """
    lists = []
    for name, target in targets.items():
        left = [item for item in candidates if measurement_key(item.workload, name) not in finished]
        if model is not None:
            left = active(model, left, len(left) if count is None else count, profile(target))
        lists.append([Task(item.workload, target, name, item.networks) for item in left])
    return [task for task in chain.from_iterable(zip_longest(*lists)) if task is not None]
