"""Decisions for a library of at most some bytes: a knapsack of time and bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from selector import features
from selector.lowering.plan import library_bytes
from selector.policy.base import LOWERING_NAMES, Decision, LoweringName
from selector.target import TargetProfile

SOURCE = "size"  # of a decision that saves bytes


class SizeError(ValueError):
    """A network cannot be made as small as it is asked to be; the message says how small it can."""


@dataclass(frozen=True)
class _Swap:
    """Another lowering for a layer, which takes fewer bytes."""

    index: int  # of the decision
    lowering: LoweringName
    saved: int  # bytes
    lost: float  # seconds; negative: it is expected to be faster


def fit(
    decisions: Sequence[Decision], target: TargetProfile, max_bytes: int, other_bytes: int, *, lazy_weights: bool
) -> list[Decision]:
    """The decisions, with the lowerings given up that gain least time for most bytes until all of them fit.

    ``other_bytes``: of the library, beside the weights of these layers.
    Raises SizeError if no choice of lowerings fits.
    """
    sizes = [
        {} if item.workload is None or item.lowering == "tvm" else _sizes(item, target, lazy_weights)
        for item in decisions
    ]
    total = other_bytes + sum(size[item.lowering] for item, size in zip(decisions, sizes, strict=True) if size)
    swaps = sorted(_swaps(decisions, sizes, target), key=lambda swap: swap.lost / swap.saved)
    least = total - sum(swap.saved for swap in swaps)
    if least > max_bytes:
        asked, possible = max_bytes / 1e6, math.ceil(least / 1e4) / 100
        raise SizeError(f"the library cannot be as small as {asked:.2f} MB: it takes at least {possible:.2f} MB")
    taken: list[_Swap] = []
    for swap in swaps:
        if total <= max_bytes:
            break
        taken.append(swap)
        total -= swap.saved
    for swap in sorted(taken, key=lambda swap: -swap.lost):  # the last one may have made others needless
        if total + swap.saved <= max_bytes:
            taken.remove(swap)
            total += swap.saved
    changed = list(decisions)
    for swap in taken:
        was = decisions[swap.index]
        reason = f"saves {swap.saved / 1e3:.0f} kB of {was.lowering} (by {was.source}) for {swap.lost * 1e6:.1f} us"
        changed[swap.index] = replace(
            was, lowering=swap.lowering, source=SOURCE, reason=reason, trust=None, fallback=""
        )
    return changed


def _sizes(decision: Decision, target: TargetProfile, lazy_weights: bool) -> dict[str, int]:
    assert decision.workload is not None
    return library_bytes(decision.workload, target, lazy_weights=lazy_weights)


def _swaps(decisions: Sequence[Decision], sizes: Sequence[dict[str, int]], target: TargetProfile) -> list[_Swap]:
    """The smaller lowering of every layer that has one."""
    free = [index for index, size in enumerate(sizes) if len(size) > 1]
    if not free:
        return []
    workloads = [workload for index in free if (workload := decisions[index].workload) is not None]
    layers = features.describe(workloads, target)
    found = []
    for index, row in zip(free, layers.row_of, strict=True):
        item, size = decisions[index], sizes[index]
        int8, int16 = map(float, layers.seconds[row])
        if item.log2_ratio is not None:  # the policy knows better by how much they differ
            int16 = int8 * 2**item.log2_ratio
        seconds = {"int8": int8, "int16": int16}
        other = next(name for name in LOWERING_NAMES if name != item.lowering)
        saved = size[item.lowering] - size[other]
        if saved > 0:
            found.append(_Swap(index, other, saved, seconds[other] - seconds[item.lowering]))
    return found
