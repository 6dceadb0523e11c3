"""Operators with kernels of their own: what is matched, and that the values are those of the float graph."""

import numpy as np
import pytest
from tvm import relax

from selector.graph.fused import fuse_kernels
from selector.graph.integer import keep_integer
from selector.graph.kernels import Params, requantize
from tests.graph.modules import dequantize, module, operators, quantize, run

SHAPE = (1, 7, 6, 21)


def image(seed=0, shape=SHAPE, dtype="uint8"):
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def pooled(**attrs):
    def build(emit, x):
        y = relax.op.nn.avg_pool2d(emit(dequantize(x)), layout="NHWC", **attrs)
        return quantize(emit(y), 0.06, 40)

    return build


def global_mean(keepdims):
    return lambda emit, x: quantize(emit(relax.op.mean(emit(dequantize(x)), (1, 2), keepdims=keepdims)), 0.02, 100)


AVERAGES = {
    "2x2 s2": pooled(pool_size=(2, 2), strides=(2, 2)),
    "3x3 padded": pooled(pool_size=(3, 3), strides=(1, 2), padding=(1, 1)),
    "3x3 padding counted": pooled(pool_size=(3, 3), strides=(1, 1), padding=(1, 1), count_include_pad=True),
    "global": global_mean(True),
    "global, flat": global_mean(False),
    "adaptive": lambda emit, x: quantize(
        emit(relax.op.nn.adaptive_avg_pool2d(emit(dequantize(x)), (1, 1), layout="NHWC")), 0.02, 100
    ),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_average_pool(name):
    mod = module([(SHAPE, "uint8")], AVERAGES[name])
    after = fuse_kernels(mod)
    assert [op for op in operators(after) if op != "reshape"] == ["qnn.pool2d"]
    expected, actual = run(mod, image())[0], run(after, image())[0]
    assert np.abs(expected.astype(int) - actual).max() <= 1
    assert (expected != actual).mean() < 0.05  # only at ties


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(
    "attrs",
    [{"pool_size": (2, 2), "strides": (2, 2)}, {"pool_size": (3, 3), "strides": (2, 1), "padding": (1, 0, 1, 2)},
     {"pool_size": (3, 3), "strides": (2, 2), "ceil_mode": True}],
)  # fmt: skip
def test_max_pool(dtype, attrs):
    mod = module([(SHAPE, dtype)], lambda emit, x: relax.op.nn.max_pool2d(x, layout="NHWC", **attrs))
    after = fuse_kernels(mod)
    assert operators(after) == ["qnn.pool2d"]
    data = image(dtype=dtype)
    np.testing.assert_array_equal(run(mod, data)[0], run(after, data)[0])


UNMATCHED = {
    "channels first": lambda emit, x: relax.op.nn.max_pool2d(x, (2, 2)),
    "dilated": lambda emit, x: relax.op.nn.max_pool2d(x, (2, 2), dilation=(2, 2), layout="NHWC"),
    "float result": lambda emit, x: relax.op.mean(emit(dequantize(x)), (1, 2)),
    "other axes": lambda emit, x: quantize(emit(relax.op.mean(emit(dequantize(x)), (1, 3)))),
    "rounded up": pooled(pool_size=(2, 2), strides=(2, 2), ceil_mode=True),
}


@pytest.mark.parametrize("name", UNMATCHED)
def test_left_alone(name):
    mod = module([(SHAPE, "uint8")], UNMATCHED[name])
    assert operators(fuse_kernels(mod)) == operators(mod)


def joined(*scales, shuffle=False):
    def build(emit, *parts):
        reals = [emit(dequantize(part, scale)) for part, scale in zip(parts, scales, strict=True)]
        y = emit(quantize(emit(relax.op.concat(reals, 3))))
        if shuffle:
            y = emit(relax.op.reshape(y, (1, 7, 6, len(parts), 21)))
            y = emit(relax.op.permute_dims(y, (0, 1, 2, 4, 3)))
            y = emit(relax.op.reshape(y, (1, 7, 6, 21 * len(parts))))
        return y

    return build


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("scales", [(0.1, 0.1), (0.1, 0.17), (0.031, 0.17, 0.1)])
def test_concat(scales, shuffle):
    mod = module([(SHAPE, "uint8")] * len(scales), joined(*scales, shuffle=shuffle))
    after = fuse_kernels(relax.transform.CanonicalizeBindings()(keep_integer(mod)))
    assert operators(after) == ["qnn.concat"]
    parts = [image(seed) for seed in range(len(scales))]
    np.testing.assert_array_equal(run(mod, *parts)[0], run(after, *parts)[0])


def test_shuffle_into_other_groups_stays():
    def build(emit, x, y):
        both = emit(relax.op.concat([x, y], 3))
        both = emit(relax.op.reshape(both, (1, 7, 6, 3, 14)))
        return relax.op.reshape(emit(relax.op.permute_dims(both, (0, 1, 2, 4, 3))), (1, 7, 6, 42))

    mod = module([(SHAPE, "uint8")] * 2, build)
    assert operators(fuse_kernels(mod)) == ["qnn.concat", "reshape", "permute_dims", "reshape"]


def test_requantize_of_equal_parameters_is_nothing():
    params = Params(0.1, 3, "uint8")
    value = object()
    assert requantize(value, 32, params, params) is value
