"""What the formulas of the table speak of: a workload on a target, with its plan under each lowering in seconds.

The models here are rough on purpose.  They put shapes and targets on common scales (time, share, ratio), so that
little is left for the trees to learn that depends on one machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from selector.lowering import conv, depthwise, dot
from selector.lowering.plan import Plan, plan
from selector.target import TargetProfile
from selector.workload import ConvWorkload

_CLOCK = 2.5  # GHz, and the rest of a CPU of which no rates are known
_CALL_SECONDS, _WAKE_SECONDS = 0.01e-6, 2e-6  # of a call, and of waking other threads: what no lowering can save
# Before SSE4.1, to widen a vector of weights, as fully connected layers take; ``tiling`` chooses kernels with 4.
_WIDENING_UOPS = 2


@dataclass(frozen=True, slots=True)
class Machine:
    """A target and its rates, known or assumed."""

    target: TargetProfile
    plain: dot.Dot  # the row of the int16 lowering, which leaves its operands as they are
    dots: Mapping[str, float]  # dot row -> 10^9 multiply-accumulates a second of one core, registers only
    loops: Mapping[str, float]  # the same for an inner loop with its loads
    levels: tuple[tuple[float, float], ...]  # (bytes it holds, bytes a second of one core), from L1 to memory
    memory_all: float  # bytes a second of all cores together

    def rate(self, row: dot.Dot) -> float:
        """Multiply-accumulates a second of one core."""
        return 1e9 * (self.dots.get(row.name) or _assumed_gmacs(row))

    def clock(self, row: dot.Dot) -> float:
        """Cycles of the templates' models a second, when they run on ``row``.

        From the rate of its inner loop, loads included, and never more than with the plain row.  The models of the
        templates do not count a second time what a kernel does to every operand, such as widening weights.
        """
        return min(self.loop_rate(each) / (each.issue * each.rate()) for each in (row, self.plain))

    def loop_rate(self, row: dot.Dot) -> float:
        """The same for an inner loop with its loads."""
        return 1e9 * (self.loops.get(row.name) or 0.8 * self.rate(row) / 1e9)

    def bandwidth(self, held: float, together: float, threads: int) -> float:
        """Bytes a second that ``threads`` cores together read.

        ``held``: bytes that each of them touches, of caches of its own; ``together``: that all do, of the last one.
        """
        *own, (last_size, last_speed), (_, memory_speed) = self.levels
        for size, speed in own:
            if held <= size:
                return speed * threads
        return last_speed * threads if together <= last_size else min(memory_speed * threads, self.memory_all)


@functools.lru_cache(maxsize=64)
def machine(target: TargetProfile) -> Machine:
    """Rates of a target: as calibrated or described, else those of a middling CPU with its vectors."""
    rates = target.rates
    if rates is None:
        lane_bytes = target.vector_bits / 8
        speeds = (2 * lane_bytes * _CLOCK, lane_bytes * _CLOCK, 8 * _CLOCK, 4 * _CLOCK)
        memory_all = 4 * _CLOCK * min(target.cores, 4)
    else:
        speeds = (rates.l1_gbs, rates.l2_gbs, rates.l3_gbs, rates.dram_gbs)
        memory_all = rates.dram_all_gbs
    held = (float(target.l1_bytes), float(target.l2_bytes), float(target.l3_bytes), math.inf)
    return Machine(
        target=target,
        plain=dot.candidates(target, "int16")[0],
        dots=dict(rates.dots) if rates else {},
        loops=dict(rates.loops) if rates else {},
        levels=tuple((size, speed * 1e9) for size, speed in zip(held, speeds, strict=True)),
        memory_all=memory_all * 1e9,
    )


def _assumed_gmacs(row: dot.Dot) -> float:
    """10^9 multiply-accumulates a second of a row without a known rate: two ports, or as x86's models have it."""
    return row.rate() * (row.issue if row.arch == "x86_64" else 2) * _CLOCK


