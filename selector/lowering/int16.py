"""The int16 lowering: both zero points are subtracted first, then one int16 convolution without terms."""

from __future__ import annotations

from types import ModuleType

from selector.lowering import conv, depthwise, dot, tiling, winograd
from selector.lowering.kernel import Kernel
from selector.lowering.operands import Operands, make_operands
from selector.lowering.scheme import Scheme, output_bound, schemes
from selector.target import TargetProfile
from selector.workload import ConvConstants, ConvWorkload


def build(name: str, workload: ConvWorkload, constants: ConvConstants, target: TargetProfile) -> Kernel:
    """Kernel of the int16 lowering."""
    operands = operands_of(workload, constants)
    row, template, scheme = choose(workload, output_bound(workload, constants), target)
    if scheme is not None:
        full = f"{name}__{scheme.name}_{row.name}"
        return winograd.build(full, scheme, workload, constants, operands, row, target)
    return template.build(f"{name}__{template.NAME}_{row.name}", workload, constants, operands, row, target)


def operands_of(workload: ConvWorkload, constants: ConvConstants) -> Operands:
    """Data and weights as words, both zero points subtracted."""
    return make_operands(
        workload,
        constants,
        data_dtype="int16",
        data_offset=-workload.data_zero_point,
        weight_dtype="int16",
        weight_offset=constants.weight_zero_point.astype("int64"),
    )


def choose(workload: ConvWorkload, bound: int, target: TargetProfile) -> tuple[dot.Dot, ModuleType, Scheme | None]:
    """The dot instruction, the template module and the Winograd scheme, for a |accumulator| of at most ``bound``."""
    if depthwise.takes(workload):
        rows = dot.candidates(target, "int16", depthwise.MAX_DOT_GROUPS)
        return depthwise.choose(workload, rows), depthwise, None
    row = dot.candidates(target, "int16", conv.MAX_DOT_GROUPS)[0]
    scheme = _best_scheme(workload, bound, row, target)
    if scheme is not None:
        return row, winograd, scheme
    return tiling.divide(workload, row, target), conv, None


def _best_scheme(workload: ConvWorkload, bound: int, row: dot.Dot, target: TargetProfile) -> Scheme | None:
    """The Winograd scheme that the model expects to be fastest; None: the direct template is."""
    costs = {scheme: winograd.cost(scheme, workload, row, target) for scheme in schemes(workload, bound)}
    best = min(costs, key=lambda scheme: costs[scheme], default=None)
    if best is None or costs[best] >= tiling.cost(workload, row, target):
        return None
    return best
