"""Float32 vectors to 8-bit ones by an instruction set's own saturating instructions, which clip for free."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from selector.lowering.tir import Expr, T, const, intrinsic, pick, vector


@dataclass(frozen=True)
class Ordered:
    """A vector whose lanes hold the given channels; a channel may occur twice."""

    value: Expr
    channels: tuple[int, ...]

    def in_order(self) -> Expr:
        """The distinct channels, ascending; to be stored, they must not have gaps."""
        distinct = sorted(set(self.channels))
        assert distinct == list(range(distinct[0], distinct[0] + len(distinct)))
        lanes = [self.channels.index(channel) for channel in distinct]
        return self.value if lanes == list(range(len(self.channels))) else pick([self.value], lanes)

    def halves(self) -> list[Ordered]:
        """The lower and the upper half."""
        middle = len(self.channels) // 2
        return [
            Ordered(pick([self.value], list(range(start, start + middle))), self.channels[start : start + middle])
            for start in (0, middle)
        ]


@dataclass(frozen=True)
class Packs:
    """Saturating instructions on vectors of 128 bits, or of twice that where ``wide``.

    Both inputs of a pack meet inside every 128 bits: first those of the one, then those of the other.
    """

    rounded: Callable[[Expr, int], Expr]  # float32 (value, lanes) -> int32, half to even (the default rounding mode)
    words: Callable[[Expr, Expr, bool], Expr]  # two of int32 (a, b, wide) -> one of int16
    bytes: Callable[[Expr, Expr, bool, str], Expr]  # two of int16 (a, b, wide, dtype) -> one of dtype

    def narrow(self, scaled: list[Ordered], lanes: int, zero_point: int, dtype: str) -> list[Ordered]:
        """Float32 vectors of ``lanes`` -> rounded, with the zero point added, as few vectors of ``dtype``."""
        rounded = [
            Ordered(self.rounded(part.value, min(lanes, 8)), part.channels)
            for item in scaled
            for part in (item.halves() if lanes == 16 else [item])
        ]
        packed = []
        while rounded:
            count = 4 if len(rounded) >= 4 else min(len(rounded), 2)
            some, rounded = rounded[:count], rounded[count:]
            wide = lanes >= 8
            words = [self._words(some[i], some[min(i + 1, count - 1)], wide, zero_point) for i in range(0, count, 2)]
            if wide and len(words) == 1:
                words = words[0].halves()
                wide = False
            packed.append(self._bytes(words[0], words[-1], wide, dtype))
        return packed

    def _words(self, a: Ordered, b: Ordered, wide: bool, zero_point: int) -> Ordered:
        lanes = 16 if wide else 8
        words = self.words(a.value, b.value, wide)
        if zero_point:
            words = intrinsic("llvm.sadd.sat", vector("int16", lanes), words, const(zero_point, "int16", lanes))
        return Ordered(words, _interleaved(a.channels, b.channels, 4))

    def _bytes(self, a: Ordered, b: Ordered, wide: bool, dtype: str) -> Ordered:
        return Ordered(self.bytes(a.value, b.value, wide, dtype), _interleaved(a.channels, b.channels, 8))


def _interleaved(a: tuple[int, ...], b: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Channels after a pack: blocks of the two inputs in turn."""
    return tuple(c for i in range(0, len(a), block) for part in (a, b) for c in part[i : i + block])


def _x86_rounded(value: Expr, lanes: int) -> Expr:
    name = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256"}[lanes]
    return intrinsic(name, vector("int32", lanes), value)


def _x86_words(a: Expr, b: Expr, wide: bool) -> Expr:
    name = "llvm.x86.avx2.packssdw" if wide else "llvm.x86.sse2.packssdw.128"
    return intrinsic(name, vector("int16", 16 if wide else 8), a, b)


def _x86_bytes(a: Expr, b: Expr, wide: bool, dtype: str) -> Expr:
    name = {"int8": "packsswb", "uint8": "packuswb"}[dtype]
    lanes = 32 if wide else 16
    packed = intrinsic(f"llvm.x86.avx2.{name}" if wide else f"llvm.x86.sse2.{name}.128", vector("int8", lanes), a, b)
    return T.reinterpret(packed, dtype=vector(dtype, lanes))


def _neon_rounded(value: Expr, lanes: int) -> Expr:
    return intrinsic("llvm.aarch64.neon.fcvtns", vector("int32", lanes), value)


def _neon_words(a: Expr, b: Expr, wide: bool) -> Expr:
    return pick([intrinsic("llvm.aarch64.neon.sqxtn", "int16x4", part) for part in (a, b)], list(range(8)))


def _neon_bytes(a: Expr, b: Expr, wide: bool, dtype: str) -> Expr:
    name = {"int8": "sqxtn", "uint8": "sqxtun"}[dtype]
    packed = pick([intrinsic(f"llvm.aarch64.neon.{name}", "int8x8", part) for part in (a, b)], list(range(16)))
    return T.reinterpret(packed, dtype=vector(dtype, 16))


PACKS = {
    "x86_64": Packs(_x86_rounded, _x86_words, _x86_bytes),
    "aarch64": Packs(_neon_rounded, _neon_words, _neon_bytes),
}
