"""The table of lowerings."""

from __future__ import annotations

from collections.abc import Callable

from selector.lowering import int8, int16
from selector.lowering.interleave import MOST_OUT_ROWS
from selector.lowering.kernel import Kernel
from selector.lowering.plan import employed
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload, UnsupportedWorkload

Builder = Callable[[str, ConvWorkload, ConvConstants, TargetProfile, ConvWorkload], Kernel]

LOWERINGS: dict[str, Builder] = {"int8": int8.build, "int16": int16.build}


def build(
    workload: ConvWorkload,
    constants: ConvConstants,
    target: TargetProfile,
    lowering: str,
    like: ConvWorkload | None = None,
) -> Kernel:
    """The kernel of one convolution under one lowering.

    ``like``: the same layer on another image or batch, whose packed constants the kernel takes if it can.  They depend
    on the dot instruction, on Winograd's scheme, and on the channels of a block, which are then chosen for ``like``.

    Raises KeyError for an unknown lowering, and UnsupportedWorkload for 16-bit data under ``int8`` or a split
    accumulator as output.  Both lowerings give the same accumulator.
    """
    if workload.is_split and constants.requantize is None:
        raise UnsupportedWorkload(
            f"its accumulator may reach {workload.accumulator_bound()}, more than its int32 output holds"
        )
    work = employed(workload, target, lowering)
    planned = employed(like, target, lowering) if like is not None and can_share(work, like) else work
    return LOWERINGS[lowering](f"qconv2d_{workload.kind}_{lowering}", work, constants, target, planned)


def can_share(workload: ConvWorkload, like: ConvWorkload) -> bool:
    """Whether a kernel of ``workload`` can read constants that are packed for ``like``, the same layer elsewhere.

    Winograd transforms an axis of more than one output; the depthwise template packs for so many output rows at once.
    """
    sizes = (workload.out_height, like.out_height), (workload.out_width, like.out_width)
    kernel = workload.kernel_height, workload.kernel_width
    same_axes = all(taps == 1 or (a > 1) == (b > 1) for taps, (a, b) in zip(kernel, sizes, strict=True))
    enough_rows = workload.kind != "depthwise" or workload.out_height >= min(like.out_height, MOST_OUT_ROWS)
    return same_axes and enough_rows
