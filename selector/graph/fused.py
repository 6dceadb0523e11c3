"""Operators on 8-bit NHWC data that have a kernel of their own.

    quantize(avg_pool2d(dequantize(q)))                              ->  relax.qnn.pool2d(q)
    quantize(mean(dequantize(q), (H, W)))                            ->  relax.qnn.pool2d(q), over the whole image
    max_pool2d(q)                                                    ->  relax.qnn.pool2d(q)
    concat(a, quantize(dequantize(b)), ...) [, channel shuffle]      ->  relax.qnn.concat(a, b, ...)
    slices of the channels of that                                   ->  the same, with several results
    quantize(clip(dequantize(a) + dequantize(b))), also *            ->  relax.qnn.binary(a, b)
    quantize(f(dequantize(q))), f elementwise and dear               ->  relax.qnn.lookup(q, table)

Runs after the layout pass; what is not NHWC stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector.graph import fused_ops, table
from selector.graph.constants import activation, prim_values
from selector.graph.integer import params_of
from selector.graph.ir import (
    Bindings,
    Emitter,
    Expr,
    Graph,
    Var,
    dtype_of,
    ints,
    is_dataflow_var,
    op_name,
    rewrite,
    static_shape,
)
from selector.graph.kernels import Params, Pool

_8BIT = ("uint8", "int8")
_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class Found:
    """A variable to redefine."""

    var: Var
    value: Expr  # up to a reshape; with slices a tuple, and ``var`` is not needed any more
    slices: Sequence[Var] = ()  # what to redefine as the elements of the tuple


def fuse_kernels(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rules above to every dataflow block."""

    def block_pass(bindings: Bindings) -> Bindings:
        graph, functions = Graph(bindings), table.Functions()
        found: dict[Var, Found] = {}
        for binding in bindings:
            functions.see(binding.var, binding.value)
            looked_up = functions.lookup(binding.var) if op_name(binding.value) == "relax.quantize" else None
            if looked_up is not None:
                found[binding.var] = Found(binding.var, fused_ops.lookup(*looked_up))
                continue
            one = _RULES.get(op_name(binding.value) or "", _no_rule)(graph, binding.var, binding.value)
            if one is not None:
                found[one.var] = one
        return _rebound(bindings, found) if found else bindings

    return rewrite(mod, block_pass)


def _rebound(bindings: Bindings, found: Mapping[Var, Found]) -> Bindings:
    out = Emitter()
    elements: dict[Var, Expr] = {}
    for binding in bindings:
        one = found.get(binding.var)
        if binding.var in elements:
            out.bind(binding.var, elements[binding.var])
        elif one is None:
            out.bindings.append(binding)
        elif one.slices:
            parts = out.emit(one.value)
            elements |= {var: relax.TupleGetItem(parts, index) for index, var in enumerate(one.slices)}
        elif static_shape(typed := out.typed(one.value)) == static_shape(binding.var):
            out.bind(binding.var, typed)
        else:
            out.bind(binding.var, out.typed(relax.op.reshape(out.emit(typed), static_shape(binding.var))))
    return out.bindings


def _no_rule(_graph: Graph, _var: Var, _call: Expr) -> Found | None:
    return None


