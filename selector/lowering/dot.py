"""The dot instructions: one table, a row each.  Supporting a CPU is adding a row.

A row takes ``groups`` vectors of data and of weights, each ``lanes * depth`` elements; lane ``l`` of the int32
accumulator gets the sum over ``d`` of ``x[l * depth + d] * w[l * depth + d]`` for every group.  The kernels broadcast
the same ``depth`` data elements to every lane and give each lane the weights of another output channel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tvm.tirx.script import builder as T

from selector.lowering.tir import Expr, cast, const, intrinsic, splat, vector
from selector.target import TargetProfile
from selector.weights import WeightFacts

Emit = Callable[["Dot", Expr, list[Expr], list[Expr], Expr], Expr]


@dataclass(frozen=True)
class Dot:
    """One way to multiply and accumulate on one instruction set."""

    name: str
    arch: str | None  # None: any
    features: tuple[str, ...]  # LLVM features the CPU needs
    lowering: Literal["int8", "int16"]
    data_dtype: Literal["uint8", "int8", "int16"]
    weight_dtype: Literal["int8", "int16"]
    lanes: int  # int32 results
    depth: int  # products a lane and group
    groups: int  # vectors of each operand a step
    uops: float  # vector instructions of one step
    setup_uops: float  # vector instructions once per loaded group of data
    emit: Emit
    ones: bool = False  # whether ``emit`` multiplies words by one, a constant worth a register
    safe: Callable[[WeightFacts], bool] = lambda facts: True  # proof that no intermediate saturates

    @property
    def step(self) -> int:
        """Elements of the reduction that one step consumes."""
        return self.depth * self.groups

    def rate(self) -> float:
        """Multiply-accumulates of one vector instruction; what rows of one CPU are ordered by."""
        return self.lanes * self.step / self.uops

    def constant(self) -> Expr:
        """The constant that ``emit`` takes, to be bound outside of the loops; None where it takes none.

        A plain constant would be a memory operand of every multiplication, one load too many for two load ports;
        LLVM does not see through psign, so its result stays in a register.
        """
        if not self.ones:
            return None
        one = const(1, "int16", self.lanes * 2)
        name = {4: "llvm.x86.ssse3.psign.w.128", 8: "llvm.x86.avx2.psign.w"}.get(self.lanes)
        return T.Bind(one if name is None else intrinsic(name, vector("int16", self.lanes * 2), one, one))

    def broadcast(self, values: Expr) -> Expr:
        """``depth`` scalars as they lie in memory, repeated in every lane."""
        if self.depth == 1:
            return splat(values, self.lanes)
        bits = self.depth * (16 if self.data_dtype == "int16" else 8)
        word = T.reinterpret(values, dtype=f"int{bits}")
        return T.reinterpret(splat(word, self.lanes), dtype=vector(self.data_dtype, self.lanes * self.depth))


def _generic(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    return acc + cast(x[0], "int32", row.lanes) * cast(w[0], "int32", row.lanes)


def _pmaddwd(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    weights = cast(w[0], "int16", row.lanes * 2) if row.weight_dtype == "int8" else w[0]
    return acc + _madd_words(row.lanes, x[0], weights)


def _pmaddubsw(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    pairs = _madd_bytes(row.lanes, x[0], w[0])
    for data, weights in zip(x[1:], w[1:], strict=True):
        pairs = pairs + _madd_bytes(row.lanes, data, weights)
    return acc + _madd_words(row.lanes, pairs, ones)


def _signed_pmaddubsw(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    lanes = row.lanes * 4
    name = {16: "llvm.x86.ssse3.psign.b.128", 32: "llvm.x86.avx2.psign.b"}[lanes]
    weights = intrinsic(name, vector("int8", lanes), w[0], x[0])
    pairs = _madd_bytes(row.lanes, _magnitude(lanes, x[0]), weights)
    return acc + _madd_words(row.lanes, pairs, ones)


def _vpdp(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    name = "vpdpbusd" if row.depth == 4 else "vpdpwssd"
    return intrinsic(f"llvm.x86.avx512.{name}.{row.lanes * 32}", vector("int32", row.lanes), acc, x[0], w[0])


_MADD_WORDS = {4: "llvm.x86.sse2.pmadd.wd", 8: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.avx512.pmaddw.d.512"}
_MADD_BYTES = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}


def _madd_words(lanes: int, x: Expr, w: Expr) -> Expr:
    return intrinsic(_MADD_WORDS[lanes], vector("int32", lanes), x, w)


def _madd_bytes(lanes: int, x: Expr, w: Expr) -> Expr:
    return intrinsic(_MADD_BYTES[lanes], vector("int16", lanes * 2), x, w)


def _magnitude(lanes: int, x: Expr) -> Expr:
    """|x| as unsigned bytes: |-128| is 128."""
    return intrinsic("llvm.abs", vector("int8", lanes), x, const(0, "bool"))


def _x86(
    name: str,
    features: tuple[str, ...],
    lanes: int,
    operands: tuple[Literal["uint8", "int8", "int16"], Literal["int8", "int16"]],
    depth: int,
    uops: float,
    emit: Emit,
    **rest: object,
) -> Dot:
    lowering: Literal["int8", "int16"] = "int16" if operands == ("int16", "int16") else "int8"
    fields = {"groups": 1, "setup_uops": 0.0} | rest
    return Dot(name, "x86_64", features, lowering, *operands, lanes, depth, uops=uops, emit=emit, **fields)  # type: ignore[arg-type]


def _x86_rows() -> list[Dot]:
    rows = []
    vnni512 = ("avx512vnni", "avx512bw")
    rows.append(_x86("avx512vnni_vpdpbusd", vnni512, 16, ("uint8", "int8"), 4, 1, _vpdp))
    rows.append(_x86("avx512vnni_vpdpwssd", vnni512, 16, ("int16", "int16"), 2, 1, _vpdp))
    rows.append(_x86("avxvnni_vpdpbusd", ("avxvnni",), 8, ("uint8", "int8"), 4, 1, _vpdp))
    rows.append(_x86("avxvnni_vpdpwssd", ("avxvnni",), 8, ("int16", "int16"), 2, 1, _vpdp))
    for isa, words, byte, lanes in (
        ("avx512bw", "avx512bw", "avx512bw", 16),
        ("avx2", "avx2", "avx2", 8),
        ("sse", "sse2", "ssse3", 4),
    ):
        rows.append(_x86(f"{words}_pmaddwd", (words,), lanes, ("int16", "int16"), 2, 2, _pmaddwd))
        rows.append(
            _x86(
                f"{byte}_pmaddubsw_quad",
                (byte,),
                lanes,
                ("uint8", "int8"),
                4,
                5,
                _pmaddubsw,
                groups=2,
                ones=True,
                safe=lambda facts: facts.quad_bound <= 128,
            )
        )
        rows.append(
            _x86(
                f"{byte}_pmaddubsw",
                (byte,),
                lanes,
                ("uint8", "int8"),
                4,
                3,
                _pmaddubsw,
                ones=True,
                safe=lambda facts: facts.pair_bound <= 128,
            )
        )
        if isa != "avx512bw":  # AVX-512 has no psign
            rows.append(
                _x86(
                    f"{byte}_psign_pmaddubsw",
                    (byte,),
                    lanes,
                    ("int8", "int8"),
                    4,
                    4,
                    _signed_pmaddubsw,
                    setup_uops=1,
                    ones=True,
                    safe=lambda facts: facts.weight_bound <= 127,
                )
            )
        # Exact for any weights: data widened once into scratch memory, weights widened as they are loaded.
        rows.append(_x86(f"{words}_pmaddwd_widen", (words,), lanes, ("int16", "int8"), 2, 2.2, _pmaddwd))
    return rows


def _generic_rows() -> list[Dot]:
    return [
        Dot("generic_int8", None, (), "int8", "int16", "int8", 8, 1, 1, 4, 0, _generic),
        Dot("generic_int16", None, (), "int16", "int16", "int16", 8, 1, 1, 4, 0, _generic),
    ]


DOTS: tuple[Dot, ...] = (*_x86_rows(), *_generic_rows())


def candidates(target: TargetProfile, lowering: Literal["int8", "int16"]) -> list[Dot]:
    """Rows of a lowering that the CPU can execute, fastest first; never empty."""
    rows = [
        row
        for row in DOTS
        if row.lowering == lowering
        and row.arch in (None, target.arch)
        and target.has(*row.features)
        and (row.arch is None or row.lanes * 32 <= target.vector_bits)
    ]
    specific = [row for row in rows if row.arch is not None]
    return sorted(specific, key=Dot.rate, reverse=True) or rows
