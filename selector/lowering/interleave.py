"""Interleaving rows of the input, so that a dot instruction multiplies one channel's taps of several kernel rows."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from selector.lowering.dot import Dot
from selector.lowering.tir import Expr, T, pick
from selector.workload import ConvWorkload

INTERLEAVE_UOPS = 2.2  # instructions that interleaving costs a row, column and vector of channels
MOST_OUT_ROWS = 4  # accumulators of more do not fit the registers


@dataclass(frozen=True, slots=True)
class RowPlan:
    """Which input rows are interleaved for which output rows."""

    out_rows: int  # output rows that share the interleaved rows
    groups: int  # groups of ``depth`` input rows
    spacing: int  # input rows between neighbours in a group (the dilation)
    depth: int  # rows that a dot instruction multiplies at once
    kernel: int  # rows of the kernel
    stride: int  # input rows from one output row to the next

    @classmethod
    def of(cls, workload: ConvWorkload, row: Dot) -> RowPlan:
        """The plan with the fewest instructions, on one dot instruction, for the thread that has most to do."""
        return _best(workload, row)[0]

    @classmethod
    def cost(cls, workload: ConvWorkload, row: Dot) -> float:
        """Modelled instructions of that plan for one column and channel."""
        return _best(workload, row)[1] / row.lanes

    def tap(self, out_row: int, group: int, d: int) -> int | None:
        """Kernel row that element ``d`` of a group contributes to an output row; None: no contribution."""
        tap = group * self.depth + d - (out_row * self.stride if self.spacing == 1 else 0)
        return tap if 0 <= tap < self.kernel else None

    def first_alike(self, out_row: int, group: int) -> tuple[int, int]:
        """The first output row, and its group, with the same kernel rows in the same places."""
        taps = [self.tap(out_row, group, d) for d in range(self.depth)]
        return next(
            (g, other)
            for g in range(self.out_rows)
            for other in range(self.groups)
            if [self.tap(g, other, d) for d in range(self.depth)] == taps
        )

    def product_uops(self, kernel_width: int, uops: float) -> float:
        """Instructions that multiply one vector of channels of one column, with ``uops`` for each dot product."""
        return self.dots(kernel_width) * (uops + 1)  # one more: the load that it shares with no other

    def dots(self, kernel_width: int) -> int:
        """Dot products of one vector of channels of one column."""
        return sum(map(len, self.rows_of_groups())) * kernel_width

    def rows_of_groups(self) -> tuple[tuple[int, ...], ...]:
        """Output rows that need each group."""
        return _rows_of_groups(self)


@functools.lru_cache(maxsize=256)
def _rows_of_groups(plan: RowPlan) -> tuple[tuple[int, ...], ...]:
    def uses(out_row: int, group: int) -> bool:
        return any(plan.tap(out_row, group, d) is not None for d in range(plan.depth))

    return tuple(tuple(g for g in range(plan.out_rows) if uses(g, group)) for group in range(plan.groups))


def _best(workload: ConvWorkload, row: Dot) -> tuple[RowPlan, float]:
    """The best plan and what it costs a column and vector of channels."""
    work = workload
    return _row_plan(
        work.kernel_height,
        work.kernel_width,
        work.stride,
        work.dilation[0],
        work.out_height,
        work.batch,
        work.threads,
        row.depth,
        row.uops,
    )


@functools.lru_cache(maxsize=256)
def _row_plan(
    kernel_height: int,
    kernel_width: int,
    stride: tuple[int, int],
    dilation: int,
    out_height: int,
    batch: int,
    threads: int,
    depth: int,
    uops: float,
) -> tuple[RowPlan, float]:
    def rows(out_rows: int) -> int:
        return (out_rows - 1) * stride[0] + kernel_height

    def plan(out_rows: int) -> RowPlan:
        return RowPlan(out_rows, math.ceil(rows(out_rows) / depth), dilation, depth, kernel_height, stride[0])

    def cost(made: RowPlan) -> float:
        # Half of it is loading, which the rows repeated at the end of the last group cost nothing.
        interleaving = (rows(made.out_rows) + made.groups * depth) / 2 * stride[1] * INTERLEAVE_UOPS
        bands = math.ceil(batch * math.ceil(out_height / made.out_rows) / threads)
        return (made.product_uops(kernel_width, uops) + interleaving) * bands

    most = 1 if dilation > 1 else min(MOST_OUT_ROWS, out_height)
    best = min(map(plan, range(1, most + 1)), key=cost)
    return best, cost(best)


def pack(weight: np.ndarray, plan: RowPlan) -> np.ndarray:
    """Depthwise weights (O, KH, KW, 1) as (O, KW, out row, group, depth), zero where a row does not contribute."""
    packed = np.zeros((len(weight), weight.shape[2], plan.out_rows, plan.groups, plan.depth), weight.dtype)
    for out_row in range(plan.out_rows):
        for group in range(plan.groups):
            for d in range(plan.depth):
                tap = plan.tap(out_row, group, d)
                if tap is not None:
                    packed[:, :, out_row, group, d] = weight[:, tap, :, 0]
    return packed


def interleave(rows: list[Expr], lanes: int, block: int, *, ordered: bool = True) -> list[Expr]:
    """Element ``e`` of every row next to each other: ``depth`` vectors of ``lanes`` from ``depth`` (1, 2 or 4) rows.

    Works inside 128-bit blocks of ``block`` elements first (one unpack instruction a step); with ``ordered`` the blocks
    are then put into the order of the elements.
    """
    depth = len(rows)
    if depth == 1:
        return rows
    width = 1  # elements that already belong together
    vectors = list(rows)
    while len(vectors) > 1 and width < depth:
        merged = []
        half = len(vectors) // 2
        for i in range(half):
            pair = (vectors[2 * i], vectors[2 * i + 1]) if width == 1 else (vectors[i], vectors[i + half])
            merged.append(pair)
        low_high = [[_zip(a, b, lanes, block, width, part) for part in (0, 1)] for a, b in merged]
        vectors = [vector for pair in low_high for vector in pair]
        width *= 2
    blocks = lanes // block
    if blocks == 1 or not ordered:
        return vectors
    order = [(source, piece) for piece in range(blocks) for source in range(depth)]
    return [_gather(vectors, order[m * blocks : (m + 1) * blocks], lanes, block) for m in range(depth)]


def _gather(vectors: list[Expr], pieces: list[tuple[int, int]], lanes: int, block: int) -> Expr:
    """Blocks ``(vector, block of it)`` next to each other, two vectors at a time: of four LLVM makes single bytes."""
    used = sorted({source for source, _ in pieces})
    if len(used) > 2:
        half = len(pieces) // 2
        parts = [_gather(vectors, some, lanes, block) for some in (pieces[:half], pieces[half:])]
        return pick(parts, list(range(len(pieces) * block)))
    indices = [used.index(source) * lanes + piece * block + e for source, piece in pieces for e in range(block)]
    return pick([vectors[source] for source in used], indices)


def _zip(a: Expr, b: Expr, lanes: int, block: int, width: int, part: int) -> Expr:
    """Alternate runs of ``width`` elements of two vectors, from the low (0) or high (1) half of every block."""
    indices = []
    for start in range(0, lanes, block):
        for run in range(block // 2 // width):
            at = start + part * (block // 2) + run * width
            indices += [at + e for e in range(width)] + [lanes + at + e for e in range(width)]
    return T.Bind(pick([a, b], indices))
