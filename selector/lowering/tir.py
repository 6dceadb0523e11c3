"""A thin layer over TVM's IRBuilder: whole vectors in flat buffers, which is all that the kernels need.

Kernels are block-free imperative ``PrimFunc``s; TVM's CPU pipeline keeps such functions as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

Expr = Any  # a tvm expression; TVM's own stubs are untyped


def vector(dtype: str, lanes: int) -> str:
    """Name of a vector dtype; one lane is the scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def span(start: Expr, lanes: int) -> Expr:
    """Index of ``lanes`` consecutive elements."""
    return start if lanes == 1 else T.ramp(start, 1, lanes)


def load(buffer: Expr, start: Expr, lanes: int) -> Expr:
    """``buffer[start : start + lanes]`` as one vector."""
    return buffer[span(start, lanes)]


def store(buffer: Expr, start: Expr, value: Expr, lanes: int) -> None:
    """``buffer[start : start + lanes] = value``."""
    T.buffer_store(buffer, value, [span(start, lanes)])


def opaque(value: Expr, buffer: Expr) -> Expr:
    """The int32 value, of which LLVM does not know what it is; costs no instruction.  ``buffer``: any.

    As an index it keeps loads in the loop that they are written in, as a step it keeps a loop from being unrolled: LLVM
    hoists and unrolls regardless of how many registers there are, and keeps the rest on the stack.
    """
    name, pointer = T.llvm_lookup_intrinsic_id("llvm.annotation"), T.address_of(buffer[0])

    def annotated(operand: Expr) -> Expr:
        return T.call_llvm_intrin(name, T.int32(0) + operand, pointer, pointer, T.int32(0), dtype="int32")

    # Loop analyses see through one annotation, but not through the bits of two.
    return T.Bind(T.bitwise_and(T.Bind(annotated(value)), T.Bind(annotated(-1))))


def splat(value: Expr, lanes: int) -> Expr:
    """The scalar in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def const(value: float, dtype: str, lanes: int = 1) -> Expr:
    """A constant in every lane."""
    return splat(tirx.const(value, dtype), lanes)


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """Element-wise conversion."""
    return tirx.Cast(vector(dtype, lanes), value)


def intrinsic(name: str, dtype: str, *args: Expr) -> Expr:
    """A side-effect free LLVM intrinsic."""
    return T.call_llvm_pure_intrin(T.llvm_lookup_intrinsic_id(name), *args, dtype=dtype)


def prefetch(buffer: Expr, index: Expr) -> None:
    """Ask for the cache line of ``buffer[index]`` in L2; reads nothing, so the index may be out of bounds."""
    read, to_l2, data = T.int32(0), T.int32(2), T.int32(1)
    name = T.llvm_lookup_intrinsic_id("llvm.prefetch")
    T.evaluate(T.call_llvm_intrin(name, T.address_of(buffer[index]), read, to_l2, data, dtype="void"))


def pick(vectors: list[Expr], lanes: list[int]) -> Expr:
    """Lanes of the concatenated vectors, in the given order (LLVM's shufflevector)."""
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", lane) for lane in lanes])


def loop(extent: int, body: Callable[[Expr], None], *, parallel: bool = False, step: Expr = None) -> None:
    """``for i in range(0, extent, step): body(i)``, the step 1 if not given; no loop at all where the extent is one."""
    if extent == 1:
        body(0)
    elif extent > 1:
        with T.parallel(extent) if parallel else T.serial(extent, step=step) as i:
            body(i)


def outermost(count: int, task: Callable[[Expr], None], *, threads: int, lanes: int) -> None:
    """``task(i)`` for every one of ``count``, divided among the threads: a kernel's outermost loop.

    ``lanes``: 32-bit integers of its vectors, to which the stack is aligned.  LLVM gives 16 bytes, and more for the
    sake of a variable only, not of registers that it spills: of those of 32 bytes every other one lies in two cache
    lines, in about every other process (up to twice the kernel's time).  The variable costs a prefetch, without which
    LLVM would drop it.
    """

    def aligned(index: Expr) -> None:
        if lanes * 32 > 128:
            prefetch(T.alloc_buffer((1,), vector("int32", lanes)), 0)
        task(index)

    loop(count, aligned, parallel=threads > 1)


@contextlib.contextmanager
def branch(condition: Expr) -> Iterator[None]:
    """``if condition: ...``"""
    with T.If(condition), T.Then():
        yield


@contextlib.contextmanager
def otherwise(condition: Expr) -> Iterator[None]:
    """``if not condition: ...``"""
    with branch(tirx.Not(condition)):
        yield


class Registers:
    """Vector variables: each a buffer of its own, which LLVM keeps in a register."""

    def __init__(self, count: int, dtype: str, lanes: int) -> None:
        self._lanes = lanes
        self._buffers = [T.alloc_buffer((lanes,), dtype) for _ in range(count)]

    def __getitem__(self, index: int) -> Expr:
        return load(self._buffers[index], 0, self._lanes)

    def __setitem__(self, index: int, value: Expr) -> None:
        store(self._buffers[index], 0, value, self._lanes)


def function(
    name: str, arguments: list[tuple[str, int, str]], body: Callable[..., None], *, noalias: bool = True
) -> tirx.PrimFunc:
    """A PrimFunc over flat buffers ``(name, elements, dtype)``; ``body`` gets the buffers in order."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"global_symbol": name, "tirx.noalias": noalias, "selector.kernel": True})
            body(*[T.arg(arg, T.buffer((elements,), dtype)) for arg, elements, dtype in arguments])
    return builder.get()
