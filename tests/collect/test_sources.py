"""Candidates from networks, architectures and samples: distinct, named, reproducible, fairly mixed."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from selector import kernel_cases
from selector.collect.architectures import Architecture, Layer, load_architectures
from selector.collect.formats import canonical
from selector.collect.sampling import MAX_MACS, MAX_WEIGHTS
from selector.collect.sources import (
    Candidate,
    combine,
    default_plan,
    from_architectures,
    from_networks,
    from_samples,
    shuffled,
)
from selector.quantized_formats import in_format
from selector.workload import ConvWorkload

DATASETS = Path(__file__).parents[2] / "datasets"
POINTWISE = Layer((7, 7, 32), 64, (1, 1), count=3)
DEPTHWISE = Layer((7, 7, 32), 32, (3, 3), padding=(1, 1, 1, 1), groups=32)
HUGE = Layer((640, 640, 64), 64, (3, 3))
HEAVY = Layer((1, 1, 4096), 4096, (1, 1))


def net(name: str, *layers: Layer) -> Architecture:
    return Architecture(name, "a test", None, layers)


@functools.cache
def published() -> tuple[Architecture, ...]:
    return tuple(load_architectures(DATASETS / "architectures"))


def untyped(candidates: Sequence[Candidate]) -> set[tuple[object, ...]]:
    """What was measured apart from formats."""
    return {(item.workload.describe(), item.workload.padding) for item in candidates}


@pytest.fixture(scope="module")
def shufflenet() -> list[Candidate]:
    return from_networks([DATASETS / "networks" / "shufflenet_v2_x0_5.u8u8.onnx"], threads=(1, 2))


def test_networks_are_named_after_their_file(shufflenet: list[Candidate]) -> None:
    assert {item.networks for item in shufflenet} == {("shufflenet_v2_x0_5.u8u8",)}
    assert {item.workload.threads for item in shufflenet} == {1, 2}


def test_layers_of_16_bit_data_leave_nothing_to_measure() -> None:
    with in_format(DATASETS / "networks" / "shufflenet_v2_x0_5.u8u8.onnx", "u16s8") as path:
        assert not from_networks([path])
        assert not kernel_cases.from_network(path, threads=1)


def test_layers_of_a_network_that_get_the_same_kernel_are_one(shufflenet: list[Candidate]) -> None:
    works = [item.workload for item in shufflenet if item.workload.threads == 1]
    assert len(works) == len(set(works)) < 57  # its layers, each with weights of its own
    assert all(canonical(work) == work for work in works)


def test_an_architecture_lists_the_layers_of_the_network(shufflenet: list[Candidate]) -> None:
    """The file of the repository and the shape list are independent of each other."""
    listed = from_architectures([item for item in published() if item.name == "shufflenet_v2_x0_5"], seed=0)
    assert untyped(listed) == untyped(shufflenet)


def test_what_an_architecture_gets_depends_on_its_name_and_the_seed() -> None:
    one, two = net("one", POINTWISE, DEPTHWISE), net("two", POINTWISE, DEPTHWISE)
    alone = from_architectures([one], seed=3)
    assert from_architectures([one, two], seed=3)[: len(alone)] == alone
    workloads = {from_architectures([one], seed=seed)[0].workload for seed in range(12)}
    assert len(workloads) > 3


def test_an_architecture_has_one_format() -> None:
    for seed in range(5):
        works = [item.workload for item in from_architectures([net("one", POINTWISE, DEPTHWISE, POINTWISE)], seed)]
        assert len({(work.data_dtype, work.weight_dtype, work.weight_bound, work.term2) for work in works}) == 1


def test_more_formats_for_a_part_of_the_layers() -> None:
    layers = [Layer((7, 7, 8 * i), 64, (1, 1)) for i in range(1, 81)]
    once, more, thrice = (
        len(from_architectures([net("one", *layers)], 0, formats_per_layer=count)) for count in (1, 1.5, 3)
    )
    assert once == 80
    assert 80 < more < thrice <= 240


def test_layers_too_large_to_measure_are_left_out() -> None:
    found = from_architectures([net("one", HUGE, POINTWISE, HEAVY)], 0)
    assert {item.workload.in_channels for item in found} == {32}


def test_equal_workloads_are_merged_with_their_networks() -> None:
    work, other = ConvWorkload(1, 4, 4, 8, 8, 1, 1), ConvWorkload(1, 4, 4, 8, 16, 1, 1)
    merged = combine([Candidate(work, ("b",)), Candidate(other)], [Candidate(work, ("a", "b")), Candidate(work)])
    assert merged == [Candidate(work, ("a", "b")), Candidate(other)]


def test_samples_belong_to_no_network() -> None:
    assert {item.networks for item in from_samples(5, 0, threads=(1, 2))} == {()}
    assert len(from_samples(5, 0, threads=(1, 2))) == 10


@functools.cache
def plan() -> tuple[Candidate, ...]:
    return tuple(default_plan(published(), 1500))


def test_the_default_plan_has_the_size_asked_for() -> None:
    works = [item.workload for item in plan()]
    assert len(works) == len(set(works)) == 2 * 1500
    assert [work.threads for work in works] == [1, 2] * 1500
    assert all(replace(one, threads=2) == two for one, two in zip(works[::2], works[1::2], strict=True))
    assert max(work.macs() for work in works) <= MAX_MACS
    assert max(work.weight_bytes() for work in works) <= MAX_WEIGHTS


def test_half_of_the_default_plan_is_published() -> None:
    assert sum(bool(item.networks) for item in plan()) >= len(plan()) / 2
    assert {name for item in plan() for name in item.networks} == {item.name for item in published()}


def test_every_prefix_of_the_default_plan_is_a_fair_sample() -> None:
    def mix(candidates: Sequence[Candidate]) -> dict[tuple[bool, str], float]:
        counts = Counter((bool(item.networks), item.workload.kind) for item in candidates)
        return {key: count / len(candidates) for key, count in counts.items()}

    whole = mix(plan())
    for size in (100, 400, 1600):
        part = mix(plan()[:size])
        assert all(abs(part.get(key, 0) - share) <= 8 / size for key, share in whole.items())


def test_a_plan_from_few_architectures_gets_more_formats_of_them() -> None:
    few = [item for item in published() if item.name in ("mobilenet_v2", "resnet18")]
    small = default_plan(few, 120, threads=(1,))
    assert len(small) == 120
    assert sum(bool(item.networks) for item in small) >= 50
    assert small == default_plan(few, 120, threads=(1,))
    assert small != default_plan(few, 120, seed=1, threads=(1,))


def test_shuffling_loses_nothing() -> None:
    candidates = from_samples(30, 0)
    assert sorted(map(repr, shuffled(candidates, 1))) == sorted(map(repr, candidates))
    assert shuffled(candidates, 1) != shuffled(candidates, 2)
