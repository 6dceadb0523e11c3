"""The plan of a workload is what is built from its constants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from selector.lowering import LOWERINGS, build
from selector.lowering import plan as plans
from selector.lowering.plan import employed, plan
from selector.lowering.reference import convolve
from selector.workload import ConvWorkload
from tests.lowering import execute
from tests.lowering.cases import Case, cases, make_case

TARGETS = ("native", "x86-64-v2", "cascadelake", "cortex-a72", "neoverse-n1")


def check(case: Case, target: str) -> None:
    """Template, instruction and packed weights of both kernels are as planned."""
    profile = execute.profile(target)
    for lowering in LOWERINGS:
        kernel = build(case.workload, case.constants, profile, lowering)
        expected = plan(case.workload, profile, lowering)
        assert (kernel.template, kernel.row) == (expected.template, expected.row.name)
        packed = kernel.constants[0].nbytes
        if kernel.template == "depthwise" and lowering == "int8" and case.workload.term2:
            packed *= 2  # and as many ones
        assert expected.weight_bytes == packed


@seed(1)
@settings(max_examples=40, database=None, derandomize=False, phases=[Phase.generate])
@given(case=cases(), target=st.sampled_from(TARGETS))
def test_is_what_is_built(case: Case, target: str) -> None:
    check(case, target)


@pytest.mark.parametrize("weights", ["full", "symmetric", "7bit", "6bit"])
def test_follows_the_weights(weights: str) -> None:
    work = ConvWorkload(1, 14, 14, 64, 64, 3, 3, padding=(1, 1, 1, 1), threads=2)
    for target in TARGETS:
        check(make_case(work, weights=weights), target)


def test_counts_what_the_kernel_does() -> None:
    profile = execute.profile("x86-64-v3")
    work = ConvWorkload(1, 14, 14, 64, 64, 1, 1, data_dtype="uint8", pair_bound=128, term2=False)
    pointwise = plan(work, profile, "int8")
    assert pointwise.macs == work.macs()  # channels fill the vectors, the reduction its steps
    assert pointwise.scratch_bytes == 0
    assert plan(replace(work, data_dtype="int8"), profile, "int8").scratch_bytes == work.data_bytes()
    assert plan(work, profile, "int16").scratch_bytes == 2 * work.data_bytes()
    assert plan(replace(work, in_channels=63), profile, "int8").macs == work.macs()  # the last step's padding counts
    assert plan(replace(work, term2=True), profile, "int8").term2_cycles > 0
    with pytest.raises(KeyError):
        plan(work, profile, "int4")


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_threads_are_woken_for_work_that_is_worth_it(lowering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = execute.profile("x86-64-v3")
    work = ConvWorkload(1, 14, 14, 64, 64, 3, 3, padding=(1, 1, 1, 1), threads=2)
    cycles = plan(work, profile, lowering).all_cycles
    monkeypatch.setattr(plans, "WORTH_WAKING", cycles)
    assert employed(work, profile, lowering) == work
    monkeypatch.setattr(plans, "WORTH_WAKING", 1.01 * cycles)
    assert plan(work, profile, lowering).tasks == 1
    assert employed(work, profile, lowering) == replace(work, threads=1)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("channels", [1000, 1024])
def test_one_pixel_is_divided_by_channels(lowering: str, channels: int) -> None:
    case = make_case(ConvWorkload(1, 1, 1, 40, channels, 1, 1, threads=2), weights="full")
    target = "x86-64-v3" if execute.why_not_runnable("x86-64-v3") is None else "native"
    profile = execute.profile(target)
    assert plan(case.workload, profile, lowering).tasks == 2
    kernel = build(case.workload, case.constants, profile, lowering)
    found = execute.run(execute.compile_kernels([kernel], target), 0, kernel, case)
    np.testing.assert_array_equal(found, convolve(case.workload, case.constants, case.data), strict=True)
