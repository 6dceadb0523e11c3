"""What an operator on 8-bit data is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import relax, tirx

from selector.graph.ir import Bindings, Expr, Graph, Var
from selector.graph.ops.functions import Functions
from selector.graph.quantization import Params
from selector.target import TargetProfile


@dataclass(frozen=True)
class Found:
    """A variable that such an operator computes."""

    var: Var
    value: Expr  # up to a reshape; with slices a tuple, and ``var`` is not needed any more
    slices: Sequence[Var] = ()  # what to redefine as the elements of the tuple


class Block:
    """What rules ask about the dataflow block that they look at."""

    def __init__(self, bindings: Bindings) -> None:
        self.graph = Graph(bindings)
        self.functions = Functions(bindings)


Rule = Callable[[Block, Var, Expr], Found | None]  # (block, variable, its value); None: the rule does not apply


@dataclass(frozen=True)
class Operator:
    """A Relax operator with a kernel of its own."""

    name: str
    infer_type: Callable[[Expr], Any]  # type of a call's result
    kernel: Callable[[Expr, TargetProfile, int], tirx.PrimFunc]  # (call, target, threads); outputs last, flat buffers
    rules: Mapping[str, Rule] = field(default_factory=dict)  # operator that a pattern ends with -> matching rule


def call(name: str, args: Sequence[Expr], **attrs: Any) -> Expr:
    """A call of one of these operators; ``Params`` and sequences of them are encoded as ``params_in`` reads them."""
    encoded: dict[str, Any] = {}
    for key, value in attrs.items():
        params = [value] if isinstance(value, Params) else value
        if isinstance(params, list | tuple) and params and isinstance(params[0], Params):
            encoded[f"{key}_scales"] = [param.scale for param in params]
            encoded[f"{key}_zero_points"] = [param.zero_point for param in params]
            encoded[f"{key}_dtypes"] = [param.dtype for param in params]
        else:
            encoded[key] = list(value) if isinstance(value, tuple) else value
    return tvm.ir.Call(
        tvm.ir.Op.get(name), list(args), tvm.ir.make_node("ir.DictAttrs", **encoded) if encoded else None
    )


def params_in(call: Expr, key: str) -> list[Params]:
    """Quantization parameters that ``call`` was made with; none if it was made with an empty list of them."""
    if call.attrs.get(f"{key}_dtypes") is None:
        return []
    fields = (call.attrs[f"{key}_{name}"] for name in ("scales", "zero_points", "dtypes"))
    return [Params(float(scale), int(zero), str(dtype)) for scale, zero, dtype in zip(*fields, strict=True)]


def tensor(shape: Sequence[int], dtype: str) -> Any:
    """The type of a tensor."""
    return relax.TensorType(list(shape), dtype)
