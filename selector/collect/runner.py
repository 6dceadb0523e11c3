"""Building both lowerings of a workload and timing them against each other in one process."""

from __future__ import annotations

import math
from collections.abc import Callable

import tvm

from selector.bench import Comparison, Contender, interleave
from selector.collect.synthetic import synthesize
from selector.lowering import LOWERINGS, build
from selector.lowering.pipeline import compile_kernel
from selector.target import TargetProfile
from selector.workload import ConvWorkload


def measure(workload: ConvWorkload, target: TargetProfile, *, max_seconds: float = 1.0) -> Comparison:
    """Time every lowering of a workload, interleaved; contenders are named after the lowerings.

    The target has to be one that this machine can execute.  Raises what building a kernel raises.
    """
    constants, data = synthesize(workload)
    contenders = []
    for name in LOWERINGS:
        kernel = build(workload, constants, target, name)
        function = compile_kernel(kernel, target.tvm_target())[kernel.name]
        size = workload.batch * workload.out_height * workload.out_width * workload.out_channels
        arguments = [tvm.runtime.tensor(data.reshape(-1)), *map(tvm.runtime.tensor, kernel.constants)]
        out = tvm.runtime.empty((size,), workload.out_dtype)
        contenders.append(Contender(name, _caller(function, [*arguments, out])))
    return interleave(contenders, max_seconds=max_seconds, sample_ms=1.0, precision=0.01)


def log2_ratio(comparison: Comparison) -> float:
    """log2(t_int16 / t_int8): above zero int8 is faster."""
    return math.log2(comparison.ratio("int16", "int8").median)


def _caller(function: tvm.runtime.Module, arguments: list[tvm.runtime.Tensor]) -> Callable[[], object]:
    return lambda: function(*arguments)
