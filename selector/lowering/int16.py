"""The int16 lowering: both zero points are subtracted first, then one int16 convolution without terms.

16-bit data keeps its zero point (see ``operands``).
"""

from __future__ import annotations

from types import ModuleType

from selector.lowering import conv, depthwise, dot, tiling, winograd, winograd_layout
from selector.lowering.kernel import Kernel
from selector.lowering.operands import Operands, make_operands
from selector.lowering.scheme import Scheme, output_bound, schemes
from selector.target import TargetProfile
from selector.weights import signed_offset
from selector.workload import ConvConstants, ConvWorkload


def build(
    name: str, workload: ConvWorkload, constants: ConvConstants, target: TargetProfile, planned: ConvWorkload
) -> Kernel:
    """Kernel of the int16 lowering; ``planned``: what its constants are packed for, see ``selector.lowering.build``."""
    term2 = bool((signed_offset(constants.weight, constants.weight_zero_point) != constants.weight_zero_point).any())
    row, template, scheme = choose(planned, output_bound(workload, constants), target, term2=term2)
    operands = operands_of(workload, constants, row)
    if scheme is not None:
        full = f"{name}__{scheme.name}_{row.name}"
        return winograd.build(full, scheme, workload, constants, operands, row, target, planned)
    return template.build(f"{name}__{template.NAME}_{row.name}", workload, constants, operands, row, target, planned)


def operands_of(workload: ConvWorkload, constants: ConvConstants, row: dot.Dot) -> Operands:
    """Data and weights as the row takes them: zero points subtracted, 16-bit data as int16."""
    shifts = {"int16": 0, "uint16": -(1 << 15)}
    return make_operands(
        workload,
        constants,
        data_dtype=row.data_dtype,
        data_offset=shifts.get(workload.data_dtype, -workload.data_zero_point),
        weight_dtype=row.weight_dtype,
        weight_offset=constants.weight_zero_point.astype("int64"),
    )


def choose(
    workload: ConvWorkload, bound: int, target: TargetProfile, *, term2: bool
) -> tuple[dot.Dot, ModuleType, Scheme | None]:
    """The dot instruction, the template module and the Winograd scheme, for a |accumulator| of at most ``bound``.

    ``term2``: whether some weights less their zero point do not fit a byte, as when the int8 lowering needs Term2.
    """
    if depthwise.takes(workload) and not workload.is_split:
        rows = dot.candidates(target, "int16", depthwise.MAX_DOT_GROUPS)
        return depthwise.choose(workload, rows), depthwise, None
    row = dot.candidates(target, "int16", conv.MAX_DOT_GROUPS)[0]
    # Winograd's transforms of 16-bit data do not fit int16.
    scheme = None if workload.has_16bit_data else _best_scheme(workload, bound, row, target)
    if scheme is not None:
        return row, winograd, scheme
    row = tiling.divide(workload, row, target)
    return row if term2 else tiling.compress(workload, row, target), conv, None


def _best_scheme(workload: ConvWorkload, bound: int, row: dot.Dot, target: TargetProfile) -> Scheme | None:
    """The Winograd scheme that the model expects to be fastest; None: the direct template is."""
    costs = {scheme: winograd_layout.cost(scheme, workload, row, target) for scheme in schemes(workload, bound)}
    best = min(costs, key=lambda scheme: costs[scheme], default=None)
    if best is None or costs[best] >= tiling.cost(workload, row, target):
        return None
    return best
