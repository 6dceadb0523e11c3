"""Gives operators on 8-bit data their own kernels, by the rules that each has in ``selector.graph.ops``.

Runs after the layout pass; what is not channels last stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping

import tvm
from tvm import relax

from selector.graph.ir import Bindings, Emitter, Expr, Var, op_name, rewrite, static_shape
from selector.graph.ops import OPERATORS
from selector.graph.ops.base import Block, Found


def fuse_kernels(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rules of all operators to every dataflow block."""

    def block_pass(bindings: Bindings) -> Bindings:
        block = Block(bindings)
        matches = [_match(block, binding.var, binding.value) for binding in bindings]
        found = {match.var: match for match in matches if match is not None}
        return _rebound(bindings, found) if found else bindings

    return rewrite(mod, block_pass)


def _match(block: Block, var: Var, value: Expr) -> Found | None:
    """What the first rule that applies finds."""
    name = op_name(value) or ""
    rules = (operator.rules[name] for operator in OPERATORS if name in operator.rules)
    return next((found for rule in rules if (found := rule(block, var, value)) is not None), None)


def _rebound(bindings: Bindings, found: Mapping[Var, Found]) -> Bindings:
    out = Emitter()
    elements: dict[Var, Expr] = {}
    for binding in bindings:
        one = found.get(binding.var)
        if binding.var in elements:
            out.bind(binding.var, elements[binding.var])
        elif one is None:
            out.bindings.append(binding)
        elif one.slices:
            parts = out.emit(one.value)
            elements |= {var: relax.TupleGetItem(parts, index) for index, var in enumerate(one.slices)}
        elif static_shape(typed := out.typed(one.value)) == static_shape(binding.var):
            out.bind(binding.var, typed)
        else:
            out.bind(binding.var, out.typed(relax.op.reshape(out.emit(typed), static_shape(binding.var))))
    return out.bindings
