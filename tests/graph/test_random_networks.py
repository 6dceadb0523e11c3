"""Random small networks compute what ONNX Runtime computes, and every convolution of theirs is in integers."""

from __future__ import annotations

import pytest

from tests.graph.random_networks import network
from tests.graph.reference import compare

NETWORKS, TOGETHER = 300, 10


@pytest.mark.parametrize("first", range(0, NETWORKS, TOGETHER))
def test_random_networks(first: int) -> None:
    for seed in range(first, first + TOGETHER):
        for decision in compare(network(seed), seed):
            assert decision.lowering != "tvm", f"network {seed}: {decision.layer}: {decision.reason}"
