"""From accumulators to the output: the epilogue that every kernel ends in.

Numerics are those of ``selector.workload.Requantize``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tvm.tirx.script import builder as T

from selector.lowering.narrow import PACKS, Ordered, Packs
from selector.lowering.operands import Operands
from selector.lowering.tir import Expr, cast, const, intrinsic, load, pick, store, vector
from selector.lowering.wide import nearest_float
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload, Requantize

Order = tuple[tuple[int, ...], ...]  # per vector and lane: channel, counted from the first of the block


def channel_order(vectors: int, lanes: int, workload: ConvWorkload, target: TargetProfile) -> Order:
    """The order of a block's channels in its accumulators that makes the stores cheapest.

    AVX2 and AVX-512 pack inside every 128 bits: if the first 128 bits of four or two vectors hold the first channels,
    the second ones those that follow and so on, the bytes come out in order.
    """
    swap = lanes >= 8 and _packs(workload, target) is not None
    order: list[tuple[int, ...]] = []
    while len(order) < vectors:
        together = next(count for count in ((4, 2, 1) if swap else (1,)) if count <= vectors - len(order))
        first = len(order) * lanes
        for k in range(together):
            starts = range(first + k * 4, first + together * lanes, together * 4)
            order.append(tuple(start + i for start in starts for i in range(4)))
    return tuple(order)


def _packs(workload: ConvWorkload, target: TargetProfile) -> Packs | None:
    """The saturating instructions that narrow the output, where it is narrowed and the CPU has them."""
    return PACKS.get(target.arch) if workload.out_dtype in ("uint8", "int8") else None


def _has_floats(target: TargetProfile) -> bool:
    """Whether float32 is computed by instructions; LLVM's fence takes no others."""
    return not target.arch.startswith("riscv") or target.has("f")


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
        if operands.high_bias is not None:
            arrays |= {"bias": operands.bias, "high_bias": operands.high_bias}
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
        """What an accumulator starts with: the bias (Term3 and Term4 included), in pieces nothing."""
        if "bias" in self.buffers and not self.workload.is_split:
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
        highs: list[Expr] | None = None,
    ) -> None:
        """Store one pixel's channels of a block.

        ``accumulators``: an int32 vector for each of the order's first vectors (a block may be stored in parts of equal
        order); ``slot``: of the first lane; ``out_index``: where the first channel goes; ``data_sums``: int32 vectors
        with the sum of x' under the pixel, where Term2 is needed; ``valid``: how many channels are real (None: all);
        ``highs``: of a split accumulator, whose low half ``accumulators`` are then.
        """
        slots = [slot + j * self.lanes for j in range(len(accumulators))]
        values = accumulators
        if data_sums is not None:
            values = [self._less_term2(*item) for item in zip(values, data_sums, slots, strict=True)]
        if highs is not None:
            values = [self._joined(*item) for item in zip(highs, values, slots, strict=True)]
        if self.requantize is not None:
            values = [self._scale(value, at) for value, at in zip(values, slots, strict=True)]
        ordered = [Ordered(value, channels) for value, channels in zip(values, self.order, strict=False)]
        if self.workload.out_dtype not in ("int32", "float32"):
            ordered = self._narrow(ordered)
        for item in ordered:
            first, width = min(item.channels), len(set(item.channels))
            count = width if valid is None else min(width, valid - first)
            if count == width:
                store(out, out_index + first, item.in_order(), width)
            elif count > 0:
                _store_partial(out, out_index + first, item.in_order(), count)

    def _less_term2(self, acc: Expr, data_sum: Expr, slot: Expr) -> Expr:
        return acc - data_sum * load(self.buffers["weight_zero_point"], slot, self.lanes)

    def _joined(self, high: Expr, low: Expr, slot: Expr) -> Expr:
        """The float32 nearest to a split accumulator with its bias."""
        biases = [load(self.buffers[name], slot, self.lanes) for name in ("high_bias", "bias")]
        return nearest_float(high + biases[0], low + biases[1], self.lanes)

    def _scale(self, value: Expr, slot: Expr) -> Expr:
        lanes = self.lanes
        real = value if self.workload.is_split else cast(value, "float32", lanes)
        scaled = real * load(self.buffers["multiplier"], slot, lanes)
        if "offset" in self.buffers:
            # The fence keeps LLVM from fusing the two into one rounding on CPUs that have FMA.
            if _has_floats(self.target):
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
        # Saturating packs clip to the dtype for free, as long as the value fits int32 before them.
        free = _packs(self.workload, self.target) is not None and self._largest() < 2.0**30
        return (
            None if free and low == info.min else low - requantize.zero_point,
            None if free and high == info.max else high - requantize.zero_point,
        )

    def _largest(self) -> float:
        """Bound of |scaled value|, for any accumulator."""
        requantize = self.requantize
        assert requantize is not None
        offset = 0.0 if requantize.offset is None else float(np.abs(requantize.offset).max())
        largest = 2.0 * self.workload.accumulator_bound() if self.workload.is_split else 2.0**31
        return largest * float(np.abs(requantize.multiplier).max()) + offset

    def _narrow(self, scaled: list[Ordered]) -> list[Ordered]:
        """Float32 vectors, clipped where the packs do not -> vectors of the output's dtype."""
        assert self.requantize is not None
        zero_point, dtype, lanes = self.requantize.zero_point, self.workload.out_dtype, self.lanes
        packs = _packs(self.workload, self.target)
        if packs is not None:
            return packs.narrow(scaled, lanes, zero_point, dtype)
        rounded = [cast(T.nearbyint(item.value), "int32", lanes) + const(zero_point, "int32", lanes) for item in scaled]
        return [Ordered(cast(value, dtype, lanes), item.channels) for value, item in zip(rounded, scaled, strict=True)]


def _store_partial(out: Expr, start: Expr, value: Expr, count: int) -> None:
    """Store the first ``count`` lanes, in powers of two."""
    done = 0
    while done < count:
        width = 1 << ((count - done).bit_length() - 1)
        lane_list = list(range(done, done + width))
        store(out, start + done, pick([value], lane_list), width)
        done += width
