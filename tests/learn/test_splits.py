"""Held-out rows are held out: nothing of them is trained on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selector.learn import splits
from selector.learn.dataset import Dataset, from_frame
from selector.workload import ConvWorkload
from tests.learn.frames import frame, measurements

NETWORKS = ("a", "b", "c", "d")


def random_dataset(seed: int) -> Dataset:
    """A few shapes, each with some of two thread counts and two targets, each row in up to two networks."""
    rng = np.random.default_rng(seed)
    works, targets, networks = [], [], []
    for number in range(rng.integers(6, 14)):
        kernel = int(rng.choice([1, 3]))
        work = ConvWorkload(1, 8, 8, 8 + 8 * number, 16, kernel, kernel)
        for threads in (1, 2):
            for target in ("x86-64", "x86-64-v3"):
                if rng.random() < 0.6 or not works:
                    works.append(replace(work, threads=threads))
                    targets.append(target)
                    networks.append(frozenset(rng.choice(NETWORKS, rng.integers(3), replace=False).tolist()))
    numbers = np.zeros(len(works))
    cpus = np.full(len(works), "one")
    return Dataset(tuple(works), np.array(targets), cpus, numbers, numbers, numbers, tuple(networks), frozenset())


datasets = st.integers(0, 10_000).map(random_dataset)


@settings(max_examples=20)
@given(datasets, st.integers(2, 5), st.integers(0, 3))
def test_a_shape_is_in_one_fold(data: Dataset, folds: int, seed: int) -> None:
    parts = splits.by_shape(data, folds, seed)
    assert sorted(np.concatenate([part.test for part in parts])) == list(range(len(data)))
    for part in parts:
        assert not set(data.shapes[part.train]) & set(data.shapes[part.test])
        assert sorted([*part.train, *part.test]) == list(range(len(data)))


@settings(max_examples=20)
@given(datasets)
def test_shapes_of_a_held_out_network_are_not_trained_on(data: Dataset) -> None:
    for part in splits.by_network(data):
        assert {name for row in part.test for name in data.networks[row]} >= {part.name}
        assert all(part.name in data.networks[row] for row in part.test)
        assert not any(part.name in data.networks[row] for row in part.train)
        assert not set(data.shapes[part.train]) & set(data.shapes[part.test])
        assert len(part.train)


@settings(max_examples=20)
@given(datasets)
def test_a_held_out_target_is_not_trained_on(data: Dataset) -> None:
    parts = splits.by_target(data)
    assert [part.name for part in parts] == (sorted(set(data.targets)) if len(set(data.targets)) > 1 else [])
    for part in parts:
        assert set(data.targets[part.test]) == {part.name}
        assert part.name not in data.targets[part.train]
        assert len(part.train) + len(part.test) == len(data)


def test_a_held_out_target_is_not_trained_on_under_another_name() -> None:
    data = from_frame(frame(measurements(8)))
    renamed = np.where(np.arange(len(data)) % 2, "haswell", data.targets)
    both = replace(data, targets=np.where(data.targets == "x86-64-v3", renamed, data.targets))
    parts = {part.name: part for part in splits.by_target(both)}
    assert set(parts) == {"haswell", "x86-64", "x86-64-v3"}
    assert set(both.targets[parts["haswell"].train]) == set(both.targets[parts["x86-64-v3"].train]) == {"x86-64"}
    assert set(both.targets[parts["x86-64"].train]) == {"haswell", "x86-64-v3"}
    modern = np.flatnonzero(both.targets != "x86-64")
    assert splits.by_target(both.take(modern)) == []


def test_every_network_is_held_out_once() -> None:
    parts = splits.by_network(from_frame(frame(measurements(24))))
    assert [part.name for part in parts] == ["net_a", "net_b", "net_c"]


def test_too_few_shapes() -> None:
    with pytest.raises(ValueError, match="5 folds need 5 shapes"):
        splits.by_shape(from_frame(frame(measurements(3))), 5, 0)


@settings(max_examples=20)
@given(datasets)
def test_hyper_parameters_are_tuned_without_any_held_out_shape(data: Dataset) -> None:
    for parts in (splits.by_network(data), splits.by_shape(data, 3, 0)):
        rows = splits.blocks(parts)
        for part in parts:
            assert not set(data.shapes[rows[part.block]]) & set(data.shapes[part.test])
            assert set(rows[part.block]) <= set(part.train)
