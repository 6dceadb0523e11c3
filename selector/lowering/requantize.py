"""From int32 accumulators to the output: the epilogue that every kernel ends in.

Numerics are those of ``selector.workload.Requantize``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm.tirx.script import builder as T

from selector.lowering.operands import Operands
from selector.lowering.tir import Expr, cast, const, intrinsic, load, pick, store, vector
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload, Requantize

_PACK_WORDS = {"int8": "llvm.x86.sse2.packsswb.128", "uint8": "llvm.x86.sse2.packuswb.128"}


@dataclass
class Epilogue:
    """Bias, Term2, requantize and store of ``lanes`` output channels at a time.

    Accumulators begin with ``start`` (the bias costs nothing there) and end in ``emit``.
    The per-channel constants are arguments of the kernel; ``bind`` takes the buffers, ``emit`` writes one output pixel.
    """

    workload: ConvWorkload
    target: TargetProfile
    requantize: Requantize | None
    arrays: dict[str, np.ndarray]  # name -> (O + slack,) array
    buffers: dict[str, Expr] = field(default_factory=dict)

    @classmethod
    def of(
        cls, workload: ConvWorkload, constants: ConvConstants, operands: Operands, target: TargetProfile
    ) -> Epilogue:
        """The epilogue of one convolution."""
        slack = 64  # a vector of channels may reach past the last one
        arrays = {"bias": operands.bias} if operands.bias.any() else {}
        if operands.has_term2:
            arrays["weight_zero_point"] = operands.weight_zero_point
        if constants.requantize is not None:
            arrays["multiplier"] = constants.requantize.multiplier.astype(np.float32)
            if constants.requantize.offset is not None:
                arrays["offset"] = constants.requantize.offset.astype(np.float32)
        padded = {name: np.pad(array, (0, slack)) for name, array in arrays.items()}
        return cls(workload, target, constants.requantize, padded)

    @property
    def arguments(self) -> list[tuple[str, int, str]]:
        """Arguments of the kernel: (name, elements, dtype)."""
        return [(name, len(array), str(array.dtype)) for name, array in self.arrays.items()]

    @property
    def constants(self) -> list[np.ndarray]:
        """The arrays for the arguments."""
        return list(self.arrays.values())

    def bind(self, buffers: list[Expr]) -> None:
        """Remember the buffers of the arguments."""
        self.buffers = dict(zip(self.arrays, buffers, strict=True))

    def emit(
        self,
        accumulators: list[Expr],
        lanes: int,
        channel: Expr,
        out: Expr,
        out_index: Expr,
        data_sums: list[Expr] | None = None,
        valid: int | None = None,
    ) -> None:
        """Store consecutive vectors of output channels of one pixel.

        ``accumulators``: int32 vectors of ``lanes`` channels each, the first starting at ``channel``; ``out_index``:
        where the first goes; ``data_sums``: int32 vectors with the sum of x' under the pixel, where Term2 is needed;
        ``valid``: how many of the lanes are real channels (None: all).
        """
        terms = data_sums or [None] * len(accumulators)
        sums = [
            self._sum(acc, lanes, channel + j * lanes, term)
            for j, (acc, term) in enumerate(zip(accumulators, terms, strict=True))
        ]
        if self.requantize is None:
            pieces = [(value, lanes) for value in sums]
        else:
            scaled = [self._scale(value, lanes, channel + j * lanes) for j, value in enumerate(sums)]
            if self.workload.out_dtype == "float32":
                pieces = [(value, lanes) for value in scaled]
            else:
                pieces = self._narrow(scaled, lanes)
        start = 0
        for value, width in pieces:
            count = width if valid is None else min(width, valid - start)
            if count == width:
                store(out, out_index + start, value, width)
            elif count > 0:
                _store_partial(out, out_index + start, value, width, count)
            start += width

    def start(self, channel: Expr, lanes: int) -> Expr:
        """What an accumulator starts with: the bias (Term3 and Term4 included)."""
        if "bias" in self.buffers:
            return load(self.buffers["bias"], channel, lanes)
        return const(0, "int32", lanes)

    def _sum(self, acc: Expr, lanes: int, channel: Expr, data_sum: Expr | None) -> Expr:
        """Subtract Term2."""
        if data_sum is None:
            return acc
        return acc - data_sum * load(self.buffers["weight_zero_point"], channel, lanes)

    def _scale(self, value: Expr, lanes: int, channel: Expr) -> Expr:
        requantize = self.requantize
        assert requantize is not None
        scaled = cast(value, "float32", lanes) * load(self.buffers["multiplier"], channel, lanes)
        if "offset" in self.buffers:
            # The fence keeps LLVM from fusing the two into one rounding on CPUs that have FMA.
            scaled = intrinsic("llvm.arithmetic.fence", vector("float32", lanes), scaled)
            scaled = scaled + load(self.buffers["offset"], channel, lanes)
        low, high = self._limits()
        if low is not None:
            scaled = T.max(scaled, const(low, "float32", lanes))
        if high is not None:
            scaled = T.min(scaled, const(high, "float32", lanes))
        return scaled

    def _limits(self) -> tuple[float | None, float | None]:
        """Bounds that have to be applied to the scaled value, before the zero point is added."""
        requantize = self.requantize
        assert requantize is not None
        if self.workload.out_dtype == "float32":
            return requantize.out_min, requantize.out_max
        info = np.iinfo(self.workload.out_dtype)
        low = info.min if requantize.out_min is None else max(requantize.out_min, info.min)
        high = info.max if requantize.out_max is None else min(requantize.out_max, info.max)
        # The saturating packs of x86 clip to the dtype for free, as long as the value fits int32 before them.
        free = self._packs and self._largest() < 2.0**30
        return (
            None if free and low == info.min else low - requantize.zero_point,
            None if free and high == info.max else high - requantize.zero_point,
        )

    def _largest(self) -> float:
        """Bound of |scaled value|, for any int32 accumulator."""
        requantize = self.requantize
        assert requantize is not None
        offset = 0.0 if requantize.offset is None else float(np.abs(requantize.offset).max())
        return 2.0**31 * float(np.abs(requantize.multiplier).max()) + offset

    @property
    def _packs(self) -> bool:
        return self.target.arch == "x86_64"

    def _narrow(self, scaled: list[Expr], lanes: int) -> list[tuple[Expr, int]]:
        """Float32 vectors -> (8-bit vector, its lanes) in channel order."""
        requantize = self.requantize
        assert requantize is not None
        dtype = self.workload.out_dtype
        if not self._packs:
            pieces = []
            for value in scaled:
                rounded = cast(T.nearbyint(value), "int32", lanes) + const(requantize.zero_point, "int32", lanes)
                pieces.append((cast(rounded, dtype, lanes), lanes))
            return pieces
        rounded = [part for value in scaled for part in _halves(_round_x86(value, lanes), lanes)]
        lanes = min(lanes, 8)
        pieces = []
        for first in range(0, len(rounded), 16 // lanes):
            some = rounded[first : first + 16 // lanes]
            packed = self._pack_eight(some) if lanes == 8 else self._pack_four(some)
            packed = T.reinterpret(packed, dtype=vector(dtype, 16))
            width = lanes * len(some)
            pieces.append((packed if width == 16 else pick([packed], list(range(width))), width))
        return pieces

    def _pack_four(self, some: list[Expr]) -> Expr:
        """Up to four int32x4 -> int8x16, saturating."""
        words = [
            self._add_zero_point(intrinsic("llvm.x86.sse2.packssdw.128", "int16x8", pair[0], pair[-1]), 8)
            for pair in (some[:2], some[2:] or some[:2])
        ]
        return intrinsic(_PACK_WORDS[self.workload.out_dtype], vector("int8", 16), words[0], words[1])

    def _pack_eight(self, some: list[Expr]) -> Expr:
        """One or two int32x8 -> int8x16, saturating; AVX2 packs inside 128-bit halves, the last shuffle mends that."""
        words = self._add_zero_point(intrinsic("llvm.x86.avx2.packssdw", "int16x16", some[0], some[-1]), 16)
        halves = [pick([words], list(range(start, start + 8))) for start in (0, 8)]
        packed = intrinsic(_PACK_WORDS[self.workload.out_dtype], vector("int8", 16), *halves)
        order = [quarter * 4 + i for quarter in (0, 2, 1, 3) for i in range(4)]
        return pick([packed], order)

    def _add_zero_point(self, words: Expr, lanes: int) -> Expr:
        assert self.requantize is not None
        if self.requantize.zero_point == 0:
            return words
        zero_point = const(self.requantize.zero_point, "int16", lanes)
        return intrinsic("llvm.sadd.sat", vector("int16", lanes), words, zero_point)


def _round_x86(value: Expr, lanes: int) -> Expr:
    """Round half to even to int32, in one instruction (the default rounding mode)."""
    if lanes == 16:
        halves = [pick([value], list(range(start, start + 8))) for start in (0, 8)]
        return pick([_round_x86(half, 8) for half in halves], list(range(16)))
    name = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256"}[lanes]
    return intrinsic(name, vector("int32", lanes), value)


def _halves(value: Expr, lanes: int) -> list[Expr]:
    """Vectors of at most eight lanes."""
    if lanes <= 8:
        return [value]
    return [pick([value], list(range(start, start + 8))) for start in range(0, lanes, 8)]


def _store_partial(out: Expr, start: Expr, value: Expr, lanes: int, count: int) -> None:
    """Store the first ``count`` lanes, in powers of two."""
    done = 0
    while done < count:
        width = 1 << ((count - done).bit_length() - 1)
        lane_list = list(range(done, done + width))
        store(out, start + done, pick([value], lane_list), width)
        done += width
