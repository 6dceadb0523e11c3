"""Channels last through the quantized part of the graph.

A quantized convolution on NCHW data is replaced by one on NHWC data, and what it computes gets a
channels-last twin.  Operators that do not care about the layout, or that can be told, follow their operands.  A
permutation is emitted where a twin is needed and there is none (the way in), and where something needs the original
(the way out).  A graph that arrives as NHWC has nothing to replace and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from selector.graph import qnn
from selector.graph.ir import Bindings, Expr, Var, constant, ints, op_name, rewrite, static_shape
from selector.graph.ops import dynamic
from selector.graph.passes.forward import TUPLE_ITEM, Forward, Rule
from selector.graph.quantization import DEQUANTIZE, QUANTIZE

_UNARY = frozenset(
    f"relax.{name}"
    for name in (
        "abs astype ceil clip cos erf exp floor log negative round rsqrt sigmoid sign sin sqrt square tanh "
        "nn.gelu nn.gelu_tanh nn.leakyrelu nn.relu nn.relu6 nn.selu nn.silu nn.softplus"
    ).split()
)
_BINARY = frozenset(f"relax.{name}" for name in "add subtract multiply divide maximum minimum power".split())
_POOLS: dict[str, Callable[..., Expr]] = {
    "relax.nn.max_pool2d": relax.op.nn.max_pool2d,
    "relax.nn.avg_pool2d": relax.op.nn.avg_pool2d,
}
_REDUCTIONS: dict[str, Callable[..., Expr]] = {
    "relax.mean": relax.op.mean,
    "relax.sum": relax.op.sum,
    "relax.max": relax.op.max,
    "relax.min": relax.op.min,
    "relax.argmax": lambda data, axes, keepdims: relax.op.argmax(data, *axes, keepdims=keepdims),
    "relax.argmin": lambda data, axes, keepdims: relax.op.argmin(data, *axes, keepdims=keepdims),
}


def channels_last(rank: int) -> list[int]:
    """Permutation of a channels-first tensor (N, C..., H, W) to (N, H, W, C...)."""
    return [0, rank - 2, rank - 1, *range(1, rank - 2)]


Walk = Forward[Var]  # a variable's other form: its channels-last twin, or a tuple of twins


def to_channels_last(mod: tvm.IRModule) -> tvm.IRModule:
    """``mod`` with the quantized convolutions, and what lies between them, computed on NHWC data."""

    def block_pass(bindings: Bindings) -> Bindings:
        convolutions = [b.value for b in bindings if op_name(b.value) == qnn.CONV2D]
        if all(str(call.attrs["data_layout"]) == "NHWC" for call in convolutions):
            return bindings
        return Walk(bindings).run(_RULES)

    return rewrite(mod, block_pass)


def _twin(walk: Walk, expr: Expr) -> Var:
    """The channels-last twin of a tensor, made by a permutation if there is none."""
    twin = walk.form(expr)
    if twin is not None:
        return twin
    made = walk.out.emit(relax.op.permute_dims(walk.original(expr), channels_last(_rank(expr))))
    walk.give(expr, made)
    return made


def _computed(walk: Walk, var: Var, value: Expr) -> bool:
    """Record that the twin of ``var`` is ``value``."""
    twin = walk.out.emit(value)
    back = list(np.argsort(channels_last(_rank(var))))
    return walk.known(var, twin, relax.op.permute_dims(twin, [int(axis) for axis in back]))


def _rank(expr: Expr) -> int:
    return int(expr.ty.ndim)


def _axis(axis: int, rank: int) -> int:
    """Where an axis of a channels-first tensor is in its twin."""
    return channels_last(rank).index(axis % rank)


def _conv2d(walk: Walk, var: Var, call: Expr) -> bool:
    if str(call.attrs["data_layout"]) != "NCHW":
        return False
    return _computed(walk, var, qnn.with_attrs(call, _twin(walk, call.args[0]), data_layout="NHWC"))


def _unary(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    return _computed(walk, var, tvm.ir.Call(call.op, [_twin(walk, call.args[0]), *call.args[1:]], call.attrs))


def _quantize(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    make = relax.op.quantize if op_name(call) == QUANTIZE else relax.op.dequantize
    axis = _axis(int(call.attrs.axis), _rank(var))
    value = make(_twin(walk, call.args[0]), *call.args[1:], axis=axis, out_dtype=str(call.attrs.out_dtype))
    return _computed(walk, var, value)


def _binary(walk: Walk, var: Var, call: Expr) -> bool:
    rank = _rank(var)
    free = [constant(arg) is not None or _rank(arg) == 0 for arg in call.args]  # what fits any layout
    if not any(walk.form(arg) is not None for arg in call.args) and (rank < 4 or not all(free)):
        return False
    if any(_rank(arg) != rank and not fits for arg, fits in zip(call.args, free, strict=True)):
        return False
    args = []
    for arg in call.args:
        value = constant(arg)
        if value is None:
            args.append(walk.original(arg) if _rank(arg) == 0 else _twin(walk, arg))
        elif value.size == 1:
            args.append(relax.const(value.reshape(())))
        else:
            value = value.reshape((1,) * (rank - value.ndim) + value.shape)
            args.append(relax.const(np.ascontiguousarray(value.transpose(channels_last(rank)))))
    return _computed(walk, var, tvm.ir.Call(call.op, args, call.attrs))


def _pool(walk: Walk, var: Var, call: Expr) -> bool:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or walk.form(call.args[0]) is None:
        return False
    value = _POOLS[op_name(call) or ""](
        _twin(walk, call.args[0]),
        pool_size=ints(attrs.pool_size),
        strides=ints(attrs.strides),
        padding=ints(attrs.padding),
        dilation=ints(attrs.dilation),
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
        layout="NHWC",
    )
    return _computed(walk, var, value)


def _adaptive_pool(walk: Walk, var: Var, call: Expr) -> bool:
    if str(call.attrs.layout) != "NCHW" or walk.form(call.args[0]) is None:
        return False
    size = None if call.attrs.output_size is None else ints(call.attrs.output_size)
    return _computed(walk, var, relax.op.nn.adaptive_avg_pool2d(_twin(walk, call.args[0]), size, layout="NHWC"))


def _resize(walk: Walk, var: Var, call: Expr) -> bool:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or walk.form(call.args[0]) is None:
        return False
    value = relax.op.image.resize2d(
        _twin(walk, call.args[0]),
        call.args[1],
        [float(value) for value in attrs.roi],
        layout="NHWC",
        method=str(attrs.method),
        coordinate_transformation_mode=str(attrs.coordinate_transformation_mode),
        rounding_method=str(attrs.rounding_method),
        cubic_alpha=float(attrs.cubic_alpha),
        cubic_exclude=int(attrs.cubic_exclude),
        extrapolation_value=float(attrs.extrapolation_value),
    )
    return _computed(walk, var, value)


def _reduce(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None or call.attrs.axis is None:
        return False
    rank = _rank(call.args[0])
    given = call.attrs.axis
    axes = sorted(_axis(axis, rank) for axis in ((given,) if isinstance(given, int) else ints(given)))
    reduce = _REDUCTIONS[op_name(call) or ""]
    data = _twin(walk, call.args[0])
    if call.attrs.keepdims:
        return _computed(walk, var, reduce(data, axes, keepdims=True))
    # what remains must come in the same order in both layouts
    remaining = [axis for axis in channels_last(rank) if _axis(axis, rank) not in axes]
    return remaining == sorted(remaining) and walk.plain(var, reduce(data, axes, keepdims=False))


def _softmax(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    return _computed(walk, var, relax.op.nn.softmax(_twin(walk, call.args[0]), _axis(int(call.attrs.axis), _rank(var))))


def _concat(walk: Walk, var: Var, call: Expr) -> bool:
    if not isinstance(call.args[0], relax.Tuple) or call.attrs.axis is None or _rank(var) < 4:
        return False
    parts = list(call.args[0].fields)
    if not any(walk.form(part) is not None for part in parts) or any(constant(part) is not None for part in parts):
        return False
    axis = _axis(int(call.attrs.axis), _rank(var))
    return _computed(walk, var, relax.op.concat([_twin(walk, part) for part in parts], axis))


def _split(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    where = call.attrs.indices_or_sections
    sections = int(where) if isinstance(where, int | tvm.tirx.IntImm) else list(ints(where))
    axis = _axis(int(call.attrs.axis), _rank(call.args[0]))
    parts = walk.out.emit(relax.op.split(_twin(walk, call.args[0]), sections, axis))
    return walk.known(var, parts, call)


def _dynamic_quantize(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    return walk.known(var, walk.out.emit(dynamic.dynamic_quantize(_twin(walk, call.args[0]))), call)


def _tuple_item(walk: Walk, var: Var, item: Expr) -> bool:
    parts = walk.form(item.tuple_value)
    if parts is None:
        return False
    if _rank(var) < 4:  # of a dynamic quantization: a scale or zero point
        return walk.plain(var, relax.TupleGetItem(parts, item.index))
    return _computed(walk, var, relax.TupleGetItem(parts, item.index))


def _strided_slice(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None or not isinstance(call.args[1], relax.Tuple):
        return False
    rank = _rank(call.args[0])
    axes = [_axis(int(axis.value), rank) for axis in call.args[1].fields]
    args = [_twin(walk, call.args[0]), relax.Tuple([relax.prim_value(axis) for axis in axes]), *call.args[2:]]
    return _computed(walk, var, tvm.ir.Call(call.op, args, call.attrs))


def _pad(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    width = ints(call.attrs.pad_width)
    order = channels_last(_rank(var))
    moved = [width[2 * axis + side] for axis in order for side in (0, 1)]
    attrs = (str(call.attrs.pad_mode), float(call.attrs.pad_value))
    return _computed(walk, var, relax.op.nn.pad(_twin(walk, call.args[0]), moved, *attrs))


def _take(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None or call.attrs.axis is None or _rank(var) != _rank(call.args[0]):
        return False
    axis = _axis(int(call.attrs.axis), _rank(var))
    return _computed(walk, var, relax.op.take(_twin(walk, call.args[0]), call.args[1], axis, mode=str(call.attrs.mode)))


def _permute(walk: Walk, var: Var, call: Expr) -> bool:
    if walk.form(call.args[0]) is None:
        return False
    rank = _rank(var)
    order = channels_last(rank)
    axes = ints(call.attrs.axes) if call.attrs.axes is not None else tuple(reversed(range(rank)))
    if list(axes) == order:
        return walk.plain(var, _twin(walk, call.args[0]))
    moved = [order.index(axes[axis] % rank) for axis in order]
    return _computed(walk, var, relax.op.permute_dims(_twin(walk, call.args[0]), moved))


def _reshape(walk: Walk, var: Var, call: Expr) -> bool:
    old, new = static_shape(call.args[0]), static_shape(var)
    if old is None or new is None or walk.form(call.args[0]) is None:
        return False
    if old[-2:] == (1, 1) and len(new) < 4:
        # one pixel: both layouts are the same bytes
        return walk.plain(var, relax.op.reshape(_twin(walk, call.args[0]), new))
    if len(new) < 4 or (old[0], *old[-2:]) != (new[0], *new[-2:]):
        return False
    return _computed(walk, var, relax.op.reshape(_twin(walk, call.args[0]), _permuted(new, channels_last(len(new)))))


def _permuted(values: Sequence[int], order: Sequence[int]) -> list[int]:
    return [values[axis] for axis in order]


_RULES: dict[str, Rule] = {
    qnn.CONV2D: _conv2d,
    QUANTIZE: _quantize,
    DEQUANTIZE: _quantize,
    "relax.nn.adaptive_avg_pool2d": _adaptive_pool,
    "relax.image.resize2d": _resize,
    "relax.concat": _concat,
    "relax.nn.softmax": _softmax,
    "relax.split": _split,
    dynamic.NAME: _dynamic_quantize,
    TUPLE_ITEM: _tuple_item,
    "relax.strided_slice": _strided_slice,
    "relax.nn.pad": _pad,
    "relax.permute_dims": _permute,
    "relax.take": _take,
    "relax.reshape": _reshape,
    "relax.squeeze": _reshape,
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys(_BINARY, _binary),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_REDUCTIONS, _reduce),
}
