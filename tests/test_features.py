"""The table of features: complete, finite, the same for one workload as for many."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from selector import features
from selector.features import NAMES, TABLE, quantities
from selector.lowering.plan import plan
from selector.profiles import Rates
from selector.target import TargetProfile, profile
from selector.workload import ConvWorkload
from tests.lowering.cases import workloads

DENSE = ConvWorkload(
    1, 28, 28, 64, 96, 3, 3, padding=(1, 1, 1, 1), data_zero_point=3, channel_bound=1 << 16, term2=False
)
DEPTHWISE = replace(DENSE, out_channels=64, groups=64)
TARGETS = ("x86-64", "x86-64-v3", "cascadelake", "cortex-a72", "neoverse-n1")


@pytest.fixture(scope="module")
def avx2() -> TargetProfile:
    return replace(profile("x86-64-v3"), rates=None, l1_bytes=32 << 10, l2_bytes=512 << 10, l3_bytes=0)


def named(workload: ConvWorkload, target: TargetProfile) -> dict[str, float]:
    """Features by name."""
    return dict(zip(NAMES, map(float, features.matrix([workload], target)[0]), strict=True))


def test_rows_are_documented_and_distinct() -> None:
    assert len(set(NAMES)) == len(TABLE) == len(NAMES)
    for feature in TABLE:
        assert feature.unit
        assert feature.formula
        assert feature.reason
        for value in (0.0, 0.5):
            assert feature.in_words(value)


def test_values_in_words() -> None:
    table = {feature.name: feature for feature in TABLE}
    assert table["ratio_traffic"].in_words(1.0) == "int16 moves 2.00 times the bytes"
    assert table["threads"].in_words(2.0) == "4 threads share memory and the last cache"
    assert table["threads"].in_words(0.0) == "one thread has memory and the last cache to itself"
    assert table["int8_prepare"].in_words(0.25).startswith("int8 spends 25% of its time")


@seed(0)
@settings(max_examples=60, database=None, derandomize=False, phases=[Phase.generate])
@given(works=st.lists(workloads(), min_size=1, max_size=3), target=st.sampled_from(TARGETS))
def test_finite_for_every_workload(works: list[ConvWorkload], target: str) -> None:
    found = features.matrix([*works, works[0]], profile(target))
    assert found.shape == (len(works) + 1, len(TABLE))
    assert found.dtype == np.float64
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0], features.matrix(works[:1], profile(target))[0])
    np.testing.assert_array_equal(found[0], found[-1])


def test_no_workloads(avx2: TargetProfile) -> None:
    assert features.matrix([], avx2).shape == (0, len(TABLE))


_BOUNDS = {
    "data_zero_point": st.sampled_from((0, 1, 127)),
    "weight_zero_point": st.sampled_from((None, 0, 3)),
    "weight_bound": st.sampled_from((31, 64, 127, 128)),
    "pair_bound": st.sampled_from((62, 128, 129, 256)),
    "quad_bound": st.sampled_from((124, 128, 129, 512)),
    "channel_bound": st.integers(0, 22).map(lambda bits: 1 << bits),
}


@seed(0)
@settings(max_examples=60, database=None, derandomize=False, phases=[Phase.generate])
@given(
    work=workloads(),
    facts=st.lists(st.fixed_dictionaries(_BOUNDS), min_size=2, max_size=6),
    target=st.sampled_from(TARGETS),
)
def test_a_row_holds_for_every_workload_that_has_it(
    work: ConvWorkload, facts: list[dict[str, int]], target: str
) -> None:
    works = [replace(work, **values) for values in facts]  # type: ignore[arg-type]
    together = features.describe(works, profile(target))
    for each, row in zip(works, together.row_of, strict=True):
        alone = features.describe([each], profile(target))
        np.testing.assert_array_equal(together.x[row], alone.x[0])
        np.testing.assert_array_equal(together.seconds[row], alone.seconds[0])
        assert (together.dots[row], together.forms[row]) == (alone.dots[0], alone.forms[0])


def test_layers_that_repeat_share_a_row(avx2: TargetProfile) -> None:
    again = replace(DENSE, data_zero_point=4, channel_bound=70_000)
    unlike = replace(DENSE, data_zero_point=0), replace(DENSE, channel_bound=1 << 22), replace(DENSE, weight_bound=9)
    layers = features.describe([DENSE, unlike[0], again, *unlike], avx2)
    assert layers.row_of == (0, 1, 0, 1, 2, 3)
    assert layers.x.shape == (4, len(TABLE))
    assert len(layers.seconds) == len(layers.dots) == len(layers.forms) == 4


def test_values(avx2: TargetProfile) -> None:
    found = named(DENSE, avx2)
    assert found["macs"] == math.log2(28 * 28 * 96 * 9 * 64)
    assert (found["group_in_channels"], found["out_width"], found["term2"], found["threads"]) == (
        6,
        math.log2(28),
        0,
        0,
    )
    assert found["int16_waste"] < 0  # Winograd multiplies less
    layers = features.describe([DENSE], avx2)
    (int8, int16), ratio = layers.seconds[0], layers.roofline[0]
    assert found["ratio_time"] == ratio == pytest.approx(math.log2(int16 / int8))
    assert found["ratio_memory"] > 0  # int16 moves more
    assert layers.dots == (("avx2_pmaddwd_widen", "avx2_pmaddwd"),)  # -128: widened
    assert layers.forms == ("direct pmaddwd_widen",)
    assert features.describe([DEPTHWISE], avx2).forms[0].startswith("depthwise ")


def test_rows_that_are_taken_are_workloads_of_their_own(avx2: TargetProfile) -> None:
    layers = features.describe([DENSE, DEPTHWISE, DENSE], avx2)
    part = layers.take(np.array([1, 1, 0]))
    assert part.row_of == (0, 1, 2)
    np.testing.assert_array_equal(part.x, layers.x[[1, 1, 0]])
    assert part.forms == tuple(layers.forms[row] for row in (1, 1, 0))


def test_weights_decide_the_instruction(avx2: TargetProfile) -> None:
    bounds = ((128, 256, 512), (127, 254, 508), (64, 128, 256), (32, 64, 128))
    works = [replace(DENSE, weight_bound=bound, pair_bound=pair, quad_bound=quad) for bound, pair, quad in bounds]
    assert [quantities.weight_class(work) for work in works] == [0, 1, 2, 3]
    ratios = [named(work, avx2)["ratio_rate"] for work in works]
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > ratios[-1]
    assert named(replace(DENSE, term2=True), avx2)["int8_term2"] > 0 == named(DENSE, avx2)["int8_term2"]


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "emeraldrapids"])
def test_sums_of_few_channels_take_longer_than_their_additions(target: str) -> None:
    known = quantities.machine(profile(target))

    def cycles(channels: int) -> tuple[float, float]:
        work = replace(DENSE, in_channels=channels, term2=True)
        side = quantities.side(work, known, "int8")
        return side.term2 * known.clock(side.plan.row), side.plan.term2_cycles

    for modelled, additions in (cycles(8), cycles(256)):
        assert modelled >= additions + 4 * DENSE.out_height * DENSE.out_width
    assert quantities.side(DENSE, known, "int8").term2 == 0


def test_accumulators_too_large_for_winograd(avx2: TargetProfile) -> None:
    works = [replace(DENSE, channel_bound=bound) for bound in (1 << 16, 1 << 18, 1 << 20, 1 << 22)]
    assert [plan(work, avx2, "int16").saving for work in works] == [4, 3, 2.25, 1]
    waste = [named(work, avx2)["int16_waste"] for work in works]
    assert waste == sorted(waste)
    assert waste[0] < -1 < waste[-1]


def test_known_rates_come_before_assumed_ones(avx2: TargetProfile) -> None:
    rates = Rates("written", "test", (("avx2_pmaddwd", 10.0),), 100.0, 50.0, 20.0, 5.0, 8.0)
    slow = named(DENSE, replace(avx2, rates=rates))
    assert slow["ratio_rate"] < named(DENSE, avx2)["ratio_rate"]
    known = quantities.machine(replace(avx2, rates=rates, l2_bytes=1 << 20, l3_bytes=1 << 25))
    assert known.bandwidth(1 << 40, 1 << 40, threads=4) == 8e9
    own = 1 << 20  # in the caches of each core, twice as much in all
    assert known.bandwidth(own, 2 * own, threads=2) == 2e9 * rates.l2_gbs
    assert known.bandwidth(2 * own, 2 * own, threads=2) == 2e9 * rates.l3_gbs


def test_threads_shorten_the_call(avx2: TargetProfile) -> None:
    one, two = (features.describe([replace(DENSE, threads=threads)], avx2).seconds[0] for threads in (1, 2))
    assert (two < one).all()
    assert (two > one / 2.2).all()
