"""Winograd's minimal filtering in integers: the transforms, and when they are exact.

F(r×c, 3×3) computes r×c outputs from (r+2)×(c+2) inputs with (r+2)(c+2) multiplications instead of 9rc: 4 times fewer
for 4×4, 3 for 4×2, 2.25 for 2×2.  All transforms are integer: the fractions of the usual matrices are moved into the
inverse transform and, as far as it stays small, that of the weights, so that the result is ``s·y`` with ``s`` the
product of what the two axes bear, 24 for four outputs and 2 for two.  Sums may wrap, since everything holds modulo 2³²;
``y`` is recovered exactly by the inverse of the odd part of ``s`` and an arithmetic shift by the even part, if
``|y| < 2³¹ / 2^shift``: 2²⁵ for 4×4, 2²⁷ for 4×2, 2²⁹ for 2×2.  The constant weights prove it, or not.

The transformed data is at most 10 (of four) or 2 (of two) times |x - zp| <= 255 an axis, the transformed weights at
most 7 or 3 times |w - zp| <= 255: all fit int16.

Other kernels are sums of convolutions of up to 3×3 taps, each with data of its own: the phases of a stride, and of each
phase three taps after three.  Their products add up before the one inverse transform.  Weights of fewer than three
taps are zero at the last point, which falls away: 5×5 has 121 products for 16 outputs instead of 400, 3×3 of stride 2
has 100 instead of 144.  An axis of one tap stays as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from selector.lowering.tir import Expr
from selector.workload import ConvConstants, ConvWorkload


class Part(NamedTuple):
    """Taps of one axis of a kernel that a filter takes at a time, a stride apart."""

    offset: int  # the first one
    taps: int


class Span(NamedTuple):
    """Consecutive points of an axis at which as many parts, the first ones, have weights that are not zero."""

    first: int
    stop: int
    parts: int

    @property
    def points(self) -> range:
        """The points themselves."""
        return range(self.first, self.stop)


@dataclass(frozen=True, eq=False)  # kept for every kernel and stride, with what is derived from it: plans ask often
class Split:
    """A kernel in parts: those of its rows by those of its columns."""

    rows: tuple[Part, ...]
    columns: tuple[Part, ...]
    row_spans: tuple[Span, ...]
    column_spans: tuple[Span, ...]

    @functools.cached_property
    def parts(self) -> int:
        """Parts of the kernel."""
        return len(self.rows) * len(self.columns)

    @functools.cached_property
    def products(self) -> int:
        """Multiplications of a tile, for a channel of data and one of weights."""
        rows, columns = (sum(len(s.points) * s.parts for s in spans) for spans in (self.row_spans, self.column_spans))
        return rows * columns

    @functools.cached_property
    def regions(self) -> list[tuple[Span, Span]]:
        """Positions of a tile with as many parts, rows by columns."""
        return list(product(self.row_spans, self.column_spans))

    def order(self, columns: Span) -> tuple[int, int]:
        """(r, c) such that part (row, column) is the ``r·row + c·column``-th at every position of these columns.

        Parts without weights come last everywhere: a part of a column has none at the last point only.
        """
        return (len(self.columns), 1) if columns is self.column_spans[0] else (1, len(self.rows))


@dataclass(frozen=True, eq=False)  # compared by identity: there are three
class Axis:
    """F(m, taps): the transforms along one axis."""

    size: int  # m
    taps: int
    shift: int  # s = odd * 2**shift
    odd: int
    data_ops: int  # instructions of ``data``
    inverse_ops: int

    @property
    def points(self) -> int:
        """Edge of a tile of data."""
        return self.size + self.taps - 1

    def parts(self, kernel: int, stride: int) -> tuple[Part, ...]:
        """``kernel`` taps: of each phase of the stride as many at a time as fit; parts of the most taps come first."""
        found = [
            Part(phase + first * stride, min(self.taps, count - first))
            for phase in range(min(stride, kernel))
            for count in [-(-(kernel - phase) // stride)]
            for first in range(0, count, self.taps)
        ]
        return tuple(sorted(found, key=lambda part: -part.taps))

    def spans(self, parts: tuple[Part, ...]) -> tuple[Span, ...]:
        """All points; for want of its last tap a part has no weights at the last one."""
        whole = sum(part.taps == self.taps for part in parts)
        if whole == len(parts):
            return (Span(0, self.points, whole),)
        most = Span(0, self.points - 1, len(parts))
        return (most, Span(self.points - 1, self.points, whole)) if whole else (most,)

    def weight(self, w: list[Expr]) -> list[Expr]:
        """G w, its fractions removed: taps -> points.

        The outer points bear as much of their scale as does not make them larger than the others.
        """
        if self.size == 1:
            return w
        even, odd = w[0] + w[2], w[1]
        if self.size == 2:
            return [w[0] * 2, even + odd, even - odd, w[2] * 2]
        outer, inner = w[0] + w[2] * 4, w[1] * 2
        return [w[0] * 6, even + odd, even - odd, outer + inner, outer - inner, w[2] * 6]

    def data(self, d: list[Expr]) -> list[Expr]:
        """Bᵀ d; only the last point sees the last of d."""
        if self.size == 1:
            return d
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
        if self.size == 1:
            return m
        if self.size == 2:
            return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]
        plus, minus, r, t2 = (m[1] + m[2]) * 4, (m[2] - m[1]) * 4, m[3] + m[4], (m[3] - m[4]) * 2
        return [m[0] - plus + r, minus + t2, r * 4 - plus, minus + (t2 + m[5]) * 4]


_ONE = Axis(1, taps=1, shift=0, odd=1, data_ops=0, inverse_ops=0)
_TWO = Axis(2, taps=3, shift=1, odd=1, data_ops=4, inverse_ops=4)
_FOUR = Axis(4, taps=3, shift=3, odd=3, data_ops=16, inverse_ops=14)


@dataclass(frozen=True, eq=False)  # compared by identity
class Scheme:
    """F(r×c, 3×3), or of one row or column: an axis of rows and one of columns."""

    rows: Axis
    columns: Axis

    @functools.cached_property
    def name(self) -> str:
        """As in the names of templates: winograd4, winograd4x2."""
        one = self.rows.size == self.columns.size
        return f"winograd{self.rows.size}" + ("" if one else f"x{self.columns.size}")

    @functools.cached_property
    def outputs(self) -> int:
        """Outputs of a tile."""
        return self.rows.size * self.columns.size

    @functools.cached_property
    def points(self) -> int:
        """Points of a tile."""
        return self.rows.points * self.columns.points

    @functools.cached_property
    def shift(self) -> int:
        """s = odd * 2**shift."""
        return self.rows.shift + self.columns.shift

    @functools.cached_property
    def odd_inverse(self) -> int:
        """The inverse of the odd part of s modulo 2**32, as int32."""
        return (pow(self.rows.odd * self.columns.odd, -1, 1 << 32) + (1 << 31)) % (1 << 32) - (1 << 31)

    @functools.cached_property
    def limit(self) -> int:
        """Exact if |y| is below this."""
        return 1 << (31 - self.shift)

    @functools.cached_property
    def data_ops(self) -> int:
        """Instructions that transform a vector of the data of a tile."""
        rows, columns = self.rows, self.columns
        return 2 * self.points + rows.data_ops * columns.points + rows.points * columns.data_ops

    @functools.cached_property
    def inverse_ops(self) -> int:
        """Instructions that transform a vector of the products of a tile back."""
        rows, columns = self.rows, self.columns
        return self.points + rows.inverse_ops * columns.points + rows.size * columns.inverse_ops + 4 * self.outputs

    def tiles(self, workload: ConvWorkload) -> tuple[int, int]:
        """Rows and columns of tiles of an image; those at the lower and right edges may reach over."""
        return -(-workload.out_height // self.rows.size), -(-workload.out_width // self.columns.size)

    def split(self, workload: ConvWorkload) -> Split:
        """The workload's kernel in parts."""
        return _split(self, workload.kernel_height, workload.kernel_width, workload.stride)


