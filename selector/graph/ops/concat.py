"""Concatenation along the channels, of tensors that may be requantized, shuffled and cut again.

concat(a, quantize(dequantize(b)), ...) [, channel shuffle]  ->  relax.qnn.concat(a, b, ...)
slices of the channels of that                               ->  the same, with several results
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tvm import relax, tirx

from selector.graph.constants import prim_values
from selector.graph.ir import Expr, Graph, Var, dtype_of, ints, is_dataflow_var, op_name, static_shape
from selector.graph.ops import base
from selector.graph.ops.base import Block, Found, Operator
from selector.graph.ops.parts import blocks, chunks, pays, requantize
from selector.graph.quantization import BYTES, Params, dequantized, quantizes_to_bytes
from selector.lowering import tir
from selector.target import TargetProfile

_NAME = "relax.qnn.concat"


def concat(
    parts: Sequence[Expr], params: Sequence[Params], out: Params, shuffled: bool, sections: Sequence[tuple[int, int]]
) -> Expr:
    """Concatenation of (..., C) tensors along the last axis; a tuple of tensors with ``sections``, see the kernel."""
    bounds = [bound for section in sections for bound in section]
    return base.call(_NAME, parts, shuffled=shuffled, sections=bounds, out=out, part=params)


def _sections(call: Expr) -> list[tuple[int, int]]:
    bounds = ints(call.attrs["sections"])
    return list(zip(bounds[::2], bounds[1::2], strict=True))


def _infer_type(call: Expr) -> Any:
    shapes = [static_shape(part) or () for part in call.args]
    outer, dtype = shapes[0][:-1], base.params_in(call, "out")[0].dtype
    sections = _sections(call)
    if not sections:
        return base.tensor([*outer, sum(shape[-1] for shape in shapes)], dtype)
    return relax.TupleType([base.tensor([*outer, high - low], dtype) for low, high in sections])


def _kernel(call: Expr, _target: TargetProfile, threads: int) -> tirx.PrimFunc:
    shapes = [static_shape(part) or () for part in call.args]
    parts = [(shape[-1], params) for shape, params in zip(shapes, base.params_in(call, "part"), strict=True)]
    (out,) = base.params_in(call, "out")
    pixels = math.prod(shapes[0][:-1])
    return kernel(parts, pixels, out, threads, shuffled=bool(call.attrs["shuffled"]), sections=_sections(call))


def kernel(
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
                    for start, lanes in chunks(last - first):
                        piece = value(index, pixel, first - offset + start, lanes)
                        tir.store(result, pixel * (high - low) + first - low + start, piece, lanes)
                    offset += channels

        def shuffled_row(pixel: Expr) -> None:
            count = len(parts)
            for result, (low, high) in zip(results, ranges, strict=True):
                for start, lanes in chunks((high - low) // count):
                    pieces = [value(index, pixel, low // count + start, lanes) for index in range(count)]
                    order = [part * lanes + lane for lane in range(lanes) for part in range(count)]
                    joined = tir.pick(pieces, order)
                    tir.store(result, pixel * (high - low) + start * count, joined, lanes * count)

        blocks(pixels, shuffled_row if shuffled else row, pays(threads, pixels * total))

    arguments = [(f"part{index}", pixels * channels, params.dtype) for index, (channels, params) in enumerate(parts)]
    outputs = [(f"out{index}", pixels * (high - low), out.dtype) for index, (low, high) in enumerate(ranges)]
    return tir.function("concat", [*arguments, *outputs], body)


def _found(block: Block, var: Var, call: Expr) -> Found | None:
    graph = block.graph
    if not isinstance(call.args[0], relax.Tuple) or dtype_of(call) not in BYTES or call.attrs.axis is None:
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
    value = concat(values, params, out, shuffled is not None, sections)
    return Found(result, value, [var for var, _ in slices])


def _requantized(graph: Graph, expr: Expr) -> tuple[Expr, Params | None, Params | None]:
    """``(q, from, to)`` where ``expr`` is ``quantize(dequantize(q))``, ``(expr, None, None)`` elsewhere."""
    call = graph.value(expr)
    target = quantizes_to_bytes(call)
    source = None if target is None else dequantized(graph, call.args[0])
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


OPERATOR = Operator(_NAME, _infer_type, _kernel, {"relax.concat": _found})
