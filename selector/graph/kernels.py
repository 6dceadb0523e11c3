"""Kernels of operators other than convolution, and what it takes to call any kernel from Relax.

All work on 8-bit NHWC data, on flat buffers, in vectors along the channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    parts: Sequence[tuple[int, Params]],
    pixels: int,
    out: Params,
    threads: int,
    *,
    shuffled: bool = False,
    sections: Sequence[tuple[int, int]] = (),
) -> tirx.PrimFunc:
    """Concatenate tensors of ``pixels`` rows and so many channels each, bringing all to the parameters ``out``.

    ``shuffled``: take one channel of each in turn (parts of equal width), as a channel shuffle after it would.
    ``sections``: write only these ranges of the channels, each to an output of its own; bounds of shuffled ones are
    multiples of the number of parts.
    """
    total = sum(channels for channels, _ in parts)
    ranges = list(sections) or [(0, total)]

    def body(*buffers: Expr) -> None:
        sources, results = buffers[: len(parts)], buffers[len(parts) :]

        def value(index: int, pixel: Expr, start: int, lanes: int) -> Expr:
            channels, params = parts[index]
            return requantize(tir.load(sources[index], pixel * channels + start, lanes), lanes, params, out)

        def row(pixel: Expr) -> None:
            for result, (low, high) in zip(results, ranges, strict=True):
                offset = 0
                for index, (channels, _) in enumerate(parts):
                    first, last = max(low, offset), min(high, offset + channels)
                    for start, lanes in _chunks(last - first):
                        piece = value(index, pixel, first - offset + start, lanes)
                        tir.store(result, pixel * (high - low) + first - low + start, piece, lanes)
                    offset += channels

        def shuffled_row(pixel: Expr) -> None:
            count = len(parts)
            for result, (low, high) in zip(results, ranges, strict=True):
                for start, lanes in _chunks((high - low) // count):
                    pieces = [value(index, pixel, low // count + start, lanes) for index in range(count)]
                    order = [part * lanes + lane for lane in range(lanes) for part in range(count)]
                    joined = tir.pick(pieces, order)
                    tir.store(result, pixel * (high - low) + start * count, joined, lanes * count)

        parallel = threads > 1 and pixels * total >= PARALLEL_ELEMENTS
        _blocks(pixels, shuffled_row if shuffled else row, parallel)

    arguments = [(f"part{index}", pixels * channels, params.dtype) for index, (channels, params) in enumerate(parts)]
    outputs = [(f"out{index}", pixels * (high - low), out.dtype) for index, (low, high) in enumerate(ranges)]
    return tir.function("concat", [*arguments, *outputs], body)


def binary(
    kind: Literal["add", "multiply"],
    params: tuple[Params, Params],
    shape: tuple[int, ...],
    spread: bool,
    out: Params,
    bounds: tuple[int, int],
    threads: int,
) -> tirx.PrimFunc:
    """Sum or product of two tensors, clipped to the levels ``bounds``, to the bit what the float32 operators give.

    ``spread``: the second tensor is (N, 1, ..., 1, C) and taken for every pixel of the first; else both have ``shape``.
    """
    elements, channels = math.prod(shape), shape[-1]
    pixels = elements // channels // shape[0]
    factor = _binary_factor(kind, params, out, bounds)

    def body(first: Expr, second: Expr, result: Expr) -> None:
        def vector(start: Expr, other: Expr, lanes: int) -> None:
            x, y = (
                tir.cast(_centred(tir.load(buffer, index, lanes), lanes, param), "float32", lanes)
                for buffer, index, param in zip((first, second), (start, other), params, strict=True)
            )
            tir.store(
                result, start, _quantized(_combined(kind, x, y, lanes, params, out, factor), lanes, out, bounds), lanes
            )

        def pixel(index: Expr) -> None:
            image = tirx.floordiv(index, pixels)
            _along(channels, lambda start, lanes: vector(index * channels + start, image * channels + start, lanes))

        parallel = threads > 1 and elements >= PARALLEL_ELEMENTS
        if spread:
            _blocks(shape[0] * pixels, pixel, parallel)
            return
        whole = elements // _LANES
        _blocks(whole, lambda index: vector(index * _LANES, index * _LANES, _LANES), parallel)
        for start, lanes in _chunks(elements - whole * _LANES):
            vector(whole * _LANES + start, whole * _LANES + start, lanes)

    sizes = elements, shape[0] * channels if spread else elements
    arguments = [("first", sizes[0], params[0].dtype), ("second", sizes[1], params[1].dtype)]
    return tir.function(kind, [*arguments, ("out", elements, out.dtype)], body)


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

                def channel(start: Expr, lanes: int) -> None:
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

                _along(channels, channel)

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


def _combined(
    kind: str, x: Expr, y: Expr, lanes: int, params: tuple[Params, Params], out: Params, factor: float | None
) -> Expr:
    """Sum or product of two centred float32 vectors, in units of the output scale."""
    if kind == "multiply" and factor is not None:
        return x * y * tir.const(factor, "float32", lanes)
    x, y = (value * tir.const(param.scale, "float32", lanes) for value, param in zip((x, y), params, strict=True))
    # the fences keep LLVM from fusing product and sum into one rounding
    real = x * y if kind == "multiply" else _fenced(x, lanes) + _fenced(y, lanes)
    if factor is None:
        return real / tir.const(out.scale, "float32", lanes)
    return real * tir.const(factor, "float32", lanes)


def _fenced(value: Expr, lanes: int) -> Expr:
    return tir.intrinsic("llvm.arithmetic.fence", tir.vector("float32", lanes), value)


def _binary_factor(kind: str, params: tuple[Params, Params], out: Params, bounds: tuple[int, int]) -> float | None:
    """A float32 in place of the division by the output scale, if one is exact for all of the 65536 pairs."""
    levels = [
        (np.arange(256).astype("uint8").view(param.dtype).astype("float32") - np.float32(param.zero_point))
        for param in params
    ]
    x, y = levels[0][:, None], levels[1][None, :]
    scales = [np.float32(param.scale) for param in params]
    real = x * scales[0] + y * scales[1] if kind == "add" else (x * scales[0]) * (y * scales[1])
    low, high = (np.float32(bound - out.zero_point) for bound in bounds)
    exact = np.clip(np.rint(real / np.float32(out.scale)), low, high)
    cheap, unit = (real, 1.0) if kind == "add" else (x * y, params[0].scale * params[1].scale)
    for factor in _near(unit / out.scale):
        if (np.clip(np.rint(cheap * factor), low, high) == exact).all():
            return float(factor)
    return None


def _one_factor(source: Params, out: Params) -> float | None:
    """A float32 that does for every 8-bit value what multiplying by one scale and dividing by the other does."""
    levels = np.arange(-255, 256).astype("float32")
    exact = np.rint(levels * np.float32(source.scale) / np.float32(out.scale))
    for factor in _near(source.scale / out.scale):
        if (np.rint(levels * factor) == exact).all():
            return float(factor)
    return None


def _near(value: float) -> Iterator[np.float32]:
    """The float32 nearest to ``value``, and its neighbours."""
    nearest = np.float32(value)
    yield nearest
    yield np.nextafter(nearest, np.float32(0))
    yield np.nextafter(nearest, np.float32(np.inf))


def _quantized(value: Expr, lanes: int, out: Params, bounds: tuple[int, int] | None = None) -> Expr:
    """float32 in units of the output scale -> the output's dtype, clipped to the levels ``bounds``.

    Adding 1.5 * 2^23 rounds half to even and leaves the integer in the low bits.
    """
    info = np.iinfo(out.dtype)
    low, high = (bound - out.zero_point for bound in bounds or (info.min, info.max))
    bounded = tirx.max(tirx.min(value, tir.const(high, "float32", lanes)), tir.const(low, "float32", lanes))
    bits = tirx.reinterpret(tir.vector("int32", lanes), bounded + tir.const(1.5 * 2**23, "float32", lanes))
    level = tir.cast(bits, "uint8", lanes) + tir.const(out.zero_point % 256, "uint8", lanes)
    return level if out.dtype == "uint8" else tirx.reinterpret(tir.vector(out.dtype, lanes), level)


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


def _along(channels: int, body: Callable[[Expr, int], None]) -> None:
    """Call ``body(start, lanes)`` for vectors that cover the channels, in a loop where there are many."""
    whole = channels // _LANES if channels > 4 * _LANES else 0
    tir.loop(whole, lambda index: body(index * _LANES, _LANES))
    for start, lanes in _chunks(channels - whole * _LANES):
        body(whole * _LANES + start, lanes)


def _chunks(channels: int) -> Iterator[tuple[int, int]]:
    """Start and lanes of the vectors that cover the channels."""
    start, lanes = 0, _LANES
    while start < channels:
        while lanes > channels - start:
            lanes //= 2
        yield start, lanes
        start += lanes
