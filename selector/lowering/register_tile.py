"""The innermost loop's body: a tile of accumulators, pixels × vectors of output channels, held in registers."""

from __future__ import annotations

from selector.lowering.dot import Dot
from selector.lowering.tir import Expr, Registers, T, load
from selector.target import TargetProfile


def tile_shapes(row: Dot, target: TargetProfile) -> list[tuple[int, int]]:
    """(pixels, vectors) whose accumulators fit the registers beside weights, data, products and constants."""
    shapes = []
    for vectors in (1, 2, 3, 4, 6):
        spare = 1 + vectors * row.groups + row.groups + row.ones
        pixels = (target.vector_registers - spare) // vectors
        if pixels >= 1:
            shapes.append((min(pixels, 12), vectors))
    return shapes


class RegisterTile:
    """``pixels × vectors`` accumulators of one dot instruction."""

    def __init__(self, row: Dot, pixels: int, vectors: int) -> None:
        self.row, self.pixels, self.vectors = row, pixels, vectors
        self._acc = Registers(pixels * vectors, "int32", row.lanes)
        self._ones = row.constant()

    @property
    def step_weights(self) -> int:
        """Packed weights that one step reads, in elements: [dot group][vector][lane][depth]."""
        return self.vectors * self.row.lanes * self.row.step

    def start(self, values: list[Expr]) -> None:
        """Set every pixel's accumulators, one value for each vector."""
        for i in range(self.pixels * self.vectors):
            self._acc[i] = values[i % self.vectors]

    def pixel(self, index: int) -> list[Expr]:
        """The accumulators of one pixel."""
        return [self._acc[index * self.vectors + j] for j in range(self.vectors)]

    def step(self, data: Expr, starts: list[Expr], weight: Expr, weight_start: Expr) -> None:
        """Accumulate ``row.step`` elements of the reduction: each pixel's from its start in ``data``."""
        row = self.row
        packed = row.lanes * row.depth

        def weights(group: int, vector: int) -> Expr:
            return T.Bind(load(weight, weight_start + (group * self.vectors + vector) * packed, packed))

        w = [[weights(g, j) for g in range(row.groups)] for j in range(self.vectors)]
        for i, start in enumerate(starts):
            x = [T.Bind(row.broadcast(load(data, start + g * row.depth, row.depth))) for g in range(row.groups)]
            for j in range(self.vectors):
                slot = i * self.vectors + j
                self._acc[slot] = row.emit(row, self._acc[slot], x, w[j], self._ones)
