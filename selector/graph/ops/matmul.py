"""Products of two 8-bit tensors that are both data, such as queries and keys of an attention.

    matmul(dequantize(a), dequantize(b)) [* constant] [clip] [quantize]  ->  relax.qnn.matmul(a, b)

Products with a constant are layers, which a policy decides about.  Here there is one way: both operands less their zero
points as 16-bit words, packed as the dot instruction of the int16 lowering wants them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from selector.graph.constants import activation, clipped
from selector.graph.ir import Expr, Graph, Var, dtype_of, op_name, scalar, static_shape
from selector.graph.ops import base
from selector.graph.ops.base import Block, Found, Operator
from selector.graph.ops.parts import chunks, rounded
from selector.graph.quantization import Params, dequantized, quantizes_to_bytes
from selector.lowering import dot, tir
from selector.lowering.register_tile import RegisterTile, reduce, tile_shapes
from selector.target import TargetProfile

_NAME = "relax.qnn.matmul"
_MATMUL = "relax.matmul"
_LONGEST = ((1 << 31) - 1) // 255**2  # products of bytes that 32 bits hold the sum of
_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True)
class _Product:
    """``out = clip((a - zero_a) @ (b - zero_b) * factor)``, in steps of ``out`` or, without it, in real units."""

    batches: tuple[int, int]  # of a and of b: all of the result's, or one that is taken for each
    rows: int  # M of a (..., M, K)
    length: int  # K
    columns: int  # N of b (..., K, N)
    params: tuple[Params, Params]
    factor: float = 1.0  # of the real product
    bounds: tuple[float, float] = _UNBOUNDED  # real units
    out: Params | None = None


def sources(graph: Graph, matmul: Expr) -> tuple[tuple[Expr, Params], tuple[Expr, Params]] | None:
    """The two 8-bit tensors that ``relax.matmul`` multiplies, with their parameters; None if that has no kernel here.

    Both are data, of two or more dimensions, and their batches are alike or one of them is a single one.
    """
    a, b = (dequantized(graph, arg) for arg in matmul.args)
    a_shape, b_shape = (static_shape(arg) or () for arg in matmul.args)
    if a is None or b is None or min(len(a_shape), len(b_shape)) < 2 or dtype_of(matmul) != "float32":
        return None
    batches = {_without_leading_ones(shape[:-2]) for shape in (a_shape, b_shape)} - {()}
    return (a, b) if len(batches) <= 1 and a_shape[-1] <= _LONGEST else None


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    ones = next((index for index, size in enumerate(shape) if size != 1), len(shape))
    return shape[ones:]


def _found(block: Block, var: Var, call: Expr) -> Found | None:
    graph, operands = block.graph, sources(block.graph, call)
    if operands is None:
        return None
    (a, a_params), (b, b_params) = operands
    a_shape, b_shape = static_shape(a) or (), static_shape(b) or ()
    product = _Product(
        batches=(math.prod(a_shape[:-2]), math.prod(b_shape[:-2])),
        rows=a_shape[-2],
        length=a_shape[-1],
        columns=b_shape[-1],
        params=(a_params, b_params),
    )
    while product.out is None and (user := graph.only_user(var)) is not None:
        longer = _absorbed(graph, product, user.value)
        if longer is None or static_shape(user.var) != static_shape(call):
            break
        product, var = longer, user.var
    shape = [*np.broadcast_shapes(a_shape[:-2], b_shape[:-2]), product.rows, product.columns]
    attrs = {name: getattr(product, name) for name in ("batches", "rows", "length", "columns", "factor")}
    bounds = [bound if math.isfinite(bound) else None for bound in product.bounds]  # JSON has no infinity
    value = base.call(_NAME, [a, b], **attrs, shape=shape, bounds=bounds, data=product.params, out=_listed(product.out))
    return Found(var, value)


def _absorbed(graph: Graph, product: _Product, call: Expr) -> _Product | None:
    """``product`` with one more operator behind it; None if that stays outside."""
    quantize = quantizes_to_bytes(call)
    if quantize is not None:
        return replace(product, out=quantize)
    bounds = activation(graph, call)
    if bounds is not None:
        return replace(product, bounds=clipped(product.bounds, bounds))
    factor = _factor(graph, call) if product.bounds == _UNBOUNDED else None
    return None if factor is None else replace(product, factor=product.factor * factor)


def _factor(graph: Graph, call: Expr) -> float | None:
    """What a call multiplies its one tensor by."""
    if op_name(call) not in ("relax.multiply", "relax.divide"):
        return None
    values = [scalar(graph.value(arg)) for arg in call.args]
    if op_name(call) == "relax.divide":
        return 1 / values[1] if values[1] else None
    return next((float(value) for value in values if value is not None), None)


def _listed(out: Params | None) -> list[Params]:
    return [] if out is None else [out]


def _infer_type(call: Expr) -> Any:
    out = base.params_in(call, "out")
    return base.tensor([int(size) for size in call.attrs["shape"]], out[0].dtype if out else "float32")


def _kernel(call: Expr, target: TargetProfile, threads: int) -> tirx.PrimFunc:
    attrs = call.attrs
    low, high = (None if bound is None else float(bound) for bound in attrs["bounds"])
    product = _Product(
        batches=tuple(int(value) for value in attrs["batches"]),  # type: ignore[arg-type]
        rows=int(attrs["rows"]),
        length=int(attrs["length"]),
        columns=int(attrs["columns"]),
        params=tuple(base.params_in(call, "data")),  # type: ignore[arg-type]
        factor=float(attrs["factor"]),
        bounds=(-math.inf if low is None else low, math.inf if high is None else high),
        out=next(iter(base.params_in(call, "out")), None),
    )
    return kernel(product, target, threads)


def kernel(product: _Product, target: TargetProfile, threads: int) -> tirx.PrimFunc:
    """The product of a (batch, M, K) and b (batch, K, N), exact up to the one float32 factor at its end.

    A task packs the words of a block of b's columns and multiplies all rows of one a with them.
    """
    return _Kernel(product, target, threads).function()


class _Kernel:
    """State shared by the parts of the kernel's code."""

    def __init__(self, product: _Product, target: TargetProfile, threads: int) -> None:
        self.product, self.threads = product, threads
        row = dot.candidates(target, "int16")[0]
        self.row = row
        self.steps = math.ceil(product.length / row.step)
        self.width = self.steps * row.step  # words of a packed row
        pixels, vectors = max(
            tile_shapes(row, target.vector_registers),
            key=lambda shape: -_cost(product, row, *shape),
        )
        self.vectors = vectors
        self.pixels = min(pixels, product.rows)
        self.block = vectors * row.lanes
        self.out_dtype = "float32" if product.out is None else product.out.dtype

    def function(self) -> tirx.PrimFunc:
        """The TIR function of a, b and the result."""
        work = self.product
        batch, blocks = max(work.batches), math.ceil(work.columns / self.block)

        def body(a: Expr, b: Expr, out: Expr) -> None:
            def task(index: Expr) -> None:
                image, first = index // blocks, self._first_column(index % blocks)
                self._task(a, b, out, image, T.Bind(T.int32(0) + first))

            tir.outermost(batch * blocks, task, threads=self.threads, lanes=self.row.lanes)

        sizes = [work.batches[0] * work.rows * work.length, work.batches[1] * work.length * work.columns]
        arguments = [(name, size, params.dtype) for name, size, params in zip("ab", sizes, work.params, strict=True)]
        result = ("out", batch * work.rows * work.columns, self.out_dtype)
        return tir.function("matmul", [*arguments, result], body)

    def _first_column(self, block: Expr) -> Expr:
        """The last block overlaps the one before."""
        return T.min(block * self.block, max(self.product.columns - self.block, 0))

    def _task(self, a: Expr, b: Expr, out: Expr, image: Expr, first: Expr) -> None:
        work, row = self.product, self.row
        weight = T.alloc_buffer((self.width * self.block,), row.weight_dtype)
        data = T.alloc_buffer((self.pixels * self.width,), row.data_dtype)
        a_start = T.Bind((image if work.batches[0] > 1 else 0) * (work.rows * work.length) + T.int32(0))
        b_start = T.Bind((image if work.batches[1] > 1 else 0) * (work.length * work.columns) + first)
        out_start = T.Bind(image * (work.rows * work.columns) + first)
        self._pack(b, b_start, weight)

        def band(start: Expr, rows: int) -> None:
            tir.loop(rows, lambda i: self._words(a, a_start + (start + i) * work.length, data, i * self.width))
            tile = RegisterTile(row, rows, self.vectors)
            for i in range(rows):
                for j in range(self.vectors):
                    tile[i, j] = tir.const(0, "int32", row.lanes)

            def step(k: Expr) -> None:
                starts = [k * row.step + i * self.width for i in range(rows)]
                tile.step(data, starts, weight, k * tile.step_weights)

            reduce(row, self.steps, step)
            for i in range(rows):
                for j in range(self.vectors):
                    self._store(out, out_start + (start + i) * work.columns, j, tile[i, j])

        whole, rest = divmod(work.rows, self.pixels)
        tir.loop(whole, lambda index: band(index * self.pixels, self.pixels))
        if rest:
            band(T.int32(whole * self.pixels), rest)

    def _words(self, a: Expr, source: Expr, data: Expr, target: Expr) -> None:
        """One row of a as words less its zero point, zeros behind it."""
        zero, length = self.product.params[0].zero_point, self.product.length
        vector = 16
        whole = length // vector

        def piece(start: Expr, lanes: int) -> None:
            words = tir.cast(tir.load(a, source + start, lanes), "int16", lanes) - tir.const(zero, "int16", lanes)
            tir.store(data, target + start, words, lanes)

        tir.loop(whole, lambda index: piece(index * vector, vector))
        for start, lanes in chunks(length - whole * vector):
            piece(whole * vector + start, lanes)
        for start, lanes in chunks(self.width - length):
            tir.store(data, target + length + start, tir.const(0, "int16", lanes), lanes)

    def _pack(self, b: Expr, source: Expr, weight: Expr) -> None:
        """A block of columns as [step][dot group][vector][lane][depth], zeros where b ends."""
        work, row = self.product, self.row
        zero = work.params[1].zero_point

        def words(k: Expr, vector: int) -> Expr:
            """Row ``k`` of the columns of one vector."""
            valid = max(min(row.lanes, work.columns - vector * row.lanes), 0)
            start = source + k * work.columns + vector * row.lanes
            if valid == row.lanes:
                return tir.cast(tir.load(b, start, valid), "int16", valid) - tir.const(zero, "int16", valid)
            loaded = [tirx.Cast("int16", b[start + lane]) - T.int16(zero) for lane in range(valid)]
            return tir.pick([*loaded, *[T.int16(0)] * (row.lanes - valid)], list(range(row.lanes)))

        def group(first: Expr, count: int) -> None:
            """``depth`` rows of b, of which ``count`` are there, as one group of all vectors."""
            for vector in range(self.vectors):
                rows = [words(first + d, vector) for d in range(count)]
                rows += [tir.const(0, "int16", row.lanes)] * (row.depth - count)
                order = [d * row.lanes + lane for lane in range(row.lanes) for d in range(row.depth)]
                packed = rows[0] if row.depth == 1 else tir.pick(rows, order)
                place = first * self.block + vector * row.lanes * row.depth
                tir.store(weight, place, packed, row.lanes * row.depth)

        whole, rest = divmod(work.length, row.depth)
        tir.loop(whole, lambda index: group(index * row.depth, row.depth))
        if rest:
            group(T.int32(whole * row.depth), rest)
        missing = self.width - (whole + bool(rest)) * row.depth
        for start, lanes in chunks(missing * self.block):
            tir.store(weight, (self.width - missing) * self.block + start, tir.const(0, "int16", lanes), lanes)

    def _store(self, out: Expr, start: Expr, vector: int, acc: Expr) -> None:
        """Sums of one row and vector of columns as the result's elements."""
        work, lanes = self.product, self.row.lanes
        scale = np.float32(1 if work.out is None else work.out.scale)
        unit = float(work.params[0].scale) * float(work.params[1].scale) * work.factor / float(scale)
        value = tir.cast(acc, "float32", lanes) * tir.const(float(np.float32(unit)), "float32", lanes)
        low, high = work.bounds
        if work.out is None:
            if low > -math.inf:
                value = tirx.max(value, tir.const(low, "float32", lanes))
            if high < math.inf:
                value = tirx.min(value, tir.const(high, "float32", lanes))
        else:
            levels = work.out.levels(np.array([low, high], "float32"))
            value = rounded(value, lanes, work.out, (int(levels[0]), int(levels[1])))
        valid = min(lanes, work.columns - vector * lanes)
        value = T.Bind(value)
        for first, count in [(0, lanes)] if valid == lanes else chunks(max(valid, 0)):
            part = value if count == lanes else tir.pick([value], list(range(first, first + count)))
            tir.store(out, start + vector * lanes + first, part, count)


def _cost(product: _Product, row: dot.Dot, pixels: int, vectors: int) -> float:
    """Vector instructions of the product with such a tile, more or less."""
    blocks = math.ceil(product.columns / (vectors * row.lanes))
    tiles = math.ceil(product.rows / pixels)
    return blocks * tiles * (min(pixels, product.rows) * (vectors * row.uops + row.setup_uops) + vectors)


OPERATOR = Operator(_NAME, _infer_type, _kernel, {_MATMUL: _found})