@functools.lru_cache(maxsize=256)
def _split(scheme: Scheme, height: int, width: int, stride: tuple[int, int]) -> Split:
    rows, columns = scheme.rows.parts(height, stride[0]), scheme.columns.parts(width, stride[1])
    return Split(rows, columns, scheme.rows.spans(rows), scheme.columns.spans(columns))


F4, F42, F24, F2 = (Scheme(rows, columns) for rows, columns in product((_FOUR, _TWO), repeat=2))
F14, F12, F41, F21 = Scheme(_ONE, _FOUR), Scheme(_ONE, _TWO), Scheme(_FOUR, _ONE), Scheme(_TWO, _ONE)
SCHEMES = (F4, F42, F24, F2, F14, F12, F41, F21)
_MIN_CHANNELS = 8
_MAX_PARTS = 4  # the data is transformed once for each; with more, ``Split.order`` would leave gaps
_LEAST_SAVING = 1.2


def schemes(workload: ConvWorkload, bound: int) -> list[Scheme]:
    """The schemes that are exact while |accumulator| <= ``bound``; none where Winograd does not apply."""
    work = workload
    if work.groups > 1 or work.dilation != (1, 1) or work.in_channels < _MIN_CHANNELS:
        return []
    rows = work.kernel_height > 1 and work.out_height > 1
    columns = work.kernel_width > 1 and work.out_width > 1
    fitting = _fitting(work.kernel_height, work.kernel_width, work.stride, rows, columns)
    return [scheme for scheme in fitting if bound < scheme.limit]


