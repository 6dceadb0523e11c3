"""Policy ``roofline``: the analytic model alone, without anything learned."""

from __future__ import annotations

from collections.abc import Sequence

from selector import features
from selector.features import Layers
from selector.policy.base import Decision, rates_of
from selector.target import TargetProfile
from selector.workload import ConvWorkload


class Roofline:
    """The lowering whose time is less: the longer of computing and moving data, on the target's own rates."""

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """One layer's decision."""
        return self.decide_all([workload], target)[0]

    def decide_all(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> list[Decision]:
        """The decisions of a whole network."""
        layers = features.describe(workloads, target)
        decisions = [decision(layers, row, target) for row in range(len(layers.x))]
        return [decisions[row] for row in layers.row_of]


def decision(layers: Layers, row: int, target: TargetProfile) -> Decision:
    """What the analytic model makes of one row of ``layers``, which were described for the target."""
    ratio, rates = float(layers.roofline[row]), rates_of(target)
    int8, int16 = layers.seconds[row] * 1e6
    reason = f"int8 {int8:.1f} us, int16 {int16:.1f} us from {rates} rates"
    return Decision("int16" if ratio < 0 else "int8", source="roofline", reason=reason, log2_ratio=ratio, rates=rates)
