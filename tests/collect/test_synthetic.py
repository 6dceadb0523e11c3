"""Synthetic constants choose the same instruction as the weights that a workload was described from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from selector.collect.synthetic import synthesize
from selector.lowering import int8
from selector.target import profile
from selector.weights import WeightFacts, weight_facts
from selector.workload import ConvWorkload

SHAPES = [
    ConvWorkload(1, 6, 6, 24, 16, 1, 1, out_dtype="uint8"),
    ConvWorkload(1, 6, 6, 8, 16, 3, 3, padding=(1, 1, 1, 1), out_dtype="int8"),
    ConvWorkload(1, 6, 6, 16, 16, 3, 3, groups=16, out_dtype="float32"),
]
BOUNDS = [(30, 0), (60, 0), (127, 0), (128, 0), (128, 5)]  # largest |weight|, zero point


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v2", "x86-64-v3"])
@pytest.mark.parametrize(("bound", "zero_point"), BOUNDS)
@pytest.mark.parametrize("work", SHAPES, ids=lambda work: work.describe())
def test_same_instruction(work: ConvWorkload, bound: int, zero_point: int, target: str) -> None:
    shape = (work.out_channels, work.kernel_height, work.kernel_width, work.group_in_channels)
    weight = np.random.default_rng(0).integers(-bound, min(bound, 127) + 1, shape).astype("int8")
    weight.reshape(-1)[:8] = -bound
    facts = _facts(work, weight, np.full(work.out_channels, zero_point))
    described = dataclasses.replace(work, weight_zero_point=zero_point, **dataclasses.asdict(facts))
    constants, data = synthesize(described)
    made = _facts(work, constants.weight, constants.weight_zero_point)
    assert int8.choose(work, made, profile(target)) == int8.choose(work, facts, profile(target))
    assert made.term2 == facts.term2
    assert data.shape == (1, 6, 6, work.in_channels)


def _facts(work: ConvWorkload, weight: np.ndarray, zero_point: np.ndarray) -> WeightFacts:
    return weight_facts(weight, zero_point, groups=work.groups, dilation_width=work.dilation[1])
