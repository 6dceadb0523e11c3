"""Active sampling: which of many convolutions to measure next, given a model trained on those measured so far."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from selector.collect.sources import Candidate
from selector.target import TargetProfile
from selector.workload import ConvWorkload


class Predictor(Protocol):
    """A model that knows how sure it is."""

    def predict(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log2(t_int16 / t_int8), each (len(workloads),) float."""


def active(model: Predictor, pool: Sequence[Candidate], count: int, target: TargetProfile) -> list[Candidate]:
    """The ``count`` candidates with the largest expected regret, best first.

    The kinds of convolutions take turns in proportion to the square root of their number in the pool, so that a kind
    the model finds hard throughout does not take every place.  Ties keep the order of the pool.
    """
    if not pool:
        return []
    mean, deviation = model.predict([candidate.workload for candidate in pool], target)
    regret = expected_regret(np.asarray(mean, float), np.asarray(deviation, float))
    queues: dict[str, list[int]] = {}
    for index in np.argsort(-regret, kind="stable"):
        queues.setdefault(pool[index].workload.kind, []).append(int(index))
    turns = [
        ((place + 1) / math.sqrt(len(queue)), -regret[index], index)
        for queue in queues.values()
        for place, index in enumerate(queue)
    ]
    return [pool[index] for _, _, index in sorted(turns)[:count]]


def expected_regret(mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Expected log2 slowdown of following the sign of ``mean`` where the truth is normal around it.

    ``E[max(0, -x)]`` for ``x`` normal with mean ``|mean|``: large where the sign is in doubt and a mistake is dear.
    """
    safe = np.maximum(deviation, 1e-12)
    z = np.abs(mean) / safe
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    tail = np.array([0.5 * math.erfc(value / math.sqrt(2)) for value in z])
    return safe * density - np.abs(mean) * tail
