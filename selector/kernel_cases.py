"""Convolutions to benchmark kernels on: the distinct ones of networks, or shapes from a file, with or without weights.

A shapes file is JSON (a list of objects) or CSV (a header and rows) with the fields of ``ConvWorkload``; those without
a default have to be there.  CSV joins the numbers of a field by ``x``: ``stride`` 2x2, ``padding`` 1x1x1x1.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from selector import schema
from selector.collect.formats import DATA_ZERO_POINTS, DTYPES, RANGES
from selector.graph.frontends import load
from selector.graph.legalize import Session, qnn_calls
from selector.graph.pipeline import quantized
from selector.graph.qnn import describe
from selector.policy import resolve
from selector.target import profile
from selector.weights import WeightFacts, weight_facts
from selector.workload import ConvConstants, ConvWorkload, Requantize, UnsupportedWorkload

Weights = Literal["network", "7bit", "full"]
WEIGHTS: tuple[Weights, ...] = get_args(Weights)
_DATA_ZERO_POINTS: dict[str, int] = {dtype: points["asymmetric"] for dtype, points in DATA_ZERO_POINTS.items()}
_TUPLES = {"stride": 2, "padding": 4, "dilation": 2}


class ShapesError(ValueError):
    """A shapes file cannot be read; the message names the file and what is wrong."""


@dataclass(frozen=True)
class KernelCase:
    """One convolution with its constants."""

    name: str  # where it was seen first
    workload: ConvWorkload
    constants: ConvConstants
    count: int = 1  # how many layers have this geometry

    @property
    def dtypes(self) -> str:
        """Key of DTYPES."""
        names: dict[tuple[str, str], str] = {value: name for name, value in DTYPES.items()}
        return names[self.workload.data_dtype, self.workload.weight_dtype]


def from_network(path: Path, threads: int) -> list[KernelCase]:
    """Every quantized layer of 8-bit data of a network, with its own weights.  Raises ModelError."""
    session = Session(resolve("int8"), profile("native"), threads)
    cases = []
    for call in qnn_calls(quantized(load(path), session)):
        try:
            workload, constants = describe(call, threads)
        except UnsupportedWorkload:
            continue  # stays as TVM has it, there is no kernel to time
        if not workload.has_16bit_data:  # no other lowering to time against
            cases.append(KernelCase(f"{path.stem}:{call.attrs['layer']}", workload, constants))
    return cases


def from_file(path: Path, threads: int) -> list[KernelCase]:
    """The shapes of a JSON or CSV file, with 7-bit weights.  Raises ShapesError, and OSError if it cannot be read."""
    try:
        text = schema.read(path).decode()
        rows = json.loads(text) if path.suffix == ".json" else list(csv.DictReader(text.splitlines()))
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError("not a list of objects")
    except (ValueError, RecursionError) as error:
        raise ShapesError(f"{path} is not a table of convolutions: {error}") from None
    cases = []
    for number, row in enumerate(rows, start=1):
        try:
            workload = replace(_workload(row), threads=threads)
        except (TypeError, ValueError) as error:
            raise ShapesError(f"{path}, row {number}: {error}") from None
        cases.append(with_random_weights(KernelCase(f"{path.stem}:{number}", workload, _nothing(workload)), "7bit"))
    return cases


def distinct(cases: Sequence[KernelCase]) -> list[KernelCase]:
    """One case of every geometry and pair of dtypes, in the order of appearance."""
    nothing_known = WeightFacts(weight_bound=0, pair_bound=0, quad_bound=0, channel_bound=0, term2=False)
    first: dict[ConvWorkload, KernelCase] = {}
    for case in cases:
        key = replace(case.workload, data_zero_point=0, weight_zero_point=0, **asdict(nothing_known))
        seen = first.get(key)
        first[key] = replace(seen, count=seen.count + case.count) if seen else case
    return list(first.values())


def plan(
    found: Sequence[KernelCase], weights: Sequence[Weights], dtypes: Sequence[str]
) -> list[tuple[Weights, KernelCase]]:
    """Every distinct convolution with every kind of weights and all ``dtypes`` (none: those it has)."""
    typed = [with_dtypes(case, name) for name in dtypes for case in found] if dtypes else found
    unique = distinct(typed)
    return [
        (kind, case if kind == "network" else with_random_weights(case, kind)) for kind in weights for case in unique
    ]


def with_dtypes(case: KernelCase, dtypes: str) -> KernelCase:
    """The same geometry with data, weights and output of other dtypes; the constants no longer fit."""
    data, weight = DTYPES[dtypes]
    workload = replace(case.workload, data_dtype=data, weight_dtype=weight, out_dtype=data)
    return replace(case, workload=workload, constants=_nothing(workload))


def with_random_weights(case: KernelCase, weights: Weights, seed: int = 0) -> KernelCase:
    """The same convolution with uniformly random weights; outputs spread over the whole range of their dtype."""
    work = case.workload
    rng = np.random.default_rng(seed)
    weight_range = RANGES[work.weight_dtype][weights]
    low, high, zero_point = weight_range.lowest, weight_range.highest, weight_range.zero_point
    shape = (work.out_channels, work.kernel_height, work.kernel_width, work.group_in_channels)
    weight = rng.integers(low, high + 1, shape).astype(work.weight_dtype)
    zero_points = np.full(work.out_channels, zero_point, np.int32)
    spread = 1 / (np.sqrt(weight[0].size) * (high - low) / 2)
    constants = ConvConstants(
        weight=weight,
        weight_zero_point=zero_points,
        bias=rng.integers(-1000, 1001, work.out_channels).astype(np.int32),
        requantize=Requantize(
            multiplier=(spread * rng.uniform(0.5, 1.5, work.out_channels)).astype(np.float32),
            zero_point=_DATA_ZERO_POINTS.get(work.out_dtype, 0),
        ),
    )
    if work.out_dtype == "int32":
        constants = replace(constants, requantize=None)
    facts = weight_facts(weight, zero_points, groups=work.groups, dilation_width=work.dilation[1])
    data_zero_point = _DATA_ZERO_POINTS[work.data_dtype]
    workload = replace(work, data_zero_point=data_zero_point, weight_zero_point=zero_point, **asdict(facts))
    return replace(case, workload=workload, constants=constants)


def random_data(case: KernelCase, seed: int = 0) -> np.ndarray:
    """Input of the convolution, (N, H, W, C), uniform over the whole range."""
    work = case.workload
    limits = np.iinfo(work.data_dtype)
    shape = (work.batch, work.in_height, work.in_width, work.in_channels)
    return np.random.default_rng(seed).integers(limits.min, limits.max + 1, shape).astype(work.data_dtype)


def _workload(row: dict[str, Any]) -> ConvWorkload:
    if None in row:
        raise ValueError("more values than the header has names")
    return schema.build(ConvWorkload, {"out_dtype": row.get("data_dtype", "uint8")} | dict(_values(row)))


def _values(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if name.endswith("_dtype"):
            yield name, value
            continue
        numbers = [int(part) for part in (value.split("x") if isinstance(value, str) else np.atleast_1d(value))]
        expected = _TUPLES.get(name, 1)
        if len(numbers) == 1 and expected > 1:
            numbers *= expected
        if len(numbers) != expected:
            raise ValueError(f"'{name}' takes {expected} numbers, got {value!r}")
        yield name, tuple(numbers) if expected > 1 else numbers[0]


def _nothing(workload: ConvWorkload) -> ConvConstants:
    """Constants of a convolution whose weights are still to be drawn."""
    return ConvConstants(np.zeros((0, 0, 0, 0), workload.weight_dtype), np.zeros(0, np.int32))
