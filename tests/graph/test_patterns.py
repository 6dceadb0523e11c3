"""What exporters put between convolutions: stays NHWC and 8-bit, with the values of the float graph."""

import numpy as np
import pytest

import selector
from selector.graph.compile import _session
from selector.graph.pipeline import quantized
from selector.target import resolve
from tests.graph.modules import operators
from tests.models import GraphBuilder, random_inputs, reference

SHAPE = (1, 16, 9, 8)
ZERO = 120
SCALE = 0.05033  # with the scale of the input, no accumulator is half-way between two levels


def conv(b, x, cin, cout, name, *, k=1, pads=0, scale=SCALE, zero=ZERO, **attrs):
    w = b.weight((cout, cin, k, k), scale=0.01)
    y = b.node("Conv", [x, w, b.int32_bias(cout, np.float32(SCALE) * np.float32(0.01))], name=name,
               pads=[pads] * 4 if isinstance(pads, int) else pads, **attrs)  # fmt: skip
    return b.qdq(y, scale, zero)


def q(b, y, scale=SCALE, zero=ZERO):
    return b.qdq(y, scale, zero)


def scalar(b, value):
    return b.const(np.float32(value))


def padded(value, zero=ZERO):
    def body(b, x):
        y = b.node("Pad", [x, b.const(np.array([0, 0, 1, 0, 0, 0, 2, 1])), scalar(b, value)], mode="constant")
        return q(b, y) if zero == ZERO else y

    return body


def unary(op, scale=0.04, zero=30, **attrs):
    return lambda b, x: q(b, b.node(op, [x], **attrs), scale, zero)


def relu6(b, x):
    return q(b, b.node("Clip", [x, scalar(b, 0), scalar(b, 6)]), 6 / 255, 0)


def hardswish_by_hand(b, x):
    gate = b.node("Clip", [b.node("Add", [x, scalar(b, 3)]), scalar(b, 0), scalar(b, 6)])
    return q(b, b.node("Mul", [x, b.node("Div", [gate, scalar(b, 6)])]), 0.04, 10)


def hardswish_quantized_inside(b, x):
    gate = q(b, b.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5), 1 / 255, 0)
    return q(b, b.node("Mul", [x, gate]), 0.04, 10)


def silu(b, x):
    return q(b, b.node("Mul", [x, q(b, b.node("Sigmoid", [x]), 1 / 256, 0)]), 0.04, 10)


def squeeze_and_excite(b, x):
    y = q(b, b.node("GlobalAveragePool", [x]), 0.02, 128)
    y = conv(b, y, 16, 4, "squeeze", scale=0.01, zero=0)
    y = conv(b, y, 4, 16, "excite", scale=0.02)
    y = q(b, b.node("HardSigmoid", [y], alpha=0.2, beta=0.5), 1 / 255, 0)
    return q(b, b.node("Mul", [x, y]), 0.03, 115)


def residual(b, x):
    return q(b, b.node("Relu", [b.node("Add", [x, conv(b, x, 16, 16, "branch")])]), 0.04, 0)


def resize(b, x):
    scales = b.const(np.array([1, 1, 2, 2], "float32"))
    y = b.node("Resize", [x, "", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
               nearest_mode="floor")  # fmt: skip
    return q(b, y)


def average(**attrs):
    return lambda b, x: q(b, b.node("AveragePool", [x], kernel_shape=[3, 3], **attrs), 0.04, 118)


def split(b, x):
    first, second = b.node("Split", [x, b.const(np.array([4, 12]))], outputs=2, axis=1)
    return q(b, b.node("Concat", [q(b, second), q(b, first)], axis=1))


# body, and the operators it is to become (convolutions left out)
PATTERNS = {
    "pad with zeros": (padded(0.0), []),
    "pad with zeros, not quantized again": (padded(0.0, zero=None), []),
    "pad with another value": (padded(float(np.float32(20) * np.float32(SCALE))), ["nn.pad"]),
    "relu": (unary("Relu", SCALE, ZERO), ["maximum"]),
    "relu6": (relu6, ["maximum", "dequantize", "minimum", "quantize"]),
    "sigmoid": (unary("Sigmoid", 1 / 256, 0), ["qnn.lookup"]),
    "hard-sigmoid": (unary("HardSigmoid", 1 / 255, 0, alpha=1 / 6, beta=0.5), ["qnn.lookup"]),
    "hard-swish": (unary("HardSwish"), ["qnn.lookup"]),
    "hard-swish by hand": (hardswish_by_hand, ["qnn.lookup"]),
    "hard-swish, quantized inside": (hardswish_quantized_inside, ["qnn.lookup"]),
    "silu, quantized inside": (silu, ["qnn.lookup"]),
    "leaky relu": (unary("LeakyRelu", 0.04, 30, alpha=0.1), ["dequantize", "nn.leakyrelu", "quantize"]),
    "squeeze and excite": (squeeze_and_excite, ["qnn.pool2d", "qnn.lookup", "qnn.binary"]),
    "residual": (residual, ["qnn.binary"]),
    "resize": (resize, ["image.resize2d"]),
    "max pool": (lambda b, x: q(b, b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2])), ["qnn.pool2d"]),
    "average pool": (average(strides=[2, 2]), ["qnn.pool2d"]),
    "average pool, padding counted": (average(pads=[1, 1, 1, 1], count_include_pad=1), ["qnn.pool2d"]),
    "average pool, padding not counted": (average(pads=[1, 1, 1, 1]), ["qnn.pool2d"]),
    "global average pool": (unary("GlobalAveragePool", 0.02, 128), ["qnn.pool2d"]),
    "mean": (lambda b, x: q(b, b.node("ReduceMean", [x], axes=[2, 3]), 0.02, 128), ["qnn.pool2d"]),
    "split and concat": (split, ["split", "qnn.concat"]),
}


