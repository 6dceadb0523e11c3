"""The ceiling of a dot instruction: a loop that touches registers only."""

from __future__ import annotations

from tvm import tirx

from selector.lowering.dot import Dot
from selector.lowering.tir import Expr, Registers, T, function, load, loop, pick, store, vector


def chains(row: Dot) -> int:
    """Independent accumulators: enough to hide the latency of the row, few enough for the registers of its CPUs."""
    return 20 if row.bits == 512 else 10


def peak_function(row: Dot, iterations: int) -> tirx.PrimFunc:
    """``peak(words)``: ``iterations * chains(row)`` steps; ``words`` (64,) int32 seeds and receives the sums.

    One operand of each step is its own accumulator, so that LLVM can neither hoist nor merge the products: the weights
    where they have the accumulator's size (what is done to the data alone is hoisted, as in a kernel), else the data.
    """

    def body(words: Expr) -> None:
        packed, count = row.packed, chains(row)
        acc = Registers(count, "int32", row.lanes)
        for i in range(count):
            acc[i] = load(words, i, row.lanes)
        moving_weights = packed * (16 if row.weight_dtype == "int16" else 8) == row.bits
        still_dtype = row.data_dtype if moving_weights else row.weight_dtype
        seed = load(words, 0, packed * (2 if still_dtype == "int16" else 1) // 4)
        still = [T.Bind(T.reinterpret(seed + g, dtype=vector(still_dtype, packed))) for g in range(row.groups)]
        ones = row.constant()

        def operand(acc: Registers, chain: int, group: int) -> Expr:
            dtype = row.weight_dtype if moving_weights else row.data_dtype
            elements = row.bits // (16 if dtype == "int16" else 8)
            if elements == packed and not row.by_lane:
                return T.reinterpret(acc[chain], dtype=vector(dtype, packed))
            # Another chain for every group: products in turn would copy a shared one, products in pairs be merged.
            whole = T.reinterpret(acc[(chain + group) % count], dtype=vector(dtype, elements))
            return whole if elements == packed else pick([whole], list(range(packed)))

        def step(_: Expr) -> None:
            for i in range(count):
                moving = [operand(acc, i, group) for group in range(row.groups)]
                x, w = (still, moving) if moving_weights else (moving, still)
                acc[i] = row.emit(row, acc[i], x, w, ones)

        loop(iterations, step)
        total = acc[0]
        for i in range(1, count):
            total = total + acc[i]
        store(words, 0, total, row.lanes)

    return function(f"peak_{row.name}", [("words", 64, "int32")], body)


def peak_macs(row: Dot, iterations: int) -> int:
    """Multiply-accumulates of one call of ``peak_function``."""
    return iterations * chains(row) * row.lanes * row.step
