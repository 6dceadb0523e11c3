"""Relax operators on 8-bit NHWC data, each a kernel in ``kernels``: how they are called, typed and built."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector.graph import kernels
from selector.graph.ir import Expr, dtype_of, ints, op_name, static_shape
from selector.graph.kernels import Params, Pool

POOL = "relax.qnn.pool2d"
CONCAT = "relax.qnn.concat"
BINARY = "relax.qnn.binary"
LOOKUP = "relax.qnn.lookup"


def pool2d(data: Expr, pool: Pool, params: Params, out: Params) -> Expr:
    """Pooling of (N, H, W, C)."""
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
    return _call(POOL, [data], attrs)


def concat(
    parts: Sequence[Expr], params: Sequence[Params], out: Params, shuffled: bool, sections: Sequence[tuple[int, int]]
) -> Expr:
    """Concatenation of (..., C) tensors along the last axis; a tuple of tensors with ``sections``, see the kernel."""
    attrs = {
        "shuffled": shuffled,
        "sections": [bound for section in sections for bound in section],
        **_encoded("out", [out]),
        **_encoded("part", params),
    }
    return _call(CONCAT, parts, attrs)


def binary(kind: str, args: Sequence[Expr], params: Sequence[Params], out: Params, bounds: tuple[int, int]) -> Expr:
    """``add`` or ``multiply`` of two tensors of one shape (N, ..., C), or the second one (N, 1, ..., 1, C)."""
    attrs = {"kind": kind, "bounds": list(bounds), **_encoded("data", params), **_encoded("out", [out])}
    return _call(BINARY, args, attrs)


def lookup(data: Expr, values: np.ndarray) -> Expr:
    """``values[byte]`` for every byte of ``data``."""
    return _call(LOOKUP, [data, relax.const(values)], None)


def _call(name: str, args: Sequence[Expr], attrs: dict[str, Any] | None) -> Expr:
    node = None if attrs is None else tvm.ir.make_node("ir.DictAttrs", **attrs)
    return tvm.ir.Call(tvm.ir.Op.get(name), list(args), node)


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


def _sections(attrs: Any) -> list[tuple[int, int]]:
    bounds = ints(attrs["sections"])
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def _infer_concat(call: Expr, _ctx: Any) -> Any:
    shapes = [static_shape(part) for part in call.args]
    channels = sum(shape[-1] for shape in shapes if shape is not None)
    outer, dtype = shapes[0][:-1], _decoded(call.attrs, "out")[0].dtype  # type: ignore[index]
    sections = _sections(call.attrs)
    if not sections:
        return relax.TensorType([*outer, channels], dtype)
    return relax.TupleType([relax.TensorType([*outer, high - low], dtype) for low, high in sections])


def _infer_binary(call: Expr, _ctx: Any) -> Any:
    return relax.TensorType(static_shape(call.args[0]), _decoded(call.attrs, "out")[0].dtype)


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
    if op_name(call) == BINARY:
        first, second = (static_shape(arg) for arg in call.args)
        params: Any = tuple(_decoded(call.attrs, "data"))
        low, high = ints(call.attrs["bounds"])
        return kernels.binary(call.attrs["kind"], params, first, first != second, out, (low, high), threads)  # type: ignore[arg-type]
    shapes = [static_shape(part) for part in call.args]
    pixels = math.prod(shapes[0][:-1])  # type: ignore[index]
    parts = [(shape[-1], params) for shape, params in zip(shapes, _decoded(call.attrs, "part"), strict=True) if shape]
    shuffled, sections = bool(call.attrs["shuffled"]), _sections(call.attrs)
    return kernels.concat(parts, pixels, out, threads, shuffled=shuffled, sections=sections)


INFER_TYPE: dict[str, Callable[[Expr, Any], Any]] = {
    POOL: _infer_pool,
    CONCAT: _infer_concat,
    BINARY: _infer_binary,
    LOOKUP: _infer_lookup,
}
