"""Exact integer Winograd inside the int16 lowering.

The arithmetic, and the proof that it is exact, are in ``scheme``.

Steps of a task, a run of tiles: copy the band of input under them with padding (int16, zero point subtracted);
transform it into ``V[position][tile][part][channel]``; for each block of output channels multiply every position,
``M = V · U``, and transform back with the epilogue fused.  V and M stay in L2; the weights U, transformed once (see
``winograd_weights``), are streamed once a task, those of each position prefetched while the one before it is in use.
(Transforming bytes at run time, an eighth of what square tiles read, costs as much as those where they come from
memory, as at 7×7×512, and 1.2 to 1.6 times as much at 14×14×256: stores and reloads, even with parts that fit L1.)
"""

from __future__ import annotations

import functools
import math

import numpy as np

from selector.lowering import winograd_weights
from selector.lowering.dot import Dot
from selector.lowering.kernel import Kernel, assemble
from selector.lowering.operands import Operands
from selector.lowering.register_tile import RegisterTile, reduce
from selector.lowering.requantize import Epilogue, channel_order
from selector.lowering.scheme import Part, Scheme, Span
from selector.lowering.tir import Expr, T, const, load, loop, outermost, prefetch, store
from selector.lowering.winograd_layout import band_of, partition, tile_shape, transform_lanes
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload


def build(
    name: str,
    scheme: Scheme,
    workload: ConvWorkload,
    constants: ConvConstants,
    operands: Operands,
    row: Dot,
    target: TargetProfile,
    planned: ConvWorkload | None = None,
) -> Kernel:
    """Kernel of a convolution that the scheme applies to, packed for ``planned`` (None: itself).

    ``operands`` are those of the int16 lowering.
    """
    kernel = _Winograd(scheme, workload, constants, operands, row, target, planned or workload)
    packed = {"weight": winograd_weights.pack(scheme, workload, kernel.ordered)}
    recipe = winograd_weights.recipe(scheme, workload, kernel.ordered)
    return assemble(name, scheme.name, row, workload, packed, kernel.epilogue, kernel.emit, recipe)


