"""TVM Relay's target-flag heuristic (``is_fast_int8_on_intel``, ``is_fast_int8_on_arm`` and their uses)."""

from __future__ import annotations

from selector.policy.base import Decision
from selector.target import TargetProfile
from selector.workload import ConvWorkload


class Rule:
    """x86: int8 with sse4.2, else int16.  ARM: int8 with dotprod or if not depthwise, int16 with ASIMD alone."""

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """Apply the rule; shapes do not matter to it, except depthwise on ARM."""
        if target.arch == "x86_64":
            if target.has("sse4.2"):
                return Decision("int8", source="rule", reason="x86 with sse4.2")
            return Decision("int16", source="rule", reason="x86 without sse4.2")
        if target.arch == "aarch64":
            if target.has("dotprod"):
                return Decision("int8", source="rule", reason="ARM with dotprod")
            if workload.kind != "depthwise":
                return Decision("int8", source="rule", reason="ARM, NHWC and not depthwise")
            return Decision("int16", source="rule", reason="ARM with ASIMD alone, depthwise")
        return Decision("int16", source="rule", reason=f"no fast 8-bit convolution known on {target.arch}")
