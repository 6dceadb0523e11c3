"""The engine of the passes that walk through a block once, from the front to the back.

Such a pass gives variables another form: the bytes of a dequantized tensor, the channels-last twin of an image.  Rules
compute the forms of results from those of operands.  A variable itself is bound only if something still needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import tvm
from tvm import relax

from selector.graph.ir import Bindings, Emitter, Expr, Graph, Var, is_dataflow_var, op_name, rewrite, used_vars

Form = TypeVar("Form")
Rule = Callable[[Any, Var, Expr], bool]  # (walk, variable, its value); False: does not apply, nothing was emitted
TUPLE_ITEM = "element of a tuple"  # key of the rule for what is no call


class Forward(Generic[Form]):
    """One walk through one dataflow block."""

    def __init__(self, bindings: Bindings) -> None:
        self.graph = Graph(bindings)
        self.out = Emitter()
        self.missing: dict[Var, Expr] = {}  # variables not bound yet -> their value
        self._bindings = bindings
        self._forms: dict[Var, Form] = {}

    def run(self, rules: Mapping[str, Rule]) -> Bindings:
        """Bindings of the rewritten block."""
        for binding in self._bindings:
            item = isinstance(binding.value, relax.TupleGetItem)
            rule = rules.get(TUPLE_ITEM if item else op_name(binding.value) or "")
            if rule is None or not rule(self, binding.var, binding.value):
                self._bind(binding.var, binding.value)
            if not is_dataflow_var(binding.var):
                self.original(binding.var)
        return self.out.bindings

    def form(self, expr: Expr) -> Form | None:
        """The other form of a tensor; None if it has none."""
        return self._forms.get(expr) if isinstance(expr, tvm.ir.Var) else None

    def original(self, expr: Expr) -> Expr:
        """``expr``, bound if it is a variable that was not yet."""
        value = self.missing.pop(expr, None) if isinstance(expr, tvm.ir.Var) else None
        if value is not None:
            self._bind(expr, value)
        return expr

    def known(self, var: Var, form: Form, value: Expr) -> bool:
        """Record the other form of ``var``, and ``value``: what it is itself, in terms of that form or of others."""
        self.give(var, form)
        self.missing[var] = value
        return True

    def give(self, var: Var, form: Form) -> None:
        """Record the other form of a variable that is bound already."""
        self._forms[var] = form

    def plain(self, var: Var, value: Expr) -> bool:
        """Bind ``var`` itself to ``value``, which reads forms only."""
        self.out.bind(var, self.out.typed(value))
        return True

    def _bind(self, var: Var, value: Expr) -> None:
        for used in used_vars(value):
            self.original(used)
        self.plain(var, value)


def forward(mod: tvm.IRModule, rules: Mapping[str, Rule]) -> tvm.IRModule:
    """Walk through every dataflow block."""
    return rewrite(mod, lambda bindings: Forward(bindings).run(rules))
