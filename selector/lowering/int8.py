"""The int8 lowering: 8-bit operands stay 8-bit; zero points become correction terms (see ``operands``)."""

from __future__ import annotations

import functools

import numpy as np

from selector.lowering import conv, depthwise, dot
from selector.lowering.kernel import Kernel
from selector.lowering.operands import Operands, WeightBounds, byte_weight_offset, make_operands, weight_bounds
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload


def build(name: str, workload: ConvWorkload, constants: ConvConstants, target: TargetProfile) -> Kernel:
    """Kernel of the int8 lowering, on the fastest dot instruction that the weights prove exact."""
    weight_offset = byte_weight_offset(constants)
    signed = constants.weight.astype(np.int64) - weight_offset.reshape(-1, 1, 1, 1)
    template = depthwise if depthwise.takes(workload) else conv

    @functools.cache
    def bounds(depth: int) -> WeightBounds:
        return weight_bounds(template.reduction_order(signed, workload, depth))

    rows = (row for row in dot.candidates(target, "int8") if row.groups <= template.MAX_DOT_GROUPS)
    row = next(row for row in rows if row.safe(bounds(row.depth)))
    operands = _operands(workload, constants, row, weight_offset)
    return template.build(f"{name}__{template.NAME}_{row.name}", workload, constants, operands, row, target)


def _operands(workload: ConvWorkload, constants: ConvConstants, row: dot.Dot, weight_offset: np.ndarray) -> Operands:
    shifts = {("int8", "uint8"): 128, ("uint8", "int8"): -128}
    return make_operands(
        workload,
        constants,
        data_dtype=row.data_dtype,
        data_offset=shifts.get((workload.data_dtype, row.data_dtype), 0),
        weight_dtype="int8",
        weight_offset=weight_offset,
    )
