"""Moving data as the 8-bit integers it is.

    f(dequantize(q))                                 ->  dequantize(f(q))     f only moves elements, or takes maxima
    quantize(dequantize(q))                          ->  q                    equal parameters
    quantize(concat(dequantize(a), dequantize(b)))   ->  concat(a', b')       requantized where parameters differ

One forward pass.  A dequantized tensor is remembered and computed only if something needs its float values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import relax

from selector.graph.ir import (
    Bindings,
    Emitter,
    Expr,
    Graph,
    Var,
    dtype_of,
    is_dataflow_var,
    op_name,
    rewrite,
    scalar,
    used_vars,
)
from selector.graph.kernels import Params

_8BIT = ("uint8", "int8")
# operators that commute with a positive scale and an offset, their data being the first operand
MOVING = frozenset(
    f"relax.{name}"
    for name in (
        "reshape permute_dims strided_slice expand_dims squeeze flatten nn.batch_flatten nn.max_pool2d take tile flip "
        "repeat broadcast_to"
    ).split()
)


def operands(params: Params) -> tuple[Expr, Expr]:
    """Scale and zero point as ``relax.quantize`` and ``relax.dequantize`` take them."""
    return relax.const(np.float32(params.scale)), relax.const(np.asarray(params.zero_point, params.dtype))


@dataclass(frozen=True)
class Quantized:
    """An 8-bit tensor and what it means."""

    value: Expr
    params: Params

    def dequantized(self) -> Expr:
        """The float32 tensor."""
        return relax.op.dequantize(self.value, *operands(self.params))


def params_of(call: Expr, dtype: str | None) -> Params | None:
    """Parameters of a ``relax.quantize`` or ``relax.dequantize``; None unless 8-bit, per tensor and constant."""
    scale, zero_point = scalar(call.args[1]), scalar(call.args[2])
    if scale is None or zero_point is None or dtype not in _8BIT or scale <= 0:
        return None
    return Params(float(scale), int(zero_point), str(dtype))


def keep_integer(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rules above to every dataflow block."""

    def block_pass(bindings: Bindings) -> Bindings:
        return _Block(Graph(bindings)).run(bindings)

    return rewrite(mod, block_pass)


