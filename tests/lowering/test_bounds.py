"""Weights and data at the edges of every overflow proof: which kernel is chosen there, and that it is exact."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from selector.lowering import LOWERINGS, build, dot, int16, winograd
from selector.lowering.reference import accumulate, convolve
from selector.lowering.scheme import SCHEMES, Scheme, output_bound, schemes
from selector.workload import ConvConstants, ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import Case, make_case, with_facts

EDGES = [  # of x86
    # eight weights in the order of the reduction, and the instruction that they still prove exact
    ([32] * 8, "pmaddubsw_quad"),  # four add up to 128
    ([-32] * 8, "pmaddubsw_quad"),
    ([32] * 7 + [33], "pmaddubsw"),  # four add up to 129
    ([127, 1] * 4, "pmaddubsw"),  # two add up to 128
    ([127, 2] + [0] * 6, "psign_pmaddubsw"),  # two add up to 129
    ([-127, -1] * 4, "pmaddubsw"),
    ([-127, -2] * 4, "psign_pmaddubsw"),
    ([127, -128] * 4, "pmaddubsw"),  # different signs do not add up
    ([-128, 0] * 4, "pmaddubsw"),
    ([-128, -1] * 4, "pmaddwd_widen"),  # the sign of -128 cannot be turned
    ([127] * 8, "psign_pmaddubsw"),
    ([-127] * 8, "psign_pmaddubsw"),
    ([-128] * 8, "pmaddwd_widen"),
]
X86 = [name for name in ("x86-64-v2", "x86-64-v3") if execute.X86 and execute.why_not_runnable(name) is None]


def expected_rows(target: str) -> list[str]:
    """The instruction of a direct kernel for each of EDGES, without its prefix."""
    if target in X86:
        return [expected for _, expected in EDGES]
    # Two products of bytes in one int16: -128 * -128 is the only one that is too large.
    return ["smull_sadalp" if -128 in weights else "smlal_sadalp" for weights, _ in EDGES]


def extreme_pixels(data_dtype: str, channels: int) -> np.ndarray:
    """(pixels, channels): all lowest, all highest, alternating in runs of 1, 2 and 4, and random extremes."""
    info = np.iinfo(data_dtype)
    rng = np.random.default_rng(0)
    position = np.arange(channels)
    masks = [position >= 0, position < 0]
    masks += [(position // run) % 2 == phase for run in (1, 2, 4) for phase in (0, 1)]
    masks += list(rng.integers(0, 2, (8, channels)) == 1)
    return np.where(np.stack(masks), info.max, info.min).astype(data_dtype)


def run_exactly(cases: list[Case], target: str, lowering: str) -> list[str]:
    """Run the cases under one lowering, compare, and return the names of the rows."""
    profile = execute.profile(target)
    kernels = [build(case.workload, case.constants, profile, lowering) for case in cases]
    executable = execute.compile_kernels(kernels, target)
    outputs = execute.run_all(executable, kernels, cases, target)
    for case, kernel, found in zip(cases, kernels, outputs, strict=True):
        expected = convolve(case.workload, case.constants, case.data)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kernel.name} {case.workload}", strict=True)
    return [kernel.row for kernel in kernels]


def make(workload: ConvWorkload, weight: np.ndarray, data: np.ndarray) -> Case:
    """A case without bias and weight zero points."""
    constants = ConvConstants(weight.astype(workload.weight_dtype), np.zeros(len(weight), np.int32))
    return Case(with_facts(workload, constants), constants, data)


@pytest.mark.parametrize("target", [*X86, "cortex-a72"])
@pytest.mark.parametrize("data_dtype", ["uint8", "int8"])
def test_dense_weights_at_the_edges(target: str, data_dtype: str) -> None:
    execute.require_runnable(target)
    pixels = extreme_pixels(data_dtype, 16)
    cases = []
    for weights, _ in EDGES:
        work = ConvWorkload(1, 1, len(pixels), 16, 9, 1, 1, data_dtype=data_dtype)  # type: ignore[arg-type]
        rows = np.array([np.roll(weights * 2, 8 * channel) for channel in range(9)])
        cases.append(make(work, rows.reshape(9, 1, 1, 16), pixels.reshape(1, 1, -1, 16)))
    rows_used = run_exactly(cases, target, "int8")
    assert [name.partition("_")[2] for name in rows_used] == expected_rows(target)


@pytest.mark.parametrize("target", [*X86, "cortex-a72"])
@pytest.mark.parametrize("data_dtype", ["uint8", "int8"])
def test_depthwise_weights_at_the_edges(target: str, data_dtype: str) -> None:
    execute.require_runnable(target)
    pixels = extreme_pixels(data_dtype, 8)
    cases = []
    for weights, _ in EDGES:
        work = ConvWorkload(1, 8, len(pixels), 16, 16, 8, 1, groups=16, data_dtype=data_dtype)  # type: ignore[arg-type]
        kernel = np.tile(np.reshape(weights, (1, 8, 1, 1)), (16, 1, 1, 1))
        data = np.repeat(pixels.T[None, :, :, None], 16, axis=3)
        cases.append(make(work, kernel, np.ascontiguousarray(data)))
    rows_used = run_exactly(cases, target, "int8")
    # neighbouring rows of a kernel meet in every phase, and no kernel adds two pairs before widening
    expected = [name.replace("_quad", "").replace("smlal_", "smull_") for name in expected_rows(target)]
    assert [name.partition("_")[2] for name in rows_used] == expected


@pytest.mark.parametrize("weights", ["positive", "negative", "extreme"])
@pytest.mark.parametrize("target", [*execute.LEVELS, "cortex-a72", "neoverse-v1"])
def test_weights_and_data_all_extreme(target: str, weights: str) -> None:
    execute.require_runnable(target)
    shapes = [
        ConvWorkload(1, 4, 4, 67, 9, 3, 3, padding=(1, 1, 1, 1)),
        ConvWorkload(1, 4, 4, 17, 17, 3, 3, padding=(1, 1, 1, 1), groups=17),
    ]
    cases = []
    types = (
        ("uint8", 255, "int8", -128),
        ("int8", -128, "uint8", 0),
        ("uint8", 255, "uint8", 255),
        ("int8", -128, "int8", 127),
    )
    for i, (data_dtype, data_zero, weight_dtype, weight_zero) in enumerate(types):
        work = replace(
            shapes[i % 2],
            data_dtype=data_dtype,  # type: ignore[arg-type]
            weight_dtype=weight_dtype,  # type: ignore[arg-type]
            data_zero_point=data_zero,
            weight_zero_point=weight_zero,
        )
        cases.append(make_case(work, weights=weights, extreme_data=True))
    for lowering in LOWERINGS:
        run_exactly(cases, target, lowering)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
@pytest.mark.parametrize("distance", [-1, 0], ids=["below", "at"])
@pytest.mark.parametrize("target", ["native", "cortex-a72"])
def test_winograd_at_its_limit(target: str, scheme: Scheme, distance: int) -> None:
    """int8 data down to -128 and weights that add up to ``limit / 128``: the limit is met, or missed by 128."""
    total = scheme.limit // 128 + distance
    kernel = tuple(1 if axis.size == 1 else 3 for axis in (scheme.rows, scheme.columns))
    taps = math.prod(kernel)
    channels = -(-total // (taps * 255))
    flat = np.zeros(taps * channels, np.int64)
    flat[: total // 255] = 255
    flat[total // 255] = total % 255
    weight = np.stack([flat.reshape(*kernel, channels), np.flip(flat).reshape(*kernel, channels)])
    work = ConvWorkload(1, 6, 6, channels, 2, *kernel, data_dtype="int8", weight_dtype="uint8")
    data = np.full((1, 6, 6, channels), -128, np.int8)
    data[:, :, 4:] = extreme_pixels("int8", channels)[:12].reshape(1, 6, 2, channels)
    case = make(work, weight, data)
    expected = accumulate(case.workload, case.constants, data)
    assert np.abs(expected).max() == scheme.limit + 128 * distance
    assert output_bound(case.workload, case.constants) == scheme.limit + 128 * distance
    exact = schemes(case.workload, output_bound(case.workload, case.constants))
    assert (scheme in exact) == (distance < 0)
    execute.require_runnable(target)
    profile = execute.profile(target)
    row = dot.candidates(profile, "int16")[0]
    operands = int16.operands_of(case.workload, case.constants, row)
    kernels = [build(case.workload, case.constants, profile, lowering) for lowering in LOWERINGS]
    kernels += [
        winograd.build(item.name, item, case.workload, case.constants, operands, row, profile) for item in exact
    ]
    executable = execute.compile_kernels(kernels, target)
    for kernel, found in zip(kernels, execute.run_all(executable, kernels, [case] * len(kernels), target), strict=True):
        np.testing.assert_array_equal(found, expected.astype(np.int32), err_msg=kernel.name, strict=True)
