"""Reading and rebuilding Relax dataflow blocks.

Passes work on plain lists of bindings.  A rewrite gives a variable a new value and keeps the variable, so nothing has
to be renamed; what is no longer used is dropped at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tvm
from tvm import relax

Expr = Any  # relax expressions have no useful static types in Python
Var = Any
Bindings = list[Any]


def op_name(expr: Expr) -> str | None:
    """``"relax.add"`` for a call of that operator, None for anything else."""
    if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op):
        return str(expr.op.name)
    return None


def constant(expr: Expr) -> np.ndarray | None:
    """The value of a Relax constant, None for anything else."""
    if isinstance(expr, tvm.ir.GenericConst):
        return np.asarray(expr.value.numpy())
    return None


def scalar(expr: Expr) -> float | int | None:
    """The value of a constant with one element, None for anything else."""
    value = constant(expr)
    return value.item() if value is not None and value.size == 1 else None


def static_shape(expr: Expr) -> tuple[int, ...] | None:
    """Shape of a tensor, None if it is no tensor, of unknown rank, or has a symbolic dimension."""
    shape = getattr(getattr(expr, "ty", None), "shape", None)
    if not isinstance(shape, relax.ShapeExpr):
        return None
    dims = [dim.value for dim in shape.values if isinstance(dim, tvm.tirx.IntImm)]
    return tuple(dims) if len(dims) == len(shape.values) else None


def dtype_of(expr: Expr) -> str | None:
    """Element type of a tensor, e.g. ``"uint8"``; None if it is no tensor or unknown."""
    dtype = getattr(getattr(expr, "ty", None), "dtype", None)
    return None if dtype is None else str(dtype)


def ints(values: Any) -> tuple[int, ...]:
    """Python integers of an attribute array."""
    return tuple(int(value) for value in values)


def is_dataflow_var(var: Var) -> bool:
    """Whether the variable is invisible outside its dataflow block."""
    return isinstance(var, relax.DataflowVar)


def used_vars(expr: Expr) -> Iterator[Var]:
    """Variables that an expression reads, one by one for each place."""
    if isinstance(expr, tvm.ir.Var):
        yield expr
    elif isinstance(expr, tvm.ir.Call):
        for arg in expr.args:
            yield from used_vars(arg)
    elif isinstance(expr, relax.Tuple):
        for field in expr.fields:
            yield from used_vars(field)
    elif isinstance(expr, relax.TupleGetItem):
        yield from used_vars(expr.tuple_value)
    elif not isinstance(expr, tvm.ir.GenericConst | relax.ShapeExpr):
        found: list[Var] = []
        relax.analysis.post_order_visit(expr, lambda e: found.append(e) if isinstance(e, tvm.ir.Var) else None)
        yield from found


def register(name: str, infer_type: Callable[[Expr], Any]) -> None:
    """Make a pure Relax operator known to TVM: ``infer_type`` gives the type of a call of it."""
    try:
        tvm.ir.Op.get(name)
    except Exception:  # tvm raises an internal error for an unknown name
        tvm.get_global_func("ir.RegisterOp")(name, "Operator on quantized data (Selector).")
        op = tvm.ir.Op.get(name)
        op.set_attr("FInferType", lambda call, _builder: infer_type(call))
        op.set_attr("FPurity", True)


class Graph:
    """Definitions and uses inside one dataflow block."""

    def __init__(self, bindings: Bindings) -> None:
        self.definition: dict[Var, Expr] = {}
        self.users: dict[Var, list[Any]] = {}
        for binding in bindings:
            self.definition[binding.var] = binding.value
            for var in used_vars(binding.value):
                self.users.setdefault(var, []).append(binding)

    def value(self, expr: Expr) -> Expr:
        """What a variable of this block stands for; anything else is returned as it is."""
        while isinstance(expr, tvm.ir.Var) and expr in self.definition:
            expr = self.definition[expr]
        return expr

    def only_user(self, var: Var) -> Any | None:
        """The one binding that reads ``var`` in one place; None if there are more, or if the block exports it."""
        users = self.users.get(var, [])
        return users[0] if len(users) == 1 and is_dataflow_var(var) else None


class Emitter:
    """Collects the bindings of a rewritten block."""

    def __init__(self) -> None:
        self.bindings: Bindings = []
        self._builder = relax.BlockBuilder()
        self._count = 0

    def typed(self, value: Expr) -> Expr:
        """``value`` with its type inferred."""
        return self._builder.normalize(value)

    def bind(self, var: Var, value: Expr) -> None:
        """``var = value``; ``var`` keeps its own type."""
        self.bindings.append(relax.VarBinding(var, value))

    def emit(self, value: Expr, hint: str = "lv") -> Var:
        """A new dataflow variable bound to ``value``; a variable is returned as it is."""
        value = self.typed(value)
        if isinstance(value, tvm.ir.Var):
            return value
        self._count += 1
        var = relax.DataflowVar(f"{hint}_{self._count}", value.ty)
        self.bind(var, value)
        return var


def rewrite(mod: tvm.IRModule, block_pass: Callable[[Bindings], Bindings]) -> tvm.IRModule:
    """Apply ``block_pass`` to every dataflow block of every Relax function, then drop dead bindings."""
    updates = {}
    for gvar, func in mod.functions.items():
        if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
            continue
        blocks = []
        changed = False
        for block in func.body.blocks:
            if isinstance(block, relax.DataflowBlock):
                old = list(block.bindings)
                new = block_pass(old)
                if new is not old:
                    changed = True
                    block = relax.DataflowBlock(new)
            blocks.append(block)
        if changed:
            body = relax.SeqExpr(blocks, func.body.body)
            updates[gvar] = relax.Function(func.params, body, func.ret_ty, func.is_pure, func.attrs, func.span)
    if not updates:
        return mod
    # a new module: passes must not change the one they were given
    functions = {gvar: updates.get(gvar, func) for gvar, func in mod.functions.items()}
    out = tvm.IRModule(functions, attrs=mod.attrs, global_infos=mod.global_infos)
    return relax.transform.DeadCodeElimination()(out)
