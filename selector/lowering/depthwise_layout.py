"""How the depthwise template divides a convolution: rows, chunks of channels, and the register tile."""

from __future__ import annotations

import math
from typing import NamedTuple

from selector.lowering.dot import Dot
from selector.lowering.interleave import RowPlan
from selector.target import TargetProfile
from selector.workload import ConvWorkload

# Instructions that a chunk costs for every output pixel, whatever its size, fitted to sizes of 8, 16 and 32 on AVX2.
_CHUNK_UOPS = 6
_WORTH_OVERLAPPING = 7 / 8
_EPILOGUE_REGISTERS = 4  # for its constants, where they are loaded


class Layout(NamedTuple):
    """How channels and rows are divided."""

    plan: RowPlan
    chunk: int  # channels handled at once
    piece: int  # channels interleaved at once
    in_lane: bool  # whether channels stay where 128-bit unpacking leaves them
    memory_operands: bool  # whether weights are operands in memory, not loaded into registers
    vectors: int  # vectors of channels of a tile
    columns: int  # output columns of a tile

    @classmethod
    def of(cls, workload: ConvWorkload, row: Dot, target: TargetProfile, *, term2: bool) -> Layout:
        """The layout of a convolution on one dot instruction, with or without Term2."""
        plan = RowPlan.of(workload, row)
        products = plan.product_uops(workload.kernel_width, row.uops) / (plan.out_rows * row.lanes)
        chunk = _chunk(workload.out_channels, row.lanes, target.vector_bits // 8, products)
        piece = min(chunk, target.vector_bits // (8 * row.data_bytes))
        # The packs of the epilogue undo what unpacking inside 128 bits does to the order of a whole vector.
        narrows = workload.out_dtype in ("uint8", "int8") and target.arch == "x86_64"
        # Of parts of one, too, but for a shuffle; tried with AVX-512 only, whose registers also hold the sums of Term2
        # beside so many vectors.
        whole = row.bits == 512 or (row.bits == 256 and piece == row.packed and not term2)
        in_lane = narrows and row.depth > 1 and whole
        vectors = piece // row.lanes if in_lane else 2 if chunk % (2 * row.lanes) == 0 and not term2 else 1
        accumulators = plan.out_rows * vectors * (2 if term2 else 1)  # of one column
        memory_operands = target.arch == "x86_64"
        if memory_operands:
            # As many accumulators as leave room for data and constants.
            columns = (target.vector_registers - 4 - row.ones) // accumulators
        else:
            # Beside the accumulators a group's weights, and data.
            weights = max(map(len, plan.rows_of_groups()))
            spare = (row.temporaries + weights) * (2 if term2 else 1) + 1 + _EPILOGUE_REGISTERS
            columns = (target.vector_registers - spare) // accumulators
        return cls(plan, chunk, piece, in_lane, memory_operands, vectors, max(1, columns))


def columns_read(workload: ConvWorkload, width: int) -> list[int]:
    """Columns of the data, from a tile's first, that a tile of ``width`` columns reads."""
    stride, dilation = workload.stride[1], workload.dilation[1]
    return sorted({i * stride + k * dilation for i in range(width) for k in range(workload.kernel_width)})


def readers(workload: ConvWorkload, column: int, width: int) -> list[tuple[int, int]]:
    """(column of the tile, kernel column) pairs that read a column of the data."""
    stride, dilation = workload.stride[1], workload.dilation[1]
    return [(i, k) for i in range(width) for k in range(workload.kernel_width) if i * stride + k * dilation == column]


def _chunk(channels: int, lanes: int, vector_bytes: int, products: float) -> int:
    """Channels handled at once: the size that covers all with the least overlap, larger first.

    Unless another one saves enough instructions to pay for overlaps and for loads that cross cache lines.
    ``products``: instructions of one output.
    """
    largest = max(vector_bytes, lanes)
    sizes = [largest >> i for i in range(8) if largest >> i >= lanes and largest >> i <= channels] or [lanes]

    def uops(size: int) -> float:
        return math.ceil(channels / size) * (size * products + _CHUNK_UOPS)

    snug = min(sizes, key=lambda size: math.ceil(channels / size) * size)
    fastest = min(sizes, key=uops)
    return fastest if uops(fastest) < _WORTH_OVERLAPPING * uops(snug) else snug
