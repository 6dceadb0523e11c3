"""Comparing a compiled network with ONNX Runtime without optimizations."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

import selector
from selector.policy import Decision
from tests.graph.random_networks import steps


def feed(model: onnx.ModelProto, seed: int = 0) -> np.ndarray:
    """Random data for the only input."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return (np.random.default_rng(seed).standard_normal(shape) * 2).astype("float32")


def expected(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    """What ONNX Runtime computes, node by node."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {model.graph.input[0].name: x})


def compare(model: onnx.ModelProto, seed: int = 0) -> list[Decision]:
    """Assert that both lowerings agree bit for bit, on one thread and on two, and with ONNX Runtime to one step.

    Returns the decisions about the layers.
    """
    x = feed(model, seed)
    module = selector.load(model)
    int8 = selector.compile(module, policy="int8", threads=1)
    first, second = int8.run(x), selector.compile(module, policy="int16", threads=2).run(x)
    for wanted, one, other, step in zip(expected(model, x), first, second, steps(model), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == wanted.shape
        assert one.dtype == wanted.dtype
        assert np.abs(one - wanted).max(initial=0) <= 1.001 * step
    return int8.decisions
