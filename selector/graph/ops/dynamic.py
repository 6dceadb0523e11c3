"""Quantization by the data's own range, at run time (ONNX's DynamicQuantizeLinear)."""

from __future__ import annotations

import math
from typing import Any

from tvm import relax, tirx
from tvm.tirx.script import builder as T

from selector.graph.ir import Expr, static_shape
from selector.graph.ops import base
from selector.graph.ops.base import Operator
from selector.graph.ops.parts import LANES, blocks, chunks, pays
from selector.lowering import tir
from selector.target import TargetProfile

NAME = "relax.qnn.dynamic_quantize"
_HIGHEST = 255.0
_MAGIC = 1.5 * 2**23  # adding it rounds half to even and leaves the integer in the low bits
_MAGIC_BITS = 0x4B400000  # of that float32


def dynamic_quantize(data: Expr) -> Expr:
    """A tuple of the float32 ``data`` as uint8, its scale (float32, no dimensions) and its zero point (uint8)."""
    return base.call(NAME, [data])


def _infer_type(call: Expr) -> Any:
    shape = static_shape(call.args[0]) or ()
    return relax.TupleType([base.tensor(shape, "uint8"), base.tensor((), "float32"), base.tensor((), "uint8")])


def _kernel(call: Expr, _target: TargetProfile, threads: int) -> tirx.PrimFunc:
    return kernel(math.prod(static_shape(call.args[0]) or ()), threads)


def kernel(elements: int, threads: int) -> tirx.PrimFunc:
    """Range of all ``elements``, zero included, then each of them in 255 steps of it."""
    whole = elements // LANES

    def body(data: Expr, result: Expr, scale_out: Expr, zero_out: Expr) -> None:
        low, high = _range(data, elements)
        width = T.Bind(high - low)
        scale = T.Bind(T.Select(width > T.float32(0), width / T.float32(_HIGHEST), T.float32(1)))
        zero = T.Bind(_rounded(-low / scale, 1))
        tir.store(scale_out, 0, scale, 1)
        tir.store(zero_out, 0, tir.cast(_byte(zero, 1), "uint8", 1), 1)

        def vector(start: Expr, lanes: int) -> None:
            steps = tir.load(data, start, lanes) / tir.splat(scale, lanes)
            level = _byte(_rounded(steps, lanes) + tir.splat(zero, lanes), lanes)
            tir.store(result, start, tir.cast(level, "uint8", lanes), lanes)

        blocks(whole, lambda index: vector(index * LANES, LANES), pays(threads, elements))
        for start, lanes in chunks(elements - whole * LANES):
            vector(whole * LANES + start, lanes)

    outputs = [("out", elements, "uint8"), ("scale", 1, "float32"), ("zero_point", 1, "uint8")]
    return tir.function("dynamic_quantize", [("data", elements, "float32"), *outputs], body)


def _range(data: Expr, elements: int) -> tuple[Expr, Expr]:
    """Smallest and largest of the elements and of zero."""
    whole = elements // LANES
    found = []
    for extreme in (tirx.min, tirx.max):
        many, one = tir.Registers(1, "float32", LANES), tir.Registers(1, "float32", 1)
        many[0], one[0] = tir.const(0, "float32", LANES), T.float32(0)

        def step(index: Expr, extreme: Any = extreme, many: tir.Registers = many) -> None:
            many[0] = extreme(many[0], tir.load(data, index * LANES, LANES))

        tir.loop(whole, step)
        vector = T.Bind(many[0])
        values = [tir.pick([vector], [lane]) for lane in range(LANES)]
        for value in (*values, *(data[whole * LANES + place] for place in range(elements - whole * LANES))):
            one[0] = extreme(one[0], value)
        found.append(T.Bind(one[0]))
    return found[0], found[1]


def _rounded(value: Expr, lanes: int) -> Expr:
    """float32 to int32, half to even; what is far outside of the 256 levels stays there."""
    far = 2 * _HIGHEST
    kept = tirx.max(tirx.min(value, tir.const(far, "float32", lanes)), tir.const(-far, "float32", lanes))
    bits = tirx.reinterpret(tir.vector("int32", lanes), kept + tir.const(_MAGIC, "float32", lanes))
    return bits - tir.const(_MAGIC_BITS, "int32", lanes)


def _byte(level: Expr, lanes: int) -> Expr:
    """int32 kept within 0 to 255."""
    return tirx.max(tirx.min(level, tir.const(int(_HIGHEST), "int32", lanes)), tir.const(0, "int32", lanes))


OPERATOR = Operator(NAME, _infer_type, _kernel)
