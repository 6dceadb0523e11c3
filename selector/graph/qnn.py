"""The Relax operators ``relax.qnn.conv2d`` and ``relax.qnn.dense``.

Both take ``data, weight, bias, data_scale, data_zero_point, weight_scale, weight_zero_point, out_scale,
out_zero_point``; everything but ``data`` is a constant.  ``describe`` turns a call into the records that policies and
lowerings read; ``dequantized`` into the float32 operators it stands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector.graph.ir import Expr, constant, dtype_of, ints, op_name, register, static_shape
from selector.weights import weight_facts
from selector.workload import INT32_MAX, ConvConstants, ConvWorkload, Requantize, UnsupportedWorkload

CONV2D = "relax.qnn.conv2d"
DENSE = "relax.qnn.dense"
_ACCUMULATOR_BITS = 40  # of a split one


@dataclass(frozen=True)
class QuantParams:
    """Constants of a quantized convolution or dense layer, as the network gives them."""

    weight: np.ndarray  # conv2d: (O, KH, KW, C/groups); dense: (O, C); uint8 or int8
    bias: np.ndarray  # (O,) int32 in units of the accumulator, or (O,) float32 in real units; zeros if there is none
    data_scale: float
    data_zero_point: int
    weight_scale: np.ndarray  # (O,) float32
    weight_zero_point: np.ndarray  # (O,) int32
    out_scale: float = 1.0
    out_zero_point: int = 0
    out_dtype: str = "float32"  # of 8 or 16 bits, "float32", or "int32": the accumulator; scale and zero point are for
    # the first alone
    clip_min: float = -math.inf  # real units
    clip_max: float = math.inf

    def args(self, data: Expr) -> list[Expr]:
        """Operands of the call."""
        return [
            data,
            relax.const(self.weight),
            relax.const(self.bias),
            relax.const(np.float32(self.data_scale)),
            relax.const(np.int32(self.data_zero_point)),
            relax.const(self.weight_scale),
            relax.const(self.weight_zero_point),
            relax.const(np.float32(self.out_scale)),
            relax.const(np.int32(self.out_zero_point)),
        ]

    def attrs(self) -> dict[str, Any]:
        """Attributes that both operators have; bounds that do not bind are left out, since JSON has no infinity."""
        attrs: dict[str, Any] = {"out_dtype": self.out_dtype}
        if self.clip_min > -math.inf:
            attrs["clip_min"] = self.clip_min
        if self.clip_max < math.inf:
            attrs["clip_max"] = self.clip_max
        return attrs


def conv2d(
    data: Expr,
    params: QuantParams,
    *,
    layer: str,
    strides: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0, 0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    data_layout: str = "NHWC",
) -> Expr:
    """Call of ``relax.qnn.conv2d``: 8- or 16-bit data, 4-D in ``data_layout``; padding: top, left, bottom, right."""
    attrs = params.attrs() | {
        "layer": layer,
        "strides": list(strides),
        "padding": list(padding),
        "dilation": list(dilation),
        "groups": groups,
        "data_layout": data_layout,
        "kernel_layout": "OHWI",
    }
    return tvm.ir.Call(tvm.ir.Op.get(CONV2D), params.args(data), tvm.ir.make_node("ir.DictAttrs", **attrs))


def dense(data: Expr, params: QuantParams, *, layer: str) -> Expr:
    """Call of ``relax.qnn.dense``: data of 8 or 16 bits (..., C), result (..., O)."""
    attrs = params.attrs() | {"layer": layer}
    return tvm.ir.Call(tvm.ir.Op.get(DENSE), params.args(data), tvm.ir.make_node("ir.DictAttrs", **attrs))


def with_attrs(call: Expr, data: Expr, **changes: Any) -> Expr:
    """The same ``relax.qnn.conv2d`` on other data, with other values of some attributes."""
    attrs = dict(call.attrs.items()) | changes
    return tvm.ir.Call(call.op, [data, *call.args[1:]], tvm.ir.make_node("ir.DictAttrs", **attrs))


def params_of(call: Expr) -> QuantParams:
    """The constants of a call of either operator."""
    values = [constant(arg) for arg in call.args[1:]]
    if any(value is None for value in values):
        raise UnsupportedWorkload(f"every operand of {op_name(call)} but the data must be a constant")
    weight, bias, data_scale, data_zero_point, weight_scale, weight_zero_point, out_scale, out_zero_point = values
    attrs = call.attrs
    return QuantParams(
        weight=weight,  # type: ignore[arg-type]
        bias=bias,  # type: ignore[arg-type]
        data_scale=float(data_scale),  # type: ignore[arg-type]
        data_zero_point=int(data_zero_point),  # type: ignore[arg-type]
        weight_scale=weight_scale,  # type: ignore[arg-type]
        weight_zero_point=weight_zero_point,  # type: ignore[arg-type]
        out_scale=float(out_scale),  # type: ignore[arg-type]
        out_zero_point=int(out_zero_point),  # type: ignore[arg-type]
        out_dtype=str(attrs["out_dtype"]),
        clip_min=float(attrs.get("clip_min", -math.inf)),
        clip_max=float(attrs.get("clip_max", math.inf)),
    )


def describe(call: Expr, threads: int = 1) -> tuple[ConvWorkload, ConvConstants]:
    """Workload and constants of a call of either operator; a dense layer of M rows is a 1×1 one over 1×M pixels.

    Raises UnsupportedWorkload for symbolic shapes and for what ConvWorkload refuses.
    """
    params = params_of(call)
    shape = static_shape(call.args[0])
    if shape is None:
        raise UnsupportedWorkload("the input has symbolic dimensions")
    if op_name(call) == DENSE:
        image = (1, 1, math.prod(shape[:-1]), shape[-1])
        weight = params.weight[:, None, None, :]
        strides: tuple[int, ...] = (1, 1)
        padding: tuple[int, ...] = (0, 0, 0, 0)
        dilation: tuple[int, ...] = (1, 1)
        groups = 1
    else:
        attrs = call.attrs
        layout = str(attrs["data_layout"])
        image = (shape[layout.index("N")], shape[layout.index("H")], shape[layout.index("W")], shape[layout.index("C")])
        weight = params.weight
        strides, padding, dilation = (ints(attrs[name]) for name in ("strides", "padding", "dilation"))
        groups = int(attrs["groups"])
    zero_points = params.weight_zero_point
    facts = weight_facts(weight, zero_points, groups=groups, dilation_width=dilation[1])
    workload = ConvWorkload(
        batch=image[0],
        in_height=image[1],
        in_width=image[2],
        in_channels=image[3],
        out_channels=weight.shape[0],
        kernel_height=weight.shape[1],
        kernel_width=weight.shape[2],
        stride=strides,  # type: ignore[arg-type]
        padding=padding,  # type: ignore[arg-type]
        dilation=dilation,  # type: ignore[arg-type]
        groups=groups,
        data_dtype=str(dtype_of(call.args[0])),  # type: ignore[arg-type]
        weight_dtype=str(weight.dtype),  # type: ignore[arg-type]
        out_dtype=params.out_dtype,  # type: ignore[arg-type]
        data_zero_point=params.data_zero_point,
        weight_zero_point=int(zero_points[0]) if (zero_points == zero_points[0]).all() else None,
        threads=threads,
        **asdict(facts),
    )
    bits = _ACCUMULATOR_BITS if workload.has_16bit_data else 32
    if workload.accumulator_bound() >= 1 << (bits - 1):
        raise UnsupportedWorkload(
            f"its accumulator may reach {workload.accumulator_bound()}, more than {bits} bits hold"
        )
    bias = params.bias if params.bias.dtype == np.int32 and params.bias.any() else None
    largest_bias = 0 if bias is None else int(np.abs(bias.astype("int64")).max())
    if not workload.is_split and workload.accumulator_bound() + largest_bias > INT32_MAX:
        # too large to be added to the accumulator: added in float32, as the network has it
        params = replace(params, bias=_real_bias(params))
        bias = None
    return workload, ConvConstants(weight, zero_points, bias, _requantize(params))


def _real_bias(params: QuantParams) -> np.ndarray:
    """The bias in real units, float32."""
    if params.bias.dtype != np.int32:
        return params.bias
    return (params.bias * (params.data_scale * params.weight_scale.astype("float64"))).astype("float32")


def _requantize(params: QuantParams) -> Requantize | None:
    """Epilogue of a call, None for the accumulator itself; multipliers are computed in float64 and rounded once."""
    if params.out_dtype == "int32":
        return None
    float_output = params.out_dtype == "float32"
    scale = 1.0 if float_output else float(params.out_scale)
    multiplier = params.data_scale * params.weight_scale.astype("float64") / scale
    offset = None
    if params.bias.dtype != np.int32 and params.bias.any():
        offset = (params.bias.astype("float64") / scale).astype("float32")
    bounds: list[float | None] = []
    for bound in (params.clip_min, params.clip_max):
        if math.isinf(bound):
            bounds.append(None)
        elif float_output:
            bounds.append(bound)
        else:
            # quantizing is monotone, so clipping after it at the quantized bound is the same
            info = np.iinfo(params.out_dtype)
            level = np.rint(np.float32(bound) / np.float32(scale)) + params.out_zero_point
            bounds.append(float(np.clip(level, info.min, info.max)))
    zero_point = 0 if float_output else params.out_zero_point
    return Requantize(multiplier.astype("float32"), offset, zero_point, bounds[0], bounds[1])


def dequantized(call: Expr, emit: Callable[[Expr], Expr]) -> Expr:
    """The operators a call of either operator stands for, of float32 or int32; ``emit`` binds an intermediate result.

    This is what a convolution becomes that no lowering takes.
    """
    params = params_of(call)
    data_dtype = str(dtype_of(call.args[0]))

    def zero_point(value: Any, dtype: str) -> Expr:
        return relax.const(np.asarray(value, dtype))

    if params.out_dtype == "int32":
        wide = emit(relax.op.astype(call.args[0], "int32"))
        data = emit(relax.op.subtract(wide, relax.const(np.int32(params.data_zero_point))))
        zeros = params.weight_zero_point.reshape(-1, *[1] * (params.weight.ndim - 1))
        weight = relax.const(params.weight.astype("int32") - zeros)
    else:
        data_zero_point = zero_point(params.data_zero_point, data_dtype)
        data = emit(relax.op.dequantize(call.args[0], relax.const(np.float32(params.data_scale)), data_zero_point))
        zeros = zero_point(params.weight_zero_point, str(params.weight.dtype))
        scales = relax.const(params.weight_scale)
        weight = emit(relax.op.dequantize(relax.const(params.weight), scales, zeros, axis=0))
    channels = params.weight.shape[0]
    if op_name(call) == DENSE:
        out = emit(relax.op.matmul(data, emit(relax.op.permute_dims(weight))))
        bias_shape: tuple[int, ...] = (channels,)
    else:
        attrs = call.attrs
        layout = str(attrs["data_layout"])
        out = emit(
            relax.op.nn.conv2d(
                data,
                weight,
                strides=ints(attrs["strides"]),
                padding=ints(attrs["padding"]),
                dilation=ints(attrs["dilation"]),
                groups=int(attrs["groups"]),
                data_layout=layout,
                kernel_layout="OHWI",
            )
        )
        bias_shape = tuple(channels if axis == "C" else 1 for axis in layout)
    if params.bias.any():
        out = emit(relax.op.add(out, relax.const(_real_bias(params).reshape(bias_shape))))
    if params.clip_min > -math.inf:
        out = emit(relax.op.maximum(out, relax.const(np.float32(params.clip_min))))
    if params.clip_max < math.inf:
        out = emit(relax.op.minimum(out, relax.const(np.float32(params.clip_max))))
    if params.out_dtype in ("float32", "int32"):
        return out
    out_zero_point = zero_point(params.out_zero_point, params.out_dtype)
    return relax.op.quantize(out, relax.const(np.float32(params.out_scale)), out_zero_point, out_dtype=params.out_dtype)


def _infer_conv2d(call: Expr) -> Any:
    """Type of the result, in the layout of the data."""
    shape = static_shape(call.args[0])
    out_dtype = str(call.attrs["out_dtype"])
    if shape is None:
        return relax.TensorType(dtype=out_dtype, ndim=4)
    layout = str(call.attrs["data_layout"])
    size = dict(zip(layout, shape, strict=True))
    weight = static_shape(call.args[1])
    assert weight is not None
    top, left, bottom, right = ints(call.attrs["padding"])
    out = {"N": size["N"], "C": weight[0]}
    for axis, pad, index in (("H", top + bottom, 0), ("W", left + right, 1)):
        extent = (weight[1 + index] - 1) * int(call.attrs["dilation"][index]) + 1
        out[axis] = (size[axis] + pad - extent) // int(call.attrs["strides"][index]) + 1
    return relax.TensorType([out[axis] for axis in layout], out_dtype)


def _infer_dense(call: Expr) -> Any:
    """Type of the result: the data's with the last dimension replaced."""
    out_dtype = str(call.attrs["out_dtype"])
    weight = static_shape(call.args[1])
    assert weight is not None
    data = call.args[0].ty
    if data.shape is None:
        return relax.TensorType(dtype=out_dtype, ndim=data.ndim)
    return relax.TensorType([*list(data.shape.values)[:-1], weight[0]], out_dtype)


OPERATORS: dict[str, Callable[[Expr], Any]] = {CONV2D: _infer_conv2d, DENSE: _infer_dense}
for _name, _infer_type in OPERATORS.items():
    register(_name, _infer_type)
