"""Winograd's minimal filtering in integers: the transforms, and when they are exact.

F(r×c, 3×3) computes r×c outputs from (r+2)×(c+2) inputs with (r+2)(c+2) multiplications instead of 9rc: 4 times fewer
for 4×4, 3 for 4×2, 2.25 for 2×2.  All transforms are integer: the fractions of the usual matrices are moved into the
inverse transform and, as far as it stays small, that of the weights, so that the result is ``s·y`` with ``s`` the
product of what the two axes bear, 24 for four outputs and 2 for two.  Sums may wrap, since everything holds modulo 2³²;
``y`` is recovered exactly by the inverse of the odd part of ``s`` and an arithmetic shift by the even part, if
``|y| < 2³¹ / 2^shift``: 2²⁵ for 4×4, 2²⁷ for 4×2, 2²⁹ for 2×2.  The constant weights prove it, or not.

The transformed data is at most 10 (of four) or 2 (of two) times |x - zp| <= 255 an axis, the transformed weights at
most 7 or 3 times |w - zp| <= 255: all fit int16.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from selector.lowering.tir import Expr
from selector.workload import ConvConstants, ConvWorkload


@dataclass(frozen=True, eq=False)  # compared by identity: there are two
class Axis:
    """F(m, 3): the transforms along one axis."""

    size: int  # m
    shift: int  # s = odd * 2**shift
    odd: int

    @property
    def points(self) -> int:
        """Edge of a tile of data: m + 2."""
        return self.size + 2

    def weight(self, w: list[Expr]) -> list[Expr]:
        """G w, its fractions removed: 3 -> m + 2 points.

        The outer points bear as much of their scale as does not make them larger than the others.
        """
        even, odd = w[0] + w[2], w[1]
        if self.size == 2:
            return [w[0] * 2, even + odd, even - odd, w[2] * 2]
        outer, inner = w[0] + w[2] * 4, w[1] * 2
        return [w[0] * 6, even + odd, even - odd, outer + inner, outer - inner, w[2] * 6]

    def data(self, d: list[Expr]) -> list[Expr]:
        """Bᵀ d."""
        if self.size == 2:
            return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]

        # Doubled by adding: for a product with a Python number TVM would widen the words, and LLVM after it.
        def twice(x: Expr) -> Expr:
            return x + x

        even, odd2 = d[4] - d[2], twice(d[3] - d[1])
        a, b = d[4] - twice(twice(d[2])), d[3] - twice(twice(d[1]))
        first, last = twice(twice(d[0] - d[2])) + even, d[5] - d[3] - twice(odd2)
        return [first, a + b, a - b, even + odd2, even - odd2, last]

    def inverse(self, m: list[Expr]) -> list[Expr]:
        """sAᵀ m (with what ``weight`` leaves of the scale of each point)."""
        if self.size == 2:
            return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
        plus, minus, r, t2 = (m[1] + m[2]) * 4, (m[2] - m[1]) * 4, m[3] + m[4], (m[3] - m[4]) * 2
        return [m[0] - plus + r, minus + t2, r * 4 - plus, minus + (t2 + m[5]) * 4]


_TWO, _FOUR = Axis(2, shift=1, odd=1), Axis(4, shift=3, odd=3)


@dataclass(frozen=True, eq=False)  # compared by identity
class Scheme:
    """F(r×c, 3×3): an axis of rows and one of columns."""

    rows: Axis
    columns: Axis

    @property
    def name(self) -> str:
        """As in the names of templates: winograd4, winograd4x2."""
        one = self.rows.size == self.columns.size
        return f"winograd{self.rows.size}" + ("" if one else f"x{self.columns.size}")

    @property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return self.rows.size * self.columns.size

    @property
    def positions(self) -> int:
        """Products of a tile, for a channel of data and one of weights."""
        return self.rows.points * self.columns.points

    @property
    def shift(self) -> int:
        """s = odd * 2**shift."""
        return self.rows.shift + self.columns.shift

    @property
    def odd_inverse(self) -> int:
        """The inverse of the odd part of s modulo 2**32, as int32."""
        return (pow(self.rows.odd * self.columns.odd, -1, 1 << 32) + (1 << 31)) % (1 << 32) - (1 << 31)

    @property
    def limit(self) -> int:
        """Exact if |y| is below this."""
        return 1 << (31 - self.shift)

    def tiles(self, workload: ConvWorkload) -> tuple[int, int]:
        """Rows and columns of tiles of an image; those at the lower and right edges may reach over."""
        return -(-workload.out_height // self.rows.size), -(-workload.out_width // self.columns.size)


F4, F42, F24, F2 = (Scheme(rows, columns) for rows, columns in product((_FOUR, _TWO), repeat=2))
SCHEMES = (F4, F42, F24, F2)
_MIN_CHANNELS = 8


def schemes(workload: ConvWorkload, bound: int) -> list[Scheme]:
    """The schemes that are exact while |accumulator| <= ``bound``; none where Winograd does not apply."""
    work = workload
    shape_fits = (
        (work.kernel_height, work.kernel_width, work.stride, work.dilation, work.groups) == (3, 3, (1, 1), (1, 1), 1)
        and work.in_channels >= _MIN_CHANNELS
        and work.out_height > 1
        and work.out_width > 1
    )
    if not shape_fits:
        return []
    return [scheme for scheme in SCHEMES if bound < scheme.limit]


def output_bound(workload: ConvWorkload, constants: ConvConstants) -> int:
    """Largest |accumulator| that the constant weights allow for any data."""
    weight = constants.weight.astype(np.int64) - constants.weight_zero_point.reshape(-1, 1, 1, 1)
    low, high = (0, 255) if workload.data_dtype == "uint8" else (-128, 127)
    largest = max(high - workload.data_zero_point, workload.data_zero_point - low)
    return int(np.abs(weight).sum(axis=(1, 2, 3)).max()) * largest


def transform_weights(scheme: Scheme, weight: np.ndarray) -> list[np.ndarray]:
    """(3, 3, …) int16 -> the positions, row by row, of (…): G w Gᵀ, exact, as every intermediate fits."""
    columns = [scheme.rows.weight([weight[i, j] for i in range(3)]) for j in range(3)]
    rows = [scheme.columns.weight([column[i] for column in columns]) for i in range(scheme.rows.points)]
    return [position for row in rows for position in row]
