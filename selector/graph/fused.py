"""Operators on 8-bit NHWC data that have a kernel of their own.

    quantize(avg_pool2d(dequantize(q)))                              ->  relax.qnn.pool2d(q)
    quantize(mean(dequantize(q), (H, W)))                            ->  relax.qnn.pool2d(q), over the whole image
    max_pool2d(q)                                                    ->  relax.qnn.pool2d(q)
    concat(a, quantize(dequantize(b)), ...) [, channel shuffle]      ->  relax.qnn.concat(a, b, ...)
    quantize(f(dequantize(q))), f elementwise and dear               ->  relax.qnn.lookup(q, table)

Runs after the layout pass; what is not NHWC stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import tvm
from tvm import relax

from selector.graph import kernels, table
from selector.graph.integer import params_of
from selector.graph.ir import Bindings, Emitter, Expr, Graph, Var, dtype_of, ints, op_name, rewrite, static_shape
from selector.graph.kernels import Params, Pool

POOL = "relax.qnn.pool2d"
CONCAT = "relax.qnn.concat"
LOOKUP = "relax.qnn.lookup"
_8BIT = ("uint8", "int8")


def fuse_kernels(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rules above to every dataflow block."""

    def block_pass(bindings: Bindings) -> Bindings:
        graph = Graph(bindings)
        values: dict[Var, Expr] = {}
        out = Emitter()
        for binding in bindings:
            found = _RULES.get(op_name(binding.value) or "", _no_rule)(graph, binding.var, binding.value)
            if found is not None:
                values[found[0]] = found[1]
        for binding in bindings:
            value = values.get(binding.var)
            if value is None:
                out.bindings.append(binding)
            elif static_shape(typed := out.typed(value)) == static_shape(binding.var):
                out.bind(binding.var, typed)
            else:
                out.bind(binding.var, out.typed(relax.op.reshape(out.emit(typed), static_shape(binding.var))))
        return out.bindings if values else bindings

    return rewrite(mod, block_pass)


Found = tuple[Var, Expr] | None  # the variable to redefine, and its value up to a reshape


def _no_rule(_graph: Graph, _var: Var, _call: Expr) -> Found:
    return None


def _quantize(graph: Graph, var: Var, call: Expr) -> Found:
    """Average pooling, or any function of single elements, between a dequantize and this quantize."""
    pooled = graph.value(call.args[0])
    out = params_of(call, dtype_of(call))
    if out is None or static_shape(call) is None:
        return None
    if op_name(pooled) not in ("relax.mean", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d"):
        found = table.lookup(graph, call, out)
        return None if found is None else (var, tvm.ir.Call(tvm.ir.Op.get(LOOKUP), [found[0], relax.const(found[1])]))
    source = _dequantized(graph, pooled.args[0])
    pool = _average(pooled, static_shape(pooled.args[0]))
    if source is None or pool is None:
        return None
    return var, _pool_call(source[0], pool, source[1], out)


def _max_pool(_graph: Graph, var: Var, call: Expr) -> Found:
    shape, attrs = static_shape(call.args[0]), call.attrs
    dtype = dtype_of(call.args[0])
    if dtype not in _8BIT or shape is None or str(attrs.layout) != "NHWC" or ints(attrs.dilation) != (1, 1):
        return None
    same = Params(1.0, 0, str(dtype))
    return var, _pool_call(call.args[0], _windows("max", shape, static_shape(call), attrs), same, same)


def _concat(graph: Graph, var: Var, call: Expr) -> Found:
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
    attrs: dict[str, Any] = {"shuffled": shuffled is not None, **_encoded("out", [out]), **_encoded("part", params)}
    value = tvm.ir.Call(tvm.ir.Op.get(CONCAT), values, tvm.ir.make_node("ir.DictAttrs", **attrs))
    return (var if shuffled is None else shuffled), value


_RULES: dict[str, Callable[[Graph, Var, Expr], Found]] = {
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


def _pool_call(data: Expr, pool: Pool, params: Params, out: Params) -> Expr:
    attrs = {
        "kind": pool.kind,
        "out": list(pool.out),
        "size": list(pool.size),
        "strides": list(pool.strides),
        "padding": list(pool.padding),
        "count_padding": pool.count_padding,
        **_encoded("data", [params]),
        **_encoded("out", [out]),
    }
    return tvm.ir.Call(tvm.ir.Op.get(POOL), [data], tvm.ir.make_node("ir.DictAttrs", **attrs))


def _encoded(prefix: str, params: Sequence[Params]) -> dict[str, list[Any]]:
    """Quantization parameters as attributes of a call."""
    return {
        f"{prefix}_scales": [param.scale for param in params],
        f"{prefix}_zero_points": [param.zero_point for param in params],
        f"{prefix}_dtypes": [param.dtype for param in params],
    }


def _decoded(attrs: Any, prefix: str) -> list[Params]:
    fields = (attrs[f"{prefix}_{name}"] for name in ("scales", "zero_points", "dtypes"))
    return [Params(float(scale), int(zero), str(dtype)) for scale, zero, dtype in zip(*fields, strict=True)]


def _pool_of(call: Expr) -> Pool:
    attrs = call.attrs
    fields: Any = {name: ints(attrs[name]) for name in ("out", "size", "strides", "padding")}
    shape: Any = static_shape(call.args[0])
    return Pool(kind=attrs["kind"], data=shape, count_padding=bool(attrs["count_padding"]), **fields)


def _infer_pool(call: Expr, _ctx: Any) -> Any:
    batch, _, _, channels = static_shape(call.args[0])  # type: ignore[misc]
    return relax.TensorType([batch, *_pool_of(call).out, channels], _decoded(call.attrs, "out")[0].dtype)


def _infer_concat(call: Expr, _ctx: Any) -> Any:
    shapes = [static_shape(part) for part in call.args]
    channels = sum(shape[-1] for shape in shapes if shape is not None)
    return relax.TensorType([*shapes[0][:-1], channels], _decoded(call.attrs, "out")[0].dtype)  # type: ignore[index]


def _infer_lookup(call: Expr, _ctx: Any) -> Any:
    return relax.TensorType(static_shape(call.args[0]), str(dtype_of(call.args[1])))


def kernel_of(call: Expr, threads: int) -> Any:
    """The TIR function of a call of one of these operators."""
    if op_name(call) == LOOKUP:
        elements = math.prod(static_shape(call))  # type: ignore[arg-type]
        return kernels.lookup(elements, str(dtype_of(call.args[0])), str(dtype_of(call)), threads)
    (out,) = _decoded(call.attrs, "out")
    if op_name(call) == POOL:
        return kernels.pool2d(_pool_of(call), _decoded(call.attrs, "data")[0], out, threads)
    shapes = [static_shape(part) for part in call.args]
    pixels = math.prod(shapes[0][:-1])  # type: ignore[index]
    parts = [(shape[-1], params) for shape, params in zip(shapes, _decoded(call.attrs, "part"), strict=True) if shape]
    return kernels.concat(parts, pixels, out, bool(call.attrs["shuffled"]), threads)


INFER_TYPE: dict[str, Callable[[Expr, Any], Any]] = {POOL: _infer_pool, CONCAT: _infer_concat, LOOKUP: _infer_lookup}
