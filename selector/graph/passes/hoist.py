"""Quantizing before data is moved, so that 8-bit data is moved, and so that a layer ends where it is computed.

    quantize(f(move(x)))                    ->  move(quantize(f(x)))   f: activations; they commute with moves
    quantize(f(dequantize(quantize(x))))    ->  quantize(f(x))         equal parameters: quantizing is monotone, so that
                                                                       clipping may come before or after it

The layer that computes ``x`` then has its activation and its quantize right behind it.  Going backward from every
quantize, as long as nothing else reads what lies between.
"""

from __future__ import annotations

from dataclasses import dataclass

import tvm

from selector.graph.constants import activation
from selector.graph.ir import Bindings, Emitter, Expr, Graph, Var, dtype_of, op_name, rewrite
from selector.graph.passes.integer import MOVING
from selector.graph.quantization import DEQUANTIZE, QUANTIZE, Params, params_of


@dataclass(frozen=True)
class _Chain:
    """What lies between a tensor and its quantize."""

    source: Expr
    moves: tuple[Expr, ...]  # calls, the first to be applied first
    activations: tuple[Expr, ...]
    absorbed: tuple[Var, ...]  # variables that nothing else reads

    @property
    def shortens(self) -> bool:
        """Whether there is more than activations, which may stay where they are."""
        return len(self.absorbed) > len(self.activations)


def quantize_early(mod: tvm.IRModule) -> tvm.IRModule:
    """Apply the rule above to every dataflow block."""

    def block_pass(bindings: Bindings) -> Bindings:
        graph = Graph(bindings)
        chains = {
            binding.var: chain
            for binding in bindings
            if (chain := _chain(graph, binding.value)) is not None and chain.shortens
        }
        if not chains:
            return bindings
        gone = {var for chain in chains.values() for var in chain.absorbed}
        out = Emitter()
        for binding in bindings:
            if binding.var in chains:
                out.bind(binding.var, _moved(out, chains[binding.var], binding.value))
            elif binding.var not in gone:
                out.bindings.append(binding)
        return out.bindings

    return rewrite(mod, block_pass)


def _chain(graph: Graph, call: Expr) -> _Chain | None:
    """What a per-tensor quantize reads; None for anything else."""
    params = params_of(call)
    if params is None or op_name(call) != QUANTIZE:
        return None
    moves: list[Expr] = []
    activations: list[Expr] = []
    absorbed: list[Var] = []
    data = call.args[0]
    while isinstance(data, tvm.ir.Var) and data in graph.definition and graph.only_user(data) is not None:
        step = graph.definition[data]
        if op_name(step) in MOVING:
            moves.append(step)
        elif activation(graph, step) is not None and dtype_of(step) == "float32":
            activations.append(step)
        elif _quantized_alike(graph, step, params):
            absorbed.append(data)
            data = step.args[0]
            step = graph.definition[data]
        else:
            break
        absorbed.append(data)
        data = step.args[0]
    return _Chain(data, tuple(reversed(moves)), tuple(reversed(activations)), tuple(absorbed))


def _quantized_alike(graph: Graph, call: Expr, params: Params) -> bool:
    """Whether a call dequantizes the result of a quantize, both with ``params``, that nothing else reads."""
    if op_name(call) != DEQUANTIZE or not isinstance(call.args[0], tvm.ir.Var) or params_of(call) != params:
        return False
    source = graph.definition.get(call.args[0])
    return op_name(source) == QUANTIZE and params_of(source) == params and graph.only_user(call.args[0]) is not None


def _moved(out: Emitter, chain: _Chain, quantize: Expr) -> Expr:
    """The value of the quantize's variable: what is left of it moves 8-bit data."""
    value = chain.source
    steps = [*chain.activations, quantize, *chain.moves]
    for step in steps[:-1]:
        value = out.emit(_on(step, value))
    return out.typed(_on(steps[-1], value))


def _on(call: Expr, data: Expr) -> Expr:
    """The same call on other data; a per-tensor quantize has no axis to mind."""
    params = params_of(call)
    return params.quantize(data) if params is not None else tvm.ir.Call(call.op, [data, *call.args[1:]], call.attrs)
