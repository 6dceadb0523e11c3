"""The innermost loop's body: a tile of accumulators, pixels × vectors of output channels, held in registers."""

from __future__ import annotations

import functools
from collections.abc import Callable

from selector.lowering.dot import Dot
from selector.lowering.tir import Expr, Registers, T, load, loop, pick


@functools.lru_cache(maxsize=256)
def tile_shapes(row: Dot, registers: int) -> tuple[tuple[int, int], ...]:
    """(pixels, vectors) whose accumulators fit so many registers beside weights, data, products and constants."""
    shapes = []
    for vectors in (1, 2, 3, 4, 6):
        if row.by_lane:  # one group after the other, the data of all pixels at hand: in one half of the registers
            most, data, spare = 8, 1, row.temporaries + vectors
        else:
            most, data, spare = 12, 0, row.temporaries + (vectors * row.pixels + 1) * row.groups + row.ones
        pixels = (registers - spare) // (vectors + data) // row.pixels * row.pixels
        if pixels >= 1:
            shapes.append((min(pixels, most), vectors))
    return tuple(shapes)


def reduce(row: Dot, steps: int, step: Callable[[Expr], None]) -> None:
    """``step(k)`` for every step of a reduction, written twice in the loop's body where that is faster.

    With AVX2 a step's products take about as many cycles as the front end needs for all of its instructions, those of
    the loop included: two steps a turn take .93 to .98 of the time (43 convolutions on Zen 3, by row).  With SSE they
    take 1.0 to 1.1 (48 convolutions), and a step of two groups is long enough.
    """
    times = 2 if (row.arch, row.lanes, row.groups) == ("x86_64", 8, 1) else 1

    def some(first: Expr) -> None:
        for i in range(times):
            step(first * times + i)

    loop(steps // times, some)
    for k in range(steps // times * times, steps):
        step(k)


class RegisterTile:
    """``pixels × vectors`` accumulators of one dot instruction."""

    def __init__(self, row: Dot, pixels: int, vectors: int) -> None:
        self.row, self.pixels, self.vectors = row, pixels, vectors
        self._acc = Registers(int(row.whole(pixels)) * vectors, "int32", row.lanes)
        self._ones = row.constant()

    @property
    def step_weights(self) -> int:
        """Packed weights that one step reads, in elements: [dot group][vector][lane][depth]."""
        return self.vectors * self.row.lanes * self.row.step

    def __getitem__(self, position: tuple[int, int]) -> Expr:
        pixel, vector = position
        return self._acc[pixel * self.vectors + vector]

    def __setitem__(self, position: tuple[int, int], value: Expr) -> None:
        pixel, vector = position
        self._acc[pixel * self.vectors + vector] = value

    def step(self, data: Expr, starts: list[Expr], weight: Expr, weight_start: Expr) -> None:
        """Accumulate ``row.step`` elements of the reduction: each pixel's from its start in ``data``."""
        row = self.row
        packed = row.lanes * row.depth

        def weights(group: int, vector: int) -> Expr:
            return T.Bind(load(weight, weight_start + (group * self.vectors + vector) * packed, packed))

        if row.by_lane:
            pixels = [row.data(data, start) for start in starts]
            for g in range(row.groups):
                group = [weights(g, j) for j in range(self.vectors)]
                for i, x in enumerate(pixels):
                    for j in range(self.vectors):
                        self[i, j] = row.emit(row, self[i, j], [x[g]], [group[j]], self._ones)
            return
        w = [[weights(g, j) for g in range(row.groups)] for j in range(self.vectors)]
        for i, start in enumerate(starts):
            x = row.data(data, start)
            for j in range(self.vectors):
                self[i, j] = row.emit(row, self[i, j], x, w[j], self._ones)


class _PairTile(RegisterTile):
    """The tile of a row of two pixels: an accumulator holds half of a vector's channels for each of them.

    A last pixel without another is multiplied twice.
    """

    def __getitem__(self, position: tuple[int, int]) -> Expr:
        slots, first = self._slots(*position)
        return pick([self._acc[slot] for slot in slots], [half + first + i for half in (0, 4) for i in (0, 1)])

    def __setitem__(self, position: tuple[int, int], value: Expr) -> None:
        slots, first = self._slots(*position)
        for half, slot in enumerate(slots):
            lanes = list(range(4))
            lanes[first : first + 2] = [4 + 2 * half, 5 + 2 * half]
            self._acc[slot] = pick([self._acc[slot], value], lanes)

    def _slots(self, pixel: int, vector: int) -> tuple[tuple[int, int], int]:
        """Both accumulators of a pixel's vector of channels, and where the pixel's lanes begin in them."""
        slot = (pixel // 2 * self.vectors + vector) * 2
        return (slot, slot + 1), pixel % 2 * 2

    def step(self, data: Expr, starts: list[Expr], weight: Expr, weight_start: Expr) -> None:
        """As that of RegisterTile."""
        row, count = self.row, self.vectors * 2
        w = [T.Bind(load(weight, weight_start + i * row.packed, row.packed)) for i in range(count)]
        for pixel in range(0, self.pixels, 2):
            x = row.data_of_both(data, starts[pixel], starts[min(pixel + 1, self.pixels - 1)])
            for i in range(count):
                slot = pixel * self.vectors + i
                self._acc[slot] = row.emit(row, self._acc[slot], [x], [w[i]], self._ones)


def register_tile(row: Dot, pixels: int, vectors: int) -> RegisterTile:
    """``pixels × vectors`` accumulators, whatever the row makes of them."""
    return (RegisterTile if row.pixels == 1 else _PairTile)(row, pixels, vectors)
