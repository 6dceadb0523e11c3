"""Softmax of 8-bit tensors along their last axis.

    quantize(softmax(dequantize(q), axis=-1))  ->  relax.qnn.softmax(q, table)

The exponential of a difference to the largest element of a row has 256 values: a table of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.tirx.script import builder as T

from selector.graph.ir import Expr, Var, op_name, static_shape
from selector.graph.ops import base
from selector.graph.ops.base import Block, Found, Operator
from selector.graph.ops.parts import along, pays, rounded
from selector.graph.quantization import QUANTIZE, Params, dequantized, quantizes_to_bytes
from selector.lowering import tir
from selector.target import TargetProfile

_NAME = "relax.qnn.softmax"


def softmax(data: Expr, params: Params, out: Params) -> Expr:
    """Softmax of (..., C) along C."""
    table = np.exp(-np.arange(256) * np.float64(params.scale)).astype("float32")
    return base.call(_NAME, [data, relax.const(table)], data=params, out=out)


def _infer_type(call: Expr) -> Any:
    return base.tensor(static_shape(call.args[0]) or (), base.params_in(call, "out")[0].dtype)


def _kernel(call: Expr, _target: TargetProfile, threads: int) -> tirx.PrimFunc:
    shape = static_shape(call.args[0]) or ()
    (params,), (out,) = base.params_in(call, "data"), base.params_in(call, "out")
    return kernel(math.prod(shape[:-1]), shape[-1], params.dtype, out, threads)


def kernel(rows: int, length: int, dtype: str, out: Params, threads: int) -> tirx.PrimFunc:
    """``rows`` softmaxes of ``length`` elements; sums are float32, in the order of the elements."""

    def body(data: Expr, table: Expr, result: Expr) -> None:
        def row(index: Expr) -> None:
            powers = T.alloc_buffer((length,), "float32")
            start = T.Bind(index * length + T.int32(0))
            largest, total = tir.Registers(1, "int32", 1), tir.Registers(1, "float32", 1)
            largest[0], total[0] = T.int32(-128), T.float32(0)

            def look(place: Expr) -> None:
                largest[0] = tirx.max(largest[0], tirx.Cast("int32", data[start + place]))

            def power(place: Expr) -> None:
                value = T.Bind(table[largest[0] - tirx.Cast("int32", data[start + place])])
                T.buffer_store(powers, value, [place])
                total[0] = total[0] + value

            tir.loop(length, look)
            tir.loop(length, power)
            factor = T.Bind(T.float32(float(np.float32(1 / out.scale))) / total[0])

            def scaled(place: Expr, lanes: int) -> None:
                steps = tir.load(powers, place, lanes) * tir.splat(factor, lanes)
                tir.store(result, start + place, rounded(steps, lanes, out), lanes)

            along(length, scaled)

        tir.loop(rows, row, parallel=rows > 1 and pays(threads, rows * length))

    arguments = [("data", rows * length, dtype), ("table", 256, "float32"), ("out", rows * length, out.dtype)]
    return tir.function("softmax", arguments, body)


def _found(block: Block, var: Var, call: Expr) -> Found | None:
    out, value = quantizes_to_bytes(call), block.graph.value(call.args[0])
    if out is None or op_name(value) != "relax.nn.softmax":
        return None
    source, shape = dequantized(block.graph, value.args[0]), static_shape(value)
    if source is None or not shape or int(value.attrs.axis) % len(shape) != len(shape) - 1:
        return None
    return Found(var, softmax(*source, out))


OPERATOR = Operator(_NAME, _infer_type, _kernel, {QUANTIZE: _found})