def pattern_model(name, last=True):
    """A convolution, the pattern, and another convolution if ``last``; quantized input, NCHW."""
    b = GraphBuilder()
    x = b.dequantize(b.input("x", SHAPE, "uint8"), 0.047, ZERO)
    y = PATTERNS[name][0](b, conv(b, x, 16, 16, "first"))
    if not last:
        return b.model({y: "float32"})
    return b.model(
        {b.quantize(b.node("Conv", [y, b.weight((8, 16, 1, 1), scale=0.01)], name="last"), 0.1, 128): "uint8"}
    )


@pytest.mark.parametrize("name", PATTERNS)
def test_stays_8_bit_and_channels_last(name):
    mod = quantized(selector.load(pattern_model(name)), _session(resolve("native"), "int8", 1))
    found = [op for op in operators(mod) if op != "qnn.conv2d"]
    assert found == ["permute_dims", *PATTERNS[name][1], "permute_dims"]


@pytest.mark.parametrize("name", PATTERNS)
def test_values(name):
    model = pattern_model(name, last=False)
    feeds = random_inputs(model)
    expected = reference(model, feeds)[0]
    actual = selector.compile(model, policy="int8", threads=2).run(feeds["x"])[0]
    levels = np.unique(expected)
    assert len(levels) > 8
    assert np.abs(actual - expected).max() <= 1.001 * np.diff(levels).min()


@pytest.mark.parametrize("name", ["pad with zeros", "pad with zeros, not quantized again"])
def test_padding_goes_into_the_convolution(name):
    workloads = selector.extract_workloads(pattern_model(name))
    assert [workload.padding for workload in workloads] == [(0, 0, 0, 0), (1, 0, 2, 1)]


def gated(b, x):
    return q(b, b.node("Mul", [b.node("Sigmoid", [x]), conv(b, x, 16, 16, "second")]))


def of_two(b, x):
    y = b.node("Add", [b.node("Mul", [x, scalar(b, 0.5)]), conv(b, x, 16, 16, "second")])
    return q(b, b.node("Tanh", [b.node("Sub", [y, x])]), 1 / 128, 128)


def doubled(b, x):
    return q(b, b.node("Resize", [x, "", b.const(np.array([1, 1, 2, 2], "float32"))], mode="linear"))


@pytest.mark.parametrize("between", [gated, of_two, doubled])
def test_float_operators_between_bytes_are_one_kernel(between):
    b = GraphBuilder()
    x = b.dequantize(b.input("x", SHAPE, "uint8"), SCALE, ZERO)
    y = between(b, conv(b, x, 16, 16, "first"))
    model = b.model(
        {b.quantize(b.node("Conv", [y, b.weight((8, 16, 1, 1), scale=0.01)], name="last"), 0.1, 128): "uint8"}
    )
    profile = selector.compile(model, policy="int8", threads=1).profile(*random_inputs(model).values(), rounds=1)
    others = [kernel.name for kernel in profile.kernels if not kernel.lowering and "transpose" not in kernel.name]
    assert len(others) == 1
    assert others[0].startswith("fused_dequantize")
    assert others[0].endswith("quantize")
