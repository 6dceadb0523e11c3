"""Softmax and argmax of 8-bit tensors: no float tensor, and what ONNX Runtime computes."""

import numpy as np
import pytest

import selector
from selector.graph.compile import _session
from selector.graph.pipeline import quantized
from selector.target import resolve
from tests.graph.modules import operators
from tests.graph.reference import expected
from tests.graph.test_patterns import SCALE, SHAPE, ZERO, GraphBuilder, conv


def segmentation(op_type, out=None, **attributes):
    """A convolution, and something along its channels."""
    b = GraphBuilder()
    x = b.dequantize(b.input("x", SHAPE, "uint8"), SCALE, ZERO)
    y = conv(b, x, 16, 21, "first")
    y = b.node(op_type, [y], **attributes)
    return b.model({b.quantize(y, *out): "uint8"} if out else {y: "int64"})


def check(model, found):
    mod = quantized(selector.load(model), _session(resolve("native"), "int8", 1))
    assert operators(mod) == found
    x = np.random.default_rng(0).integers(0, 256, SHAPE).astype("uint8")
    (wanted,) = expected(model, x)
    for policy, threads in (("int8", 1), ("int16", 2)):
        (result,) = selector.compile(model, policy=policy, threads=threads).run(x)
        assert (result.shape, result.dtype) == (wanted.shape, wanted.dtype)
        yield result, wanted


@pytest.mark.parametrize("zero", [0, 7])
def test_softmax_along_channels(zero):
    operators_found = ["permute_dims", "qnn.conv2d", "qnn.softmax", "permute_dims"]
    for result, wanted in check(segmentation("Softmax", (1 / 256, zero), axis=1), operators_found):
        assert np.abs(result.astype(int) - wanted).max() <= 1
        assert (result != wanted).mean() < 0.01


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op_type", ["ArgMax", "ArgMin"])
def test_index_of_the_extreme_channel(op_type, keepdims):
    found = ["permute_dims", "qnn.conv2d", op_type.lower(), *["permute_dims"] * keepdims]
    for result, wanted in check(segmentation(op_type, axis=1, keepdims=keepdims), found):
        np.testing.assert_array_equal(result, wanted)
