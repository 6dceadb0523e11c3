"""Holding a compiled network against independent references on random input.

The references compute the float graph between quantize and dequantize: TVM's default pipeline on the network as
imported, and, where they are installed, ONNX Runtime with graph optimizations off, or LiteRT.
Accumulators of Selector are exact; what may differ is the rounding of single values at ties, by one quantization step,
and what later layers make of that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector.graph.ir import Expr, Var, dtype_of, op_name, scalar
from selector.graph.quantization import DEQUANTIZE
from selector.graph.variants import inputs_of
from selector.peers import Runner
from selector.tensors import random_inputs

TOLERANCE_STEPS = 8  # largest difference that passes, in quantization steps of the output
TOLERANCE_RANGE = 0.05  # the same where the output has no step, as a share of the reference's largest magnitude

_SAME_VALUES = ("relax.reshape", "relax.flatten", "relax.squeeze", "relax.expand_dims", "relax.permute_dims")


@dataclass(frozen=True)
class Reference:
    """What a network is held against."""

    run: Runner
    also: Runner | None = None  # computes the same in another way, and is right as well


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output of the compiled network is from one reference, over all the inputs that were tried."""

    output: int  # position in the model's outputs
    reference: str
    largest: float  # in the output's own unit
    tolerance: float  # in the same unit
    step: float | None  # of the output's quantization, in the same unit; None: the output is not dequantized
    top1_agrees: float | None  # share of inputs with the same best score, ties within a step; None: no scores

    @property
    def steps(self) -> float | None:
        """Largest difference in quantization steps."""
        return None if self.step is None else self.largest / self.step

    @property
    def passed(self) -> bool:
        """Whether the difference is what rounding explains; a NaN does not pass."""
        return self.largest <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"steps": self.steps, "passed": self.passed}


def verify(
    module: tvm.IRModule,
    compiled: Runner,
    references: Mapping[str, Reference],
    *,
    inputs: int = 2,
    seed: int = 0,
) -> list[Difference]:
    """Largest difference of every output to every reference, over ``inputs`` random inputs.

    ``module`` is the network as imported; it gives the input shapes and the quantization step of the outputs.
    A difference passes up to TOLERANCE_STEPS quantization steps of the output, or TOLERANCE_RANGE of the reference's
    largest magnitude where the output has no step.  That is far above what rounding leaves, and far below what a wrong
    kernel does.  In deep networks, and behind a selection of boxes, rounding may become more: as far as a reference is
    from another one that is right.
    """
    specs, steps = inputs_of(module), output_steps(module)
    feeds = [random_inputs(specs, seed + index) for index in range(inputs)]
    mine = [compiled(feed) for feed in feeds]
    differences = []
    for name, reference in references.items():
        theirs = [reference.run(feed) for feed in feeds]
        others = theirs if reference.also is None else [reference.also(feed) for feed in feeds]
        for output, step in enumerate(steps):
            apart = max(_largest(a[output], b[output]) for a, b in zip(theirs, others, strict=True))
            pairs = [(a[output], b[output]) for a, b in zip(mine, theirs, strict=True)]
            differences.append(_difference(output, name, step, apart, pairs))
    return differences


def output_steps(module: tvm.IRModule) -> list[float | None]:
    """Quantization step of each output: the scale of the dequantize it comes from, 1 for an integer output."""
    main = module["main"]
    values = {binding.var: binding.value for block in main.body.blocks for binding in block.bindings}
    result = _definition(main.body.body, values)
    fields = list(result.fields) if isinstance(result, relax.Tuple) else [main.body.body]
    return [_step(field, values) for field in fields]


def _definition(expr: Expr, values: Mapping[Var, Expr]) -> Expr:
    """What a variable stands for, through aliases and operators that only move values."""
    while True:
        if isinstance(expr, tvm.ir.Var) and expr in values:
            expr = values[expr]
        elif op_name(expr) in _SAME_VALUES:
            expr = expr.args[0]
        else:
            return expr


def _step(expr: Expr, values: Mapping[Var, Expr]) -> float | None:
    if np.dtype(dtype_of(expr)).kind in "iu":
        return 1.0
    expr = _definition(expr, values)
    scale = scalar(_definition(expr.args[1], values)) if op_name(expr) == DEQUANTIZE else None
    return None if scale is None else float(scale)


def _largest(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one.astype(np.float64) - other.astype(np.float64)).max(initial=0.0))


def _difference(
    output: int, reference: str, step: float | None, apart: float, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Difference:
    wide = [(mine.astype(np.float64), theirs.astype(np.float64)) for mine, theirs in pairs]
    largest = max(_largest(mine, theirs) for mine, theirs in wide)
    magnitude = max(float(np.abs(theirs).max(initial=0.0)) for _, theirs in wide)
    is_scores = wide[0][1].ndim == 2 and wide[0][1].shape[1] > 1
    top1 = [_same_best(mine, theirs, step or 0.0) for mine, theirs in wide] if is_scores else []
    return Difference(
        output=output,
        reference=reference,
        largest=largest,
        tolerance=max(TOLERANCE_RANGE * magnitude if step is None else TOLERANCE_STEPS * step, apart),
        step=step,
        top1_agrees=float(np.mean(top1)) if is_scores else None,
    )


def _same_best(mine: np.ndarray, theirs: np.ndarray, step: float) -> float:
    """Share of rows whose best element in ``mine`` is, in ``theirs``, at most a step below the best."""
    chosen = np.take_along_axis(theirs, mine.argmax(1)[:, None], axis=1)[:, 0]
    return float(np.mean(chosen >= theirs.max(1) - 1.001 * step))
