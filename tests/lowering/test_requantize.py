"""The epilogue: rounding of ties, saturation, bounds, zero points and float offsets, on whole kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from selector.lowering import LOWERINGS, build
from selector.lowering.reference import convolve
from selector.workload import ConvConstants, ConvWorkload, Requantize
from tests.lowering import execute
from tests.lowering.cases import Case

HUGE = (1 << 31) - 1
TARGETS = [*execute.HERE, "cortex-a72"]


def kernel_of(accumulators: list[int], out_dtype: Any, **requantize: Any) -> Case:
    """A convolution that yields these accumulators, whatever its data is: one output channel each."""
    count = len(accumulators)
    settings: dict[str, Any] = {"multiplier": np.full(count, 0.5), "zero_point": 0} | requantize
    for name in ("multiplier", "offset"):
        if name in settings:
            settings[name] = np.broadcast_to(np.asarray(settings[name], np.float32), (count,)).copy()
    constants = ConvConstants(
        weight=np.zeros((count, 1, 1, 3), np.int8),
        weight_zero_point=np.zeros(count, np.int32),
        bias=np.array(accumulators, np.int32),
        requantize=Requantize(**settings),
    )
    work = ConvWorkload(1, 1, 2, 3, count, 1, 1, out_dtype=out_dtype, data_zero_point=3)
    return Case(work, constants, np.arange(6, dtype=np.uint8).reshape(1, 1, 2, 3))


CASES = {
    # name -> (case, expected)
    "ties to even": (
        kernel_of([-5, -3, -1, 1, 3, 5, 7, 9, 2], "int8"),
        [-2, -2, 0, 0, 2, 2, 4, 4, 1],
    ),
    "ties before the zero point": (kernel_of([1, 3, 5, -1], "uint8", zero_point=7), [7, 9, 9, 7]),
    "uint8 saturates": (
        kernel_of([-2, 0, 509, 510, 511, 512, HUGE, -HUGE], "uint8"),
        [0, 0, 254, 255, 255, 255, 255, 0],
    ),
    "int8 saturates": (
        kernel_of([-HUGE - 1, -258, -257, -256, 253, 254, 256, HUGE], "int8"),
        [-128, -128, -128, -128, 126, 127, 127, 127],
    ),
    "saturation of huge values": (
        kernel_of([HUGE, -HUGE - 1, 1 << 20, -(1 << 20), 40000, -40000, 1], "int8", multiplier=3.0, zero_point=-128),
        [127, -128, 127, -128, 127, -128, -125],
    ),
    "zero point at the upper end": (kernel_of([0, -2, 2, -1000], "uint8", zero_point=255), [255, 254, 255, 0]),
    "bounds": (
        kernel_of([-300, 8, 10, 11, 60, 100, 300], "uint8", zero_point=5, out_min=10.0, out_max=35.0),
        [10, 10, 10, 11, 35, 35, 35],
    ),
    "one bound": (kernel_of([-300, -20, 0, 300], "int8", out_min=-10.0), [-10, -10, 0, 127]),
    "float offset": (kernel_of([1, 1, 2, -1], "int8", offset=[0.0, 0.5, 0.25, -0.25]), [0, 1, 1, -1]),
    "float32": (kernel_of([1, -3, 5], "float32", multiplier=0.25, offset=0.125), [0.375, -0.625, 1.375]),
    "float32 in bounds": (kernel_of([1, -3, 50], "float32", out_min=0.0, out_max=6.0), [0.5, 0.0, 6.0]),
    "accumulator rounded to float32": (
        kernel_of([(1 << 24) + 1, (1 << 24) + 3], "float32", multiplier=1.0),
        [float(1 << 24), float((1 << 24) + 4)],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_reference_agrees(name: str) -> None:
    case, expected = CASES[name]
    found = convolve(case.workload, case.constants, case.data)
    np.testing.assert_array_equal(found[0, 0, 0], np.array(expected, case.workload.out_dtype), strict=True)


@pytest.mark.parametrize("target", TARGETS)
def test_kernels(target: str) -> None:
    execute.require_runnable(target)
    runs = [(name, lowering) for name in CASES for lowering in LOWERINGS]
    profile = execute.profile(target)
    kernels = [build(CASES[name][0].workload, CASES[name][0].constants, profile, lowering) for name, lowering in runs]
    executable = execute.compile_kernels(kernels, target)
    outputs = execute.run_all(executable, kernels, [CASES[name][0] for name, _ in runs], target)
    for (name, lowering), found in zip(runs, outputs, strict=True):
        case, expected = CASES[name]
        wanted = np.broadcast_to(np.array(expected, case.workload.out_dtype), found.shape)
        np.testing.assert_array_equal(found, wanted, err_msg=f"{name}, {lowering}", strict=True)
