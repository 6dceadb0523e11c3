"""The direct template: dense, grouped and 1×1 convolutions as a register-tiled product over pixels and channels.

A tile is ``pixels × vectors`` accumulators that stay in registers over the whole reduction.  Each step broadcasts
``depth`` data elements of every pixel of the tile and multiplies them with the weights of ``vectors`` vectors of output
channels.  Weights are packed at compile time in exactly the order in which they are read:
``[group][block][run][step][dot group][vector][lane][depth]``, a run being a contiguous stretch of the reduction.

Edges cost no scalar code: the last block of channels and the last band of rows overlap their predecessors and compute
the same values again.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from selector.lowering.dot import Dot
from selector.lowering.kernel import Kernel, assemble
from selector.lowering.operands import Operands
from selector.lowering.prepare import Band
from selector.lowering.register_tile import reduce, register_tile
from selector.lowering.requantize import Epilogue, channel_order
from selector.lowering.tiling import choose_tile, flatten, merges, reads_in_place, reduction
from selector.lowering.tir import (
    Expr,
    Registers,
    T,
    cast,
    const,
    intrinsic,
    load,
    loop,
    outermost,
    splat,
    store,
)
from selector.lowering.wide import WideSums, piece_steps
from selector.target import TargetProfile
from selector.weights import reduction_runs
from selector.workload import ConvConstants, ConvWorkload

NAME = "direct"
MAX_DOT_GROUPS = 4  # vectors of each operand that a step may take
_SHORT = 32  # channels of a run whose loop LLVM unrolls
_SUMS = 8  # lanes that sum the data for Term2


def takes(workload: ConvWorkload) -> bool:
    """Every convolution."""
    return True


def summed_at_once(row: Dot) -> int:
    """Elements of the data that Term2's sums take at a time: bytes by ``vpsadbw``, tried with AVX-512 only."""
    return 64 if row.bits == 512 and row.data_dtype == "uint8" else _SUMS


def build(
    name: str,
    workload: ConvWorkload,
    constants: ConvConstants,
    operands: Operands,
    row: Dot,
    target: TargetProfile,
    planned: ConvWorkload | None = None,
) -> Kernel:
    """Kernel of a convolution whose ``operands`` are in the form of ``row``, packed for ``planned`` (None: itself)."""
    kernel = _Direct(flatten(workload), constants, operands, row, target, flatten(planned or workload))
    return assemble(name, NAME, row, workload, {"weight": kernel.packed}, kernel.epilogue, kernel.emit)


