"""Features of a workload on a target: the same numbers for training and for the compiler.

``TABLE`` says what they are; ``vector`` and ``matrix`` compute them, columns in the order of the table.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
import tokenize
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from selector.features import quantities
from selector.features.quantities import machine, side
from selector.features.table import TABLE, Feature
from selector.target import TargetProfile
from selector.workload import ConvWorkload

__all__ = ["NAMES", "TABLE", "TABLE_VERSION", "Feature", "matrix", "vector"]

NAMES: tuple[str, ...] = tuple(feature.name for feature in TABLE)


def vector(workload: ConvWorkload, target: TargetProfile) -> np.ndarray:
    """Features of one workload, (features,) float64."""
    return matrix([workload], target)[0]


def matrix(workloads: Sequence[ConvWorkload], target: TargetProfile) -> np.ndarray:
    """Features of many workloads, (workloads, features) float64; equal workloads are computed once."""
    rows = {workload: index for index, workload in enumerate(dict.fromkeys(workloads))}
    values = np.array([_row(workload, target) for workload in rows], np.float64).reshape(len(rows), len(TABLE))
    return values[[rows[workload] for workload in workloads]]


def _row(workload: ConvWorkload, target: TargetProfile) -> tuple[float, ...]:
    levels = machine(target).levels
    return _formulas()(
        w=workload,
        t=target,
        a=side(workload, target, "int8"),
        b=side(workload, target, "int16"),
        pixels=workload.out_height * workload.out_width,
        reduction=workload.kernel_height * workload.kernel_width * workload.group_in_channels,
        l2=levels[1][1],
        memory=levels[-1][1],
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
