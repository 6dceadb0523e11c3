"""Pooling of 8-bit images.

max_pool2d(q)                                      ->  relax.qnn.pool2d(q)
quantize(avg_pool2d(dequantize(q)))                ->  relax.qnn.pool2d(q)
quantize(mean(dequantize(q), (H, W)))              ->  relax.qnn.pool2d(q), over the whole image
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx
from tvm.tirx.script import builder as T

from selector.graph.ir import Expr, Var, dtype_of, ints, op_name, static_shape
from selector.graph.ops import base
from selector.graph.ops.base import Block, Found, Operator
from selector.graph.ops.parts import along, centred, pays, rounded
from selector.graph.quantization import BYTES, QUANTIZE, Params, dequantized, quantizes_to_bytes
from selector.lowering import tir
from selector.target import TargetProfile

_NAME = "relax.qnn.pool2d"
_WINDOW = ("kind", "size", "strides", "padding", "count_padding")  # attributes of a call, and fields of its Pool


@dataclass(frozen=True)
class Pool:
    """A pooling window over NHWC data; what lies outside of the image takes no part."""

    kind: Literal["max", "avg"]
    data: tuple[int, int, int, int]  # N, H, W, C
    out: tuple[int, int]  # H, W
    size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]  # top, left
    count_padding: bool = False  # divide by the whole window, padding included


def pool2d(data: Expr, pool: Pool, params: Params, out: Params) -> Expr:
    """Pooling of (N, H, W, C)."""
    window = {name: getattr(pool, name) for name in _WINDOW}
    return base.call(_NAME, [data], pixels=pool.out, **window, data=params, out=out)


def _pool_of(call: Expr) -> Pool:
    fields: Any = {name: ints(call.attrs[name]) for name in ("size", "strides", "padding")}
    shape: Any = static_shape(call.args[0])
    out: Any = ints(call.attrs["pixels"])
    return Pool(call.attrs["kind"], shape, out, count_padding=bool(call.attrs["count_padding"]), **fields)


def _infer_type(call: Expr) -> Any:
    batch, _, _, channels = static_shape(call.args[0]) or (0, 0, 0, 0)
    return base.tensor([batch, *ints(call.attrs["pixels"]), channels], base.params_in(call, "out")[0].dtype)


def _kernel(call: Expr, _target: TargetProfile, threads: int) -> tirx.PrimFunc:
    (params,), (out,) = base.params_in(call, "data"), base.params_in(call, "out")
    return kernel(_pool_of(call), params, out, threads)


def kernel(pool: Pool, params: Params, out: Params, threads: int) -> tirx.PrimFunc:
    """Largest element, or exact integer sum times one float32 factor, of every window.

    The maximum keeps its parameters: ``params`` and ``out`` are equal then.
    """
    batch, height, width, channels = pool.data
    out_height, out_width = pool.out
    acc_dtype = params.dtype if pool.kind == "max" else "int32"

    def body(data: Expr, result: Expr) -> None:
        def row(index: Expr) -> None:
            image, y = index // out_height, index % out_height
            top, rows = _window(y, pool.strides[0], pool.padding[0], pool.size[0], height)

            def window(x: Expr) -> None:
                left, columns = _window(x, pool.strides[1], pool.padding[1], pool.size[1], width)
                count = pool.size[0] * pool.size[1] if pool.count_padding else rows * columns

                def channel(start: Expr, lanes: int) -> None:
                    acc = tir.Registers(1, acc_dtype, lanes)
                    acc[0] = tir.const(tirx.min_value(acc_dtype).value if pool.kind == "max" else 0, acc_dtype, lanes)
                    with T.serial(0, rows) as i, T.serial(0, columns) as j:
                        position = ((image * height + top + i) * width + left + j) * channels + start
                        value = tir.load(data, position, lanes)
                        if pool.kind == "max":
                            acc[0] = tirx.max(acc[0], value)
                        else:
                            acc[0] = acc[0] + centred(value, lanes, params)
                    value = acc[0]
                    if pool.kind == "avg":
                        factor = tir.const(params.scale / out.scale, "float32", lanes)
                        divisor = tir.splat(tirx.Cast("float32", tirx.convert(count)), lanes)
                        value = rounded(tir.cast(value, "float32", lanes) * factor / divisor, lanes, out)
                    tir.store(result, ((image * out_height + y) * out_width + x) * channels + start, value, lanes)

                along(channels, channel)

            tir.loop(out_width, window)

        work = batch * out_height * out_width * channels * pool.size[0] * pool.size[1]
        tir.loop(batch * out_height, row, parallel=pays(threads, work))

    sizes = batch * height * width * channels, batch * out_height * out_width * channels
    return tir.function(f"{pool.kind}_pool2d", [("data", sizes[0], params.dtype), ("out", sizes[1], out.dtype)], body)


def _window(index: Expr, stride: int, padding: int, size: int, extent: int) -> tuple[Expr, Expr]:
    """First element inside of the image, and number of elements, of a window along one axis."""
    start = index * stride - padding
    first = tirx.max(start, 0)
    return first, tirx.min(start + size, extent) - first


def _average(block: Block, var: Var, call: Expr) -> Found | None:
    """Average pooling between a dequantize and this quantize."""
    pooled, out = block.graph.value(call.args[0]), quantizes_to_bytes(call)
    if op_name(pooled) not in ("relax.mean", "relax.nn.avg_pool2d", "relax.nn.adaptive_avg_pool2d") or out is None:
        return None
    source = dequantized(block.graph, pooled.args[0])
    pool = _average_window(pooled, static_shape(pooled.args[0]))
    return None if source is None or pool is None else Found(var, pool2d(source[0], pool, source[1], out))


def _max_pool(_block: Block, var: Var, call: Expr) -> Found | None:
    shape, attrs = static_shape(call.args[0]), call.attrs
    dtype = dtype_of(call.args[0])
    if dtype not in BYTES or shape is None or str(attrs.layout) != "NHWC" or ints(attrs.dilation) != (1, 1):
        return None
    same = Params(1.0, 0, str(dtype))
    pool = _windows("max", shape, static_shape(call), attrs)
    return Found(var, pool2d(call.args[0], pool, same, same))


def _average_window(call: Expr, shape: tuple[int, ...] | None) -> Pool | None:
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


OPERATOR = Operator(_NAME, _infer_type, _kernel, {QUANTIZE: _average, "relax.nn.max_pool2d": _max_pool})