class _Direct:
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
        self.work = workload
        self.operands = operands
        self.row = row
        self.target = target
        runs = reduction_runs(operands.weight, merged=merges(workload))
        self.run_shape = (workload.kernel_height, runs.shape[1] // workload.kernel_height)
        self.run_length = runs.shape[2]
        runs_of_pixel, self.steps = reduction(workload, row)
        self.wide: WideSums | None = None  # of a task
        self.piece = piece_steps(workload, row)
        self.row_is_piece = self.run_shape[1] * self.steps <= self.piece  # else pieces are parts of runs
        # Kernels of many short runs spend as much on where these start as on products.
        self.short_runs = not merges(workload) and runs_of_pixel > 1 and self.run_length <= _SHORT
        self.tile = choose_tile(workload, row, target, choose_tile(planned, row, target).vectors)
        self.block = self.tile.vectors * row.lanes
        order = channel_order(self.tile.vectors, row.lanes, workload, target)
        groups = range(0, workload.out_channels, workload.group_out_channels)
        starts = [group + self.block_start(b) for group in groups for b in range(self.blocks)]
        self.epilogue = Epilogue.of(workload, constants, operands, target, starts, order)
        self.packed = self._pack(runs, np.concatenate(order))
        self.band = Band(workload, self.tile.rows, operands.data_dtype, operands.data_offset, operands.data_zero_point)
        self.direct = reads_in_place(workload, row, term2=operands.has_term2)

    # -- constants -----------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Blocks of output channels of one group."""
        return math.ceil(self.work.group_out_channels / self.block)

    @property
    def block_weights(self) -> int:
        """Packed weights of one block, in elements."""
        return math.prod(self.run_shape) * self.steps * self.row.step * self.block

    def block_start(self, block: Expr) -> Expr:
        """First channel of a block in its group; the last block overlaps the one before."""
        last = max(self.work.group_out_channels - self.block, 0)
        if isinstance(block, int):
            return min(block * self.block, last)
        return T.min(block * self.block, last) if last % self.block else block * self.block

    def _pack(self, runs: np.ndarray, order: np.ndarray) -> np.ndarray:
        row, work = self.row, self.work
        out_group = work.group_out_channels
        padded = np.zeros((work.groups, max(out_group, self.block), runs.shape[1], self.steps * row.step), runs.dtype)
        padded[:, :out_group, :, : self.run_length] = runs.reshape(work.groups, out_group, runs.shape[1], -1)
        blocks = [padded[:, self.block_start(b) + order] for b in range(self.blocks)]
        stacked = np.stack(blocks, axis=1)  # group, block, channel, run, reduction
        shape = (*stacked.shape[:2], self.tile.vectors, row.lanes, runs.shape[1], self.steps, row.groups, row.depth)
        axes = (0, 1, 4, 5, 6, 2, 3, 7)  # group, block, run, step, dot group, vector, lane, depth
        return np.ascontiguousarray(stacked.reshape(shape).transpose(axes)).reshape(-1)

    # -- code ------------------------------------------------------------------------------------------------------

    def emit(self, data: Expr, weight: Expr, *rest: Expr) -> None:
        """The body of the function."""
        *constants, out = rest
        self.epilogue.bind(constants)
        self.weight, self.out = weight, out
        work, tile = self.work, self.tile
        bands = math.ceil(work.out_height / tile.rows)
        tasks = work.batch * bands * tile.channel_tasks
        per_task = math.ceil(work.groups * self.blocks / tile.channel_tasks)

        def task(index: Expr) -> None:
            first_block = (index % tile.channel_tasks) * per_task
            image = index // tile.channel_tasks // bands
            first_row = T.min((index // tile.channel_tasks) % bands * tile.rows, work.out_height - tile.rows)
            image, first_row = T.Bind(image + T.int32(0)), T.Bind(first_row + T.int32(0))
            self.pitch, self.row_stride = work.in_width * work.in_channels, work.stride[0]
            source, base = data, (image * work.in_height + first_row * work.stride[0]) * self.pitch
            if not self.direct:
                slack = self.row.step + (self.row.lanes * self.row.depth if self.operands.has_term2 else 0)
                source = T.alloc_buffer((self.band.elements + slack,), self.operands.data_dtype)
                self.band.emit(data, source, image, first_row, self.target.vector_bits // 8)
                base = 0
                self.pitch, self.row_stride = self.band.pitch, self.band.row_stride
            if work.is_split:
                self.wide = WideSums(tile.pixels * tile.vectors, self.row.lanes)
            self.source, self.base = source, T.Bind(T.int32(0) + base)
            self.out_base = T.Bind((image * work.out_height + first_row) * work.out_width * work.out_channels)
            sums = self._row_sums() if self.operands.has_term2 else None
            loop(per_task, lambda b: self._blocks(first_block + b, sums))

        outermost(tasks, task, threads=work.threads, lanes=self.row.lanes)

    def _blocks(self, index: Expr, sums: Expr | None) -> None:
        work = self.work
        total = work.groups * self.blocks
        index = T.Bind(T.min(index + T.int32(0), total - 1))  # an uneven share repeats the last block
        group = index // self.blocks
        channel = T.Bind(group * work.group_out_channels + self.block_start(index % self.blocks))
        weight_base = T.Bind(index * self.block_weights)
        data_base = T.Bind(self.base + group * work.group_in_channels)
        lines, length = self._lines()
        count = math.ceil(length / self.tile.pixels)
        size, larger = divmod(length, count)

        def tiles(line: Expr, first: int, number: int, width: int) -> None:
            def tile(t: Expr) -> None:
                column = T.Bind(first + t * width + T.int32(0))
                self._tile(line, column, width, index, channel, weight_base, data_base, group, sums)

            loop(number, tile)

        def line(index: Expr) -> None:
            tiles(index, 0, larger, size + 1)
            tiles(index, larger * (size + 1), count - larger, size)

        loop(lines, line)

    def _lines(self) -> tuple[int, int]:
        """Lines of output pixels that tiles do not cross, and pixels of a line.

        Wide rows are lines of their own, whose pixels are equally far apart; narrow ones would waste too much of their
        last tile and form one line, at the price of an address for every pixel.  In short runs that price is high, and
        tiles three quarters full are the better choice.
        """
        across, pixels = self.work.out_width, self.tile.pixels
        full_enough = self.short_runs and across > 1 and across / math.ceil(across / pixels) >= 3 / 4 * pixels
        if across >= 4 * pixels or full_enough:
            return self.tile.rows, self.work.out_width
        return 1, self.tile.rows * self.work.out_width

    def _offsets(self, line: Expr, column: Expr, width: int) -> list[Expr]:
        """Where the windows of the output pixels of a tile start in the band."""
        across = self.work.out_width
        if across == 1:
            return [self._offset(column, 0) + self._offset(i, 0) for i in range(width)]
        if self._lines()[1] == across:
            return [self._offset(line, column) + self._offset(0, i) for i in range(width)]
        return [self._offset((column + i) // across, (column + i) % across) for i in range(width)]

    def _address(self, index: Expr) -> Expr:
        """The index, in short runs as int64.

        Of int32 LLVM computes those of a step in vectors, takes them out one by one and keeps accumulators on the stack
        for want of registers: int64 takes .43 to 1.0 of the time where groups have 8 or 16 channels.
        """
        return cast(index, "int64", 1) if self.short_runs else index

    def _offset(self, row: Expr, column: Expr) -> Expr:
        """Where the window of the band's output pixel (row, column) starts, from the band's start."""
        return row * (self.row_stride * self.pitch) + column * (self.work.stride[1] * self.work.in_channels)

    def _tile(
        self,
        line: Expr,
        column: Expr,
        width: int,
        block: Expr,
        channel: Expr,
        weight_base: Expr,
        data_base: Expr,
        group: Expr,
        sums: Expr | None,
    ) -> None:
        row, vectors = self.row, self.tile.vectors
        tile = register_tile(row, width, vectors)
        for j in range(vectors):
            bias = self.epilogue.start(block * self.block + j * row.lanes)
            for i in range(width):
                tile[i, j] = bias
                if self.wide is not None:
                    self.wide.clear(i * vectors + j)
        offsets = [T.Bind(self._address(data_base + offset)) for offset in self._offsets(line, column, width)]
        first = T.Bind(line * self._lines()[1] + column)

        def finish_piece() -> None:
            assert self.wide is not None
            for i in range(width):
                for j in range(vectors):
                    self.wide.add(i * vectors + j, tile[i, j])
                    tile[i, j] = const(0, "int32", row.lanes)

        def run(kernel_row: Expr, kernel_column: Expr) -> None:
            work = self.work
            shift = kernel_row * (work.dilation[0] * self.pitch) + kernel_column * (work.dilation[1] * work.in_channels)
            run_index = kernel_row * self.run_shape[1] + kernel_column
            weights = weight_base + run_index * (self.steps * tile.step_weights)

            def step(k: Expr) -> None:
                ahead = k * row.step
                starts = [offset + self._address(shift) + self._address(ahead) for offset in offsets]
                tile.step(self.source, starts, self.weight, weights + k * tile.step_weights)

            if self.wide is None or self.row_is_piece:
                reduce(row, self.steps, step)
            else:
                self._in_pieces(step, finish_piece)

        def kernel_row(h: Expr) -> None:
            loop(self.run_shape[1], lambda w: run(h, w))
            if self.wide is not None and self.row_is_piece:
                finish_piece()

        loop(self.run_shape[0], kernel_row)
        for i in range(width):
            valid = self.work.group_out_channels if self.work.group_out_channels < self.block else None
            highs = None
            sums_of_pixel = [tile[i, j] for j in range(vectors)]
            if self.wide is not None:
                wide = [self.wide[i * vectors + j] for j in range(vectors)]
                highs, sums_of_pixel = [high for high, _ in wide], [low for _, low in wide]
            self.epilogue.emit(
                sums_of_pixel,
                block * self.block,
                self.out,
                self.out_base + (first + i) * self.work.out_channels + channel,
                None if sums is None else [self._data_sum(sums, group, first + i)] * vectors,
                valid,
                highs,
            )

    def _in_pieces(self, step: Callable[[Expr], None], finish_piece: Callable[[], None]) -> None:
        """The steps of a run, in pieces."""
        whole, rest = divmod(self.steps, self.piece)

        def piece(index: Expr, steps: int) -> None:
            reduce(self.row, steps, lambda k: step(index * self.piece + k))
            finish_piece()

        loop(whole, lambda index: piece(index, self.piece))
        if rest:
            piece(whole, rest)

    def _data_sum(self, sums: Expr, group: Expr, pixel: Expr) -> Expr:
        index = group * (self.tile.rows * self.work.out_width) + pixel
        return T.Bind(splat(load(sums, index, 1), self.row.lanes))

    def _terms(self) -> tuple[int, Callable[[Expr, int], Expr]]:
        """How many elements of the data are summed at once, and the first ``count`` of so many as int32 x _SUMS."""
        dtype = self.operands.data_dtype

        def first(values: Expr, count: int, lanes: int, dtype: str) -> Expr:
            if count == lanes:
                return values
            return T.Select(T.ramp(0, 1, lanes) < const(count, "int32", lanes), values, const(0, dtype, lanes))

        def widened(values: Expr, count: int) -> Expr:
            return first(cast(values, "int32", _SUMS), count, _SUMS, "int32")

        def by_eights(values: Expr, count: int) -> Expr:
            kept = first(values, count, 64, dtype)
            eights = intrinsic("llvm.x86.avx512.psad.bw.512", "int64x8", kept, const(0, dtype, 64))
            return cast(eights, "int32", _SUMS)

        lanes = summed_at_once(self.row)
        return lanes, widened if lanes == _SUMS else by_eights

    def _row_sums(self) -> Expr:
        """Term2's sums: scratch int32 [group][pixel] with the sum of x' under every output pixel of the band."""
        work = self.work
        pixels = self.tile.rows * work.out_width
        sums = T.alloc_buffer((max(work.groups * pixels, 256),), "int32")
        lanes, terms = self._terms()
        whole, rest = divmod(self.run_length, lanes)

        def pixel(index: Expr) -> None:
            group, position = index // pixels, index % pixels
            offset = self._offset(position // work.out_width, position % work.out_width)
            start = T.Bind(self.base + group * work.group_in_channels + offset)
            total = Registers(1, "int32", _SUMS)
            total[0] = const(0, "int32", _SUMS)

            def run(kernel_row: Expr, kernel_column: Expr) -> None:
                shift = start + kernel_row * (work.dilation[0] * self.pitch)
                shift = T.Bind(shift + kernel_column * (work.dilation[1] * work.in_channels))

                def add(offset: Expr, count: int) -> None:
                    total[0] = total[0] + terms(load(self.source, shift + offset, lanes), count)

                loop(whole, lambda k: add(k * lanes, lanes))
                if rest:
                    add(whole * lanes, rest)

            loop(self.run_shape[0], lambda h: loop(self.run_shape[1], lambda w: run(h, w)))
            store(sums, index, intrinsic("llvm.vector.reduce.add", "int32", total[0]), 1)

        loop(work.groups * pixels, pixel)
        return sums
