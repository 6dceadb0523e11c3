"""Any elementwise function of one 8-bit tensor, as a table of 256 entries.

quantize(f(dequantize(q)))  ->  relax.qnn.lookup(q, table)      f dear, or of many operators
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tvm import relax, tirx
from tvm.tirx.script import builder as T

from selector.graph.ir import Expr, Var, dtype_of, static_shape
from selector.graph.ops.base import Block, Found, Operator, call, tensor
from selector.graph.ops.parts import blocks, pays
from selector.graph.quantization import QUANTIZE
from selector.lowering import tir
from selector.target import TargetProfile

_NAME = "relax.qnn.lookup"


def lookup(data: Expr, values: np.ndarray) -> Expr:
    """``values[byte]`` for every byte of ``data``; ``values`` (256,), of bytes."""
    return call(_NAME, [data, relax.const(values)])


def _infer_type(call: Expr) -> Any:
    return tensor(static_shape(call.args[0]) or (), str(dtype_of(call.args[1])))


def _kernel(call: Expr, _target: TargetProfile, threads: int) -> tirx.PrimFunc:
    elements = math.prod(static_shape(call) or ())
    return kernel(elements, str(dtype_of(call.args[0])), str(dtype_of(call)), threads)


def _found(block: Block, var: Var, _call: Expr) -> Found | None:
    function = block.functions.lookup(var)
    return None if function is None else Found(var, lookup(*function))


def kernel(elements: int, dtype: str, out_dtype: str, threads: int) -> tirx.PrimFunc:
    """``out[i] = table[byte of data[i]]``, for a table of 256 entries."""

    def body(data: Expr, table: Expr, result: Expr) -> None:
        def one(index: Expr) -> None:
            byte = tirx.Cast("int32", tirx.reinterpret("uint8", data[index]) if dtype == "int8" else data[index])
            T.buffer_store(result, table[byte], [index])

        blocks(elements, one, pays(threads, elements))

    arguments = [("data", elements, dtype), ("table", 256, out_dtype), ("out", elements, out_dtype)]
    return tir.function("lookup", arguments, body)


OPERATOR = Operator(_NAME, _infer_type, _kernel, {QUANTIZE: _found})
