"""The table of lowerings."""

from __future__ import annotations

from collections.abc import Callable

from selector.lowering import int8, int16
from selector.lowering.kernel import Kernel
from selector.lowering.plan import employed
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload, UnsupportedWorkload

Builder = Callable[[str, ConvWorkload, ConvConstants, TargetProfile], Kernel]

LOWERINGS: dict[str, Builder] = {"int8": int8.build, "int16": int16.build}


def build(workload: ConvWorkload, constants: ConvConstants, target: TargetProfile, lowering: str) -> Kernel:
    """The kernel of one convolution under one lowering.

    Raises KeyError for an unknown lowering, and UnsupportedWorkload for 16-bit data under ``int8`` or a split
    accumulator as output.  Both lowerings give the same accumulator.
    """
    if workload.is_split and constants.requantize is None:
        raise UnsupportedWorkload(
            f"its accumulator may reach {workload.accumulator_bound()}, more than its int32 output holds"
        )
    work = employed(workload, target, lowering)
    return LOWERINGS[lowering](f"qconv2d_{workload.kind}_{lowering}", work, constants, target)
