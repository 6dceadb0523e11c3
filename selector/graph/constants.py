"""Constant sub-expressions of a graph, evaluated in numpy at compile time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import relax

from selector.graph.ir import Expr, Graph, constant, dtype_of, ints, op_name, scalar, static_shape
from selector.graph.quantization import DEQUANTIZE

_REARRANGING = ("relax.reshape", "relax.permute_dims", "relax.expand_dims", "relax.squeeze")


@dataclass(frozen=True)
class QuantTensor:
    """A constant that the graph dequantizes: ``(values - zero_point) * scale``, all three of one shape."""

    values: np.ndarray  # uint8, int8 or int32
    scale: np.ndarray  # float32, may be a broadcast view
    zero_point: np.ndarray  # int32, may be a broadcast view


def quant_tensor(graph: Graph, expr: Expr) -> QuantTensor | None:
    """The dequantized constant behind ``expr``, looking through rearrangements of it; None if there is none."""
    call = graph.value(expr)
    name = op_name(call)
    if name in _REARRANGING:
        source = quant_tensor(graph, call.args[0])
        if source is None:
            return None
        parts = [_rearrange(call, part) for part in (source.values, source.scale, source.zero_point)]
        return QuantTensor(*parts)
    if name != DEQUANTIZE or dtype_of(call) != "float32":
        return None
    values = fold(graph, call.args[0])
    scale, zero_point = (fold(graph, arg) for arg in call.args[1:3])
    if values is None or scale is None or zero_point is None:
        return None
    axis = int(call.attrs.axis) % max(values.ndim, 1)
    spread = [_along(part, axis, values.shape) for part in (scale, zero_point.astype(np.int32))]
    return QuantTensor(values, *spread)


def fold(graph: Graph, expr: Expr) -> np.ndarray | None:
    """Value of a constant expression made of rearrangements, clips and dequantize; None if it is not one."""
    call = graph.value(expr)
    name = op_name(call)
    if name is None:
        return constant(call)
    if name == DEQUANTIZE:
        tensor = quant_tensor(graph, call)
        if tensor is None:
            return None
        centred = tensor.values.astype(np.int64) - tensor.zero_point
        return centred.astype(np.float32) * tensor.scale
    if name not in (*_REARRANGING, "relax.clip"):
        return None
    source = fold(graph, call.args[0])
    if source is None:
        return None
    if name == "relax.clip":
        low, high = (prim_value(arg) for arg in call.args[1:3])
        return np.clip(source, low, high).astype(source.dtype)
    return _rearrange(call, source)


def prim_value(expr: Expr) -> float:
    """Python number of an immediate, as ``relax.clip`` takes its bounds."""
    value = getattr(expr, "value", None)
    if isinstance(value, tvm.tirx.IntImm | tvm.tirx.FloatImm):
        value = value.value
    if not isinstance(value, int | float):
        raise ValueError(f"expected an immediate number, got {expr}")
    return float(value)


def prim_values(expr: Expr) -> list[int] | None:
    """Python integers of a tuple of immediates, as ``relax.strided_slice`` takes its bounds; None for anything else."""
    if not isinstance(expr, relax.Tuple):
        return None
    fields = [getattr(field, "value", None) for field in expr.fields]
    fields = [value.value if isinstance(value, tvm.tirx.IntImm) else value for value in fields]
    values = [value for value in fields if isinstance(value, int)]
    return values if len(values) == len(fields) else None


def activation(graph: Graph, call: Expr) -> tuple[float, float] | None:
    """The bounds that a call clips its first operand to; None if it is no such operator."""
    name = op_name(call)
    if name == "relax.nn.relu":
        return 0.0, math.inf
    if name == "relax.nn.relu6":
        return 0.0, 6.0
    if name == "relax.clip":
        return prim_value(call.args[1]), prim_value(call.args[2])
    if name in ("relax.maximum", "relax.minimum"):
        bound = scalar(graph.value(call.args[1]))
        if bound is None or static_shape(call) != static_shape(call.args[0]):
            return None
        return (float(bound), math.inf) if name == "relax.maximum" else (-math.inf, float(bound))
    return None


def clipped(bounds: tuple[float, float], then: tuple[float, float]) -> tuple[float, float]:
    """The bounds that two clips have together, ``bounds`` being the first and ``then`` the one that follows."""
    (low, high), (least, most) = bounds, then
    return min(max(low, least), most), max(min(high, most), least)


def _along(part: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """``part`` (one element, or one for each index of ``axis``) broadcast to ``shape``."""
    if part.size == 1:
        return np.broadcast_to(part.reshape(()), shape)
    return np.broadcast_to(part.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def _rearrange(call: Expr, array: np.ndarray) -> np.ndarray:
    """``call``, a rearrangement of its first operand, applied to ``array``."""
    if op_name(call) == "relax.permute_dims":
        return array.transpose(None if call.attrs.axes is None else ints(call.attrs.axes))
    shape = static_shape(call)
    assert shape is not None, f"{call} rearranges a constant"
    return array.reshape(shape)
