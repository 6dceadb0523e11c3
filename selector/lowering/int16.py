"""The int16 lowering: both zero points are subtracted first, then one int16 convolution without terms."""

from __future__ import annotations

from selector.lowering import conv, depthwise, dot, winograd
from selector.lowering.kernel import Kernel
from selector.lowering.operands import make_operands
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload


def build(name: str, workload: ConvWorkload, constants: ConvConstants, target: TargetProfile) -> Kernel:
    """Kernel of the int16 lowering."""
    operands = make_operands(
        workload,
        constants,
        data_dtype="int16",
        data_offset=-workload.data_zero_point,
        weight_dtype="int16",
        weight_offset=constants.weight_zero_point.astype("int64"),
    )
    rows = dot.candidates(target, "int16")
    row = rows[0]
    scheme = _best_scheme(workload, constants, row, target)
    if scheme is not None:
        full = f"{name}__winograd{scheme.size}_{row.name}"
        return winograd.build(full, scheme, workload, constants, operands, row, target)
    template = depthwise if depthwise.takes(workload) else conv
    if template is depthwise:
        row = next(row for row in rows if depthwise.fits(workload, row))
    return template.build(f"{name}__{template.NAME}_{row.name}", workload, constants, operands, row, target)


def _best_scheme(
    workload: ConvWorkload, constants: ConvConstants, row: dot.Dot, target: TargetProfile
) -> winograd.Scheme | None:
    """The Winograd scheme that the model expects to be fastest; None: the direct template is."""
    costs = {scheme: winograd.cost(scheme, workload, row, target) for scheme in winograd.schemes(workload, constants)}
    best = min(costs, key=lambda scheme: costs[scheme], default=None)
    if best is None or costs[best] >= conv.cost(workload, row, target):
        return None
    return best
