"""Features of a workload on a target: the same numbers for training and for the compiler.

``TABLE`` says what they are; ``vector`` and ``matrix`` compute them, columns in the order of the table.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import operator
import tokenize
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np

from selector.features import quantities
from selector.features.quantities import Machine, machine, side
from selector.features.table import TABLE, Feature
from selector.lowering import dot
from selector.lowering.plan import facts
from selector.lowering.scheme import schemes
from selector.target import TargetProfile
from selector.workload import ConvWorkload

__all__ = ["NAMES", "TABLE", "TABLE_VERSION", "Feature", "distinct", "matrix", "vector"]

NAMES: tuple[str, ...] = tuple(feature.name for feature in TABLE)


def vector(workload: ConvWorkload, target: TargetProfile) -> np.ndarray:
    """Features of one workload, (features,) float64."""
    return matrix([workload], target)[0]


def matrix(workloads: Sequence[ConvWorkload], target: TargetProfile) -> np.ndarray:
    """Features of many workloads, (workloads, features) float64."""
    rows, which = distinct(workloads, target)
    return rows[which]


def distinct(workloads: Sequence[ConvWorkload], target: TargetProfile) -> tuple[np.ndarray, list[int]]:
    """Features without repetition, (rows, features) float64, and the row of each workload.

    A network repeats its layers with other weights: MobileNetV2 has 53 convolutions and 31 rows.
    """
    known, dots = machine(target), dot.candidates(target, "int8")
    kinds = [_kind(workload, dots) for workload in workloads]
    examples = dict(zip(kinds, workloads, strict=True))
    rows = np.array([_row(workload, known) for workload in examples.values()], np.float64).reshape(-1, len(TABLE))
    number = {kind: index for index, kind in enumerate(examples)}
    return rows, [number[kind] for kind in kinds]


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


def _row(workload: ConvWorkload, known: Machine) -> tuple[float, ...]:
    return _formulas()(
        w=workload,
        t=known.target,
        a=side(workload, known, "int8"),
        b=side(workload, known, "int16"),
        pixels=workload.out_height * workload.out_width,
        reduction=workload.kernel_height * workload.kernel_width * workload.group_in_channels,
        l2=known.levels[1][1],
        memory=known.levels[-1][1],
    )


@functools.cache
def _formulas() -> Callable[..., tuple[float, ...]]:
    """Every formula of the table as one function, which costs a tenth of a function each."""
    body = ", ".join(f"({feature.formula})" for feature in TABLE)
    names = {"log2": math.log2, "weight_class": quantities.weight_class}
    return eval(f"lambda *, w, t, a, b, pixels, reduction, l2, memory: ({body},)", names)


def _version() -> str:
    """16 hex digits over names, formulas and the code behind them.

    Comments, docstrings and layout do not count, nor do the models in ``selector.lowering``: a change there shows in
    ``selector.lowering.fingerprint``.
    """
    digest = hashlib.sha256()
    for feature in TABLE:
        digest.update(f"{feature.name}\0{feature.formula}\0".encode())
    for token in _code(Path(quantities.__file__).read_text()):
        digest.update(token.encode() + b"\0")
    return digest.hexdigest()[:16]


def _code(source: str) -> list[str]:
    """The tokens of a module without comments, docstrings and layout."""
    layout = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    texts: list[str] = []
    begins = True  # whether the next token begins a statement: a string there is a docstring
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in layout and not (begins and token.type == tokenize.STRING):
            texts.append(token.string)
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            begins = token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING)
    return texts


TABLE_VERSION = _version()  # a model of another version does not load
