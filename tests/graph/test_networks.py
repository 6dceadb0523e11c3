"""The networks in the repository, whole: the two lowerings agree to the bit, and with the float graph to a step."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import selector
from selector.graph.variants import inputs_of
from selector.tensors import random_inputs as random_feed
from selector.verify import output_steps
from tests.models import reference

NETWORKS = sorted((Path(__file__).parents[2] / "datasets" / "networks").glob("*.onnx"))


def test_there_are_networks():
    assert len(NETWORKS) >= 3


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.stem)
def test_network(path):
    module = selector.load(path)
    feed = random_feed(inputs_of(module), seed=5)
    compiled = [selector.compile(module, policy=policy, threads=2) for policy in ("int8", "int16")]
    assert all(decision.lowering != "tvm" for model in compiled for decision in model.decisions)
    outputs = [model.run(*feed) for model in compiled]
    model = onnx.load(path)
    names = [value.name for value in model.graph.input]
    expected = reference(model, dict(zip(names, feed, strict=True)))
    for first, second, wanted, step in zip(*outputs, expected, output_steps(module), strict=True):
        np.testing.assert_array_equal(first, second)
        assert step is not None
        assert np.abs(first - wanted).max() <= 1.001 * step
