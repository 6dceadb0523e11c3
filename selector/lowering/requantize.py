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

Order = tuple[tuple[int, ...], ...]  # per vector and lane: channel, counted from the first of the block


def channel_order(vectors: int, lanes: int, workload: ConvWorkload, target: TargetProfile) -> Order:
    """The order of a block's channels in its accumulators that makes the stores cheapest.

    AVX2 packs inside 128-bit halves: if the lower halves of four or two vectors hold the first channels and the upper
    halves the rest, the bytes come out in order.
    """
    swap = lanes == 8 and _packs(workload, target)
    order: list[tuple[int, ...]] = []
    while len(order) < vectors:
        together = next(count for count in ((4, 2, 1) if swap else (1,)) if count <= vectors - len(order))
        first = len(order) * lanes
        for k in range(together):
            halves = (first + k * lanes // 2, first + (together + k) * lanes // 2)
            order.append(tuple(half + i for half in halves for i in range(lanes // 2)))
    return tuple(order)


def _packs(workload: ConvWorkload, target: TargetProfile) -> bool:
    """Whether the output is narrowed by x86's saturating packs."""
    return target.arch == "x86_64" and workload.out_dtype in ("uint8", "int8")


@dataclass
class Epilogue:
    """Term2, requantize and store of a block of output channels of one pixel.

    Accumulators begin with ``start`` (the bias costs nothing there) and end in ``emit``.  The per-channel constants are
    arguments of the kernel, gathered into the order of the accumulators: element ``slot`` belongs to the slot-th lane
    over all blocks.
    """

    workload: ConvWorkload
    target: TargetProfile
    requantize: Requantize | None
    order: Order  # of the channels of a block
    arrays: dict[str, np.ndarray]  # name -> (slots,) array
    buffers: dict[str, Expr] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        workload: ConvWorkload,
        constants: ConvConstants,
        operands: Operands,
        target: TargetProfile,
        starts: list[int],
        order: Order,
    ) -> Epilogue:
        """The epilogue of one convolution whose blocks of channels begin at ``starts``."""
        arrays = {"bias": operands.bias} if operands.bias.any() else {}
        if operands.has_term2:
            arrays["weight_zero_point"] = operands.weight_zero_point
        if constants.requantize is not None:
            arrays["multiplier"] = constants.requantize.multiplier.astype(np.float32)
            if constants.requantize.offset is not None:
                arrays["offset"] = constants.requantize.offset.astype(np.float32)
        slots = np.add.outer(starts, np.concatenate(order))  # a small last block reaches past the last channel
        gathered = {name: array[np.minimum(slots, len(array) - 1).reshape(-1)] for name, array in arrays.items()}
        return cls(workload, target, constants.requantize, order, gathered)

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

    @property
    def lanes(self) -> int:
        """Channels of a vector."""
        return len(self.order[0])

    def start(self, slot: Expr) -> Expr:
        """What an accumulator starts with: the bias (Term3 and Term4 included)."""
        if "bias" in self.buffers:
            return load(self.buffers["bias"], slot, self.lanes)
        return const(0, "int32", self.lanes)

    def emit(
        self,
        accumulators: list[Expr],
        slot: Expr,
        out: Expr,
        out_index: Expr,
        data_sums: list[Expr] | None = None,
        valid: int | None = None,
    ) -> None:
        """Store one pixel's channels of a block.

        ``accumulators``: an int32 vector for each of the order's first vectors (a block may be stored in parts of equal
        order); ``slot``: of the first lane; ``out_index``: where the first channel goes; ``data_sums``: int32 vectors
        with the sum of x' under the pixel, where Term2 is needed; ``valid``: how many channels are real (None: all).
        """
        slots = [slot + j * self.lanes for j in range(len(accumulators))]
        values = accumulators
        if data_sums is not None:
            values = [self._less_term2(*item) for item in zip(values, data_sums, slots, strict=True)]
        if self.requantize is not None:
            values = [self._scale(value, at) for value, at in zip(values, slots, strict=True)]
        ordered = [_Ordered(value, channels) for value, channels in zip(values, self.order, strict=False)]
        if _packs(self.workload, self.target):
            ordered = self._pack(ordered)
        elif self.workload.out_dtype in ("uint8", "int8"):
            ordered = [_Ordered(self._narrow(item.value), item.channels) for item in ordered]
        for item in ordered:
            first, width = min(item.channels), len(set(item.channels))
            count = width if valid is None else min(width, valid - first)
            if count == width:
                store(out, out_index + first, item.in_order(), width)
            elif count > 0:
                _store_partial(out, out_index + first, item.in_order(), count)

    def _less_term2(self, acc: Expr, data_sum: Expr, slot: Expr) -> Expr:
        return acc - data_sum * load(self.buffers["weight_zero_point"], slot, self.lanes)

    def _scale(self, value: Expr, slot: Expr) -> Expr:
        lanes = self.lanes
        scaled = cast(value, "float32", lanes) * load(self.buffers["multiplier"], slot, lanes)
        if "offset" in self.buffers:
            # The fence keeps LLVM from fusing the two into one rounding on CPUs that have FMA.
            scaled = intrinsic("llvm.arithmetic.fence", vector("float32", lanes), scaled)
            scaled = scaled + load(self.buffers["offset"], slot, lanes)
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
        free = _packs(self.workload, self.target) and self._largest() < 2.0**30
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

    def _narrow(self, value: Expr) -> Expr:
        """Float32 vector, clipped -> 8-bit vector."""
        assert self.requantize is not None
        rounded = cast(T.nearbyint(value), "int32", self.lanes)
        return cast(
            rounded + const(self.requantize.zero_point, "int32", self.lanes), self.workload.out_dtype, self.lanes
        )

    def _pack(self, scaled: list[_Ordered]) -> list[_Ordered]:
        """Float32 vectors -> 8-bit vectors, with x86's saturating packs."""
        rounded = [part for item in scaled for part in _rounded(item, self.lanes)]
        packed = []
        while rounded:
            count = 4 if len(rounded) >= 4 else min(len(rounded), 2)
            some, rounded = rounded[:count], rounded[count:]
            wide = self.lanes >= 8
            words = [self._pack_words(some[i], some[min(i + 1, count - 1)], wide) for i in range(0, count, 2)]
            if wide and len(words) == 1:
                words = words[0].halves()
                wide = False
            packed.append(self._pack_bytes(words[0], words[-1], wide))
        return packed

    def _pack_words(self, a: _Ordered, b: _Ordered, wide: bool) -> _Ordered:
        """Two int32 vectors -> one of int16, saturating, with the zero point added, saturating."""
        assert self.requantize is not None
        name = "llvm.x86.avx2.packssdw" if wide else "llvm.x86.sse2.packssdw.128"
        lanes = 16 if wide else 8
        words = intrinsic(name, vector("int16", lanes), a.value, b.value)
        if self.requantize.zero_point:
            zero_point = const(self.requantize.zero_point, "int16", lanes)
            words = intrinsic("llvm.sadd.sat", vector("int16", lanes), words, zero_point)
        return _Ordered(words, _interleaved(a.channels, b.channels, 4))

    def _pack_bytes(self, a: _Ordered, b: _Ordered, wide: bool) -> _Ordered:
        """Two int16 vectors -> one of 8 bits, saturating; of equal vectors only one half."""
        dtype = self.workload.out_dtype
        name = {"int8": "packsswb", "uint8": "packuswb"}[dtype]
        lanes = 32 if wide else 16
        packed = intrinsic(
            f"llvm.x86.avx2.{name}" if wide else f"llvm.x86.sse2.{name}.128", vector("int8", lanes), a.value, b.value
        )
        return _Ordered(T.reinterpret(packed, dtype=vector(dtype, lanes)), _interleaved(a.channels, b.channels, 8))


@dataclass(frozen=True)
class _Ordered:
    """A vector whose lanes hold the given channels; a channel may occur twice."""

    value: Expr
    channels: tuple[int, ...]

    def in_order(self) -> Expr:
        """The distinct channels, ascending; to be stored, they must not have gaps."""
        distinct = sorted(set(self.channels))
        assert distinct == list(range(distinct[0], distinct[0] + len(distinct)))
        lanes = [self.channels.index(channel) for channel in distinct]
        return self.value if lanes == list(range(len(self.channels))) else pick([self.value], lanes)

    def halves(self) -> list[_Ordered]:
        """The lower and the upper half."""
        middle = len(self.channels) // 2
        return [
            _Ordered(pick([self.value], list(range(start, start + middle))), self.channels[start : start + middle])
            for start in (0, middle)
        ]


def _interleaved(a: tuple[int, ...], b: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Channels after a pack: blocks of the two inputs in turn."""
    return tuple(c for i in range(0, len(a), block) for part in (a, b) for c in part[i : i + block])


def _rounded(item: _Ordered, lanes: int) -> list[_Ordered]:
    """Float32 -> int32, half to even (the default rounding mode), in vectors of at most eight lanes."""
    parts = item.halves() if lanes == 16 else [item]
    name = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256"}[min(lanes, 8)]
    dtype = vector("int32", min(lanes, 8))
    return [_Ordered(intrinsic(name, dtype, part.value), part.channels) for part in parts]


def _store_partial(out: Expr, start: Expr, value: Expr, count: int) -> None:
    """Store the first ``count`` lanes, in powers of two."""
    done = 0
    while done < count:
        width = 1 << ((count - done).bit_length() - 1)
        lane_list = list(range(done, done + width))
        store(out, start + done, pick([value], lane_list), width)
        done += width
