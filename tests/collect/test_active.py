"""Active sampling asks where a wrong sign is likely and dear, and for every kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from selector.collect.active import active, expected_regret
from selector.collect.sources import Candidate
from selector.target import TargetProfile, profile
from selector.workload import ConvWorkload


@dataclass
class Table:
    """Predictions by output channels."""

    mean: dict[int, float]
    deviation: dict[int, float]

    def predict(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> tuple[np.ndarray, np.ndarray]:
        channels = [work.out_channels for work in workloads]
        return np.array([self.mean[c] for c in channels]), np.array([self.deviation[c] for c in channels])


def pointwise(channels: int) -> Candidate:
    return Candidate(ConvWorkload(1, 4, 4, 8, channels, 1, 1))


def depthwise(channels: int) -> Candidate:
    return Candidate(ConvWorkload(1, 4, 4, channels, channels, 3, 3, groups=channels))


def test_regret_is_that_of_a_normal_distribution() -> None:
    mean, deviation = np.array([0.0, 0.3, -0.3, 2.0]), np.array([1.0, 0.5, 0.5, 0.1])
    rng = np.random.default_rng(0)
    draws = rng.normal(np.abs(mean), deviation, (200_000, 4))
    assert expected_regret(mean, deviation) == pytest.approx(np.maximum(-draws, 0).mean(axis=0), abs=3e-3)


def test_a_model_without_doubt_has_no_regret() -> None:
    assert expected_regret(np.array([0.5, -0.1]), np.zeros(2)) == pytest.approx([0, 0], abs=1e-9)


def test_doubtful_signs_come_first() -> None:
    pool = [pointwise(channels) for channels in (16, 24, 32, 40)]
    model = Table({16: 1.0, 24: 0.1, 32: -0.1, 40: 0.0}, {16: 0.3, 24: 0.3, 32: 0.6, 40: 0.3})
    order = [item.workload.out_channels for item in active(model, pool, 4, profile("x86-64-v3"))]
    assert order == [32, 40, 24, 16]


def test_no_kind_takes_every_place() -> None:
    pool = [pointwise(8 * i) for i in range(1, 41)] + [depthwise(1000 + i) for i in range(10)]
    mean = {item.workload.out_channels: 0.0 for item in pool}
    deviation = {channels: 0.5 if channels < 1000 else 0.1 for channels in mean}  # 1×1 is hard throughout
    kinds = [item.workload.kind for item in active(Table(mean, deviation), pool, 12, profile("x86-64-v3"))]
    assert kinds.count("depthwise") == 4  # √10 of √10 + √40


def test_no_more_than_there_are() -> None:
    pool = [pointwise(16)]
    model = Table({16: 0.0}, {16: 0.1})
    assert active(model, pool, 5, profile("x86-64-v3")) == pool
    assert active(model, [], 5, profile("x86-64-v3")) == []
