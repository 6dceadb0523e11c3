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
    """Saturating instructions on whole vectors of a CPU, of 128, 256 or 512 bits.

    Both inputs of a pack meet inside every 128 bits: first those of the one, then those of the other.
    """

    rounded: Callable[[Expr, int], Expr]  # float32 (value, lanes) -> int32, half to even (the default rounding mode)
    words: Callable[[Expr, Expr, int], Expr]  # two of int32 (a, b, lanes of each) -> one of int16
    bytes: Callable[[Expr, Expr, int, str], Expr]  # two of int16 (a, b, lanes of each, dtype) -> one of dtype
    truncated: Callable[[Expr, str, str], Expr] | None = None  # 512 bits of int32 or int16 (value, from, to) -> dtype

    def narrow(self, scaled: list[Ordered], lanes: int, zero_point: int, dtype: str) -> list[Ordered]:
        """Float32 vectors of ``lanes`` -> rounded, with the zero point added, as few vectors of ``dtype``."""
        rounded = [Ordered(self.rounded(item.value, lanes), item.channels) for item in scaled]
        packed = []
        while rounded:
            count = 4 if len(rounded) >= 4 else min(len(rounded), 2)
            some, rounded = rounded[:count], rounded[count:]
            packed.append((self._truncate if lanes == 16 and count < 4 else self._pack)(some, zero_point, dtype))
        return packed

    def _pack(self, some: list[Ordered], zero_point: int, dtype: str) -> Ordered:
        """Four, two or one vectors of int32 as one of bytes."""
        words = [self._words(some[i], some[min(i + 1, len(some) - 1)], zero_point) for i in range(0, len(some), 2)]
        if len(words) == 1 and len(words[0].channels) == 16:
            words = words[0].halves()
        first, second = words[0], words[-1]
        value = self.bytes(first.value, second.value, len(first.channels), dtype)
        return Ordered(value, _interleaved(first.channels, second.channels, 8))

    def _words(self, a: Ordered, b: Ordered, zero_point: int) -> Ordered:
        words = self.words(a.value, b.value, len(a.channels))
        if zero_point:
            lanes = 2 * len(a.channels)
            words = intrinsic("llvm.sadd.sat", vector("int16", lanes), words, const(zero_point, "int16", lanes))
        return Ordered(words, _interleaved(a.channels, b.channels, 4))

    def _truncate(self, some: list[Ordered], zero_point: int, dtype: str) -> Ordered:
        """Two or one vectors of int32 as half or a quarter of one of bytes: AVX-512 has instructions for it."""
        wide, element = some[0], "int32"
        if len(some) == 2:
            wide, element = self._words(some[0], some[1], zero_point), "int16"
        elif zero_point:
            wide = Ordered(wide.value + const(zero_point, element, len(wide.channels)), wide.channels)
        assert self.truncated is not None
        return Ordered(self.truncated(wide.value, element, dtype), wide.channels)


def _interleaved(a: tuple[int, ...], b: tuple[int, ...], block: int) -> tuple[int, ...]:
    """Channels after a pack: blocks of the two inputs in turn."""
    return tuple(c for i in range(0, len(a), block) for part in (a, b) for c in part[i : i + block])


def _x86_rounded(value: Expr, lanes: int) -> Expr:
    if lanes == 16:
        name, current = "llvm.x86.avx512.mask.cvtps2dq.512", T.int32(4)  # the rounding mode that is set
        return intrinsic(name, "int32x16", value, const(0, "int32", 16), T.int16(-1), current)
    name = {4: "llvm.x86.sse2.cvtps2dq", 8: "llvm.x86.avx.cvt.ps2dq.256"}[lanes]
    return intrinsic(name, vector("int32", lanes), value)


_X86_PACKS = {128: ("sse2", ".128"), 256: ("avx2", ""), 512: ("avx512", ".512")}  # bits -> parts of the names


def _x86_words(a: Expr, b: Expr, lanes: int) -> Expr:
    isa, suffix = _X86_PACKS[lanes * 32]
    return intrinsic(f"llvm.x86.{isa}.packssdw{suffix}", vector("int16", 2 * lanes), a, b)


def _x86_bytes(a: Expr, b: Expr, lanes: int, dtype: str) -> Expr:
    isa, suffix = _X86_PACKS[lanes * 16]
    name = {"int8": "packsswb", "uint8": "packuswb"}[dtype]
    packed = intrinsic(f"llvm.x86.{isa}.{name}{suffix}", vector("int8", 2 * lanes), a, b)
    return T.reinterpret(packed, dtype=vector(dtype, 2 * lanes))


def _x86_truncated(value: Expr, element: str, dtype: str) -> Expr:
    lanes = {"int32": 16, "int16": 32}[element]
    if dtype == "uint8":  # the instruction takes its input for unsigned
        value = T.max(value, const(0, element, lanes))
    name = f"{'pmovus' if dtype == 'uint8' else 'pmovs'}.{'db' if element == 'int32' else 'wb'}"
    all_lanes, nothing = const(-1, f"int{lanes}"), const(0, "int8", lanes)
    narrowed = intrinsic(f"llvm.x86.avx512.mask.{name}.512", vector("int8", lanes), value, nothing, all_lanes)
    return T.reinterpret(narrowed, dtype=vector(dtype, lanes))


def _neon_rounded(value: Expr, lanes: int) -> Expr:
    return intrinsic("llvm.aarch64.neon.fcvtns", vector("int32", lanes), value)


def _neon_words(a: Expr, b: Expr, lanes: int) -> Expr:
    return pick([intrinsic("llvm.aarch64.neon.sqxtn", "int16x4", part) for part in (a, b)], list(range(8)))


def _neon_bytes(a: Expr, b: Expr, lanes: int, dtype: str) -> Expr:
    name = {"int8": "sqxtn", "uint8": "sqxtun"}[dtype]
    packed = pick([intrinsic(f"llvm.aarch64.neon.{name}", "int8x8", part) for part in (a, b)], list(range(16)))
    return T.reinterpret(packed, dtype=vector(dtype, 16))


PACKS = {
    "x86_64": Packs(_x86_rounded, _x86_words, _x86_bytes, _x86_truncated),
    "aarch64": Packs(_neon_rounded, _neon_words, _neon_bytes),
}
