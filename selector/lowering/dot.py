"""The dot instructions: one table, a row each.  Supporting a CPU is adding a row.

A row takes ``groups`` vectors of data and of weights, each ``lanes * depth`` elements.  Lane ``l`` of the int32
accumulator gets the sum over ``d`` of ``x[l * depth + d] * w[l * depth + d]`` for every group.  The kernels broadcast
the same ``depth`` data elements to every lane and give each lane the weights of another output channel.

A row of two ``pixels`` multiplies matrices: ``depth`` data elements of each of two pixels by the weights of half of the
channels, ``lanes / 2``, into an accumulator ``[pixel][channel]``.  Two such products are what one of another row is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from tvm.tirx.script import builder as T

from selector.lowering.tir import Expr, cast, const, intrinsic, load, pick, splat, vector
from selector.target import TargetProfile
from selector.weights import WeightFacts

Emit = Callable[["Dot", Expr, list[Expr], list[Expr], Expr], Expr]


@dataclass(frozen=True, eq=False)  # compared by identity: the table has each once
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
    uops: float  # vector instructions of one pixel's step; those that only half of a core's pipes take count twice
    setup_uops: float  # vector instructions once per loaded group of data
    emit: Emit
    ones: bool = False  # whether ``emit`` multiplies words by one, a constant worth a register
    temporaries: int = 1  # registers for products on their way to the accumulator
    by_lane: bool = False  # whether products take one lane of their data: groups are independent and share its load
    pixels: int = 1  # that one product takes, each with its part of the channels
    safe: Callable[[WeightFacts], bool] = lambda facts: True  # proof that no intermediate saturates

    @property
    def instruction(self) -> str:
        """What the name says behind the instruction set, such as ``pmaddubsw``: the same at every vector width."""
        return self.name.partition("_")[2]

    @property
    def step(self) -> int:
        """Elements of the reduction that one step consumes."""
        return self.depth * self.groups

    @property
    def packed(self) -> int:
        """Elements of one vector of data or weights."""
        return self.lanes * self.depth // self.pixels

    @property
    def data_bytes(self) -> int:
        """Bytes of an element of the data."""
        return 2 if self.data_dtype == "int16" else 1

    @property
    def bits(self) -> int:
        """Width of its vectors."""
        return 32 * self.lanes

    @property
    def issue(self) -> int:
        """Vector instructions a cycle in the models of kernels: CPUs have half as many pipes of 512 bits."""
        return 2 if self.bits == 512 else 4

    def rate(self) -> float:
        """Multiply-accumulates of one vector instruction; what rows of one CPU are ordered by."""
        return self.lanes * self.step / self.uops

    def loads(self, pixels: float, vectors: float) -> float:
        """Vector loads of one step of a register tile."""
        return pixels * (1 if self.by_lane else self.groups) + vectors * self.groups * self.pixels

    def whole(self, pixels: float) -> float:
        """So many pixels and those that a product takes in vain beside them."""
        return pixels if self.pixels == 1 else math.ceil(pixels / self.pixels) * self.pixels

    def at_most(self, groups: int) -> Dot | None:
        """The row with at most so many groups; None where it needs more."""
        if self.groups <= groups:
            return self
        return replace(self, groups=groups, uops=self.uops * groups / self.groups) if self.by_lane else None

    def from_bytes(self) -> Dot:
        """The same instruction with weights kept in bytes, which are widened as they are loaded."""
        return replace(self, weight_dtype="int8")

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

    def data(self, buffer: Expr, start: Expr) -> list[Expr]:
        """``groups`` vectors: ``depth`` elements each of ``buffer`` from ``start`` on, repeated in every lane."""
        if not self.by_lane:
            offsets = range(0, self.step, self.depth)
            return [T.Bind(self._repeat(self._word(load(buffer, start + offset, self.depth)))) for offset in offsets]
        words = T.Bind(self._word(load(buffer, start, self.step), self.groups))
        return [T.Bind(self._repeat(pick([words], [group]))) for group in range(self.groups)]

    def data_of_both(self, buffer: Expr, first: Expr, second: Expr) -> Expr:
        """``depth`` elements of ``buffer`` from each of two starts on: the data of a row of two pixels."""
        rows = [load(buffer, start, self.depth) for start in (first, second)]
        return T.Bind(pick(rows, list(range(2 * self.depth))))

    def _word(self, values: Expr, count: int = 1) -> Expr:
        """``count * depth`` elements as ``count`` integers."""
        if self.depth == 1:
            return values
        bits = self.depth * 8 * self.data_bytes
        return T.reinterpret(values, dtype=vector(f"int{bits}", count))

    def _repeat(self, word: Expr) -> Expr:
        """``depth`` elements, as one integer, in every lane."""
        words = splat(word, self.lanes)
        return (
            words if self.depth == 1 else T.reinterpret(words, dtype=vector(self.data_dtype, self.lanes * self.depth))
        )


def _multiply(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    for data, weights in zip(x, w, strict=True):
        acc = acc + cast(data, "int32", row.lanes) * cast(weights, "int32", row.lanes)
    return acc


def _pmaddwd(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    return acc + _madd_words(row.lanes, x[0], _words(row, w[0]))


def _words(row: Dot, weights: Expr) -> Expr:
    return cast(weights, "int16", row.lanes * 2) if row.weight_dtype == "int8" else weights


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
    name, weights = ("vpdpbusd", w[0]) if row.depth == 4 else ("vpdpwssd", _words(row, w[0]))
    return intrinsic(f"llvm.x86.avx512.{name}.{row.bits}", vector("int32", row.lanes), acc, x[0], weights)


def _smull_sadalp(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    lanes = row.lanes * 2
    words, *more = [cast(a, "int16", lanes) * cast(b, "int16", lanes) for a, b in zip(x, w, strict=True)]
    for product in more:
        words = words + product
    return acc + intrinsic("llvm.aarch64.neon.saddlp", vector("int32", row.lanes), words)


def _neon_dot(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    for data, weights in zip(x, w, strict=True):
        # LLVM finds the forms by lane with the data in second place for usdot (sudot then), in third for sdot.
        name, *operands = ("usdot", data, weights) if row.data_dtype == "uint8" else ("sdot", weights, data)
        acc = intrinsic(f"llvm.aarch64.neon.{name}", vector("int32", row.lanes), acc, *operands)
    return acc


def _neon_matrix(row: Dot, acc: Expr, x: list[Expr], w: list[Expr], ones: Expr) -> Expr:
    name = "usmmla" if row.data_dtype == "uint8" else "smmla"
    return intrinsic(f"llvm.aarch64.neon.{name}", vector("int32", row.lanes), acc, x[0], w[0])


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
    rows.append(_x86("avxvnni_vpdpbusd", ("avxvnni",), 8, ("uint8", "int8"), 4, 2, _vpdp))
    rows.append(_x86("avxvnni_vpdpwssd", ("avxvnni",), 8, ("int16", "int16"), 2, 2, _vpdp))
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
        # Exact for any weights: data widened once into scratch memory, weights as they are loaded (depthwise: packed).
        rows.append(_x86(f"{words}_pmaddwd_widen", (words,), lanes, ("int16", "int8"), 2, 2.2, _pmaddwd))
    return rows


def _neon_rows() -> list[Dot]:
    """Vectors of 128 bits.  Only half of the pipes multiply words or bytes; all of them take sdot and usdot."""
    row = functools.partial(Dot, arch="aarch64", lanes=4)
    byte = functools.partial(row, lowering="int8", data_dtype="int8", weight_dtype="int8")
    dots = functools.partial(byte, depth=4, groups=2, uops=2, setup_uops=0, emit=_neon_dot, temporaries=2, by_lane=True)
    matrix = functools.partial(byte, features=("i8mm",), depth=8, groups=1, uops=1, emit=_neon_matrix, pixels=2)
    # Half an instruction a pixel puts the data of two into one vector.
    matrix = functools.partial(matrix, setup_uops=0.5, temporaries=2)
    pairs = functools.partial(byte, features=("neon",), depth=2, setup_uops=1, emit=_smull_sadalp)
    return [
        matrix("neon_usmmla", data_dtype="uint8"),
        matrix("neon_smmla"),
        dots("neon_usdot", features=("i8mm",), data_dtype="uint8"),
        dots("neon_sdot", features=("dotprod",)),
        # Two products of bytes fit int16 unless all four factors are -128.  Accumulating overlaps with multiplying.
        pairs("neon_smlal_sadalp", groups=2, uops=4, temporaries=8, safe=lambda facts: facts.weight_bound <= 127),
        pairs("neon_smull_sadalp", groups=1, uops=2.4, temporaries=4),
        row(
            "neon_smlal",
            features=("neon",),
            lowering="int16",
            data_dtype="int16",
            weight_dtype="int16",
            depth=1,
            groups=4,
            uops=8,
            setup_uops=0,
            emit=_multiply,
            temporaries=2,
            by_lane=True,
        ),
    ]


def _generic_rows() -> list[Dot]:
    return [
        Dot("generic_int8", None, (), "int8", "int16", "int8", 8, 1, 1, 4, 0, _multiply),
        Dot("generic_int16", None, (), "int16", "int16", "int16", 8, 1, 1, 4, 0, _multiply),
    ]


DOTS: tuple[Dot, ...] = (*_x86_rows(), *_neon_rows(), *_generic_rows())
MAX_GROUPS = max(row.groups for row in DOTS)


def candidates(target: TargetProfile, lowering: Literal["int8", "int16"], groups: int = MAX_GROUPS) -> list[Dot]:
    """Rows of a lowering that the CPU can execute, fastest first; never empty.

    ``groups``: how many vectors of each operand a template can take a step.
    """
    return list(_candidates(target, lowering, groups, DOTS))


@functools.lru_cache(maxsize=256)
def _candidates(target: TargetProfile, lowering: str, groups: int, table: tuple[Dot, ...]) -> list[Dot]:
    rows = [
        some
        for row in table
        if row.lowering == lowering
        and row.arch in (None, target.arch)
        and target.has(*row.features)
        and (row.arch is None or row.bits <= target.vector_bits)
        and (some := row.at_most(groups)) is not None
    ]
    specific = [row for row in rows if row.arch is not None]
    return sorted(specific, key=Dot.rate, reverse=True) or rows
