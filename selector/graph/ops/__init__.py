"""The operators on 8-bit data that have a kernel of their own, one file each.

A file has the operator's call, its type rule, its kernel and the patterns that it stands for; ``OPERATORS`` lists it.
Layers, which a policy decides about, are in ``selector.graph.qnn``.
"""

from __future__ import annotations

from selector.graph.ir import register
from selector.graph.ops import binary, concat, dynamic, lookup, matmul, pool2d, softmax
from selector.graph.ops.base import Operator

# where two patterns end with the same operator, the first one goes first
OPERATORS: tuple[Operator, ...] = (
    lookup.OPERATOR,
    pool2d.OPERATOR,
    binary.OPERATOR,
    concat.OPERATOR,
    matmul.OPERATOR,
    dynamic.OPERATOR,
    softmax.OPERATOR,
)
for _operator in OPERATORS:
    register(_operator.name, _operator.infer_type)
BY_NAME = {operator.name: operator for operator in OPERATORS}
