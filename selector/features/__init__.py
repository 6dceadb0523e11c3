"""Features of a workload on a target: the same numbers for training and for the compiler.

``TABLE`` says what they are; ``describe`` computes them, columns in the order of the table.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from selector.features import quantities
from selector.features.quantities import Machine, Side, machine, side
from selector.features.table import FEATURE_VERSION, TABLE, Feature
from selector.lowering import dot
from selector.lowering.plan import facts
from selector.lowering.scheme import schemes
from selector.target import TargetProfile
from selector.workload import ConvWorkload

__all__ = ["FEATURE_VERSION", "NAMES", "RATIO", "TABLE", "Feature", "Layers", "describe", "matrix"]

NAMES: tuple[str, ...] = tuple(feature.name for feature in TABLE)
RATIO = NAMES.index("ratio_time")  # column of the analytic model's own log2(t_int16 / t_int8)


@dataclass(frozen=True)
class Layers:
    """What policies know of some workloads on one target: a row for each that differs from the others.

    A network repeats its layers with other weights: MobileNetV2 has 53 convolutions and 31 rows.
    """

    x: np.ndarray  # (rows, features) float64
    seconds: np.ndarray  # (rows, 2) float64, the analytic model's time of int8 and of int16
    dots: tuple[tuple[str, str], ...]  # (rows,), names of the dot rows that int8 and int16 would use
    forms: tuple[str, ...]  # (rows,), template and instruction of int8, such as "depthwise pmaddubsw"
    row_of: tuple[int, ...]  # (workloads,), the row of each workload

    def take(self, rows: np.ndarray) -> Layers:
        """The rows with these indices, as if each were a workload of its own."""
        dots, forms = tuple(self.dots[row] for row in rows), tuple(self.forms[row] for row in rows)
        return Layers(self.x[rows], self.seconds[rows], dots, forms, tuple(range(len(forms))))

    @property
    def roofline(self) -> np.ndarray:
        """The analytic model's log2(t_int16 / t_int8), (rows,) float64."""
        ratio: np.ndarray = self.x[:, RATIO]
        return ratio


def describe(workloads: Sequence[ConvWorkload], target: TargetProfile) -> Layers:
    """Features of workloads, and what else a policy decides by."""
    known, dots = machine(target), dot.candidates(target, "int8")
    kinds = [_kind(workload, dots) for workload in workloads]
    examples = dict(zip(kinds, workloads, strict=True))
    number = {kind: index for index, kind in enumerate(examples)}
    sides = [(side(workload, known, "int8"), side(workload, known, "int16")) for workload in examples.values()]
    rows = [_row(workload, known, *pair) for workload, pair in zip(examples.values(), sides, strict=True)]
    return Layers(
        x=np.array(rows, np.float64).reshape(-1, len(TABLE)),
        seconds=np.array([(a.total, b.total) for a, b in sides], np.float64).reshape(-1, 2),
        dots=tuple((a.plan.row.name, b.plan.row.name) for a, b in sides),
        forms=tuple(f"{a.plan.template} {a.plan.row.instruction}" for a, _ in sides),
        row_of=tuple(number[kind] for kind in kinds),
    )


def matrix(workloads: Sequence[ConvWorkload], target: TargetProfile) -> np.ndarray:
    """Features alone, one row for each workload, (workloads, features) float64."""
    layers = describe(workloads, target)
    return layers.x[list(layers.row_of)]


def _kind(workload: ConvWorkload, dots: Sequence[dot.Dot]) -> Hashable:
    """All that plans and formulas read of a workload: facts of the weights only by what they prove exact."""
    known = facts(workload)
    return (
        _shape(workload),
        workload.data_zero_point != 0,
        quantities.weight_class(workload),
        tuple([row.safe(known) for row in dots]),
        tuple(schemes(workload, workload.accumulator_bound())),
    )


_FACTS = {"data_zero_point", "weight_zero_point", "weight_bound", "pair_bound", "quad_bound", "channel_bound"}
_shape = operator.attrgetter(*(field.name for field in fields(ConvWorkload) if field.name not in _FACTS))


def _row(workload: ConvWorkload, known: Machine, int8: Side, int16: Side) -> tuple[float, ...]:
    return _formulas()(w=workload, t=known.target, a=int8, b=int16)


@functools.cache
def _formulas() -> Callable[..., tuple[float, ...]]:
    """Every formula of the table as one function, which costs a tenth of a function each."""
    body = ", ".join(f"({feature.formula})" for feature in TABLE)
    return eval(f"lambda *, w, t, a, b: ({body},)", {"log2": math.log2})
