"""16-bit data: exact over the whole space of convolutions, also where 32 bits do not hold the accumulator."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from selector.lowering import build
from selector.lowering.operands import halves
from selector.lowering.plan import plan
from selector.lowering.reference import accumulate, convolve
from selector.lowering.wide import piece_steps
from selector.workload import INT32_MAX, ConvConstants, ConvWorkload, Requantize, UnsupportedWorkload
from tests.lowering import execute
from tests.lowering.cases import WORDS, Case, cases, make_case, with_facts

SHARDS, EACH = 4, 12
TARGETS = [*execute.HERE, "native"]
SPLIT = [
    # where a piece ends: after a row of the kernel, inside of a run, inside of one of several runs
    ConvWorkload(1, 4, 5, 120, 20, 3, 2, padding=(1, 1, 0, 2), stride=(1, 2)),
    ConvWorkload(2, 3, 3, 700, 37, 1, 1),
    ConvWorkload(1, 4, 6, 2 * 600, 2 * 5, 2, 3, padding=(0, 2, 1, 2), dilation=(1, 2), groups=2),
    ConvWorkload(1, 14, 12, 9, 9, 12, 12, padding=(1, 1, 0, 0), groups=9),
]


def check(case: Case, target: str) -> None:
    """Compile and run a case, and compare."""
    execute.check([build(case.workload, case.constants, execute.profile(target), "int16")], case, target)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_equals_reference(shard: int) -> None:
    @seed(shard)
    @settings(max_examples=EACH, database=None, derandomize=False, phases=[Phase.generate, Phase.shrink])
    @given(case=cases(WORDS), target=st.sampled_from(TARGETS))
    def equals_reference(case: Case, target: str) -> None:
        check(case, target)

    equals_reference()


@pytest.mark.parametrize("target", [*execute.HERE, "cortex-a72", "neoverse-v1"])
@pytest.mark.parametrize("data", [("uint16", 0), ("uint16", 65535), ("int16", 32767), ("int16", -32768)])
def test_split_accumulator(target: str, data: tuple[str, int]) -> None:
    """Weights and data all extreme: the accumulators are the largest that there are."""
    execute.require_runnable(target)
    drawn = []
    for number, shape in enumerate(SPLIT):
        weight_dtype, out_dtype = ("int8", "uint8")[number % 2], ("float32", "int16", "uint16", "int8")[number]
        work = replace(
            shape,
            data_dtype=data[0],  # type: ignore[arg-type]
            data_zero_point=data[1],
            weight_dtype=weight_dtype,  # type: ignore[arg-type]
            weight_zero_point=(127, None)[number % 2],
            out_dtype=out_dtype,  # type: ignore[arg-type]
        )
        drawn.append(make_case(work, weights=("negative", "positive")[number % 2], extreme_data=True, seed=number))
    assert all(case.workload.is_split for case in drawn)
    kernels = [build(case.workload, case.constants, execute.profile(target), "int16") for case in drawn]
    executable = execute.compile_kernels(kernels, target)
    for case, kernel, found in zip(drawn, kernels, execute.run_all(executable, kernels, drawn, target), strict=True):
        expected = convolve(case.workload, case.constants, case.data)
        np.testing.assert_array_equal(found, expected, err_msg=kernel.name, strict=True)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("data", [("uint16", 0, 65535), ("int16", 0, -32768), ("int16", 32767, -32768)])
def test_edge_of_32_bits(data: tuple[str, int, int], more: int) -> None:
    """Weights that add up to the most that 32 bits hold, and to one more."""
    dtype, zero_point, value = data
    total = INT32_MAX // abs(value - zero_point) + more
    channels = -(-total // 127)
    weight = np.full(channels, 127)
    weight[-1] = total - 127 * (channels - 1)
    constants = ConvConstants(
        np.stack([weight, -weight]).astype("int8").reshape(2, 1, 1, channels),
        np.zeros(2, np.int32),
        None,
        Requantize(np.ones(2, np.float32)),
    )
    work = ConvWorkload(1, 1, 3, channels, 2, 1, 1, data_dtype=dtype, data_zero_point=zero_point, out_dtype="float32")  # type: ignore[arg-type]
    pixels = np.full((1, 1, 3, channels), value, dtype)
    pixels[0, 0, 1] = zero_point
    case = Case(with_facts(work, constants), constants, pixels)
    assert np.abs(accumulate(case.workload, constants, pixels)).max() == case.workload.accumulator_bound()
    assert case.workload.is_split == bool(more)
    for target in TARGETS:
        check(case, target)


def test_pieces_fit_32_bits() -> None:
    work = ConvWorkload(1, 1, 1, 4096, 8, 1, 1, data_dtype="int16", weight_bound=127, term2=False)
    row = plan(work, execute.profile("native"), "int16").row
    for weights in (replace(work, weight_bound=1), work, replace(work, weight_bound=128), replace(work, term2=True)):
        largest = 255 if weights.term2 else weights.weight_bound
        assert piece_steps(weights, row) * row.step * largest * 32768 <= INT32_MAX
        assert (piece_steps(weights, row) + 1) * row.step * largest * 32768 > INT32_MAX


def test_halves() -> None:
    values = np.array([0, 1, -1, 65535, 65536, -65536, -65537, (1 << 39) - 1, -(1 << 39)])
    high, low = halves(values)
    np.testing.assert_array_equal(high.astype(np.int64) * 65536 + low, values)
    assert low.min() >= 0
    assert low.max() <= 65535


def test_what_is_refused() -> None:
    target = execute.profile("native")
    case = make_case(replace(SPLIT[1], data_dtype="int16"), weights="negative")
    assert case.workload.is_split
    with pytest.raises(UnsupportedWorkload, match="more than its int32 output holds"):
        build(case.workload, case.constants, target, "int16")
    small = make_case(ConvWorkload(1, 4, 4, 8, 8, 1, 1, data_dtype="uint16"))
    with pytest.raises(UnsupportedWorkload, match="8-bit data only"):
        build(small.workload, small.constants, target, "int8")


def test_winograd_does_not_take_it() -> None:
    work = ConvWorkload(1, 28, 28, 64, 64, 3, 3, padding=(1, 1, 1, 1), channel_bound=2000)
    assert plan(work, execute.profile("x86-64-v3"), "int16").template != "direct"
    assert plan(replace(work, data_dtype="int16"), execute.profile("x86-64-v3"), "int16").template == "direct"
