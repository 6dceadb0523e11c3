"""Sums and products of two 8-bit tensors, clipped or not.

quantize(clip(dequantize(a) + dequantize(b))), also *  ->  relax.qnn.binary(a, b)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tvm import tirx

from selector.graph.constants import activation, clipped
from selector.graph.ir import Expr, Var, ints, op_name, static_shape
from selector.graph.ops import base
from selector.graph.ops.base import Block, Found, Operator
from selector.graph.ops.parts import LANES, along, blocks, centred, chunks, fenced, near, pays, rounded
from selector.graph.quantization import QUANTIZE, Params, dequantized, quantizes_to_bytes
from selector.lowering import tir
from selector.target import TargetProfile

_NAME = "relax.qnn.binary"
_UNBOUNDED = (-math.inf, math.inf)


def binary(kind: str, args: Sequence[Expr], params: Sequence[Params], out: Params, bounds: tuple[int, int]) -> Expr:
    """``add`` or ``multiply`` of two tensors of one shape (N, ..., C), or the second one (N, 1, ..., 1, C)."""
    return base.call(_NAME, args, kind=kind, bounds=bounds, data=params, out=out)


def _infer_type(call: Expr) -> Any:
    return base.tensor(static_shape(call.args[0]) or (), base.params_in(call, "out")[0].dtype)


def _kernel(call: Expr, _target: TargetProfile, threads: int) -> tirx.PrimFunc:
    shape, second = (static_shape(arg) or () for arg in call.args)
    first_params, second_params = base.params_in(call, "data")
    (out,) = base.params_in(call, "out")
    low, high = ints(call.attrs["bounds"])
    params = first_params, second_params
    return kernel(call.attrs["kind"], params, shape, shape != second, out, (low, high), threads)


def kernel(
    kind: Literal["add", "multiply"],
    params: tuple[Params, Params],
    shape: tuple[int, ...],
    spread: bool,
    out: Params,
    bounds: tuple[int, int],
    threads: int,
) -> tirx.PrimFunc:
    """Sum or product of two tensors, clipped to the levels ``bounds``, to the bit what the float32 operators give.

    ``spread``: the second tensor is (N, 1, ..., 1, C) and taken for every pixel of the first; else both have ``shape``.
    """
    elements, channels = math.prod(shape), shape[-1]
    pixels = elements // channels // shape[0]
    factor = _binary_factor(kind, params, out, bounds)

    def body(first: Expr, second: Expr, result: Expr) -> None:
        def vector(start: Expr, other: Expr, lanes: int) -> None:
            x, y = (
                tir.cast(centred(tir.load(buffer, index, lanes), lanes, param), "float32", lanes)
                for buffer, index, param in zip((first, second), (start, other), params, strict=True)
            )
            tir.store(
                result, start, rounded(_combined(kind, x, y, lanes, params, out, factor), lanes, out, bounds), lanes
            )

        def pixel(index: Expr) -> None:
            image = tirx.floordiv(index, pixels)
            along(channels, lambda start, lanes: vector(index * channels + start, image * channels + start, lanes))

        parallel = pays(threads, elements)
        if spread:
            blocks(shape[0] * pixels, pixel, parallel)
            return
        whole = elements // LANES
        blocks(whole, lambda index: vector(index * LANES, index * LANES, LANES), parallel)
        for start, lanes in chunks(elements - whole * LANES):
            vector(whole * LANES + start, whole * LANES + start, lanes)

    sizes = elements, shape[0] * channels if spread else elements
    arguments = [("first", sizes[0], params[0].dtype), ("second", sizes[1], params[1].dtype)]
    return tir.function(kind, [*arguments, ("out", elements, out.dtype)], body)


def _combined(
    kind: str, x: Expr, y: Expr, lanes: int, params: tuple[Params, Params], out: Params, factor: float | None
) -> Expr:
    """Sum or product of two centred float32 vectors, in units of the output scale."""
    if kind == "multiply" and factor is not None:
        return x * y * tir.const(factor, "float32", lanes)
    x, y = (value * tir.const(param.scale, "float32", lanes) for value, param in zip((x, y), params, strict=True))
    # the fences keep LLVM from fusing product and sum into one rounding
    real = x * y if kind == "multiply" else fenced(x, lanes) + fenced(y, lanes)
    if factor is None:
        return real / tir.const(out.scale, "float32", lanes)
    return real * tir.const(factor, "float32", lanes)


def _binary_factor(kind: str, params: tuple[Params, Params], out: Params, bounds: tuple[int, int]) -> float | None:
    """A float32 in place of the division by the output scale, if one is exact for all of the 65536 pairs."""
    x, y = params[0].all_steps()[:, None], params[1].all_steps()[None, :]
    scales = [np.float32(param.scale) for param in params]
    real = x * scales[0] + y * scales[1] if kind == "add" else (x * scales[0]) * (y * scales[1])
    low, high = (np.float32(bound - out.zero_point) for bound in bounds)
    exact = np.clip(np.rint(real / np.float32(out.scale)), low, high)
    cheap, unit = (real, 1.0) if kind == "add" else (x * y, params[0].scale * params[1].scale)
    for factor in near(unit / out.scale):
        if (np.clip(np.rint(cheap * factor), low, high) == exact).all():
            return float(factor)
    return None


def _found(block: Block, var: Var, call: Expr) -> Found | None:
    """A sum or product of two dequantized tensors, clipped or not, between them and this quantize."""
    graph, out = block.graph, quantizes_to_bytes(call)
    if out is None:
        return None
    value, clip = graph.value(call.args[0]), _UNBOUNDED
    while (bounds := activation(graph, value)) is not None:
        clip = clipped(bounds, clip)  # the operators nearer to the quantize come first here
        value = graph.value(value.args[0])
    kind = {"relax.add": "add", "relax.multiply": "multiply"}.get(op_name(value) or "")
    if kind is None:
        return None
    sources = [dequantized(graph, arg) for arg in value.args]
    shapes = [static_shape(arg) for arg in value.args]
    if shapes[0] != static_shape(value):
        sources, shapes = sources[::-1], shapes[::-1]
    if sources[0] is None or sources[1] is None or shapes[0] != static_shape(value) or not shapes[0]:
        return None
    spread = (shapes[0][0], *[1] * (len(shapes[0]) - 2), shapes[0][-1])
    if shapes[1] != shapes[0] and (len(shapes[0]) < 3 or shapes[1] != spread):
        return None
    params = [sources[0][1], sources[1][1]]
    args = [sources[0][0], sources[1][0]]
    return Found(var, binary(kind, args, params, out, _bounds(clip, out)))


def _bounds(clip: tuple[float, float], out: Params) -> tuple[int, int]:
    """Bounds in real units as levels: quantizing is monotone, so clipping can wait until after it."""
    low, high = out.levels(np.array(clip, "float32"))
    return int(low), int(high)


OPERATOR = Operator(_NAME, _infer_type, _kernel, {QUANTIZE: _found})