def _quantize(graph: Graph, var: Var, call: Expr) -> Found | None:
    """Average pooling, or a sum or product, between a dequantize and this quantize."""
    pooled = graph.value(call.args[0])
    out = params_of(call, dtype_of(call))
    if out is None or static_shape(call) is None:
        return None
    if op_name(pooled) not in ("relax.mean", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d"):
        return _binary(graph, var, call, out)
    source = _dequantized(graph, pooled.args[0])
    pool = _average(pooled, static_shape(pooled.args[0]))
    if source is None or pool is None:
        return None
    return Found(var, fused_ops.pool2d(source[0], pool, source[1], out))


def _max_pool(_graph: Graph, var: Var, call: Expr) -> Found | None:
    shape, attrs = static_shape(call.args[0]), call.attrs
    dtype = dtype_of(call.args[0])
    if dtype not in _8BIT or shape is None or str(attrs.layout) != "NHWC" or ints(attrs.dilation) != (1, 1):
        return None
    same = Params(1.0, 0, str(dtype))
    pool = _windows("max", shape, static_shape(call), attrs)
    return Found(var, fused_ops.pool2d(call.args[0], pool, same, same))


def _binary(graph: Graph, var: Var, call: Expr, out: Params) -> Found | None:
    """A sum or product of two dequantized tensors, clipped or not, between them and this quantize."""
    value, clip = graph.value(call.args[0]), _UNBOUNDED
    while (bounds := activation(graph, value)) is not None:
        # the operators nearer to the quantize come first here and have the last word
        clip = max(min(bounds[0], clip[1]), clip[0]), min(max(bounds[1], clip[0]), clip[1])
        value = graph.value(value.args[0])
    kind = {"relax.add": "add", "relax.multiply": "multiply"}.get(op_name(value) or "")
    if kind is None:
        return None
    sources = [_dequantized(graph, arg) for arg in value.args]
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
    return Found(var, fused_ops.binary(kind, args, params, out, _levels(clip, out)))


def _levels(clip: tuple[float, float], out: Params) -> tuple[int, int]:
    """Bounds in real units as levels: quantizing is monotone, so clipping can wait until after it."""
    info = np.iinfo(out.dtype)
    low, high = (
        np.clip(np.rint(np.float32(bound) / np.float32(out.scale)) + out.zero_point, info.min, info.max)
        for bound in clip
    )
    return int(low), int(high)


def _concat(graph: Graph, var: Var, call: Expr) -> Found | None:
    if not isinstance(call.args[0], relax.Tuple) or dtype_of(call) not in _8BIT or call.attrs.axis is None:
        return None
    shape = static_shape(call)
    if shape is None or int(call.attrs.axis) % len(shape) != len(shape) - 1:
        return None
    sources = [_requantized(graph, part) for part in call.args[0].fields]
    targets = {target for _, _, target in sources if target is not None}
    if len(targets) > 1:
        return None
    out = targets.pop() if targets else Params(1.0, 0, str(dtype_of(call)))
    params = [out if source is None else source for _, source, _ in sources]
    values = [value for value, _, _ in sources]
    shuffled = _shuffled(graph, var, shape, [static_shape(value) for value in values])
    result = var if shuffled is None else shuffled
    slices = _channel_slices(graph, result, 1 if shuffled is None else len(values))
    sections = [section for _, section in slices]
    value = fused_ops.concat(values, params, out, shuffled is not None, sections)
    return Found(result, value, [var for var, _ in slices])


_RULES: dict[str, Callable[[Graph, Var, Expr], Found | None]] = {
    "relax.quantize": _quantize,
    "relax.nn.max_pool2d": _max_pool,
    "relax.concat": _concat,
}


def _dequantized(graph: Graph, expr: Expr) -> tuple[Expr, Params] | None:
    """The 8-bit tensor that ``expr`` dequantizes, with its parameters."""
    call = graph.value(expr)
    params = params_of(call, dtype_of(call.args[0])) if op_name(call) == "relax.dequantize" else None
    return None if params is None else (call.args[0], params)


def _requantized(graph: Graph, expr: Expr) -> tuple[Expr, Params | None, Params | None]:
    """``(q, from, to)`` where ``expr`` is ``quantize(dequantize(q))``, ``(expr, None, None)`` elsewhere."""
    call = graph.value(expr)
    target = params_of(call, dtype_of(call)) if op_name(call) == "relax.quantize" else None
    source = None if target is None else _dequantized(graph, call.args[0])
    return (expr, None, None) if source is None else (*source, target)


def _shuffled(graph: Graph, var: Var, shape: tuple[int, ...], parts: Sequence[tuple[int, ...] | None]) -> Var | None:
    """Result of a channel shuffle, if that alone uses ``var`` and has one group for each of its equal parts."""
    groups = len(parts)
    if len(set(parts)) != 1 or groups < 2:
        return None
    expected = ((*shape[:-1], groups, shape[-1] // groups), (*shape[:-1], shape[-1] // groups, groups), shape)
    names = ("relax.reshape", "relax.permute_dims", "relax.reshape")
    swap = (*range(len(shape) - 1), len(shape), len(shape) - 1)
    for name, target in zip(names, expected, strict=True):
        user = graph.only_user(var)
        if user is None or op_name(user.value) != name or static_shape(user.value) != target:
            return None
        if name == "relax.permute_dims" and ints(user.value.attrs.axes or ()) != swap:
            return None
        var = user.var
    return var


def _channel_slices(graph: Graph, var: Var, multiple: int) -> list[tuple[Var, tuple[int, int]]]:
    """The slices that ``var`` is cut into along its last axis, each with its bounds; none if it has other uses."""
    shape = static_shape(var)
    slices = []
    for user in graph.users.get(var, []):
        call = user.value
        if op_name(call) != "relax.strided_slice" or shape is None or not is_dataflow_var(var):
            return []
        fields = [prim_values(arg) for arg in call.args[1:]]
        if any(field is None or len(field) != 1 for field in fields) or len(fields) < 3:
            return []
        axis, begin, end, *stride = (field[0] for field in fields if field is not None)
        width = shape[-1]
        low, high = (min(bound + width if bound < 0 else bound, width) for bound in (begin, end))
        if axis % len(shape) != len(shape) - 1 or stride not in ([], [1]) or not 0 <= low < high:
            return []
        if low % multiple or high % multiple:
            return []
        slices.append((user.var, (low, high)))
    return slices


def _average(call: Expr, shape: tuple[int, ...] | None) -> Pool | None:
    """The window of an average over NHWC data."""
    if shape is None or len(shape) != 4:
        return None
    attrs = call.attrs
    if op_name(call) == "relax.mean":
        if attrs.axis is None or sorted(ints(attrs.axis)) != [1, 2]:
            return None
    elif op_name(call) == "relax.nn.adaptive_avg_pool2d":
        if str(attrs.layout) != "NHWC" or attrs.output_size is None or ints(attrs.output_size) != (1, 1):
            return None
    else:
        if str(attrs.layout) != "NHWC" or ints(attrs.dilation) != (1, 1) or attrs.ceil_mode:
            return None
        return _windows("avg", shape, static_shape(call), attrs)
    return Pool("avg", shape, (1, 1), (shape[1], shape[2]), (1, 1), (0, 0))


def _windows(kind: str, shape: tuple[int, ...], out: tuple[int, ...] | None, attrs: Any) -> Pool:
    assert out is not None
    padding = ints(attrs.padding)
    counts = bool(attrs.count_include_pad)
    size, strides = ints(attrs.pool_size), ints(attrs.strides)
    return Pool(kind, shape, (out[1], out[2]), size, strides, padding[:2], counts)  # type: ignore[arg-type]
