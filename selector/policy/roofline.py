"""Policy ``roofline``: the analytic model alone, without anything learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector import features
from selector.policy.base import Decision, rates_of
from selector.target import TargetProfile
from selector.workload import ConvWorkload

_INT8, _INT16, RATIO = (features.NAMES.index(name) for name in ("int8_time", "int16_time", "ratio_time"))


_LIMIT = 2.0  # log2: beyond it the model is wrong rather than the ratio as large


class Roofline:
    """The lowering whose time is less: the longer of computing and moving data, on the target's own rates."""

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """One layer's decision."""
        return self.decide_all([workload], target)[0]

    def decide_all(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> list[Decision]:
        """The decisions of a whole network."""
        return [decision(row, target) for row in features.matrix(workloads, target)]


def prior(rows: np.ndarray, share: float) -> np.ndarray:
    """What a learned model starts from: a share of log2(t_int16 / t_int8) by the analytic model, (rows,) float64.

    ``rows``: (rows, features) as ``selector.features.matrix`` gives them.  Trees learn what it leaves, and where they
    have seen little it stays.
    """
    return np.clip(rows[:, RATIO], -_LIMIT, _LIMIT) * share


def decision(row: np.ndarray, target: TargetProfile) -> Decision:
    """What the analytic model makes of one row of ``selector.features.matrix`` for the target."""
    ratio, rates = float(row[RATIO]), rates_of(target)
    reason = f"int8 {2 ** row[_INT8]:.1f} us, int16 {2 ** row[_INT16]:.1f} us from {rates} rates"
    return Decision("int16" if ratio < 0 else "int8", source="roofline", reason=reason, log2_ratio=ratio, rates=rates)