class _Winograd:
    """State shared by the parts of one kernel's code."""

    def __init__(
        self,
        scheme: Scheme,
        workload: ConvWorkload,
        constants: ConvConstants,
        operands: Operands,
        row: Dot,
        target: TargetProfile,
        planned: ConvWorkload,
    ) -> None:
        self.scheme, self.work, self.row, self.target = scheme, workload, row, target
        self.tile_rows, self.tile_columns = scheme.tiles(workload)
        self.image_tiles = self.tile_rows * self.tile_columns
        shares, self.channel_tasks = partition(scheme, workload, target)
        self.tiles = math.ceil(self.image_tiles / shares)
        shares_planned, _ = partition(scheme, planned, target)
        tiles_planned = math.ceil(math.prod(scheme.tiles(planned)) / shares_planned)
        _, vectors = tile_shape(planned, tiles_planned, row, target)
        self.pixels, self.vectors = tile_shape(workload, self.tiles, row, target, vectors)
        self.block = self.vectors * row.lanes
        self.steps = math.ceil(workload.in_channels / row.step)
        self.channels = self.steps * row.step  # of a part of V, padded to whole steps
        self.split = scheme.split(workload)
        self.depth = self.split.parts * self.channels  # of V, for a tile
        # Elements from one position to the next in V and M.
        self.data_stride = _odd_lines(self.tiles * self.depth, 2)
        self.product_stride = _odd_lines(self.tiles * self.block, 4)
        starts = [
            min(start, self._padded_channels - self.block) for start in range(0, workload.out_channels, self.block)
        ]
        order = channel_order(self.vectors, row.lanes, workload, target)
        self.epilogue = Epilogue.of(workload, constants, operands, target, starts, order)
        slots = np.add.outer(starts, np.concatenate(order))
        self.ordered = winograd_weights.ordered(operands.weight, workload, row, self.vectors, slots)
        self.band = band_of(scheme, workload, self.tiles, operands.data_offset)
        self.band_rows = self.band.out_rows // scheme.rows.size

    # -- constants -----------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> int:
        """Blocks of output channels; the last one overlaps the one before."""
        return math.ceil(self.work.out_channels / self.block)

    @property
    def _padded_channels(self) -> int:
        """Output channels, at least a block."""
        return max(self.work.out_channels, self.block)

    # -- code ------------------------------------------------------------------------------------------------------

    def emit(self, data: Expr, weight: Expr, *rest: Expr) -> None:
        """The body of the function."""
        *constants, out = rest
        self.epilogue.bind(constants)
        self.weight, self.out = weight, out
        work, scheme = self.work, self.scheme
        shares = math.ceil(self.image_tiles / self.tiles)
        blocks_of_task = math.ceil(self.blocks / self.channel_tasks)

        def task(index: Expr) -> None:
            share = index // self.channel_tasks
            image = T.Bind(share // shares + T.int32(0))
            start = share % shares * self.tiles
            first_block = index % self.channel_tasks * blocks_of_task
            first = T.Bind(T.min(start, self.image_tiles - self.tiles) + T.int32(0))
            first_row = T.Bind(T.min(first // self.tile_columns, self.tile_rows - self.band_rows))
            band = T.alloc_buffer((max(self.band.elements, 512),), "int16")
            data_tiles = T.alloc_buffer((scheme.points * self.data_stride + 512,), "int16")
            products = T.alloc_buffer((scheme.points * self.product_stride + 256,), "int32")
            self.band.emit(data, band, image, first_row * scheme.rows.size, self.target.vector_bits // 8)
            self._transform_data(band, data_tiles, first, first_row)

            def block(offset: Expr) -> None:
                b = T.Bind(
                    T.min(first_block + offset + T.int32(0), self.blocks - 1)
                )  # an uneven share repeats the last
                self._multiply(data_tiles, products, b)
                self._transform_back(products, b, image, first)

            loop(blocks_of_task, block)

        outermost(work.batch * shares * self.channel_tasks, task, threads=work.threads, lanes=self.row.lanes)

    def _transform_data(self, band: Expr, data_tiles: Expr, first: Expr, first_row: Expr) -> None:
        """V[position][tile][part][channel] = Bᵀ d B for every tile, a vector of channels at a time."""
        scheme, split, channels = self.scheme, self.split, self.work.in_channels
        rows, columns = scheme.rows, scheme.columns
        down, across = self.band.row_stride * self.band.pitch, self.work.stride[1] * channels
        lanes = transform_lanes(self.work, self.target)
        missing = const(0, "int16", lanes)  # for the last point, where no part has weights

        def transform(corner: Expr, target: Expr, part: Expr, c: Expr) -> None:
            row, column = part // len(split.columns), part % len(split.columns)
            offset = _pick(split.rows, row) * self.band.pitch + _pick(split.columns, column) * channels
            channel = T.Bind(T.min(c * lanes + T.int32(0), channels - lanes))
            start = T.Bind(corner + offset + channel)
            halfway = [[missing] * rows.points] * columns.points
            for j in range(columns.size + split.columns[0].taps - 1):
                d = [missing] * rows.points
                for i in range(rows.size + split.rows[0].taps - 1):
                    d[i] = T.Bind(load(band, start + i * down + j * across, lanes))
                halfway[j] = [T.Bind(value) for value in rows.data(d)]
            for span in split.column_spans:
                order = split.order(span)
                slot = T.Bind(target + (row * order[0] + column * order[1]) * self.channels + channel)
                for i in range(split.row_spans[-1].stop):
                    whole = columns.data([values[i] for values in halfway])
                    for j in span.points:
                        store(data_tiles, slot + (i * columns.points + j) * self.data_stride, whole[j], lanes)

        def tile(index: Expr) -> None:
            row = (first + index) // self.tile_columns - first_row
            column = (first + index) % self.tile_columns
            corner = row * (rows.size * down) + column * (columns.size * across)
            target = index * self.depth
            vectors = math.ceil(channels / lanes)
            loop(split.parts, lambda part: loop(vectors, functools.partial(transform, corner, target, part)))
            if self.channels > channels:
                loop(scheme.points * split.parts, lambda i: padding(index, i // split.parts, i % split.parts))

        def padding(index: Expr, position: Expr, part: Expr) -> None:
            """Of a part's last step: it meets zero weights, but must be there."""
            end = T.Bind(position * self.data_stride + index * self.depth + part * self.channels + channels)
            for extra in range(self.channels - channels):
                store(data_tiles, end + extra, T.int16(0), 1)

        loop(self.tiles, tile)

    def _multiply(self, data_tiles: Expr, products: Expr, block: Expr) -> None:
        """M[position][tile][block's channels] of all positions."""
        row, across = self.row, self.scheme.columns.points
        count = math.ceil(self.tiles / self.pixels)
        size, larger = divmod(self.tiles, count)
        panel = self.steps * self.block * row.step  # weights of a part
        ask = math.ceil(self.block * row.step / count)  # weights to ask for in a step

        def some(position: Expr, weights: Expr, parts: int, group: Expr, first: Expr, width: int) -> None:
            """A group of tiles at one position."""
            tile = RegisterTile(row, width, self.vectors)
            base = T.Bind(position * self.data_stride + first * self.depth)
            target = T.Bind(position * self.product_stride + first * self.block)
            ahead = T.Bind(weights + parts * (panel + group * (self.steps * ask)))
            slots = [(i, j) for i in range(width) for j in range(self.vectors)]
            for slot in slots:
                tile[slot] = const(0, "int32", row.lanes)

            def step(k: Expr) -> None:
                for line in range(0, ask, 64 // 2):
                    prefetch(self.weight, ahead + k * ask + line)
                starts = [base + i * self.depth + k * row.step for i in range(width)]
                tile.step(data_tiles, starts, self.weight, weights + k * tile.step_weights)

            reduce(row, parts * self.steps, step)
            for i, j in slots:
                store(products, target + i * self.block + j * row.lanes, tile[i, j], row.lanes)

        def multiply(rows: Span, columns: Span, before: int, index: Expr) -> None:
            """One position of a region; ``before``: products of the regions before."""
            width = len(columns.points)
            i, j = (0, index) if width == across else (index // width, index % width)
            position = T.Bind((rows.first + i) * across + columns.first + j + T.int32(0))
            parts = rows.parts * columns.parts
            weights = T.Bind((block * self.split.products + before + index * parts) * panel + T.int32(0))
            # Every group of tiles asks for its part of the next position's weights: one alone would leave memory idle
            # while the others multiply.
            loop(larger, lambda t: some(position, weights, parts, t, t * (size + 1), size + 1))
            first = larger * (size + 1)
            loop(count - larger, lambda t: some(position, weights, parts, larger + t, first + t * size, size))

        before = 0
        for rows, columns in self.split.regions:
            positions = len(rows.points) * len(columns.points)
            loop(positions, functools.partial(multiply, rows, columns, before))
            before += positions * rows.parts * columns.parts

    def _transform_back(self, products: Expr, block: Expr, image: Expr, first: Expr) -> None:
        """Outputs of a block of channels: s·y, the exact division by s, and the epilogue."""
        work, lanes = self.work, self.row.lanes
        rows, columns = self.scheme.rows.size, self.scheme.columns.size
        valid = work.out_channels if work.out_channels < self.block else None
        channel = T.Bind(T.min(block * self.block + T.int32(0), max(work.out_channels - self.block, 0)))
        outputs = T.alloc_buffer((self.scheme.outputs * self.block,), "int32")

        def tile(index: Expr) -> None:
            row = T.Bind((first + index) // self.tile_columns * rows)
            column = T.Bind((first + index) % self.tile_columns * columns)
            for j in range(self.vectors):
                values = self._inverse(products, T.Bind(index * self.block + j * lanes), block * self.block + j * lanes)
                for pixel, value in enumerate(values):
                    store(outputs, pixel * self.block + j * lanes, value, lanes)

            def put(i: Expr, j: Expr) -> None:
                at = (i * columns + j) * self.block
                values = [load(outputs, at + v * lanes, lanes) for v in range(self.vectors)]
                pixel = (image * work.out_height + row + i) * work.out_width + column + j
                index = T.Bind(pixel * work.out_channels + channel)
                self.epilogue.emit(values, block * self.block, self.out, index, valid=valid)

            # Tiles at the lower and right edges may reach over.
            with T.serial(T.min(work.out_height - row, rows)) as i:
                with T.serial(T.min(work.out_width - column, columns)) as j:
                    put(i, j)

        loop(self.tiles, tile)

    def _inverse(self, products: Expr, start: Expr, slot: Expr) -> list[Expr]:
        """The outputs of one tile and one vector of channels, bias included."""
        scheme, lanes = self.scheme, self.row.lanes
        rows, columns = scheme.rows, scheme.columns
        row_stop, column_stop = self.split.row_spans[-1].stop, self.split.column_spans[-1].stop

        def product(i: int, j: int) -> Expr:
            if i >= row_stop or j >= column_stop:  # no part has weights there
                return const(0, "int32", lanes)
            return T.Bind(load(products, start + (i * columns.points + j) * self.product_stride, lanes))

        halfway = []
        for j in range(columns.points):
            m = [product(i, j) for i in range(rows.points)]
            halfway.append([T.Bind(value) for value in rows.inverse(m)])
        bias = self.epilogue.start(slot)
        outputs = []
        for i in range(rows.size):
            for value in columns.inverse([column[i] for column in halfway]):
                if scheme.odd_inverse != 1:
                    value = value * const(scheme.odd_inverse, "int32", lanes)
                outputs.append(T.Bind((value >> const(scheme.shift, "int32", lanes)) + bias))
        return outputs


def _pick(parts: tuple[Part, ...], index: Expr) -> Expr:
    """The offset of one of the parts."""
    offsets = [part.offset for part in parts]
    step = offsets[1] - offsets[0] if len(offsets) > 1 else 0
    if offsets == [offsets[0] + i * step for i in range(len(offsets))]:
        return offsets[0] + index * step
    *others, chosen = offsets
    for i, offset in reversed(list(enumerate(others))):
        chosen = T.Select(index == i, T.int32(offset), chosen)
    return chosen


def _odd_lines(elements: int, size: int) -> int:
    """At least ``elements``, as an odd number of 64-byte lines: a stride whose multiples use all sets of a cache."""
    lines = math.ceil(elements * size / 64)
    return (lines | 1) * 64 // size
