"""Random workloads: reproducible, distinct, of every kind, of a size that can be measured."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace

import numpy as np

from selector.collect.formats import FORMATS, canonical, with_format
from selector.collect.sampling import MAX_MACS, MAX_WEIGHTS, MIN_MACS, STRATA, sample
from selector.collect.synthetic import synthesize
from selector.weights import weight_facts
from selector.workload import ConvWorkload


@functools.cache
def drawn() -> tuple[ConvWorkload, ...]:
    return tuple(sample(300, 0, threads=(1,)))


def test_equal_arguments_give_equal_lists() -> None:
    assert sample(30, 5) == sample(30, 5)
    assert sample(30, 5) != sample(30, 6)
    assert sample(30, 0, threads=(1,)) == list(drawn()[:30])


def test_every_workload_comes_once_for_each_thread_count() -> None:
    workloads = sample(40, 1, threads=(1, 4))
    assert [work.threads for work in workloads] == [1, 4] * 40
    assert len({replace(work, threads=1) for work in workloads}) == 40
    assert all(replace(one, threads=4) == four for one, four in zip(workloads[::2], workloads[1::2], strict=True))


def test_samples_are_canonical() -> None:
    assert all(canonical(work) == work for work in drawn())


def test_sizes_are_bounded_and_spread_over_all_magnitudes() -> None:
    macs = np.array([work.macs() for work in drawn()])
    assert macs.min() >= MIN_MACS
    assert macs.max() <= MAX_MACS
    assert max(work.weight_bytes() for work in drawn()) <= MAX_WEIGHTS
    assert (macs > 600_000_000).mean() < 0.05
    magnitudes, _ = np.histogram(np.log10(macs), bins=[4, 5, 6, 7, 8, 9])
    assert magnitudes.min() > 0.1 * len(macs)


def test_all_strata_are_drawn() -> None:
    def count(work: ConvWorkload) -> str:
        if work.kind != "dense":
            return work.kind
        if 1 in (work.kernel_height, work.kernel_width):
            return "1xk"
        size = f"{work.kernel_height}x{work.kernel_width}"
        return size if work.stride == (1, 1) else f"{size} stride 2"

    kinds = [count(work) for work in drawn()]
    shares = {stratum.name: stratum.share for stratum in STRATA}
    shares["1x1"] += shares.pop("fully connected")
    for name, share in shares.items():
        assert abs(kinds.count(name) - share * len(kinds)) <= 3, name


def test_fully_connected_layers_reach_the_most_weights() -> None:
    weights = [work.weight_bytes() for work in drawn() if work.data_bytes() == work.in_channels]
    assert len(weights) >= 0.03 * len(drawn())
    assert max(weights) > MAX_WEIGHTS / 2


def test_every_property_varies() -> None:
    works = drawn()
    dtypes = {(work.data_dtype, work.weight_dtype, work.weight_bound, work.term2) for work in works}
    shape = ConvWorkload(1, 4, 4, 64, 8, 3, 3)
    formats = {with_format(shape, item) for item in FORMATS}
    assert {(work.data_dtype, work.weight_dtype, work.weight_bound, work.term2) for work in formats} <= dtypes
    assert {work.out_dtype for work in works} == {"uint8", "int8", "int32", "float32"}
    assert {work.data_zero_point for work in works} == {0, 119, -128, -9}
    assert {work.weight_zero_point is None for work in works} == {False, True}
    depthwise = [work for work in works if work.kind == "depthwise"]
    assert {work.kernel_height for work in depthwise} == {3, 5, 7}
    assert {work.stride[0] for work in depthwise} == {1, 2}
    assert {work.group_out_channels for work in depthwise} == {1, 2}
    assert any(work.dilation != (1, 1) for work in works)
    assert any(work.in_height != work.in_width for work in works)
    assert any(work.padding[0] != work.padding[2] for work in works)
    assert {(work.kernel_height == 1, work.kernel_width == 1) for work in works} >= {(True, False), (False, True)}


def test_synthesized_weights_have_the_facts_of_the_sample() -> None:
    small = [work for work in drawn() if work.weight_bytes() < 200_000 and work.data_bytes() < 200_000]
    assert len(small) > 100
    for work in small:
        constants, _ = synthesize(work)
        facts = weight_facts(
            constants.weight, constants.weight_zero_point, groups=work.groups, dilation_width=work.dilation[1]
        )
        assert replace(work, **asdict(facts)) == work
