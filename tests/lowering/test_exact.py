"""Both lowerings against the int64 definition, bit for bit, over the whole space of convolutions.

``SELECTOR_EXACT_CASES`` sets how many cases are drawn in all, ``SELECTOR_EMULATED_CASES`` how many more for emulated
CPUs.  A quarter of them has the accumulator itself as output, a quarter float32, the rest requantizes to 8 bits.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from selector.lowering import LOWERINGS, build
from selector.lowering.reference import convolve
from tests.lowering import execute
from tests.lowering.cases import Case, cases

SHARDS = 32
CASES = int(os.environ.get("SELECTOR_EXACT_CASES", "320"))
EMULATED_CASES = int(os.environ.get("SELECTOR_EMULATED_CASES", "24"))
TARGETS = [*execute.HERE, "native"]  # this machine's own twice as often


def check(case: Case, target: str) -> None:
    """Compile and run both lowerings of a case, and compare."""
    profile = execute.profile(target)
    kernels = [build(case.workload, case.constants, profile, lowering) for lowering in LOWERINGS]
    execute.check(kernels, case, target)


@pytest.mark.parametrize("shard", range(SHARDS))
def test_equals_reference(shard: int) -> None:
    @seed(shard)
    @settings(
        max_examples=-(-CASES // SHARDS),
        database=None,
        derandomize=False,  # the seed is what makes it deterministic, and different in every shard
        phases=[Phase.generate, Phase.shrink],
    )
    @given(case=cases(), target=st.sampled_from(TARGETS))
    def equals_reference(case: Case, target: str) -> None:
        check(case, target)

    equals_reference()


@pytest.mark.parametrize("target", execute.EMULATED)
def test_equals_reference_under_emulation(target: str) -> None:
    execute.require_runnable(target)
    drawn: list[Case] = []

    @seed(execute.EMULATED.index(target))
    @settings(max_examples=-(-EMULATED_CASES // len(execute.EMULATED)), database=None, phases=[Phase.generate])
    @given(case=cases())
    def draw(case: Case) -> None:
        drawn.append(case)

    draw()
    profile = execute.profile(target)
    runs = [(case, lowering) for case in drawn for lowering in LOWERINGS]
    kernels = [build(case.workload, case.constants, profile, lowering) for case, lowering in runs]
    executable = execute.compile_kernels(kernels, target)
    outputs = execute.run_all(executable, kernels, [case for case, _ in runs], target)
    for (case, _), kernel, found in zip(runs, kernels, outputs, strict=True):
        expected = convolve(case.workload, case.constants, case.data)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kernel.name} {case.workload}", strict=True)
