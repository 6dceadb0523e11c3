"""Operators with kernels of their own: what is matched, and that the values are those of the float graph."""

import numpy as np
import pytest
from tvm import relax

from selector.graph.ops import binary
from selector.graph.ops.parts import requantize
from selector.graph.passes.fused import fuse_kernels
from selector.graph.passes.integer import keep_integer
from selector.graph.quantization import Params
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


@pytest.mark.parametrize("shuffle", [False, True])
def test_concat_cut_into_slices(shuffle):
    def build(emit, *parts):
        y = emit(joined(0.1, 0.17, shuffle=shuffle)(emit, *parts))
        return tuple(emit(relax.op.strided_slice(y, [3], [low], [high])) for low, high in ((20, 42), (0, 20)))

    mod = module([(SHAPE, "uint8")] * 2, build)
    after = fuse_kernels(relax.transform.CanonicalizeBindings()(keep_integer(mod)))
    assert operators(after) == ["qnn.concat"]
    parts = [image(seed) for seed in range(2)]
    for expected, actual in zip(run(mod, *parts), run(after, *parts), strict=True):
        np.testing.assert_array_equal(expected, actual)


SLICES = {
    "a step": lambda y: relax.op.strided_slice(y, [3], [0], [42], [2]),
    "rows": lambda y: relax.op.strided_slice(y, [1], [0], [4]),
    "not a multiple of the parts": lambda y: relax.op.strided_slice(y, [3], [0], [21]),
}


@pytest.mark.parametrize("name", SLICES)
def test_other_slices_stay(name):
    mod = module(
        [(SHAPE, "uint8")] * 2, lambda emit, *parts: SLICES[name](joined(0.1, 0.1, shuffle=True)(emit, *parts))
    )
    assert operators(fuse_kernels(relax.transform.CanonicalizeBindings()(keep_integer(mod)))) == [
        "qnn.concat",
        "strided_slice",
    ]


# operator, parameters of both operands and of the result, bounds of the activation
BINARIES = {
    "add": ("add", Params(0.1, 3, "uint8"), Params(0.037, -56, "int8"), Params(0.13, 90, "uint8"), None),
    "add, ties": ("add", Params(0.25, 0, "uint8"), Params(0.25, 7, "uint8"), Params(0.5, 1, "uint8"), None),
    "add, relu": ("add", Params(0.1, 3, "int8"), Params(0.2, 0, "int8"), Params(0.07, -128, "int8"), (0.0, np.inf)),
    "add, clip": ("add", Params(0.1, 3, "uint8"), Params(0.2, 0, "uint8"), Params(0.02, 90, "uint8"), (-1.1, 2.5)),
    "multiply": ("multiply", Params(0.1, 3, "uint8"), Params(0.03, -128, "int8"), Params(0.3, 77, "uint8"), None),
    "multiply, int8": ("multiply", Params(0.1, 3, "int8"), Params(0.03, 5, "int8"), Params(0.3, 7, "int8"), None),
}


def binary_module(kind, first, second, out, clip, shapes):
    def build(emit, x, y):
        reals = [emit(dequantize(v, p.scale, p.zero_point, p.dtype)) for v, p in ((x, first), (y, second))]
        value = emit(getattr(relax.op, kind)(*reals))
        if clip is not None:
            value = emit(relax.op.nn.relu(value) if clip == (0.0, np.inf) else relax.op.clip(value, *clip))
        return quantize(value, out.scale, out.zero_point, out.dtype)

    return module([(shapes[0], first.dtype), (shapes[1], second.dtype)], build)


def in_float32(kind, first, second, out, clip, x, y):
    """The same in numpy, one float32 operator at a time."""
    reals = [
        (v.astype("float32") - np.float32(p.zero_point)) * np.float32(p.scale) for v, p in ((x, first), (y, second))
    ]
    value = np.clip(getattr(np, kind)(*reals), *(clip or (-np.inf, np.inf))).astype("float32")
    info = np.iinfo(out.dtype)
    return np.clip(np.rint(value / np.float32(out.scale)) + out.zero_point, info.min, info.max).astype(out.dtype)


@pytest.mark.parametrize("name", BINARIES)
def test_binary_of_every_pair(name):
    _, first, second, _, _ = BINARIES[name]
    pairs = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    shape = (1, 64, 64, 16)
    x, y = (v.reshape(shape).astype("uint8").view(p.dtype) for v, p in zip(pairs, (first, second), strict=True))
    after = fuse_kernels(binary_module(*BINARIES[name], (shape, shape)))
    assert operators(after) == ["qnn.binary"]
    np.testing.assert_array_equal(run(after, x, y)[0], in_float32(*BINARIES[name], x, y))


@pytest.mark.parametrize("shapes", [(SHAPE, SHAPE), ((2, 3, 5, 21), (2, 1, 1, 21)), ((2, 1, 21), (2, 3, 21))])
@pytest.mark.parametrize("name", ["add", "multiply"])
def test_binary_shapes(name, shapes):
    _, first, second, _, _ = BINARIES[name]
    x, y = (image(i, shape, p.dtype) for i, (shape, p) in enumerate(zip(shapes, (first, second), strict=True)))
    after = fuse_kernels(binary_module(*BINARIES[name], shapes))
    assert operators(after) == ["qnn.binary"]
    np.testing.assert_array_equal(run(after, x, y)[0], in_float32(*BINARIES[name], x, y))


@pytest.mark.parametrize("other", [(7, 6, 21), (1, 7, 6, 1), (1, 7, 1, 21)])
def test_other_broadcasts_stay(other):
    mod = binary_module(*BINARIES["add"], (SHAPE, other))
    assert operators(fuse_kernels(mod)) == operators(mod)


def test_division_stays_where_no_factor_is_exact(monkeypatch):
    monkeypatch.setattr(binary, "near", lambda _: iter(()))
    for name in ("add", "multiply"):
        _, first, second, _, _ = BINARIES[name]
        x, y = image(0, dtype=first.dtype), image(1, dtype=second.dtype)
        after = fuse_kernels(binary_module(*BINARIES[name], (SHAPE, SHAPE)))
        np.testing.assert_array_equal(run(after, x, y)[0], in_float32(*BINARIES[name], x, y))


def test_requantize_of_equal_parameters_is_nothing():
    params = Params(0.1, 3, "uint8")
    value = object()
    assert requantize(value, 32, params, params) is value
