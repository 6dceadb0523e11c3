"""The int8 lowering: 8-bit operands stay 8-bit; zero points become correction terms (see ``operands``)."""

from __future__ import annotations

from types import ModuleType

from selector.lowering import conv, depthwise, dot, tiling
from selector.lowering.kernel import Kernel
from selector.lowering.operands import Operands, make_operands
from selector.target import TargetProfile
from selector.weights import WeightFacts, signed_offset, weight_facts
from selector.workload import ConvConstants, ConvWorkload, UnsupportedWorkload


def build(
    name: str, workload: ConvWorkload, constants: ConvConstants, target: TargetProfile, planned: ConvWorkload
) -> Kernel:
    """Kernel of the int8 lowering, on the fastest dot instruction that the weights prove exact.

    ``planned``: what its constants are packed for, see ``selector.lowering.build``.
    """
    facts = weight_facts(
        constants.weight,
        constants.weight_zero_point,
        groups=workload.groups,
        dilation_width=workload.dilation[1],
    )
    row, template = choose(planned, facts, target)
    operands = _operands(workload, constants, row)
    return template.build(f"{name}__{template.NAME}_{row.name}", workload, constants, operands, row, target, planned)


def choose(workload: ConvWorkload, facts: WeightFacts, target: TargetProfile) -> tuple[dot.Dot, ModuleType]:
    """The dot instruction and the template module for weights of which ``facts`` are true.

    Raises UnsupportedWorkload for 16-bit data.
    """
    if workload.has_16bit_data:
        raise UnsupportedWorkload("the int8 lowering takes 8-bit data only")
    template = depthwise if depthwise.takes(workload) else conv
    rows = [row for row in dot.candidates(target, "int8", template.MAX_DOT_GROUPS) if row.safe(facts)]
    if template is depthwise:
        return depthwise.choose(workload, rows), depthwise
    # Of equals, the one that takes the data as it is.
    row = max(rows, key=lambda row: (row.rate(), row.data_dtype == workload.data_dtype))
    return tiling.divide(workload, row, target), conv


def _operands(workload: ConvWorkload, constants: ConvConstants, row: dot.Dot) -> Operands:
    shifts = {("int8", "uint8"): 128, ("uint8", "int8"): -128}
    return make_operands(
        workload,
        constants,
        data_dtype=row.data_dtype,
        data_offset=shifts.get((workload.data_dtype, row.data_dtype), 0),
        weight_dtype="int8",
        weight_offset=signed_offset(constants.weight, constants.weight_zero_point),
    )