class _Block:
    """The pass over one dataflow block."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.out = Emitter()
        self.quantized: dict[Var, Quantized] = {}  # float tensors whose 8-bit form is known
        self.missing: dict[Var, Expr] = {}  # variables not bound yet -> their value
        self.splits: dict[Var, tuple[Var, Params]] = {}  # float tuples -> the same tuple of 8-bit tensors

    def run(self, bindings: Bindings) -> Bindings:
        """Bindings of the rewritten block."""
        for binding in bindings:
            name = op_name(binding.value) or ""
            rule = _RULES.get(name, _moving if name in MOVING else None)
            if isinstance(binding.value, relax.TupleGetItem):
                rule = _tuple_item
            if rule is None or not rule(self, binding.var, binding.value):
                self.bind(binding.var, binding.value)
            if not is_dataflow_var(binding.var):
                self.float_value(binding.var)
        return self.out.bindings

    def bind(self, var: Var, value: Expr) -> None:
        """``var = value`` as it stands, with its operands computed."""
        for used in used_vars(value):
            self.float_value(used)
        self.out.bind(var, self.out.typed(value))

    def float_value(self, var: Var) -> Var:
        """``var`` with its own value, bound if it was not yet."""
        value = self.missing.pop(var, None)
        if value is not None:
            self.bind(var, value)
        return var

    def known(self, var: Var, value: Quantized) -> bool:
        """Record the 8-bit form of a float variable."""
        self.quantized[var] = value
        self.missing[var] = value.dequantized()
        return True

    def requantized(self, expr: Expr, params: Params) -> Expr:
        """``quantize(expr)`` with ``params``, without arithmetic where it already is that."""
        source = self.quantized.get(expr) if isinstance(expr, tvm.ir.Var) else None
        if source is not None and source.params == params:
            return source.value
        if source is None:
            return self.out.emit(relax.op.quantize(self._used(expr), *operands(params), out_dtype=params.dtype))
        wide = self.out.emit(source.dequantized())
        return self.out.emit(relax.op.quantize(wide, *operands(params), out_dtype=params.dtype))

    def _used(self, expr: Expr) -> Expr:
        return self.float_value(expr) if isinstance(expr, tvm.ir.Var) else expr


Rule = Callable[[_Block, Var, Expr], bool]  # False: the rule does not apply, nothing was emitted


def _source(block: _Block, expr: Expr) -> Quantized | None:
    return block.quantized.get(expr) if isinstance(expr, tvm.ir.Var) else None


def _dequantize(block: _Block, var: Var, call: Expr) -> bool:
    params = params_of(call, dtype_of(call.args[0]))
    if params is None or dtype_of(call) != "float32" or not isinstance(call.args[0], tvm.ir.Var):
        return False
    return block.known(var, Quantized(call.args[0], params))


def _moving(block: _Block, var: Var, call: Expr) -> bool:
    source = _source(block, call.args[0])
    if source is None:
        return False
    moved = block.out.emit(tvm.ir.Call(call.op, [source.value, *call.args[1:]], call.attrs))
    return block.known(var, replace(source, value=moved))


def _relu(block: _Block, var: Var, call: Expr) -> bool:
    source = _source(block, call.args[0])
    if source is None:
        return False
    zero = relax.const(np.asarray(source.params.zero_point, source.params.dtype))
    return block.known(var, replace(source, value=block.out.emit(relax.op.maximum(source.value, zero))))


def _pad(block: _Block, var: Var, call: Expr) -> bool:
    source = _source(block, call.args[0])
    if source is None:
        return False
    level = float(source.params.zero_point)
    if str(call.attrs.pad_mode) == "constant":
        value, scale = np.float32(call.attrs.pad_value), np.float32(source.params.scale)
        steps = np.rint(value / scale)
        info = np.iinfo(source.params.dtype)
        level += float(steps)
        if steps * scale != value or not info.min <= level <= info.max:
            return False
    width = [int(value) for value in call.attrs.pad_width]
    padded = relax.op.nn.pad(source.value, width, str(call.attrs.pad_mode), level)
    return block.known(var, replace(source, value=block.out.emit(padded)))


def _resize(block: _Block, var: Var, call: Expr) -> bool:
    attrs = call.attrs
    if str(attrs.method) != "nearest_neighbor" or str(attrs.coordinate_transformation_mode) == "tf_crop_and_resize":
        return False
    return _moving(block, var, call)


def _split(block: _Block, var: Var, call: Expr) -> bool:
    source = _source(block, call.args[0])
    if source is None:
        return False
    block.splits[var] = (block.out.emit(tvm.ir.Call(call.op, [source.value], call.attrs)), source.params)
    block.missing[var] = call
    return True


def _tuple_item(block: _Block, var: Var, item: Expr) -> bool:
    if item.tuple_value not in block.splits:
        return False
    parts, params = block.splits[item.tuple_value]
    return block.known(var, Quantized(block.out.emit(relax.TupleGetItem(parts, item.index)), params))


def _concat(block: _Block, var: Var, call: Expr) -> bool:
    if not isinstance(call.args[0], relax.Tuple):
        return False
    sources = [_source(block, part) for part in call.args[0].fields]
    known = [source for source in sources if source is not None]
    if len(known) == len(sources) and len({source.params for source in known}) == 1:
        return block.known(var, replace(known[0], value=_joined(block, [s.value for s in known], call)))
    # decided when its quantize is met
    block.missing[var] = call
    return True


def _joined(block: _Block, parts: Sequence[Expr], concat: Expr) -> Expr:
    return block.out.emit(tvm.ir.Call(concat.op, [relax.Tuple(parts)], concat.attrs))


def _quantize(block: _Block, var: Var, call: Expr) -> bool:
    params = params_of(call, dtype_of(call))
    data = call.args[0]
    if params is None or not isinstance(data, tvm.ir.Var):
        return False
    source = _source(block, data)
    if source is not None and source.params == params:
        block.out.bind(var, source.value)
        return True
    pending = block.missing.get(data)
    if pending is not None and op_name(pending) == "relax.concat" and block.graph.only_user(data) is not None:
        parts = [block.requantized(part, params) for part in pending.args[0].fields]
        block.out.bind(var, _joined(block, parts, pending))
        return True
    return False


_RULES: dict[str, Rule] = {
    "relax.dequantize": _dequantize,
    "relax.quantize": _quantize,
    "relax.concat": _concat,
    "relax.split": _split,
    "relax.nn.pad": _pad,
    "relax.image.resize2d": _resize,
    "relax.nn.relu": _relu,
}
