"""The table of lowerings."""

from __future__ import annotations

from collections.abc import Callable

from selector.lowering import int8, int16
from selector.lowering.kernel import Kernel
from selector.lowering.plan import employed
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload

Builder = Callable[[str, ConvWorkload, ConvConstants, TargetProfile], Kernel]

LOWERINGS: dict[str, Builder] = {"int8": int8.build, "int16": int16.build}


def build(workload: ConvWorkload, constants: ConvConstants, target: TargetProfile, lowering: str) -> Kernel:
    """The kernel of one convolution under one lowering.

    Raises KeyError for an unknown lowering; both lowerings take every ConvWorkload and give the same int32 accumulator.
    """
    work = employed(workload, target, lowering)
    return LOWERINGS[lowering](f"qconv2d_{workload.kind}_{lowering}", work, constants, target)
