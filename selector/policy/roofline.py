"""Policy ``roofline``: the analytic model alone, without anything learned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selector import features
from selector.policy.base import Decision
from selector.target import TargetProfile
from selector.workload import ConvWorkload

_INT8, _INT16, RATIO = (features.NAMES.index(name) for name in ("int8_time", "int16_time", "ratio_time"))


class Roofline:
    """The lowering whose time is less: the longer of computing and moving data, on the target's own rates."""

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """One layer's decision."""
        return self.decide_all([workload], target)[0]

    def decide_all(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> list[Decision]:
        """The decisions of a whole network."""
        return [decision(row) for row in features.matrix(workloads, target)]


def decision(row: np.ndarray) -> Decision:
    """What the analytic model makes of one row of ``selector.features.matrix``."""
    ratio = float(row[RATIO])
    reason = f"modelled int8 {2 ** row[_INT8]:.1f} us, int16 {2 ** row[_INT16]:.1f} us"
    return Decision("int16" if ratio < 0 else "int8", source="roofline", reason=reason, log2_ratio=ratio)
