"""Accumulators of more than 32 bits: sums of pieces, each of which fits an int32.

A piece is a stretch of the reduction so short that ``|sum x' w'| <= 32768 * sum |w'|`` fits.  After each piece its
sums are added to two int32 of scratch memory, and begin anew at zero:

    sum x' w' = 65536 * high + low        high += piece >> 16,  low += piece & 0xffff

Once ``low`` has given its carry to ``high``, both are integers that float32 holds (``|high| < 2**24``), so that
``65536 * high + low`` in float32 rounds once: it is the float32 nearest to the sum.
"""

from __future__ import annotations

from selector.lowering.dot import Dot
from selector.lowering.tir import Expr, T, cast, const, load, store
from selector.weights import MAX_MAGNITUDE
from selector.workload import INT32_MAX, ConvWorkload

_LARGEST_DATA = 1 << 15  # of x', an int16
_LOW_BITS = 16
_LOW = (1 << _LOW_BITS) - 1


def piece_steps(workload: ConvWorkload, row: Dot) -> int:
    """Steps of a reduction whose sums fit an int32, whatever the data."""
    largest = MAX_MAGNITUDE if workload.term2 else workload.weight_bound
    return max(INT32_MAX // (_LARGEST_DATA * max(largest, 1)) // row.step, 1)


def nearest_float(high: Expr, low: Expr, lanes: int) -> Expr:
    """Vectors of int32 -> the float32 nearest to ``65536 * high + low``, for ``low >= 0``."""
    carried = high + (low >> const(_LOW_BITS, "int32", lanes))
    rest = low & const(_LOW, "int32", lanes)
    # the product is exact, so that it does not matter whether LLVM fuses it with the sum
    return cast(carried, "float32", lanes) * const(1 << _LOW_BITS, "float32", lanes) + cast(rest, "float32", lanes)


class WideSums:
    """``slots`` vectors of sums in scratch memory."""

    def __init__(self, slots: int, lanes: int) -> None:
        self._lanes = lanes
        self._memory = T.alloc_buffer((2 * slots * lanes,), "int32")

    def clear(self, slot: int) -> None:
        """Begin a sum."""
        for half in (0, 1):
            self._store(slot, half, const(0, "int32", self._lanes))

    def add(self, slot: int, piece: Expr) -> None:
        """Add an int32 vector."""
        high, low = self[slot]
        self._store(slot, 0, high + (piece >> const(_LOW_BITS, "int32", self._lanes)))
        self._store(slot, 1, low + (piece & const(_LOW, "int32", self._lanes)))

    def __getitem__(self, slot: int) -> tuple[Expr, Expr]:
        """(high, low)."""
        return tuple(load(self._memory, (2 * slot + half) * self._lanes, self._lanes) for half in (0, 1))

    def _store(self, slot: int, half: int, value: Expr) -> None:
        store(self._memory, (2 * slot + half) * self._lanes, value, self._lanes)
