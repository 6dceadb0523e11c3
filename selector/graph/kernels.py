"""Kernels of operators other than convolution, and what it takes to call any kernel from Relax.

All work on 8-bit NHWC data, on flat buffers, in vectors along the channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tvm import s_tir, tirx
from tvm.tirx.script import builder as T

from selector.graph.schedule import PARALLEL_ELEMENTS, SCHEDULED
from selector.lowering import tir

Shape = Sequence[int]
Expr = Any
_OPAQUE = 8  # TVM's OpPatternKind of a function that is not fused with others
_LANES = 32  # 8-bit lanes of one vector; LLVM splits what is wider than the target's


def shaped(func: tirx.PrimFunc, shapes: Sequence[Shape | None]) -> tirx.PrimFunc:
    """``func`` with the flat buffers of its arguments seen as tensors of ``shapes`` (None: as it is).

    Kernels compute on flat buffers; Relax calls a function with tensors of the rank that it declares.
    """
    params, views = [], []
    for buffer, shape in zip(func.params, shapes, strict=True):
        if shape is None or len(shape) == 1:
            params.append(buffer)
            continue
        params.append(tirx.decl_buffer(shape, buffer.dtype, buffer.name))
        views.append(tirx.DeclBuffer(buffer, data=params[-1].data))
    body = tirx.SeqStmt([*views, func.body]) if views else func.body
    if len(params) == 2:
        # RewriteDataflowReshape looks into functions of one input and takes it for granted that there is a root block
        body = s_tir.SBlockRealize([], True, s_tir.SBlock([], [], [], "root", body))
    out = tirx.PrimFunc(params, body, func.ret_type, func.attrs).without_attr("global_symbol")
    return out.with_attr(SCHEDULED, True).with_attr("op_pattern", _OPAQUE)


@dataclass(frozen=True)
class Params:
    """Parameters of a per-tensor quantization."""

    scale: float  # a float32
    zero_point: int
    dtype: str  # "uint8" or "int8"


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


def concat(
    parts: Sequence[tuple[int, Params]], pixels: int, out: Params, shuffled: bool, threads: int
) -> tirx.PrimFunc:
    """Concatenate tensors of ``pixels`` rows and so many channels each, bringing all to the parameters ``out``.

    ``shuffled``: take one channel of each in turn (parts of equal width), as a channel shuffle after it would.
    """
    total = sum(channels for channels, _ in parts)

    def body(*buffers: Expr) -> None:
        result = buffers[-1]

        def row(pixel: Expr) -> None:
            offset = 0
            for source, (channels, params) in zip(buffers, parts, strict=False):
                for start, lanes in _chunks(channels):
                    value = requantize(tir.load(source, pixel * channels + start, lanes), lanes, params, out)
                    tir.store(result, pixel * total + offset + start, value, lanes)
                offset += channels

        def shuffled_row(pixel: Expr) -> None:
            for start, lanes in _chunks(parts[0][0]):
                values = [
                    requantize(tir.load(source, pixel * channels + start, lanes), lanes, params, out)
                    for source, (channels, params) in zip(buffers, parts, strict=False)
                ]
                order = [part * lanes + lane for lane in range(lanes) for part in range(len(parts))]
                joined = tir.pick(values, order)
                tir.store(result, pixel * total + start * len(parts), joined, lanes * len(parts))

        parallel = threads > 1 and pixels * total >= PARALLEL_ELEMENTS
        _blocks(pixels, shuffled_row if shuffled else row, parallel)

    arguments = [(f"part{index}", pixels * channels, params.dtype) for index, (channels, params) in enumerate(parts)]
    return tir.function("concat", [*arguments, ("out", pixels * total, out.dtype)], body)


def pool2d(pool: Pool, params: Params, out: Params, threads: int) -> tirx.PrimFunc:
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
                for start, lanes in _chunks(channels):
                    acc = tir.Registers(1, acc_dtype, lanes)
                    acc[0] = tir.const(tirx.min_value(acc_dtype).value if pool.kind == "max" else 0, acc_dtype, lanes)
                    with T.serial(0, rows) as i, T.serial(0, columns) as j:
                        position = ((image * height + top + i) * width + left + j) * channels + start
                        value = tir.load(data, position, lanes)
                        if pool.kind == "max":
                            acc[0] = tirx.max(acc[0], value)
                        else:
                            acc[0] = acc[0] + _centred(value, lanes, params)
                    value = acc[0]
                    if pool.kind == "avg":
                        factor = tir.const(params.scale / out.scale, "float32", lanes)
                        divisor = tir.splat(tirx.Cast("float32", tirx.convert(count)), lanes)
                        value = _quantized(tir.cast(value, "float32", lanes) * factor / divisor, lanes, out)
                    tir.store(result, ((image * out_height + y) * out_width + x) * channels + start, value, lanes)

            tir.loop(out_width, window)

        work = batch * out_height * out_width * channels * pool.size[0] * pool.size[1]
        tir.loop(batch * out_height, row, parallel=threads > 1 and work >= PARALLEL_ELEMENTS)

    sizes = batch * height * width * channels, batch * out_height * out_width * channels
    return tir.function(f"{pool.kind}_pool2d", [("data", sizes[0], params.dtype), ("out", sizes[1], out.dtype)], body)


def lookup(elements: int, dtype: str, out_dtype: str, threads: int) -> tirx.PrimFunc:
    """``out[i] = table[byte of data[i]]``, for a table of 256 entries."""

    def body(data: Expr, table: Expr, result: Expr) -> None:
        def one(index: Expr) -> None:
            byte = tirx.Cast("int32", tirx.reinterpret("uint8", data[index]) if dtype == "int8" else data[index])
            T.buffer_store(result, table[byte], [index])

        _blocks(elements, one, threads > 1 and elements >= PARALLEL_ELEMENTS)

    arguments = [("data", elements, dtype), ("table", 256, out_dtype), ("out", elements, out_dtype)]
    return tir.function("lookup", arguments, body)


def requantize(value: Expr, lanes: int, source: Params, out: Params) -> Expr:
    """``quantize(dequantize(value))``, to the bit, for every one of the 256 values."""
    if source == out:
        return value
    wide = tir.cast(_centred(value, lanes, source), "float32", lanes)
    factor = _one_factor(source, out)
    if factor is not None:
        return _quantized(wide * tir.const(factor, "float32", lanes), lanes, out)
    real = wide * tir.const(source.scale, "float32", lanes)
    return _quantized(real / tir.const(out.scale, "float32", lanes), lanes, out)


def _centred(value: Expr, lanes: int, params: Params) -> Expr:
    """8-bit values less their zero point, as int32."""
    return tir.cast(value, "int32", lanes) - tir.const(params.zero_point, "int32", lanes)


def _one_factor(source: Params, out: Params) -> float | None:
    """A float32 that does for every 8-bit value what multiplying by one scale and dividing by the other does."""
    levels = np.arange(-255, 256).astype("float32")
    exact = np.rint(levels * np.float32(source.scale) / np.float32(out.scale))
    factor = np.float32(source.scale / out.scale)
    for candidate in (factor, np.nextafter(factor, np.float32(0)), np.nextafter(factor, np.float32(np.inf))):
        if (np.rint(levels * candidate) == exact).all():
            return float(candidate)
    return None


def _quantized(value: Expr, lanes: int, out: Params) -> Expr:
    """float32 in units of the output scale -> the output's dtype."""
    low, high = tirx.min_value(out.dtype).value, tirx.max_value(out.dtype).value
    rounded = tirx.nearbyint(value) + tir.const(out.zero_point, "float32", lanes)
    bounded = tirx.max(tirx.min(rounded, tir.const(high, "float32", lanes)), tir.const(low, "float32", lanes))
    return tir.cast(tir.cast(bounded, "int32", lanes), out.dtype, lanes)


def _window(index: Expr, stride: int, padding: int, size: int, extent: int) -> tuple[Expr, Expr]:
    """First element inside of the image, and number of elements, of a window along one axis."""
    start = index * stride - padding
    first = tirx.max(start, 0)
    return first, tirx.min(start + size, extent) - first


def _blocks(extent: int, body: Any, parallel: bool) -> None:
    """A loop that is parallel over runs of iterations, so that a thread's share is one call."""
    if not parallel:
        tir.loop(extent, body)
        return
    block = next(size for size in (1024, 64, 32, 16, 8, 7, 4, 3, 2, 1) if extent % size == 0 and extent >= 8 * size)
    tir.loop(extent // block, lambda outer: tir.loop(block, lambda inner: body(outer * block + inner)), parallel=True)


def _chunks(channels: int) -> Iterator[tuple[int, int]]:
    """Start and lanes of the vectors that cover the channels."""
    start, lanes = 0, _LANES
    while start < channels:
        while lanes > channels - start:
            lanes //= 2
        yield start, lanes
        start += lanes
