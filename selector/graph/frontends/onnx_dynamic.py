"""Dynamic quantization: layers whose data is quantized at run time, by its own range; their weights are constants.

A layer takes the data as if its zero point ``z`` were 0, which is known when kernels are made.  What the true one
changes is subtracted from the sums:

    sum (x - z)(w - zw)  =  sum x (w - zw)  -  z · sum (w - zw)

Both sums run over the taps that lie inside of the image, since a ConvInteger pads with ``z``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import relax

from selector.graph import qnn
from selector.graph.ir import Expr, constant, static_shape
from selector.graph.quantization import BYTES
from selector.runtime import ModelError

Emit = Callable[[Expr], Expr]  # binds an intermediate result


def conv_integer(emit: Emit, inputs: list[Expr | None], attrs: dict[str, Any], name: str) -> Expr:
    """ConvInteger of (N, C, H, W) and a constant (O, C/groups, KH, KW): int32 (N, O, OH, OW).  Raises ModelError."""
    data, weight = inputs[0], constant(inputs[1])
    zero, weight_zero = (inputs[place] if place < len(inputs) else None for place in (2, 3))
    if weight is None or (weight_zero is not None and constant(weight_zero) is None):
        raise ModelError("its weights are computed at run time: Selector needs constants")
    if weight.ndim != 4 or static_shape(data) is None:
        raise ModelError(f"it has weights of {weight.ndim} dimensions: Selector knows integer convolutions of images")
    kernel = np.ascontiguousarray(weight.transpose(0, 2, 3, 1))
    params, zero = _params(kernel, weight_zero, zero)
    strides, dilation = (tuple(attrs.get(key) or (1, 1)) for key in ("strides", "dilations"))
    padding = tuple(attrs.get("pads") or (0, 0, 0, 0))
    groups = int(attrs.get("group", 1))
    geometry = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    acc = emit(qnn.conv2d(data, params, layer=name, data_layout="NCHW", **geometry))  # type: ignore[arg-type]
    if zero is None:
        return acc
    shape, out = static_shape(data) or (), static_shape(acc) or ()
    inside = [
        _inside(shape[2 + axis], out[2 + axis], kernel.shape[1 + axis], strides[axis], padding[axis], dilation[axis])
        for axis in range(2)
    ]
    taps = (kernel.astype("int64") - params.weight_zero_point.reshape(-1, 1, 1, 1)).sum(axis=3)
    sums = np.einsum("yi,oij,xj->oyx", inside[0], taps, inside[1])
    if (sums == sums[:, :1, :1]).all():
        sums = sums[:, :1, :1]
    return _less(emit, acc, sums[None], zero)


def matmul_integer(emit: Emit, inputs: list[Expr | None], name: str) -> Expr | None:
    """MatMulInteger of (..., K) and a constant (K, N): int32 (..., N); None for other operands."""
    data, weight = inputs[0], constant(inputs[1])
    zero, weight_zero = (inputs[place] if place < len(inputs) else None for place in (2, 3))
    shape = static_shape(data)
    if weight is None or weight.ndim != 2 or (weight_zero is not None and constant(weight_zero) is None):
        return None
    if not shape or (zero is not None and np.prod(static_shape(zero) or ()) != 1):  # a zero point for each row
        return None
    kernel = np.ascontiguousarray(weight.T)
    params, zero = _params(kernel, weight_zero, zero)
    acc = emit(qnn.dense(data, params, layer=name))
    if zero is None:
        return acc
    return _less(emit, acc, (kernel.astype("int64") - params.weight_zero_point.reshape(-1, 1)).sum(axis=1), zero)


def _params(kernel: np.ndarray, weight_zero: Expr | None, zero: Expr | None) -> tuple[qnn.QuantParams, Expr | None]:
    """Constants of a layer with weights (O, ...), and the zero point of its data if that is known at run time only."""
    channels = len(kernel)
    known = 0 if zero is None else constant(zero)
    points = np.zeros((), "int32") if weight_zero is None else constant(weight_zero)
    assert points is not None and str(kernel.dtype) in BYTES
    params = qnn.QuantParams(
        weight=kernel,
        bias=np.zeros(channels, "int32"),
        data_scale=1.0,
        data_zero_point=0 if known is None else int(np.asarray(known).reshape(())),
        weight_scale=np.ones(channels, "float32"),
        weight_zero_point=np.array(np.broadcast_to(points.astype("int32").reshape(-1), (channels,))),
        out_dtype="int32",
    )
    return params, zero if known is None else None


def _inside(size: int, out: int, taps: int, stride: int, padding: int, dilation: int) -> np.ndarray:
    """(out, taps) of 0 and 1 along an axis: which taps of each output lie inside of the image."""
    places = np.arange(out)[:, None] * stride - padding + np.arange(taps)[None, :] * dilation
    return ((places >= 0) & (places < size)).astype("int64")


def _less(emit: Emit, acc: Expr, sums: np.ndarray, zero: Expr) -> Expr:
    """``acc - zero · sums``, int32."""
    point = zero if static_shape(zero) == () else emit(relax.op.reshape(zero, ()))
    point = emit(relax.op.astype(point, "int32"))
    return relax.op.subtract(acc, emit(relax.op.multiply(relax.const(sums.astype("int32")), point)))
