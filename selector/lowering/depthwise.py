"""The depthwise template: vectors over channels, dot instructions over kernel rows.

A dot instruction wants ``depth`` products of one output next to each other in memory, but in NHWC the neighbours are
other channels.  So ``depth`` rows of the input are interleaved, channel by channel, into scratch memory small enough
for L1 (``[row group][column][channel][depth]``); one instruction then handles ``depth`` rows of the kernel, and with
stride 1 several output rows share the same interleaved rows, each with the kernel rows shifted inside its weights.
Padding, sign shift or widening happen in the same pass.  The accumulators of a tile never leave their registers.  All
its taps are unrolled where weights are operands in memory; elsewhere a loop over the columns of the kernel loads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from selector.lowering.depthwise_layout import Layout, columns_read, readers
from selector.lowering.dot import Dot
from selector.lowering.interleave import RowPlan, interleave, pack
from selector.lowering.kernel import Kernel, assemble
from selector.lowering.operands import Operands
from selector.lowering.prepare import convert
from selector.lowering.requantize import Epilogue, Order
from selector.lowering.tir import (
    Expr,
    Registers,
    T,
    branch,
    const,
    load,
    loop,
    opaque,
    otherwise,
    outermost,
    splat,
    store,
)
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload

NAME = "depthwise"
MAX_DOT_GROUPS = 1
_MIN_CHANNELS = 8


def takes(workload: ConvWorkload) -> bool:
    """Whether this template takes the convolution; the direct template takes every one, as a grouped convolution."""
    return workload.kind == "depthwise" and workload.out_channels >= _MIN_CHANNELS


def choose(workload: ConvWorkload, rows: list[Dot]) -> Dot:
    """The row that needs the fewest instructions, of those whose lanes are channels that the workload has.

    Of equals, the one that takes the data as it is.
    """
    fitting = [row for row in rows if row.lanes <= workload.out_channels and row.pixels == 1]
    return min(fitting, key=lambda row: (RowPlan.cost(workload, row), row.data_dtype != workload.data_dtype))


def build(
    name: str,
    workload: ConvWorkload,
    constants: ConvConstants,
    operands: Operands,
    row: Dot,
    target: TargetProfile,
    planned: ConvWorkload | None = None,
) -> Kernel:
    """Kernel of a depthwise convolution that ``takes`` accepts, packed for ``planned`` (None: itself)."""
    kernel = _Depthwise(workload, constants, operands, row, target, planned or workload)
    return assemble(name, NAME, row, workload, kernel.packed(), kernel.epilogue, kernel.emit)


class _Depthwise:
    """State shared by the parts of one kernel's code."""

    def __init__(
        self,
        workload: ConvWorkload,
        constants: ConvConstants,
        operands: Operands,
        row: Dot,
        target: TargetProfile,
        planned: ConvWorkload,
    ) -> None:
        assert workload.kind == "depthwise" and row.groups == 1
        self.work = workload
        self.operands = operands
        self.row = row
        self.target = target
        layout = Layout.of(planned, row, target, term2=operands.has_term2)
        self.plan, self.chunk, self.piece = layout.plan, layout.chunk, layout.piece
        self.in_lane, self.vectors, self.columns = layout.in_lane, layout.vectors, layout.columns
        self.memory_operands = layout.memory_operands
        self.multiplier = workload.group_out_channels
        self.order = self._order()
        self.epilogue = Epilogue.of(workload, constants, operands, target, self._starts(), self.order)
        self.width = workload.in_width + workload.padding[1] + workload.padding[3]

    def _order(self) -> Order:
        """The channels of a chunk, vector by vector, as they lie in the scratch memory."""
        lanes = self.row.lanes
        if not self.in_lane:
            return tuple(tuple(range(start, start + lanes)) for start in range(0, self.chunk, lanes))
        step = 4 * self.row.depth  # channels from one 128 bits to the next
        channels = [
            start + i
            for piece in range(0, self.chunk, self.piece)
            for k in range(self.row.depth)
            for start in range(piece + 4 * k, piece + self.piece, step)
            for i in range(4)
        ]
        return tuple(tuple(channels[start : start + lanes]) for start in range(0, self.chunk, lanes))

    # -- constants -----------------------------------------------------------------------------------------------

    def _pack(self, weight: np.ndarray) -> np.ndarray:
        """[channel vector][KW][out row][group][lane][depth]; the last chunk may overlap the one before."""
        packed = pack(weight, self.plan)
        slots = np.add.outer(self._starts(), np.array(self.order)).reshape(-1, self.row.lanes)
        stacked = packed[slots]  # vector, lane, KW, out row, group, depth
        # Too few for their bytes to matter, and only weights as wide as the data are operands in memory.
        wide = np.int16 if self.row.data_dtype == "int16" else np.int8
        return stacked.transpose(0, 2, 3, 4, 1, 5).astype(wide).reshape(-1)

    def _starts(self) -> list[int]:
        channels = self.work.out_channels
        return [min(start, channels - self.chunk) for start in range(0, channels, self.chunk)]

    def packed(self) -> dict[str, np.ndarray]:
        """Packed weights, and for Term2 ones in the places of the weights."""
        arrays = {"weight": self._pack(self.operands.weight)}
        if self.operands.has_term2:
            arrays["ones"] = self._pack(np.ones_like(self.operands.weight))
        return arrays

    # -- code ------------------------------------------------------------------------------------------------------

    def emit(self, data: Expr, *rest: Expr) -> None:
        """The body of the function."""
        count = 2 if self.operands.has_term2 else 1
        self.weights, constants, out = rest[:count], rest[count:-1], rest[-1]
        self.epilogue.bind(list(constants))
        self.data, self.out = data, out
        work, plan = self.work, self.plan
        row_groups, tasks, share = self._division()

        chunks = math.ceil(work.out_channels / self.chunk)

        def task(index: Expr) -> None:
            # Each thread begins with other channels where rows are contested.
            start = index * (chunks // work.threads) if self._contested else None
            scratch = T.alloc_buffer((plan.groups * self.width * self.chunk * self.row.depth,), self.row.data_dtype)

            def rows(i: Expr) -> None:
                unit = T.min(index * share + i, tasks - 1)
                image = T.Bind(unit // row_groups + T.int32(0))
                first = T.Bind(T.min(unit % row_groups * plan.out_rows, work.out_height - plan.out_rows) + T.int32(0))
                loop(
                    chunks,
                    lambda c: self._chunk_rows(image, first, c if start is None else (c + start) % chunks, scratch),
                )

            loop(share, rows)

        outermost(math.ceil(tasks / share), task, threads=work.threads, lanes=self.row.lanes)

    def _division(self) -> tuple[int, int, int]:
        """(bands of rows of an image, bands of all images, bands of a thread)."""
        bands = math.ceil(self.work.out_height / self.plan.out_rows)
        tasks = self.work.batch * bands
        return bands, tasks, math.ceil(tasks / self.work.threads)

    @property
    def _contested(self) -> bool:
        """Whether two threads compute the rows in which an image's last band overlaps the one before.

        Both store them.  To the same cache lines at the same time they would take turns.
        """
        bands, tasks, share = self._division()
        overlapping = bands * self.plan.out_rows > self.work.out_height
        return overlapping and share < tasks and any(last % share == 0 for last in range(bands - 1, tasks, bands))

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
                sources = [first_in + offset for offset in offsets]
                checks = [self._or_padding(source) for source in sources] if checked else []

                def column(x: Expr) -> None:
                    rows = []
                    for i, source in enumerate(sources):
                        if checked:
                            clamped = T.max(T.min(source, work.in_height - 1), 0)
                            value = self._load_row(base + clamped * pitch, x, channel)
                            rows.append([checks[i](v, lanes) for v, lanes in value])
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

    def _or_padding(self, source: Expr) -> Callable[[Expr, int], Expr]:
        """What makes a vector of input row ``source`` one of padding where there is no such row.

        By its bits: of a selection whose condition is known before the loop over columns, LLVM builds the mask lane by
        lane, in every column (up to 1.8 times the kernel's time).
        """
        dtype, pad = self.row.data_dtype, self.operands.data_zero_point
        inside = T.And(source >= 0, source < self.work.in_height)
        kept = T.Bind(T.Select(inside, const(255 if dtype == "uint8" else -1, dtype), const(0, dtype)))
        padding = T.Bind(T.Select(inside, const(0, dtype), const(pad, dtype)))

        def applied(value: Expr, lanes: int) -> Expr:
            return T.Bind(value & splat(kept, lanes) | splat(padding, lanes))

        return applied

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
            block = min(lanes, 16 // self.row.data_bytes)
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
        work, plan, lanes, vectors = self.work, self.plan, self.row.lanes, self.vectors
        # Else LLVM loads the weights before the loop over tiles, more than fit the registers, onto the stack.
        position = opaque(position, self.out)
        outputs = width * plan.out_rows * vectors
        accumulators = [Registers(outputs, "int32", lanes) for _ in self.weights]
        for acc, total in enumerate(accumulators):
            for i in range(outputs):
                bias = self.epilogue.start((position + i % vectors) * lanes)
                total[i] = bias if acc == 0 else const(0, "int32", lanes)
        self._products(accumulators, first_column, width, position, chunk_offset, scratch)

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

    def _products(
        self,
        accumulators: list[Registers],
        first_column: Expr,
        width: int,
        position: Expr,
        chunk_offset: Expr,
        scratch: Expr,
    ) -> None:
        """All products of a tile."""
        work, plan, row = self.work, self.plan, self.row
        depth, vectors, packed = row.depth, self.vectors, row.lanes * row.depth
        base = T.Bind(first_column * (work.stride[1] * self.chunk * depth) + chunk_offset * depth)
        ones = row.constant()
        taps = work.kernel_width * plan.out_rows * plan.groups * packed
        weight_base = T.Bind(position * taps)

        def data(group: int, column: Expr, j: int) -> Expr:
            start = (group * self.width + column) * self.chunk * depth + j * packed
            return T.Bind(load(scratch, base + start, packed))

        def taps_of(group: int, k: Expr, g: int, j: int) -> list[Expr]:
            alike = (g, group) if self.memory_operands else plan.first_alike(g, group)  # loaded once for all
            tap = ((k * plan.out_rows + alike[0]) * plan.groups + alike[1]) * packed
            return [load(buffer, weight_base + j * taps + tap, packed) for buffer in self.weights]

        def multiply(x: Expr, w: list[Expr], i: int, g: int, j: int) -> None:
            slot = (i * plan.out_rows + g) * vectors + j
            for total, values in zip(accumulators, w, strict=True):
                total[slot] = row.emit(row, total[slot], [x], [values], ones)

        def kernel_column(k: Expr) -> None:
            for group, rows in enumerate(plan.rows_of_groups()):
                for j in range(vectors):
                    w = {g: [T.Bind(value) for value in taps_of(group, k, g, j)] for g in rows}
                    for i in range(width):
                        x = data(group, k * work.dilation[1] + i * work.stride[1], j)
                        for g in rows:
                            multiply(x, w[g], i, g, j)

        if not self.memory_operands:  # unrolled, they would all be hoisted out of the loop over tiles, onto the stack
            loop(work.kernel_width, kernel_column, step=opaque(1, self.out))
            return
        for group, rows in enumerate(plan.rows_of_groups()):
            for column in columns_read(work, width):
                for j in range(vectors):
                    x = data(group, column, j)
                    for i, k in readers(work, column, width):
                        for g in rows:
                            multiply(x, taps_of(group, k, g, j), i, g, j)
