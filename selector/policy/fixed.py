"""The same lowering for every convolution."""

from __future__ import annotations

from dataclasses import dataclass

from selector.policy.base import Decision, LoweringName
from selector.target import TargetProfile
from selector.workload import ConvWorkload


@dataclass(frozen=True)
class Fixed:
    """Policies ``int8`` and ``int16``."""

    lowering: LoweringName

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """Always ``self.lowering``."""
        return Decision(self.lowering, source=self.lowering, reason="asked for by the user")
