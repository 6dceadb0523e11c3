"""Undoing what TVM's importers do to operators that the passes need to see.

The ONNX importer turns Clip and Pad into TIR functions.  A function is recognised by being structurally the same as
the one that TVM's own compute definition gives, never by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import relax, topi

from selector.graph.ir import Bindings, Emitter, Expr, Graph, constant, dtype_of, op_name, rewrite, static_shape
from selector.graph.passes.padding import recognized

_BINARY: tuple[tuple[Callable[..., Any], Callable[..., Expr]], ...] = (
    (topi.maximum, relax.op.maximum),
    (topi.minimum, relax.op.minimum),
)


def canonicalize(mod: tvm.IRModule) -> tvm.IRModule:
    """Turn TIR calls that are a maximum or minimum with a constant, or a padding, back into Relax operators."""
    known: dict[tuple[Any, ...], Any] = {}

    def block_pass(bindings: Bindings) -> Bindings:
        graph = Graph(bindings)
        out = Emitter()
        found = False
        for binding in bindings:
            value = _clip(mod, graph, binding.value, known)
            if value is None:
                value = recognized(mod, binding.value, _te_function)
            found |= value is not None
            out.bind(binding.var, binding.value if value is None else out.typed(value))
        return out.bindings if found else bindings

    return rewrite(mod, block_pass)


def _clip(mod: tvm.IRModule, graph: Graph, call: Expr, known: dict[tuple[Any, ...], Any]) -> Expr | None:
    """The Relax operator that a ``call_tir`` computes, None if it is neither of the two."""
    if op_name(call) != "relax.call_tir" or not isinstance(call.args[1], relax.Tuple) or len(call.args[1].fields) != 2:
        return None
    data, bound = call.args[1].fields
    shape, dtype = static_shape(data), dtype_of(data)
    value = _bound(graph, bound)
    if value is None or shape is None or dtype is None or static_shape(call) != shape:
        return None
    for compute, operator in _BINARY:
        key = (operator, shape, dtype, static_shape(bound))
        if key not in known:
            known[key] = _te_function(compute, data, bound)
        if tvm_ffi.structural_equal(mod[call.args[0]], known[key]):
            return operator(data, relax.const(value))
    return None


def _bound(graph: Graph, expr: Expr) -> np.ndarray | None:
    """A constant with one element, through the importer's ``where(isnan(c), unbounded, c)``."""
    call = graph.value(expr)
    value = constant(call)
    if op_name(call) == "relax.where":
        unbounded, value = constant(graph.value(call.args[1])), constant(graph.value(call.args[2]))
        guard = graph.value(call.args[0])
        if op_name(guard) != "relax.isnan" or value is None or unbounded is None:
            return None
        value = np.where(np.isnan(value), unbounded, value).astype(value.dtype)
    return value if value is not None and value.size == 1 else None


def _te_function(compute: Callable[..., Any], *args: Expr) -> tvm.tirx.PrimFunc:
    """The TIR function that the importer makes of a compute definition on tensors like ``args``."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"arg{index}", arg.ty) for index, arg in enumerate(args)]
    with builder.function("main", params):
        builder.emit_func_output(builder.emit_te(compute, *params))
    (func,) = [func for func in builder.get().functions.values() if isinstance(func, tvm.tirx.PrimFunc)]
    return func
