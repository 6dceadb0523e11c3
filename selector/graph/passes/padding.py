"""Padding as an operator, and as the attribute of a convolution.

    conv2d(pad(x, 0))                    ->  conv2d(x), padded by itself       float32
    qnn.conv2d(pad(q, zero point))       ->  qnn.conv2d(q), padded by itself

The ONNX importer turns Pad into a TIR function; ``recognized`` turns it back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, topi

from selector.graph import qnn
from selector.graph.ir import Bindings, Emitter, Expr, Graph, dtype_of, ints, op_name, rewrite, scalar, static_shape

_CONV2D = "relax.nn.conv2d"


def fold_padding(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rules above to every dataflow block."""

    def block_pass(bindings: Bindings) -> Bindings:
        graph = Graph(bindings)
        out = Emitter()
        found = False
        for binding in bindings:
            value = _folded(graph, binding.value)
            found |= value is not None
            out.bind(binding.var, binding.value if value is None else out.typed(value))
        return out.bindings if found else bindings

    return rewrite(mod, block_pass)


def recognized(mod: tvm.IRModule, call: Expr, te_function: Callable[..., tvm.tirx.PrimFunc]) -> Expr | None:
    """The ``relax.nn.pad`` that a ``call_tir`` of one operand computes; None if it is no constant padding.

    ``te_function`` makes the importer's TIR function of a compute definition.
    """
    if op_name(call) != "relax.call_tir" or not isinstance(call.args[1], relax.Tuple) or len(call.args[1].fields) != 1:
        return None
    (data,) = call.args[1].fields
    shape, result = static_shape(data), static_shape(call)
    func = mod[call.args[0]]
    if shape is None or result is None or len(shape) != len(result) or dtype_of(call) != "float32":
        return None
    guess = _guess(func, len(shape))
    if guess is None:
        return None
    before, value = guess
    after = [wide - narrow - first for wide, narrow, first in zip(result, shape, before, strict=True)]
    if min(after) < 0:
        return None

    def compute(tensor: Any) -> Any:
        return topi.nn.pad(tensor, before, after, value)

    if not tvm_ffi.structural_equal(func, te_function(compute, data)):
        return None
    return relax.op.nn.pad(
        data, [width for pair in zip(before, after, strict=True) for width in pair], "constant", value
    )


def _guess(func: tvm.tirx.PrimFunc, rank: int) -> tuple[list[int], float] | None:
    """Padding before every axis and the value padded with, if ``func`` is a constant padding."""
    node = func.body
    while not isinstance(node, tvm.tirx.BufferStore):
        node = getattr(node, "block", getattr(node, "body", None))
        if node is None:
            return None
    choice = node.value
    if (op_name(choice) or "").rpartition(".")[2] != "if_then_else":
        return None
    _, load, value = choice.args
    if not isinstance(value, tvm.tirx.FloatImm) or not hasattr(load, "indices"):
        return None
    offsets = [int(getattr(getattr(index, "b", None), "value", 0)) for index in load.indices]  # x, or x - before
    return (offsets, float(value.value)) if len(offsets) == rank else None


def _folded(graph: Graph, call: Expr) -> Expr | None:
    """The convolution ``call`` on data that is not padded yet."""
    name = op_name(call)
    if name not in (_CONV2D, qnn.CONV2D):
        return None
    pad = graph.value(call.args[0])
    if op_name(pad) != "relax.nn.pad" or str(pad.attrs.pad_mode) != "constant":
        return None
    layout = str(call.attrs["data_layout"] if name == qnn.CONV2D else call.attrs.data_layout)
    zero = scalar(call.args[4]) if name == qnn.CONV2D else 0
    if sorted(layout) != sorted("NCHW") or float(pad.attrs.pad_value) != zero:
        return None
    width = ints(pad.attrs.pad_width)
    pairs = {axis: width[2 * index : 2 * index + 2] for index, axis in enumerate(layout)}
    if any(pairs["N"]) or any(pairs["C"]) or min(width) < 0:
        return None
    outer = (pairs["H"][0], pairs["W"][0], pairs["H"][1], pairs["W"][1])
    if name == qnn.CONV2D:
        return qnn.with_attrs(call, pad.args[0], padding=_added(ints(call.attrs["padding"]), outer))
    attrs = call.attrs
    return relax.op.nn.conv2d(
        pad.args[0],
        call.args[1],
        strides=ints(attrs.strides),
        padding=_added(ints(attrs.padding), outer),
        dilation=ints(attrs.dilation),
        groups=int(attrs.groups),
        data_layout=layout,
        kernel_layout=str(attrs.kernel_layout),
        out_layout=str(attrs.out_layout),
        out_dtype=None if attrs.out_dtype is None else str(attrs.out_dtype) or None,
    )


def _added(inner: tuple[int, ...], outer: tuple[int, ...]) -> list[int]:
    return [first + second for first, second in zip(inner, outer, strict=True)]