class Side(NamedTuple):
    """One lowering of a workload on a target; seconds are of the whole call, all threads at work."""

    plan: Plan
    rate: float  # multiply-accumulates a second of one core, of the dot instruction
    loop_rate: float  # the same of its inner loop
    products: float  # seconds of the dot instructions alone, at that rate
    compute: float  # seconds of the template's model: products, loads and transforms
    prepare: float  # seconds of copying, converting, padding or interleaving the data
    term2: float  # seconds of the sums for Term2
    memory: float  # seconds of moving data, weights, scratch memory and output
    total: float  # seconds: the longer of computing and moving, and the call itself
    traffic: float  # bytes moved
    working_set: float  # bytes touched


def side(workload: ConvWorkload, known: Machine, lowering: str) -> Side:
    """One lowering in seconds and bytes."""
    made = plan(workload, known.target, lowering)
    row, threads = made.row, min(workload.threads, made.tasks)
    rate, clock = known.rate(row), known.clock(row)
    share = math.ceil(made.tasks / threads) / made.tasks if threads > 1 else 1.0
    data, out = workload.data_bytes(), workload.out_bytes()
    in_use = made.band_bytes if made.scratch_bytes else 0
    working_set = data + out + made.weight_bytes + in_use
    parts = min(float(threads), made.weight_passes)  # of the pixels, each with all weights; further cores share those
    weights = made.weight_bytes * parts / threads
    held = (data + out) / parts + weights + in_use
    moved = data + out + made.weight_bytes
    again = made.weight_bytes * max(made.weight_passes - 1, 0.0)
    memory = (
        moved / known.bandwidth(held, working_set, threads)
        + again / known.bandwidth(weights + in_use, made.weight_bytes + in_use * threads, threads)
        + 2 * made.scratch_bytes / known.bandwidth(in_use, in_use * threads, threads)
    )
    compute, prepare, term2 = (
        cycles / clock * share
        for cycles in (
            made.cycles + _widening_cycles(made, known.target),
            made.prepare_cycles,
            _term2_cycles(workload, made),
        )
    )
    return Side(
        plan=made,
        rate=rate,
        loop_rate=known.loop_rate(row),
        products=made.macs / rate * share,
        compute=compute,
        prepare=prepare,
        term2=term2,
        memory=memory,
        total=max(compute + prepare + term2, memory) + _CALL_SECONDS + (_WAKE_SECONDS if threads > 1 else 0),
        traffic=moved + again + 2 * made.scratch_bytes,
        working_set=working_set,
    )


def _widening_cycles(made: Plan, target: TargetProfile) -> float:
    """Weights that are widened once for all pixels of a register tile: dear where these are few.

    From SSE4.1 on ``pmovsxbw`` does it while it loads; before, it takes instructions of its own.
    """
    row = made.row
    if row.weight_dtype == row.data_dtype or row.arch != "x86_64" or target.has("sse4.1"):
        return 0.0
    return made.macs / (row.lanes * row.depth * made.pixels) * _WIDENING_UOPS / row.issue


def _term2_cycles(workload: ConvWorkload, made: Plan) -> float:
    """Term2's sums as they take longer than their additions: every pixel is a short loop that ends across lanes.

    Measured on Emerald Rapids: 4 cycles a pixel; where ``vpsadbw`` adds bytes, 10 and 2 instead of 3/4 a vector.  Each
    task takes memory for the sums and copies its data, 150 cycles: more than the rest where there is but one pixel.
    Depthwise, the sums of every vector of outputs are multiplied and subtracted: 5 instructions, measured there too.
    Not in the plan: its cycles decide which kernels wake threads, which were measured as they are.
    """
    if not made.term2_cycles:
        return 0.0
    if made.template == depthwise.NAME:
        outputs = workload.batch * workload.out_height * workload.out_width * workload.out_channels
        return made.term2_cycles + 5 * outputs / made.row.lanes / made.row.issue
    bytes_at_once = conv.summed_at_once(made.row) > 8
    pixels = workload.batch * workload.out_height * workload.out_width * workload.groups
    sums = made.term2_cycles * (8 / 3 if bytes_at_once else 1) + pixels * (10 if bytes_at_once else 4)
    return sums + 150 * made.tasks


def weight_class(workload: ConvWorkload) -> int:
    """Which saturating instructions the weights prove exact: 3 all, 2 sums of two, 1 sign tricks, 0 none."""
    bounds = ((workload.quad_bound, 128), (workload.pair_bound, 128), (workload.weight_bound, 127))
    return next((3 - position for position, (bound, limit) in enumerate(bounds) if bound <= limit), 0)
