"""Channels last: transposes at the borders only, and the same values."""

import numpy as np
import pytest
import tvm
from tvm import relax

from selector.graph import qnn
from selector.graph.passes.layout import channels_last, to_channels_last
from tests.graph.modules import dequantize, module, operators, quantize, run

SHAPE = (1, 8, 6, 4)


def params(channels=8):
    return qnn.QuantParams(
        weight=np.ones((channels, 1, 1, 8), "int8"),
        bias=np.zeros(channels, "int32"),
        data_scale=0.1,
        data_zero_point=3,
        weight_scale=np.full(channels, 0.1, "float32"),
        weight_zero_point=np.zeros(channels, "int32"),
        out_scale=0.1,
        out_zero_point=3,
        out_dtype="uint8",
    )


def conv(x, layer="a", layout="NCHW", channels=8):
    return qnn.conv2d(x, params(channels), layer=layer, data_layout=layout)


def test_channels_last_permutation():
    assert channels_last(4) == [0, 2, 3, 1]
    assert channels_last(5) == [0, 3, 4, 1, 2]


def test_two_convolutions_share_one_way_in_and_one_way_out():
    def before(emit, x):
        return conv(emit(conv(x)), "b")

    def expected(emit, x):
        y = emit(conv(emit(relax.op.permute_dims(x, (0, 2, 3, 1))), layout="NHWC"))
        return relax.op.permute_dims(emit(conv(y, "b", layout="NHWC")), (0, 3, 1, 2))

    inputs = [(SHAPE, "uint8")]
    tvm.ir.assert_structural_equal(to_channels_last(module(inputs, before)), module(inputs, expected))


def test_nhwc_network_is_left_alone():
    mod = module([((1, 6, 4, 8), "uint8")], lambda emit, x: conv(x, layout="NHWC"))
    assert to_channels_last(mod).same_as(mod)


def test_float_network_is_left_alone():
    mod = module([(SHAPE, "float32")], lambda emit, x: relax.op.nn.max_pool2d(x))
    assert to_channels_last(mod).same_as(mod)


def shuffle(emit, y):
    y = emit(relax.op.reshape(y, (1, 2, 4, 6, 4)))
    y = emit(relax.op.permute_dims(y, (0, 2, 1, 3, 4)))
    return relax.op.reshape(y, SHAPE)


def split_and_join(emit, y):
    parts = emit(relax.op.split(y, [2, 5], 1))
    return relax.op.concat([emit(parts[2]), emit(parts[0]), emit(parts[1])], 1)


def squeeze_and_excite(emit, y):
    real = emit(dequantize(y))
    gate = emit(relax.op.sigmoid(emit(relax.op.mean(real, (2, 3), keepdims=True))))
    return quantize(emit(relax.op.multiply(real, gate)))


def hardswish(emit, y):
    real = emit(dequantize(y))
    gate = emit(relax.op.clip(emit(relax.op.add(real, relax.const(np.float32(3)))), 0, 6))
    return quantize(emit(relax.op.multiply(real, emit(relax.op.divide(gate, relax.const(np.float32(6)))))))


def per_channel_constant(emit, y):
    constant = relax.const(np.linspace(-1, 1, 8).astype("float32").reshape(8, 1, 1))
    return quantize(emit(relax.op.add(emit(dequantize(y)), constant)))


BODIES = {
    "shuffle": shuffle,
    "split and concat": split_and_join,
    "slice": lambda emit, y: relax.op.strided_slice(y, [1, 3], [4, 0], [8, 4], [1, 2]),
    "pad": lambda emit, y: relax.op.nn.pad(y, (0, 0, 0, 0, 1, 2, 3, 4), "constant", 3.0),
    "max pool": lambda emit, y: relax.op.nn.max_pool2d(y, (3, 2), (2, 1), (1, 0, 0, 1)),
    "average pool": lambda emit, y: quantize(
        emit(relax.op.nn.avg_pool2d(emit(dequantize(y)), (2, 2), (2, 2), count_include_pad=True))
    ),
    "adaptive pool": lambda emit, y: quantize(emit(relax.op.nn.adaptive_avg_pool2d(emit(dequantize(y)), (1, 1)))),
    "resize": lambda emit, y: quantize(
        emit(relax.op.image.resize2d(emit(dequantize(y)), (12, 8), method="nearest_neighbor"))
    ),
    "squeeze and excite": squeeze_and_excite,
    "hardswish": hardswish,
    "per-channel constant": per_channel_constant,
    "relu": lambda emit, y: quantize(emit(relax.op.nn.relu(emit(dequantize(y))))),
}


@pytest.mark.parametrize("name", BODIES)
def test_layout_goes_through(name):
    def build(emit, x):
        y = emit(BODIES[name](emit, emit(conv(x))))
        return conv(y, "b") if y.ty.shape[1] == 8 else y

    mod = module([(SHAPE, "uint8")], build)
    after = to_channels_last(mod)
    inside = 1 if name == "shuffle" else 0
    assert operators(after).count("permute_dims") == 2 + inside
    data = np.random.default_rng(0).integers(0, 256, SHAPE).astype("uint8")
    np.testing.assert_array_equal(run(mod, data)[0], run(after, data)[0])


WAYS_OUT = {
    "global pool and flatten": lambda emit, y: relax.op.reshape(
        emit(relax.op.mean(emit(dequantize(y)), (2, 3), keepdims=True)), (1, 8)
    ),
    "mean without the axes": lambda emit, y: relax.op.mean(emit(dequantize(y)), (2, 3)),
    "permutation to channels last": lambda emit, y: relax.op.permute_dims(y, (0, 2, 3, 1)),
}


@pytest.mark.parametrize("name", WAYS_OUT)
def test_ways_out_without_a_permutation(name):
    mod = module([(SHAPE, "uint8")], lambda emit, x: WAYS_OUT[name](emit, emit(conv(x))))
    after = to_channels_last(mod)
    assert operators(after).count("permute_dims") == 1
    data = np.random.default_rng(0).integers(0, 256, SHAPE).astype("uint8")
    np.testing.assert_allclose(run(mod, data)[0], run(after, data)[0], rtol=1e-6)


def test_flattening_an_image_goes_back_to_channels_first():
    mod = module([(SHAPE, "uint8")], lambda emit, x: relax.op.reshape(emit(conv(x)), (1, 192)))
    after = to_channels_last(mod)
    assert operators(after) == ["permute_dims", "qnn.conv2d", "permute_dims", "reshape"]
