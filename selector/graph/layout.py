"""Channels last through the quantized part of the graph.

One forward pass.  A quantized convolution on NCHW data is replaced by one on NHWC data, and what it computes gets a
channels-last twin.  Operators that do not care about the layout, or that can be told, follow their operands.  A
permutation is emitted where a twin is needed and there is none (the way in), and where something needs the original
(the way out).  A graph that arrives as NHWC has nothing to replace and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax

from selector.graph import op
from selector.graph.ir import (
    Bindings,
    Emitter,
    Expr,
    Var,
    constant,
    ints,
    is_dataflow_var,
    op_name,
    rewrite,
    static_shape,
    used_vars,
)

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
}


def channels_last(rank: int) -> list[int]:
    """Permutation of a channels-first tensor (N, C..., H, W) to (N, H, W, C...)."""
    return [0, rank - 2, rank - 1, *range(1, rank - 2)]


def to_channels_last(mod: tvm.IRModule) -> tvm.IRModule:
    """``mod`` with the quantized convolutions, and what lies between them, computed on NHWC data."""

    def block_pass(bindings: Bindings) -> Bindings:
        convolutions = [b.value for b in bindings if op_name(b.value) == op.CONV2D]
        if all(str(call.attrs["data_layout"]) == "NHWC" for call in convolutions):
            return bindings
        return _Block().run(bindings)

    return rewrite(mod, block_pass)


class _Block:
    """The pass over one dataflow block."""

    def __init__(self) -> None:
        self.out = Emitter()
        self.twins: dict[Var, Var] = {}  # variable -> its channels-last twin (a tuple of twins for a split)
        self.missing: dict[Var, Expr] = {}  # variables not bound yet -> what they are in terms of their twins

    def run(self, bindings: Bindings) -> Bindings:
        """Bindings of the rewritten block."""
        for binding in bindings:
            rule = _RULES.get(op_name(binding.value) or "")
            if isinstance(binding.value, relax.TupleGetItem):
                rule = _tuple_item
            if rule is None or not rule(self, binding.var, binding.value):
                for var in used_vars(binding.value):
                    self.original(var)
                self.out.bindings.append(binding)
            if not is_dataflow_var(binding.var):
                self.original(binding.var)
        return self.out.bindings

    def original(self, var: Var) -> Var:
        """``var`` in its own layout, bound if it was not yet."""
        value = self.missing.pop(var, None)
        if value is not None:
            for other in used_vars(value):
                self.original(other)
            self.out.bind(var, self.out.typed(value))
        return var

    def twin(self, expr: Expr) -> Var:
        """The channels-last twin of a tensor, made by a permutation if there is none."""
        if expr not in self.twins:
            self.twins[expr] = self.out.emit(relax.op.permute_dims(self.original(expr), channels_last(_rank(expr))))
        return self.twins[expr]

    def has_twin(self, expr: Expr) -> bool:
        """Whether a channels-last version of the tensor exists already."""
        return isinstance(expr, tvm.ir.Var) and expr in self.twins

    def computed(self, var: Var, value: Expr) -> bool:
        """Record that the twin of ``var`` is ``value``."""
        self.twins[var] = self.out.emit(value)
        back = list(np.argsort(channels_last(_rank(var))))
        self.missing[var] = relax.op.permute_dims(self.twins[var], [int(axis) for axis in back])
        return True

    def plain(self, var: Var, value: Expr) -> bool:
        """Bind ``var`` itself to ``value``, for results that have no layout."""
        self.out.bind(var, self.out.typed(value))
        return True


Rule = Callable[[_Block, Var, Expr], bool]  # False: the rule does not apply, nothing was emitted


def _rank(expr: Expr) -> int:
    return int(expr.ty.ndim)


def _axis(axis: int, rank: int) -> int:
    """Where an axis of a channels-first tensor is in its twin."""
    return channels_last(rank).index(axis % rank)


def _conv2d(block: _Block, var: Var, call: Expr) -> bool:
    if str(call.attrs["data_layout"]) != "NCHW":
        return False
    return block.computed(var, op.with_attrs(call, block.twin(call.args[0]), data_layout="NHWC"))


def _unary(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]):
        return False
    return block.computed(var, tvm.ir.Call(call.op, [block.twin(call.args[0]), *call.args[1:]], call.attrs))


def _quantize(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]):
        return False
    make = relax.op.quantize if op_name(call) == "relax.quantize" else relax.op.dequantize
    axis = _axis(int(call.attrs.axis), _rank(var))
    value = make(block.twin(call.args[0]), *call.args[1:], axis=axis, out_dtype=str(call.attrs.out_dtype))
    return block.computed(var, value)


def _binary(block: _Block, var: Var, call: Expr) -> bool:
    if not any(block.has_twin(arg) for arg in call.args):
        return False
    rank = _rank(var)
    if any(constant(arg) is None and _rank(arg) != rank for arg in call.args):
        return False
    args = []
    for arg in call.args:
        value = constant(arg)
        if value is None:
            args.append(block.twin(arg))
        elif value.size == 1:
            args.append(relax.const(value.reshape(())))
        else:
            value = value.reshape((1,) * (rank - value.ndim) + value.shape)
            args.append(relax.const(np.ascontiguousarray(value.transpose(channels_last(rank)))))
    return block.computed(var, tvm.ir.Call(call.op, args, call.attrs))


def _pool(block: _Block, var: Var, call: Expr) -> bool:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or not block.has_twin(call.args[0]):
        return False
    value = _POOLS[op_name(call) or ""](
        block.twin(call.args[0]),
        pool_size=ints(attrs.pool_size),
        strides=ints(attrs.strides),
        padding=ints(attrs.padding),
        dilation=ints(attrs.dilation),
        ceil_mode=bool(attrs.ceil_mode),
        count_include_pad=bool(attrs.count_include_pad),
        layout="NHWC",
    )
    return block.computed(var, value)


def _adaptive_pool(block: _Block, var: Var, call: Expr) -> bool:
    if str(call.attrs.layout) != "NCHW" or not block.has_twin(call.args[0]):
        return False
    size = None if call.attrs.output_size is None else ints(call.attrs.output_size)
    return block.computed(var, relax.op.nn.adaptive_avg_pool2d(block.twin(call.args[0]), size, layout="NHWC"))


def _resize(block: _Block, var: Var, call: Expr) -> bool:
    attrs = call.attrs
    if str(attrs.layout) != "NCHW" or not block.has_twin(call.args[0]):
        return False
    value = relax.op.image.resize2d(
        block.twin(call.args[0]),
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
    return block.computed(var, value)


def _reduce(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]) or call.attrs.axis is None:
        return False
    rank = _rank(call.args[0])
    axes = sorted(_axis(axis, rank) for axis in ints(call.attrs.axis))
    reduce = _REDUCTIONS[op_name(call) or ""]
    data = block.twin(call.args[0])
    if call.attrs.keepdims:
        return block.computed(var, reduce(data, axes, keepdims=True))
    # what remains must come in the same order in both layouts
    remaining = [axis for axis in channels_last(rank) if _axis(axis, rank) not in axes]
    return remaining == sorted(remaining) and block.plain(var, reduce(data, axes, keepdims=False))


def _concat(block: _Block, var: Var, call: Expr) -> bool:
    if not isinstance(call.args[0], relax.Tuple) or call.attrs.axis is None or _rank(var) < 4:
        return False
    parts = list(call.args[0].fields)
    if not any(block.has_twin(part) for part in parts) or any(constant(part) is not None for part in parts):
        return False
    axis = _axis(int(call.attrs.axis), _rank(var))
    return block.computed(var, relax.op.concat([block.twin(part) for part in parts], axis))


def _split(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]):
        return False
    where = call.attrs.indices_or_sections
    sections = int(where) if isinstance(where, int | tvm.tirx.IntImm) else list(ints(where))
    axis = _axis(int(call.attrs.axis), _rank(call.args[0]))
    block.twins[var] = block.out.emit(relax.op.split(block.twin(call.args[0]), sections, axis))
    block.missing[var] = call
    return True


def _tuple_item(block: _Block, var: Var, item: Expr) -> bool:
    if not block.has_twin(item.tuple_value) or _rank(var) < 4:
        return False
    return block.computed(var, relax.TupleGetItem(block.twins[item.tuple_value], item.index))


def _strided_slice(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]) or not isinstance(call.args[1], relax.Tuple):
        return False
    rank = _rank(call.args[0])
    axes = [_axis(int(axis.value), rank) for axis in call.args[1].fields]
    args = [block.twin(call.args[0]), relax.Tuple([relax.prim_value(axis) for axis in axes]), *call.args[2:]]
    return block.computed(var, tvm.ir.Call(call.op, args, call.attrs))


def _pad(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]):
        return False
    width = ints(call.attrs.pad_width)
    order = channels_last(_rank(var))
    moved = [width[2 * axis + side] for axis in order for side in (0, 1)]
    attrs = (str(call.attrs.pad_mode), float(call.attrs.pad_value))
    return block.computed(var, relax.op.nn.pad(block.twin(call.args[0]), moved, *attrs))


def _take(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]) or call.attrs.axis is None or _rank(var) != _rank(call.args[0]):
        return False
    axis = _axis(int(call.attrs.axis), _rank(var))
    return block.computed(var, relax.op.take(block.twin(call.args[0]), call.args[1], axis, mode=str(call.attrs.mode)))


def _permute(block: _Block, var: Var, call: Expr) -> bool:
    if not block.has_twin(call.args[0]):
        return False
    rank = _rank(var)
    order = channels_last(rank)
    axes = ints(call.attrs.axes) if call.attrs.axes is not None else tuple(reversed(range(rank)))
    if list(axes) == order:
        return block.plain(var, block.twin(call.args[0]))
    moved = [order.index(axes[axis] % rank) for axis in order]
    return block.computed(var, relax.op.permute_dims(block.twin(call.args[0]), moved))


def _reshape(block: _Block, var: Var, call: Expr) -> bool:
    old, new = static_shape(call.args[0]), static_shape(var)
    if old is None or new is None or not block.has_twin(call.args[0]):
        return False
    if old[-2:] == (1, 1) and len(new) < 4:
        # one pixel: both layouts are the same bytes
        return block.plain(var, relax.op.reshape(block.twin(call.args[0]), new))
    if len(new) < 4 or (old[0], *old[-2:]) != (new[0], *new[-2:]):
        return False
    return block.computed(var, relax.op.reshape(block.twin(call.args[0]), _permuted(new, channels_last(len(new)))))


def _permuted(values: Sequence[int], order: Sequence[int]) -> list[int]:
    return [values[axis] for axis in order]


_RULES: dict[str, Rule] = {
    op.CONV2D: _conv2d,
    "relax.quantize": _quantize,
    "relax.dequantize": _quantize,
    "relax.nn.adaptive_avg_pool2d": _adaptive_pool,
    "relax.image.resize2d": _resize,
    "relax.concat": _concat,
    "relax.split": _split,
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
