"""The plan of a workload is what is built from its constants."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from selector.lowering import LOWERINGS, build, dot, scheme, winograd_layout
from selector.lowering import plan as plans
from selector.lowering.depthwise_layout import Layout
from selector.lowering.plan import employed, plan
from selector.lowering.reference import convolve
from selector.workload import ConvWorkload, QuantDType
from tests.lowering import execute
from tests.lowering.cases import Case, cases, depthwise, make_case

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
        assert expected.stored_bytes == (packed if kernel.recipe is None else kernel.recipe.stored.nbytes)


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
@pytest.mark.parametrize(
    "work",
    [
        ConvWorkload(1, 25, 10, 276, 276, 3, 3, (2, 2), (1, 0, 1, 1), groups=276, threads=2),  # five bands of rows
        ConvWorkload(1, 224, 224, 3, 64, 3, 3, (2, 2), threads=2),  # 111 rows, or 64 channels that halve evenly
        ConvWorkload(1, 27, 27, 32, 128, 3, 3, padding=(1, 1, 1, 1), threads=2),  # 49 tiles of Winograd's
        ConvWorkload(1, 40, 40, 256, 256, 1, 1, threads=2),  # three bands for L2
    ],
    ids=lambda work: work.kind,
)
def test_no_thread_has_much_more_to_do(work: ConvWorkload, lowering: str) -> None:
    profile = execute.profile("x86-64-v2")
    tasks = plan(work, profile, lowering).tasks
    assert math.ceil(tasks / work.threads) / tasks <= 0.6
    case = make_case(work, weights="full")
    script = build(case.workload, case.constants, profile, lowering).func.script()
    (extent,) = map(int, re.findall(r"T\.parallel\((\d+)\)", script))
    assert extent % work.threads == 0


def test_a_larger_l2_holds_larger_bands() -> None:
    small = replace(execute.profile("x86-64-v3"), l2_bytes=512 << 10)
    large = replace(small, l2_bytes=2 << 20)
    strided = ConvWorkload(1, 28, 28, 512, 512, 3, 3, stride=(2, 2), padding=(1, 1, 1, 1), groups=32)
    assert [plan(strided, profile, "int16").tasks for profile in (small, large)] == [5, 2]
    pixels = ConvWorkload(1, 56, 56, 256, 64, 1, 1)  # no band reads what another has read
    assert plan(pixels, small, "int16").tasks == plan(pixels, large, "int16").tasks > 1


@pytest.mark.parametrize(
    ("batch", "height", "threads", "turned"),
    [
        (1, 7, 2, True),  # two bands of four rows
        (1, 7, 1, False),
        (1, 8, 2, False),
        (1, 15, 2, False),  # the last two bands of four are one thread's
        (1, 14, 4, True),
        (2, 7, 2, False),  # an image each
        (3, 7, 2, True),  # the second image's bands are of both
    ],
)
def test_threads_do_not_store_the_same_row_at_the_same_time(
    batch: int, height: int, threads: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "WORTH_WAKING", 0)
    work = replace(
        depthwise(3, channels=72), batch=batch, in_height=height, in_width=5, padding=(1, 1, 1, 1), threads=threads
    )
    profile = execute.profile("x86-64-v2")
    case = make_case(work, weights="full")
    kernel = build(case.workload, case.constants, profile, "int16")
    assert Layout.of(work, dot.candidates(profile, "int16", 1)[0], profile, term2=False).plan.out_rows == 4
    assert ("% 9" in kernel.func.script()) == turned  # of nine chunks, each thread begins with another one
    if "x86-64-v2" in execute.HERE:
        found = execute.run(execute.compile_kernels([kernel], "x86-64-v2"), 0, kernel, case)
        np.testing.assert_array_equal(found, convolve(case.workload, case.constants, case.data), strict=True)


@pytest.mark.parametrize(
    ("size", "in_channels", "out_channels", "expected"),
    [
        (7, 512, 512, (1, 2)),  # four tiles: the weights are what takes time
        (27, 32, 128, (2, 1)),
        (12, 24, 8, (2, 1)),  # one block of channels, which two threads cannot divide
    ],
)
def test_winograd_divides_tiles_or_channels(
    size: int, in_channels: int, out_channels: int, expected: tuple[int, int]
) -> None:
    work = ConvWorkload(1, size, size, in_channels, out_channels, 3, 3, padding=(1, 1, 1, 1), threads=2)
    assert winograd_layout.partition(scheme.F4, work, execute.profile("x86-64-v3")) == expected


@pytest.mark.parametrize(
    ("size", "channels", "template"),
    [
        (7, 512, "winograd2x4"),  # 19 MB of weights for square tiles, and four tiles to use them on
        (7, 128, "winograd4"),
        (14, 256, "winograd4"),
    ],
)
def test_fewer_weights_for_winograd_where_they_come_from_memory(size: int, channels: int, template: str) -> None:
    work = ConvWorkload(1, size, size, channels, channels, 3, 3, padding=(1, 1, 1, 1), channel_bound=20_000)
    profile = replace(execute.profile("x86-64-v3"), l2_bytes=512 << 10, l3_bytes=32 << 20)
    assert plan(work, profile, "int16").template == template


def test_sums_of_a_block_fit_the_cache_with_avx512() -> None:
    work = ConvWorkload(1, 62, 62, 16, 48, 3, 3, padding=(1, 1, 1, 1))  # 32 bytes of data a point, 192 of sums
    wide, narrow = (replace(execute.profile(name), l2_bytes=2 << 20) for name in ("cascadelake", "x86-64-v3"))
    assert winograd_layout.partition(scheme.F4, work, wide) == (2, 1)
    assert winograd_layout.partition(scheme.F4, work, narrow) == (1, 1)


@pytest.mark.parametrize(("channels", "template"), [(10, "direct"), (128, "winograd4x1")])
def test_few_channels_are_not_worth_the_copy_of_winograd_with_vnni(channels: int, template: str) -> None:
    work = ConvWorkload(1, 32, 32, 54, channels, 3, 1, padding=(1, 0, 1, 0), channel_bound=20_000)
    profile = replace(execute.profile("cascadelake"), l2_bytes=2 << 20)
    assert plan(work, profile, "int16").template == template


def test_channels_that_fill_a_vector_in_part_cost_a_whole_one() -> None:
    profile = execute.profile("cascadelake")
    row = dot.candidates(profile, "int16")[0]

    def cycles(channels: int) -> float:
        work = ConvWorkload(1, 36, 36, 48, channels, 3, 3, padding=(1, 1, 1, 1))
        return winograd_layout.cost(scheme.F4, work, row, profile)

    assert cycles(49) == cycles(56) == cycles(64) < cycles(65)


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


@pytest.mark.parametrize(
    ("target", "work", "dtype"),
    [
        ("x86-64-v3", {}, "int8"),
        ("x86-64-v3", {"threads": 2}, "int8"),  # each reads its half
        ("x86-64-v3", {"out_channels": 256, "threads": 2}, "int16"),  # that stays in the core's L2
        ("x86-64-v3", {"in_channels": 32}, "int16"),
        ("x86-64-v3", {"in_height": 9, "in_width": 9}, "int16"),  # pixels enough to multiply while more arrive
        ("x86-64-v3", {"term2": True}, "int16"),  # less their zero point they do not fit
        ("x86-64", {}, "int16"),  # nothing widens bytes while it loads them: from L3 words are the faster ones …
        ("x86-64", {"in_channels": 4096}, "int8"),  # … and from memory bytes
        ("cascadelake", {"in_height": 3, "in_width": 3}, "int8"),
        ("neoverse-n1", {}, "int16"),
    ],
)
def test_large_weights_of_few_pixels_stay_bytes(target: str, work: dict[str, Any], dtype: str) -> None:
    profile = replace(execute.profile(target), l1_bytes=32 << 10, l2_bytes=512 << 10, l3_bytes=32 << 20)
    layer = replace(ConvWorkload(1, 1, 1, 1024, 1000, 1, 1, term2=False), **work)
    assert plan(layer, profile, "int16").row.weight_dtype == dtype


@pytest.mark.parametrize(
    "target", [name for name in execute.HERE if name in ("x86-64", "x86-64-v2", "x86-64-v3", *execute.FOREIGN)]
)
@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", 0), ("uint8", 128)])
def test_weights_that_stay_bytes_are_exact(target: str, dtype: QuantDType, zero_point: int) -> None:
    profile = replace(execute.profile(target), l1_bytes=512, l2_bytes=1024, l3_bytes=4096)
    work = ConvWorkload(
        1, 1, 1, 70, 90, 1, 1, weight_dtype=dtype, data_zero_point=3, weight_zero_point=zero_point, out_dtype="uint8"
    )
    case = make_case(work, weights="extreme")
    kernel = build(case.workload, case.constants, profile, "int16")
    assert kernel.constants[0].dtype == np.int8
    assert plan(case.workload, profile, "int16").weight_bytes == kernel.constants[0].nbytes
    executable = execute.compile_kernels([kernel], target)
    found = execute.run(executable, 0, kernel, case)
    np.testing.assert_array_equal(found, convolve(case.workload, case.constants, case.data), strict=True)


@pytest.mark.parametrize(
    ("kernel", "facts", "row"),
    [
        (3, {"weight_bound": 64, "pair_bound": 128}, "avx2_pmaddubsw"),
        (5, {"weight_bound": 64, "pair_bound": 128}, "avx2_pmaddubsw"),
        (3, {"weight_bound": 127, "pair_bound": 254}, "avx2_psign_pmaddubsw"),
        # Five rows are two steps of four or three of two, and a step of two has half of the instructions.
        (5, {"weight_bound": 127, "pair_bound": 254}, "avx2_pmaddwd_widen"),
        (3, {"weight_bound": 128, "pair_bound": 256}, "avx2_pmaddwd_widen"),
    ],
)
def test_depthwise_takes_the_row_of_fewest_instructions(kernel: int, facts: dict[str, int], row: str) -> None:
    assert plan(depthwise(kernel, channels=96, **facts), execute.profile("x86-64-v3"), "int8").row.name == row


@pytest.mark.parametrize(
    ("kernel", "channels", "chunk"),
    [
        (3, 96, 32),
        (3, 120, 32),  # 8 channels of 128 twice, but a quarter of the chunks of 8
        (5, 120, 8),  # more products: the overlap costs more than the chunks
        (3, 72, 8),
        (3, 24, 8),
        (3, 144, 16),
    ],
)
def test_depthwise_overlaps_chunks_where_it_pays(kernel: int, channels: int, chunk: int) -> None:
    profile = execute.profile("x86-64-v3")
    work = depthwise(kernel, channels=channels, weight_bound=64, pair_bound=128)
    layout = Layout.of(work, plan(work, profile, "int8").row, profile, term2=False)
    assert layout.chunk == chunk