@functools.lru_cache(maxsize=256)
def _fitting(height: int, width: int, stride: tuple[int, int], rows: bool, columns: bool) -> tuple[Scheme, ...]:
    """The schemes that save multiplications; ``rows``, ``columns``: the axes to transform."""

    def fits(scheme: Scheme) -> bool:
        split = _split(scheme, height, width, stride)
        saved = scheme.outputs * height * width / split.products
        axes = (scheme.rows is not _ONE, scheme.columns is not _ONE)
        return axes == (rows, columns) and split.parts <= _MAX_PARTS and saved >= _LEAST_SAVING

    return tuple(filter(fits, SCHEMES))


def output_bound(workload: ConvWorkload, constants: ConvConstants) -> int:
    """Largest |accumulator| that the constant weights allow for any data."""
    weight = constants.weight.astype(np.int64) - constants.weight_zero_point.reshape(-1, 1, 1, 1)
    low, high = workload.data_range
    largest = max(high - workload.data_zero_point, workload.data_zero_point - low)
    return int(np.abs(weight).sum(axis=(1, 2, 3)).max()) * largest


def transform_weights(
    scheme: Scheme,
    workload: ConvWorkload,
    weight: Sequence[Sequence[Expr]],
    zero: Expr,
    keep: Callable[[Expr], Expr] = lambda value: value,
) -> list[Expr]:
    """[KH][KW] of arrays or vectors -> G w Gᵀ of them: of all parts at every position of every region, in this order.

    ``zero``: for taps that a part lacks.  ``keep`` gets every value that is read more than once.
    """
    rows, columns, split = scheme.rows, scheme.columns, scheme.split(workload)

    def transformed(row: Part, column: Part) -> list[list[Expr]]:
        def tap(i: int, j: int) -> Expr:
            if i >= row.taps or j >= column.taps:
                return zero
            return weight[row.offset + i * workload.stride[0]][column.offset + j * workload.stride[1]]

        halfway = [rows.weight([tap(i, j) for i in range(rows.taps)]) for j in range(columns.taps)]
        halfway = [[keep(value) for value in values] for values in halfway]
        return [columns.weight([values[i] for values in halfway]) for i in range(rows.points)]

    parts = [[transformed(row, column) for column in split.columns] for row in split.rows]
    found = []
    for down, across in split.regions:
        stride = split.order(across)
        present = product(range(down.parts), range(across.parts))
        ordered = sorted(present, key=lambda part: part[0] * stride[0] + part[1] * stride[1])
        for i, j in product(down.points, across.points):
            found += [parts[row][column][i][j] for row, column in ordered]
    return found
