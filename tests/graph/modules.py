"""Relax modules for the graph tests, and a compact view of what passes make of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax

import selector.graph.pipeline  # noqa: F401  # makes the operators known to TVM
from selector.graph.ir import op_name

Expr = Any


def module(inputs: Sequence[tuple[Sequence[int], str]], build: Callable[..., Expr]) -> tvm.IRModule:
    """A module whose ``main`` computes ``build(emit, *inputs)`` in one dataflow block; ``build`` may return a tuple."""
    builder = relax.BlockBuilder()
    params = [relax.Var(f"x{index}", relax.TensorType(shape, dtype)) for index, (shape, dtype) in enumerate(inputs)]
    with builder.function("main", params):
        with builder.dataflow():
            result = build(builder.emit, *params)
            outputs = result if isinstance(result, tuple) else (result,)
            outputs = tuple(builder.emit_output(builder.emit(output)) for output in outputs)
        builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
    return relax.transform.CanonicalizeBindings()(builder.get())


def quantize(x: Expr, scale: float = 0.1, zero_point: int = 3, dtype: str = "uint8") -> Expr:
    """Per-tensor ``relax.quantize``."""
    return relax.op.quantize(
        x, relax.const(np.float32(scale)), relax.const(np.asarray(zero_point, dtype)), out_dtype=dtype
    )


def dequantize(x: Expr, scale: float = 0.1, zero_point: int = 3, dtype: str = "uint8") -> Expr:
    """Per-tensor ``relax.dequantize``."""
    return relax.op.dequantize(x, relax.const(np.float32(scale)), relax.const(np.asarray(zero_point, dtype)))


def weight(shape: Sequence[int], scale: Any = 0.02, zero_point: Any = 0, axis: int = 0, dtype: str = "int8") -> Expr:
    """A dequantized random weight; arrays of scales or zero points run along ``axis``."""
    info = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(info.min, info.max + 1, shape).astype(dtype)
    return relax.op.dequantize(
        relax.const(values),
        relax.const(np.asarray(scale, "float32")),
        relax.const(np.asarray(zero_point, dtype)),
        axis=axis,
    )


def calls(mod: tvm.IRModule) -> list[Expr]:
    """Calls of operators in ``main``, in order."""
    values = [binding.value for block in mod["main"].body.blocks for binding in block.bindings]
    return [value for value in values if op_name(value) is not None]


def operators(mod: tvm.IRModule) -> list[str]:
    """Names of the operators that ``main`` calls, in order, without the prefix ``relax.``."""
    return [str(op_name(call)).removeprefix("relax.") for call in calls(mod)]


def run(mod: tvm.IRModule, *inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs of a module compiled by TVM's default pipeline."""
    vm = relax.VirtualMachine(tvm.compile(mod, target="llvm"), tvm.cpu())
    result = vm["main"](*(tvm.runtime.tensor(value) for value in inputs))
    return [value.numpy() for value in ([result] if hasattr(result, "numpy") else result)]
