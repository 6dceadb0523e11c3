"""The depthwise template: vectors over channels, dot instructions over kernel rows.

A dot instruction wants ``depth`` products of one output next to each other in memory, but in NHWC the neighbours are
other channels.  So ``depth`` rows of the input are interleaved, channel by channel, into scratch memory small enough
for L1 (``[row group][column][channel][depth]``); one instruction then handles ``depth`` rows of the kernel, and with
stride 1 several output rows share the same interleaved rows, each with the kernel rows shifted inside its weights.
Padding, sign shift or widening happen in the same pass.  All taps of a tile are unrolled; the accumulators never leave
their registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selector.lowering.dot import Dot
from selector.lowering.interleave import RowPlan, interleave, pack
from selector.lowering.kernel import Kernel
from selector.lowering.operands import Operands
from selector.lowering.prepare import convert
from selector.lowering.requantize import Epilogue, Order
from selector.lowering.tir import Expr, Registers, T, branch, const, function, load, loop, otherwise, splat, store
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload

NAME = "depthwise"
MAX_DOT_GROUPS = 1
_MIN_CHANNELS = 8


def takes(workload: ConvWorkload) -> bool:
    """Whether this template takes the convolution; the direct template takes every one, as a grouped convolution."""
    return workload.kind == "depthwise" and workload.out_channels >= _MIN_CHANNELS


def fits(workload: ConvWorkload, row: Dot) -> bool:
    """Whether the channels fill one vector of the row."""
    return row.lanes <= workload.out_channels


def build(
    name: str,
    workload: ConvWorkload,
    constants: ConvConstants,
    operands: Operands,
    row: Dot,
    target: TargetProfile,
) -> Kernel:
    """Kernel of a depthwise convolution that ``takes`` accepts."""
    kernel = _Depthwise(workload, constants, operands, row, target)
    func = function(name, kernel.arguments(), kernel.emit)
    return Kernel(name, func, (*kernel.constants(), *kernel.epilogue.constants), "depthwise", row.name)


@dataclass(frozen=True, slots=True)
class Layout:
    """How channels and rows are divided."""

    plan: RowPlan
    chunk: int  # channels handled at once
    piece: int  # channels interleaved at once
    in_lane: bool  # whether channels stay where 128-bit unpacking leaves them
    vectors: int  # vectors of channels of a tile
    columns: int  # output columns of a tile

    @classmethod
    def of(cls, workload: ConvWorkload, row: Dot, target: TargetProfile, *, term2: bool) -> Layout:
        """The layout of a convolution on one dot instruction, with or without Term2."""
        plan = RowPlan.of(workload, row.depth)
        chunk = _chunk(workload.out_channels, row.lanes, target.vector_bits // 8)
        piece = min(chunk, target.vector_bits // (16 if row.data_dtype == "int16" else 8))
        # The packs of the epilogue undo what unpacking inside 128 bits does to the order.
        wide = row.lanes == 8 and row.depth > 1 and piece == row.lanes * row.depth
        in_lane = wide and workload.out_dtype in ("uint8", "int8") and target.arch == "x86_64" and not term2
        vectors = row.depth if in_lane else 2 if chunk % (2 * row.lanes) == 0 and not term2 else 1
        # As many accumulators as leave room for data, constants, and weights, which x86 takes from memory.
        registers = target.vector_registers - (4 if target.arch == "x86_64" else 12) - row.ones
        columns = max(1, registers // (plan.out_rows * vectors * (2 if term2 else 1)))
        return cls(plan, chunk, piece, in_lane, vectors, columns)


def _chunk(channels: int, lanes: int, vector_bytes: int) -> int:
    """Channels handled at once: the size that covers all channels with the least overlap, larger first."""
    largest = max(vector_bytes, lanes)
    sizes = [largest >> i for i in range(8) if largest >> i >= lanes and largest >> i <= channels]
    return min(sizes or [lanes], key=lambda size: (math.ceil(channels / size) * size, -size))


class _Depthwise:
    """State shared by the parts of one kernel's code."""

    def __init__(
        self,
        workload: ConvWorkload,
        constants: ConvConstants,
        operands: Operands,
        row: Dot,
        target: TargetProfile,
    ) -> None:
        assert workload.kind == "depthwise" and row.groups == 1
        self.work = workload
        self.operands = operands
        self.row = row
        self.target = target
        layout = Layout.of(workload, row, target, term2=operands.has_term2)
        self.plan, self.chunk, self.piece = layout.plan, layout.chunk, layout.piece
        self.in_lane, self.vectors, self.columns = layout.in_lane, layout.vectors, layout.columns
        self.multiplier = workload.group_out_channels
        self.element_bytes = np.dtype(row.data_dtype).itemsize
        self.order = self._order()
        self.epilogue = Epilogue.of(workload, constants, operands, target, self._starts(), self.order)
        self.width = workload.in_width + workload.padding[1] + workload.padding[3]

    def _order(self) -> Order:
        """The channels of a chunk, vector by vector, as they lie in the scratch memory."""
        lanes = self.row.lanes
        if not self.in_lane:
            return tuple(tuple(range(start, start + lanes)) for start in range(0, self.chunk, lanes))
        pieces = range(0, self.chunk, self.piece)
        half, quarter = self.piece // 2, lanes // 2
        return tuple(
            tuple(piece + upper * half + k * quarter + i for upper in (0, 1) for i in range(quarter))
            for piece in pieces
            for k in range(self.row.depth)
        )

    # -- constants -----------------------------------------------------------------------------------------------

    def _pack(self, weight: np.ndarray) -> np.ndarray:
        """[channel vector][KW][out row][group][lane][depth]; the last chunk may overlap the one before."""
        packed = pack(weight, self.work, self.row.depth)
        slots = np.add.outer(self._starts(), np.array(self.order)).reshape(-1, self.row.lanes)
        stacked = packed[slots]  # vector, lane, KW, out row, group, depth
        return np.ascontiguousarray(stacked.transpose(0, 2, 3, 4, 1, 5)).reshape(-1)

    def _starts(self) -> list[int]:
        channels = self.work.out_channels
        return [min(start, channels - self.chunk) for start in range(0, channels, self.chunk)]

    def constants(self) -> list[np.ndarray]:
        """Packed weights, and for Term2 ones in the places of the weights."""
        arrays = [self._pack(self.operands.weight)]
        if self.operands.has_term2:
            arrays.append(self._pack(np.ones_like(self.operands.weight)))
        return arrays

    def arguments(self) -> list[tuple[str, int, str]]:
        """Arguments of the kernel."""
        work = self.work
        names = ["weight", "ones"]
        return [
            ("data", work.data_bytes(), work.data_dtype),
            *[(name, array.size, str(array.dtype)) for name, array in zip(names, self.constants(), strict=False)],
            *self.epilogue.arguments,
            ("out", work.batch * work.out_height * work.out_width * work.out_channels, work.out_dtype),
        ]

    # -- code ------------------------------------------------------------------------------------------------------

    def emit(self, data: Expr, *rest: Expr) -> None:
        """The body of the function."""
        count = 2 if self.operands.has_term2 else 1
        self.weights, constants, out = rest[:count], rest[count:-1], rest[-1]
        self.epilogue.bind(list(constants))
        self.data, self.out = data, out
        work, plan = self.work, self.plan
        row_groups = math.ceil(work.out_height / plan.out_rows)
        tasks = work.batch * row_groups
        share = tasks if work.threads == 1 else math.ceil(tasks / (2 * work.threads))

        def task(index: Expr) -> None:
            scratch = T.alloc_buffer((plan.groups * self.width * self.chunk * self.row.depth,), self.row.data_dtype)

            def rows(i: Expr) -> None:
                unit = T.min(index * share + i, tasks - 1)
                image = T.Bind(unit // row_groups + T.int32(0))
                first = T.Bind(T.min(unit % row_groups * plan.out_rows, work.out_height - plan.out_rows) + T.int32(0))
                loop(math.ceil(work.out_channels / self.chunk), lambda c: self._chunk_rows(image, first, c, scratch))

            loop(share, rows)

        loop(math.ceil(tasks / share), task, parallel=work.threads > 1)

    def _chunk_rows(self, image: Expr, first: Expr, index: Expr, scratch: Expr) -> None:
        channel = T.Bind(T.min(index * self.chunk + T.int32(0), self.work.out_channels - self.chunk))
        self._interleave(image, first, channel, scratch)
        step = self.vectors * self.row.lanes

        def vectors(v: Expr) -> None:
            position = T.Bind(index * (self.chunk // self.row.lanes) + v * self.vectors)
            self._columns_of(image, first, channel + v * step, position, v * step, scratch)

        loop(self.chunk // step, vectors)

    # -- interleaving ------------------------------------------------------------------------------------------------

    def _interleave(self, image: Expr, first: Expr, channel: Expr, scratch: Expr) -> None:
        """Fill ``scratch`` [group][column][channel of the chunk][depth]."""
        work, plan, depth = self.work, self.plan, self.row.depth
        top, left, bottom, right = work.padding
        pitch = work.in_width * work.in_channels
        base = T.Bind((image * work.in_height) * pitch + T.int32(0))
        first_in = T.Bind(first * work.stride[0] - top)
        pad = self.operands.data_zero_point
        group_elements = self.width * self.chunk * depth

        def fill(group: int, start: int, columns: int) -> None:
            lanes = self.chunk * depth
            loop(
                columns,
                lambda x: store(
                    scratch,
                    group * group_elements + (start + x) * lanes,
                    const(pad, self.row.data_dtype, lanes),
                    lanes,
                ),
            )

        for group in range(plan.groups):
            offsets = [(group * depth + d) * plan.spacing for d in range(depth)]
            last_used = (plan.out_rows - 1) * work.stride[0] * (plan.spacing == 1) + (
                work.kernel_height - 1
            ) * plan.spacing
            # Rows past the last one in use have zero weights; reading the last one again keeps them in bounds.
            offsets = [min(offset, last_used) for offset in offsets]
            fill(group, 0, left)
            fill(group, left + work.in_width, right)

            def columns(*, checked: bool, group: int = group, offsets: list[int] = offsets) -> None:
                def column(x: Expr) -> None:
                    rows = []
                    for offset in offsets:
                        source = first_in + offset
                        if checked:
                            clamped = T.max(T.min(source, work.in_height - 1), 0)
                            value = self._load_row(base + clamped * pitch, x, channel)
                            inside = T.And(source >= 0, source < work.in_height)
                            padding = [const(pad, self.row.data_dtype, len_) for _, len_ in value]
                            rows.append(
                                [T.Select(splat(inside, n), v, p) for (v, n), p in zip(value, padding, strict=True)]
                            )
                        else:
                            rows.append([v for v, _ in self._load_row(base + source * pitch, x, channel)])
                    target = group * group_elements + (left + x) * (self.chunk * depth)
                    self._store_interleaved(rows, scratch, target)

                loop(work.in_width, column)

            if not (top or bottom):
                columns(checked=False)
                continue
            within = T.And(first_in + min(offsets) >= 0, first_in + max(offsets) < work.in_height)
            with branch(within):
                columns(checked=False)
            with otherwise(within):
                columns(checked=True)

    def _load_row(self, row_base: Expr, x: Expr, channel: Expr) -> list[tuple[Expr, int]]:
        """The chunk's channels of one input pixel in the stored form: (vector, its lanes)."""
        lanes = self.piece
        pieces = []
        for start in range(0, self.chunk, lanes):
            if self.multiplier == 1:
                value = load(self.data, row_base + x * self.work.in_channels + channel + start, lanes)
            else:
                index = T.ramp(channel + start, 1, lanes) // const(self.multiplier, "int32", lanes)
                value = self.data[splat(row_base + x * self.work.in_channels, lanes) + index]
            stored = convert(value, lanes, self.row.data_dtype, self.operands.data_offset)
            pieces.append((T.Bind(stored), lanes))
        return pieces

    def _store_interleaved(self, rows: list[list[Expr]], scratch: Expr, target: Expr) -> None:
        lanes = self.piece
        for piece in range(len(rows[0])):
            block = min(lanes, 16 // self.element_bytes)
            vectors = interleave([row[piece] for row in rows], lanes, block, ordered=not self.in_lane)
            for i, value in enumerate(vectors):
                store(scratch, target + (piece * len(rows) + i) * lanes, value, lanes)

    # -- multiplying -------------------------------------------------------------------------------------------------

    def _columns_of(
        self, image: Expr, first: Expr, channel: Expr, position: Expr, chunk_offset: Expr, scratch: Expr
    ) -> None:
        work = self.work
        count = math.ceil(work.out_width / self.columns)
        size, larger = divmod(work.out_width, count)
        out_row = T.Bind((image * work.out_height + first) * work.out_width)

        def tiles(start: int, number: int, width: int) -> None:
            loop(
                number,
                lambda t: self._tile(start + t * width, width, out_row, channel, position, chunk_offset, scratch),
            )

        tiles(0, larger, size + 1)
        tiles(larger * (size + 1), count - larger, size)

    def _tile(
        self,
        first_column: Expr,
        width: int,
        out_row: Expr,
        channel: Expr,
        position: Expr,
        chunk_offset: Expr,
        scratch: Expr,
    ) -> None:
        work, plan, row = self.work, self.plan, self.row
        lanes, depth, vectors = row.lanes, row.depth, self.vectors
        packed = lanes * depth
        outputs = width * plan.out_rows * vectors
        accumulators = [Registers(outputs, "int32", lanes) for _ in self.weights]
        for acc, total in enumerate(accumulators):
            for i in range(outputs):
                bias = self.epilogue.start((position + i % vectors) * lanes)
                total[i] = bias if acc == 0 else const(0, "int32", lanes)
        used = [plan.used(g) for g in range(plan.out_rows)]
        base = T.Bind(first_column * (work.stride[1] * self.chunk * depth) + chunk_offset * depth)
        ones = row.constant()
        taps = work.kernel_width * plan.out_rows * plan.groups * packed
        weight_base = T.Bind(position * taps)
        for group in range(plan.groups):
            for column in self._columns_read(width):
                for j in range(vectors):
                    start = (group * self.width + column) * self.chunk * depth + j * packed
                    x = T.Bind(load(scratch, base + start, packed))
                    for i, kernel_column in self._readers(column, width):
                        for g in range(plan.out_rows):
                            if group not in used[g]:
                                continue
                            tap = ((kernel_column * plan.out_rows + g) * plan.groups + group) * packed
                            slot = (i * plan.out_rows + g) * vectors + j
                            for weights, total in zip(self.weights, accumulators, strict=True):
                                w = load(weights, weight_base + j * taps + tap, packed)
                                total[slot] = row.emit(row, total[slot], [x], [w], ones)
        for i in range(width):
            for g in range(plan.out_rows):
                slots = [(i * plan.out_rows + g) * vectors + j for j in range(vectors)]
                index = (out_row + g * work.out_width + first_column + i) * work.out_channels + channel
                self.epilogue.emit(
                    [accumulators[0][slot] for slot in slots],
                    position * lanes,
                    self.out,
                    index,
                    [accumulators[1][slot] for slot in slots] if self.operands.has_term2 else None,
                )

    def _columns_read(self, width: int) -> list[int]:
        """Scratch columns, from the tile's first, that a tile of ``width`` outputs reads."""
        work = self.work
        reads = {i * work.stride[1] + k * work.dilation[1] for i in range(width) for k in range(work.kernel_width)}
        return sorted(reads)

    def _readers(self, column: int, width: int) -> list[tuple[int, int]]:
        """(output of the tile, kernel column) pairs that read a scratch column."""
        work = self.work
        return [
            (i, k)
            for i in range(width)
            for k in range(work.kernel_width)
            if i * work.stride[1] + k * work.dilation[1] == column
        ]
