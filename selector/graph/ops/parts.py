"""Parts of kernels on 8-bit data: arithmetic on vectors, loops along channels, and what it takes to call a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tvm import s_tir, tirx

from selector.graph.quantization import Params
from selector.graph.schedule import PARALLEL_ELEMENTS, SCHEDULED
from selector.lowering import tir

Shape = Sequence[int]
Expr = Any
LANES = 32  # 8-bit lanes of one vector; LLVM splits what is wider than the target's
_OPAQUE = 8  # TVM's OpPatternKind of a function that is not fused with others


def shaped(func: tirx.PrimFunc, inputs: Sequence[Shape | None], outputs: Sequence[Shape]) -> tirx.PrimFunc:
    """``func`` with the flat buffers of its arguments seen as tensors of these shapes (None: as it is).

    Kernels compute on flat buffers; Relax calls a function with tensors of the rank that it declares.
    """
    params, views = [], []
    for buffer, shape in zip(func.params, (*inputs, *outputs), strict=True):
        if shape is None or len(shape) == 1:
            params.append(buffer)
            continue
        params.append(tirx.decl_buffer(shape, buffer.dtype, buffer.name))
        views.append(tirx.DeclBuffer(buffer, data=params[-1].data))
    body = tirx.SeqStmt([*views, func.body]) if views else func.body
    if len(inputs) == 1:
        # RewriteDataflowReshape looks into functions of one input and takes it for granted that there is a root block
        body = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    out = tirx.PrimFunc(params, body, func.ret_type, func.attrs).without_attr("global_symbol")
    return out.with_attr(SCHEDULED, True).with_attr("op_pattern", _OPAQUE)


def pays(threads: int, elements: int) -> bool:
    """Whether work on so many elements is worth more than one thread."""
    return threads > 1 and elements >= PARALLEL_ELEMENTS


def requantize(value: Expr, lanes: int, source: Params, out: Params) -> Expr:
    """``quantize(dequantize(value))``, to the bit, for every one of the 256 values."""
    if source == out:
        return value
    wide = tir.cast(centred(value, lanes, source), "float32", lanes)
    factor = _one_factor(source, out)
    if factor is not None:
        return rounded(wide * tir.const(factor, "float32", lanes), lanes, out)
    real = wide * tir.const(source.scale, "float32", lanes)
    return rounded(real / tir.const(out.scale, "float32", lanes), lanes, out)


def centred(value: Expr, lanes: int, params: Params) -> Expr:
    """8-bit values less their zero point, as int32."""
    return tir.cast(value, "int32", lanes) - tir.const(params.zero_point, "int32", lanes)


def fenced(value: Expr, lanes: int) -> Expr:
    """A product that is rounded before it is added: LLVM would fuse the two into one rounding."""
    return tir.intrinsic("llvm.arithmetic.fence", tir.vector("float32", lanes), value)


def _one_factor(source: Params, out: Params) -> float | None:
    """A float32 that does for every 8-bit value what multiplying by one scale and dividing by the other does."""
    levels = np.arange(-255, 256).astype("float32")
    exact = np.rint(levels * np.float32(source.scale) / np.float32(out.scale))
    for factor in near(source.scale / out.scale):
        if (np.rint(levels * factor) == exact).all():
            return float(factor)
    return None


def near(value: float) -> Iterator[np.float32]:
    """The float32 nearest to ``value``, and its neighbours."""
    nearest = np.float32(value)
    yield nearest
    yield np.nextafter(nearest, np.float32(0))
    yield np.nextafter(nearest, np.float32(np.inf))


def rounded(value: Expr, lanes: int, out: Params, bounds: tuple[int, int] | None = None) -> Expr:
    """float32 in units of the output scale -> the output's dtype, clipped to the levels ``bounds``.

    Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
    """
    info = np.iinfo(out.dtype)
    low, high = (bound - out.zero_point for bound in bounds or (info.min, info.max))
    bounded = tirx.max(tirx.min(value, tir.const(high, "float32", lanes)), tir.const(low, "float32", lanes))
    bits = tirx.reinterpret(tir.vector("int32", lanes), bounded + tir.const(1.5 * 2**23, "float32", lanes))
    level = tir.cast(bits, "uint8", lanes) + tir.const(out.zero_point % 256, "uint8", lanes)
    return level if out.dtype == "uint8" else tirx.reinterpret(tir.vector(out.dtype, lanes), level)


def blocks(extent: int, body: Any, parallel: bool) -> None:
    """A loop that is parallel over runs of iterations, so that a thread's share is one call."""
    if not parallel:
        tir.loop(extent, body)
        return
    block = next(size for size in (1024, 64, 32, 16, 8, 7, 4, 3, 2, 1) if extent % size == 0 and extent >= 8 * size)
    tir.loop(extent // block, lambda outer: tir.loop(block, lambda inner: body(outer * block + inner)), parallel=True)


def along(channels: int, body: Callable[[Expr, int], None]) -> None:
    """Call ``body(start, lanes)`` for vectors that cover the channels, in a loop where there are many."""
    whole = channels // LANES if channels > 4 * LANES else 0
    tir.loop(whole, lambda index: body(index * LANES, LANES))
    for start, lanes in chunks(channels - whole * LANES):
        body(whole * LANES + start, lanes)


def chunks(channels: int) -> Iterator[tuple[int, int]]:
    """Start and lanes of the vectors that cover the channels."""
    start, lanes = 0, LANES
    while start < channels:
        while lanes > channels - start:
            lanes //= 2
        yield start, lanes
        start += lanes
