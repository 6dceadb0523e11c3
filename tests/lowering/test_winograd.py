"""Every scheme on kernels that it takes in parts: phases of strides, more than three taps, a single row or column."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from selector.lowering import conv, dot, int16, winograd
from selector.lowering.reference import convolve
from selector.lowering.scheme import schemes
from selector.workload import ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import make_case

# Odd sizes, padding on some sides, channels that fill neither a step nor a vector.
ODD = ConvWorkload(1, 14, 13, 13, 21, 5, 5, padding=(2, 1, 2, 0), data_zero_point=9, out_dtype="uint8")


@pytest.mark.parametrize("target", ["native", "x86-64", "cortex-a72"])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [
        ((5, 5), (1, 1)),
        ((6, 4), (1, 1)),
        ((2, 2), (1, 1)),
        ((3, 3), (2, 2)),
        ((5, 5), (2, 2)),
        ((3, 5), (2, 1)),
        ((1, 9), (1, 2)),
        ((1, 3), (2, 1)),
        ((7, 1), (1, 1)),
    ],
    ids=str,
)
def test_kernels_in_parts(target: str, kernel: tuple[int, int], stride: tuple[int, int]) -> None:
    execute.require_runnable(target)
    profile = execute.profile(target)
    row = dot.candidates(profile, "int16", conv.MAX_DOT_GROUPS)[0]
    kernels, cases = [], []
    for work in (ODD, replace(ODD, batch=2, in_height=19, in_channels=24, padding=(0, 0, 0, 0), threads=2)):
        work = replace(work, kernel_height=kernel[0], kernel_width=kernel[1], stride=stride)
        case = make_case(work, weights="full", extreme_data=True)
        operands = int16.operands_of(case.workload, case.constants, row)
        fitting = schemes(case.workload, case.workload.accumulator_bound())
        assert fitting
        for scheme in fitting:
            name = f"{scheme.name}_{len(kernels)}"
            kernels.append(winograd.build(name, scheme, case.workload, case.constants, operands, row, profile))
            cases.append(case)
    found = execute.run_all(execute.compile_kernels(kernels, target), kernels, cases, target)
    for built, case, output in zip(kernels, cases, found, strict=True):
        expected = convolve(case.workload, case.constants, case.data)
        np.testing.assert_array_equal(output, expected, err_msg=built.name, strict=True)
