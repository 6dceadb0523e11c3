"""Moving data as the 8-bit integers it is.

    f(dequantize(q))                                 ->  dequantize(f(q))     f only moves elements, or takes maxima
    argmax(dequantize(q))                            ->  argmax(q)
    quantize(dequantize(q))                          ->  q                    equal parameters
    quantize(concat(dequantize(a), dequantize(b)))   ->  concat(a', b')       requantized where parameters differ

A dequantized tensor is remembered, and computed only if something needs its float values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from selector.graph.constants import prim_value
from selector.graph.ir import Expr, Var, constant, op_name
from selector.graph.passes.forward import TUPLE_ITEM, Forward, Rule, forward
from selector.graph.quantization import DEQUANTIZE, QUANTIZE, Params, params_of

# operators that commute with a positive scale and an offset, their data being the first operand
MOVING = frozenset(
    f"relax.{name}"
    for name in (
        "reshape permute_dims strided_slice expand_dims squeeze flatten nn.batch_flatten nn.max_pool2d take tile flip "
        "repeat broadcast_to nn.max_pool1d nn.max_pool3d max min gather_elements gather_nd nn.pixel_shuffle"
    ).split()
)


@dataclass(frozen=True)
class Quantized:
    """An 8-bit tensor, or a tuple of them, and what it means."""

    value: Expr
    params: Params


Walk = Forward[Quantized]


def keep_integer(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rules above to every dataflow block."""
    return forward(mod, _RULES)


def _known(walk: Walk, var: Var, form: Quantized) -> bool:
    return walk.known(var, form, form.params.dequantize(form.value))


def _requantized(walk: Walk, expr: Expr, params: Params) -> Expr:
    """``quantize(expr)`` with ``params``, without arithmetic where it already is that."""
    source = walk.form(expr)
    if source is not None and source.params == params:
        return source.value
    wide = walk.original(expr) if source is None else walk.out.emit(source.params.dequantize(source.value))
    return walk.out.emit(params.quantize(wide))


def _dequantize(walk: Walk, var: Var, call: Expr) -> bool:
    params = params_of(call)
    if params is None or not isinstance(call.args[0], tvm.ir.Var):
        return False
    return _known(walk, var, Quantized(call.args[0], params))


def _moving(walk: Walk, var: Var, call: Expr) -> bool:
    source = walk.form(call.args[0])
    if source is None:
        return False
    moved = walk.out.emit(tvm.ir.Call(call.op, [source.value, *call.args[1:]], call.attrs))
    return _known(walk, var, replace(source, value=moved))


def _relu(walk: Walk, var: Var, call: Expr) -> bool:
    source = walk.form(call.args[0])
    if source is None:
        return False
    zero = relax.const(np.asarray(source.params.zero_point, source.params.dtype))
    return _known(walk, var, replace(source, value=walk.out.emit(relax.op.maximum(source.value, zero))))


def _larger_or_smaller(walk: Walk, var: Var, call: Expr) -> bool:
    """Maximum or minimum of two tensors of equal parameters, or of one and constants that are levels of it."""
    forms = [walk.form(arg) for arg in call.args]
    known = [form for form in forms if form is not None]
    if not known or any(form.params != known[0].params for form in known):
        return False
    bound = math.inf if op_name(call) == "relax.minimum" else -math.inf  # beyond the levels it binds nothing
    operands = [
        _as_levels(arg, known[0].params, bound) if form is None else form.value
        for arg, form in zip(call.args, forms, strict=True)
    ]
    if any(operand is None for operand in operands):
        return False
    return _known(walk, var, replace(known[0], value=walk.out.emit(tvm.ir.Call(call.op, operands, call.attrs))))


def _clip(walk: Walk, var: Var, call: Expr) -> bool:
    source = walk.form(call.args[0])
    if source is None:
        return False
    bounds = (relax.const(np.float32(prim_value(arg))) for arg in call.args[1:3])
    low, high = (
        _as_levels(bound, source.params, side) for bound, side in zip(bounds, (-math.inf, math.inf), strict=True)
    )
    if low is None or high is None:
        return False
    floored = walk.out.emit(relax.op.maximum(source.value, low))
    return _known(walk, var, replace(source, value=walk.out.emit(relax.op.minimum(floored, high))))


def _as_levels(expr: Expr, params: Params, towards: float = 0) -> Expr | None:
    """A float32 constant as 8-bit levels; None where it lies between them, or outside of their range.

    Outside in the direction of ``towards``, plus or minus infinity, it becomes the last level.
    """
    value = constant(expr)
    if value is None:
        return None
    levels = params.levels(value)
    outside = (levels == np.iinfo(params.dtype).max) if towards > 0 else (levels == np.iinfo(params.dtype).min)
    met = (levels - np.float32(params.zero_point)) * np.float32(params.scale)
    fits = (met == value) | (outside & ((value - met) * np.sign(towards) > 0))
    return relax.const(levels.astype(params.dtype)) if fits.all() else None


def _index_of_extreme(walk: Walk, var: Var, call: Expr) -> bool:
    source = walk.form(call.args[0])
    return source is not None and walk.plain(var, tvm.ir.Call(call.op, [source.value], call.attrs))


def _pad(walk: Walk, var: Var, call: Expr) -> bool:
    source = walk.form(call.args[0])
    if source is None:
        return False
    level = float(source.params.zero_point)
    if str(call.attrs.pad_mode) == "constant":
        value = _as_levels(relax.const(np.float32(call.attrs.pad_value)), source.params)
        if value is None:
            return False
        level = float(value.value.numpy())
    width = [int(value) for value in call.attrs.pad_width]
    padded = relax.op.nn.pad(source.value, width, str(call.attrs.pad_mode), level)
    return _known(walk, var, replace(source, value=walk.out.emit(padded)))


def _resize(walk: Walk, var: Var, call: Expr) -> bool:
    attrs = call.attrs
    if str(attrs.method) != "nearest_neighbor" or str(attrs.coordinate_transformation_mode) == "tf_crop_and_resize":
        return False
    return _moving(walk, var, call)


def _split(walk: Walk, var: Var, call: Expr) -> bool:
    source = walk.form(call.args[0])
    if source is None:
        return False
    parts = walk.out.emit(tvm.ir.Call(call.op, [source.value], call.attrs))
    return walk.known(var, replace(source, value=parts), call)


def _tuple_item(walk: Walk, var: Var, item: Expr) -> bool:
    parts = walk.form(item.tuple_value)
    if parts is None:
        return False
    return _known(walk, var, replace(parts, value=walk.out.emit(relax.TupleGetItem(parts.value, item.index))))


def _concat(walk: Walk, var: Var, call: Expr) -> bool:
    if not isinstance(call.args[0], relax.Tuple):
        return False
    sources = [walk.form(part) for part in call.args[0].fields]
    known = [source for source in sources if source is not None]
    if len(known) == len(sources) and len({source.params for source in known}) == 1:
        return _known(walk, var, replace(known[0], value=_joined(walk, [source.value for source in known], call)))
    walk.missing[var] = call  # decided when its quantize is met
    return True


def _joined(walk: Walk, parts: Sequence[Expr], concat: Expr) -> Expr:
    return walk.out.emit(tvm.ir.Call(concat.op, [relax.Tuple(parts)], concat.attrs))


def _quantize(walk: Walk, var: Var, call: Expr) -> bool:
    params, data = params_of(call), call.args[0]
    if params is None or not isinstance(data, tvm.ir.Var):
        return False
    source = walk.form(data)
    if source is not None and source.params == params:
        return walk.plain(var, source.value)
    pending = walk.missing.get(data)
    if pending is not None and op_name(pending) == "relax.concat" and walk.graph.only_user(data) is not None:
        parts = [_requantized(walk, part, params) for part in pending.args[0].fields]
        return walk.plain(var, _joined(walk, parts, pending))
    return False


_RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVING, _moving),
    DEQUANTIZE: _dequantize,
    QUANTIZE: _quantize,
    "relax.concat": _concat,
    "relax.split": _split,
    TUPLE_ITEM: _tuple_item,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
    "relax.nn.relu": _relu,
    "relax.maximum": _larger_or_smaller,
    "relax.minimum": _larger_or_smaller,
    "relax.clip": _clip,
    "relax.argmax": _index_of_extreme,
    "relax.argmin": _index_of_extreme,
}
