"""QDQ fusion: what becomes relax.qnn.conv2d and relax.qnn.dense, and what is refused with which reason."""

import numpy as np
import pytest
from tvm import relax

import selector
from selector.graph import qnn
from selector.graph.passes.canonical import canonicalize
from selector.graph.passes.fuse import fuse
from selector.graph.passes.integer import keep_integer
from tests.graph.modules import calls, dequantize, module, operators, quantize, weight
from tests.models import qdq_conv_model, qdq_dense_model

DATA = ((1, 8, 6, 6), "uint8")


def fused(model):
    mod = selector.load(model)
    return fuse(canonicalize(mod))


def conv(emit, x, *, w=None, **attrs):
    return emit(relax.op.nn.conv2d(emit(dequantize(x)), emit(weight((4, 8, 3, 3)) if w is None else w), **attrs))


@pytest.mark.parametrize("bias", [None, "int32", "float"])
@pytest.mark.parametrize("activation", [None, "relu", "clip"])
def test_convolution_with_epilogue_becomes_one_call(bias, activation):
    mod, layers = fused(qdq_conv_model(bias=bias, activation=activation, per_channel=True))
    assert operators(mod) == ["qnn.conv2d"]
    assert [(layer.name, layer.reason) for layer in layers] == [("conv", "")]
    params = qnn.params_of(calls(mod)[0])
    assert params.bias.dtype == ("float32" if bias == "float" else "int32")
    assert params.bias.any() == (bias is not None)
    bounds = {None: (-np.inf, np.inf), "relu": (0, np.inf), "clip": (np.float32(-0.7), np.float32(1.3))}
    assert (params.clip_min, params.clip_max) == bounds[activation]


def test_workload_says_what_the_network_says():
    model = qdq_conv_model(
        batch=2,
        strides=(2, 1),
        pads=(1, 0, 2, 1),
        dilations=(1, 2),
        groups=2,
        weight_dtype="uint8",
        weight_zero_point=9,
    )
    (work,) = selector.extract_workloads(model)
    assert (work.batch, work.in_height, work.in_width, work.in_channels, work.out_channels) == (2, 7, 6, 8, 12)
    assert (work.stride, work.padding, work.dilation, work.groups) == ((2, 1), (1, 0, 2, 1), (1, 2), 2)
    assert (work.data_dtype, work.weight_dtype, work.out_dtype) == ("uint8", "uint8", "uint8")
    assert (work.data_zero_point, work.weight_zero_point) == (117, 9)


def test_weight_zero_points_that_differ_are_none_in_the_workload():
    (work,) = selector.extract_workloads(qdq_conv_model(weight_zero_point=list(range(12))))
    assert work.weight_zero_point is None


def test_weight_scale_may_run_along_a_singleton_axis_only_if_it_is_per_tensor():
    # ShuffleNet's exporter writes per-tensor scales with axis 1
    mod, _ = fused(module([DATA], lambda emit, x: quantize(conv(emit, x, w=weight((4, 8, 3, 3), axis=1)))))
    assert operators(mod) == ["qnn.conv2d"]


@pytest.mark.parametrize("gemm", ["Gemm", "MatMul"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_matrix_product_becomes_dense(gemm, per_channel):
    mod, _ = fused(qdq_dense_model(op=gemm, per_channel=per_channel))
    assert operators(mod) == ["qnn.dense"]
    (work,) = selector.extract_workloads(qdq_dense_model(op=gemm, per_channel=per_channel))
    assert (work.in_width, work.in_channels, work.out_channels, work.kind) == (3, 20, 10, "1x1")


def test_nhwc_data_with_hwio_weights():
    def build(emit, x):
        kernel = emit(weight((3, 3, 8, 4), scale=[0.1, 0.2, 0.3, 0.4], zero_point=[0, 1, 2, 3], axis=3))
        y = relax.op.nn.conv2d(
            emit(dequantize(x)), kernel, padding=(0, 1, 2, 1), data_layout="NHWC", kernel_layout="HWIO"
        )
        return quantize(emit(relax.op.nn.relu(emit(y))))

    mod, _ = fused(module([((1, 6, 5, 8), "uint8")], build))
    assert operators(mod) == ["qnn.conv2d"]
    call = calls(mod)[0]
    assert str(call.attrs["data_layout"]) == "NHWC"
    params = qnn.params_of(call)
    assert params.weight.shape == (4, 3, 3, 8)
    np.testing.assert_array_equal(params.weight_scale, np.float32([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_array_equal(params.weight_zero_point, [0, 1, 2, 3])


def test_weight_is_followed_through_reshape_permute_and_clip():
    # as the TFLite importer leaves depthwise weights
    def build(emit, x):
        stored = relax.const(np.arange(-36, 36).reshape(1, 3, 3, 8).astype("int8"))
        kernel = emit(relax.op.reshape(emit(relax.op.clip(stored, -30, 30)), (3, 3, 8, 1)))
        scale = np.linspace(0.1, 0.8, 8).astype("float32")
        kernel = emit(relax.op.dequantize(kernel, relax.const(scale), relax.const(np.zeros(8, "int8")), axis=2))
        kernel = emit(relax.op.permute_dims(kernel, (2, 0, 1, 3)))
        y = relax.op.nn.conv2d(
            emit(dequantize(x)), kernel, groups=8, data_layout="NHWC", kernel_layout="OHWI", padding=1
        )
        return quantize(emit(y))

    mod, _ = fused(module([((1, 6, 5, 8), "uint8")], build))
    params = qnn.params_of(calls(mod)[0])
    expected = np.arange(-36, 36).clip(-30, 30).reshape(3, 3, 8, 1).transpose(2, 0, 1, 3)
    np.testing.assert_array_equal(params.weight, expected)
    np.testing.assert_array_equal(params.weight_scale, np.linspace(0.1, 0.8, 8).astype("float32"))


def test_one_activation_and_one_weight_may_feed_several_convolutions():
    def build(emit, x):
        data, kernel = emit(dequantize(x)), emit(weight((4, 8, 3, 3)))
        first = emit(quantize(emit(relax.op.nn.conv2d(data, kernel))))
        second = emit(quantize(emit(relax.op.nn.conv2d(data, kernel, padding=1))))
        return first, second

    mod, layers = fused(module([DATA], build))
    assert operators(mod) == ["qnn.conv2d", "qnn.conv2d"]
    assert [layer.name for layer in layers] == ["conv2d_0", "conv2d_1"]


def test_result_used_twice_keeps_a_float_epilogue():
    def build(emit, x):
        y = conv(emit, x)
        return emit(quantize(y)), emit(relax.op.nn.relu(y))

    mod, _ = fused(module([DATA], build))
    assert operators(mod) == ["qnn.conv2d", "quantize", "nn.relu"]
    assert qnn.params_of(calls(mod)[0]).out_dtype == "float32"


def test_residual_before_the_quantize_keeps_a_float_epilogue():
    def build(emit, x):
        return quantize(emit(relax.op.add(conv(emit, x, padding=1), conv(emit, x, padding=1))))

    mod, _ = fused(module([DATA], build))
    assert operators(mod) == ["qnn.conv2d", "qnn.conv2d", "add", "quantize"]


def test_bias_after_an_activation_is_not_a_bias():
    def build(emit, x):
        y = emit(relax.op.nn.relu(conv(emit, x)))
        return quantize(emit(relax.op.add(y, relax.const(np.ones((4, 1, 1), "float32")))))

    mod, _ = fused(module([DATA], build))
    assert operators(mod) == ["qnn.conv2d", "add", "quantize"]
    assert qnn.params_of(calls(mod)[0]).clip_min == 0


def test_int32_bias_of_another_scale_is_added_in_float():
    def build(emit, x):
        bias = relax.op.dequantize(
            relax.const(np.arange(4, dtype="int32")), relax.const(np.float32(0.5)), relax.const(np.int32(0)), axis=0
        )
        y = relax.op.add(conv(emit, x), emit(relax.op.reshape(emit(bias), (1, 4, 1, 1))))
        return quantize(emit(y))

    mod, _ = fused(module([DATA], build))
    np.testing.assert_array_equal(qnn.params_of(calls(mod)[0]).bias, np.float32([0, 0.5, 1, 1.5]))


def test_clips_compose():
    def build(emit, x):
        y = emit(relax.op.clip(conv(emit, x), -1, 5))
        return quantize(emit(relax.op.nn.relu6(emit(relax.op.minimum(y, relax.const(np.float32(4)))))))

    params = qnn.params_of(calls(fused(module([DATA], build))[0])[0])
    assert (params.clip_min, params.clip_max) == (0, 4)


def per_channel_data(emit, x):
    scale = relax.const(np.linspace(0.1, 0.8, 8).astype("float32"))
    data = relax.op.dequantize(x, scale, relax.const(np.zeros(8, "uint8")), axis=1)
    return relax.op.nn.conv2d(emit(data), emit(weight((4, 8, 3, 3))))


def float_weight(emit, x):
    return relax.op.nn.conv2d(emit(dequantize(x)), relax.const(np.ones((4, 8, 3, 3), "float32")))


def computed_weight(emit, x):
    kernel = emit(relax.op.reshape(emit(dequantize(x)), (36, 8, 1, 1)))
    return relax.op.nn.conv2d(emit(dequantize(x)), kernel)


REFUSALS = {
    "its data is not dequantized but comes from Relu": lambda emit, x: relax.op.nn.conv2d(
        emit(relax.op.nn.relu(emit(dequantize(x)))), emit(weight((4, 8, 3, 3)))
    ),
    "scales or zero points that differ between channels": per_channel_data,
    "its weight is not a dequantized constant": float_weight,
    "its weight is not a dequantized": computed_weight,
    "its weight has scales that differ within an output channel": lambda emit, x: conv(
        emit, x, w=weight((4, 8, 3, 3), scale=np.linspace(0.1, 0.8, 8), axis=1)
    ),
    "its weight has zero points that differ within an output channel": lambda emit, x: conv(
        emit, x, w=weight((4, 8, 3, 3), scale=np.full(8, 0.1), zero_point=np.arange(8), axis=1)
    ),
    "ConvTranspose (conv2d_transpose) has no quantized form": lambda emit, x: relax.op.nn.conv2d_transpose(
        emit(dequantize(x)), emit(weight((8, 4, 3, 3)))
    ),
}


@pytest.mark.parametrize("reason", REFUSALS)
def test_refusals_say_why(reason):
    before = module([DATA], REFUSALS[reason])
    mod, (layer,) = fused(before)
    assert reason in layer.reason
    assert "qnn.conv2d" not in operators(mod)


@pytest.mark.parametrize(("dtype", "reason"), [("uint16", ""), ("int16", ""), ("int32", "quantized as int32, not")])
def test_data_of_16_bits_is_taken_and_of_32_refused(dtype, reason):
    before = module(
        [((1, 8, 6, 6), dtype)],
        lambda emit, x: relax.op.nn.conv2d(emit(dequantize(x, dtype=dtype)), emit(weight((4, 8, 3, 3)))),
    )
    (layer,) = fused(before)[1]
    assert reason in layer.reason
    assert bool(layer.reason) == bool(reason)


def test_16_bit_data_moves_as_integers():
    def build(emit, x):
        moved = emit(relax.op.permute_dims(emit(dequantize(x, dtype="int16")), [0, 3, 1, 2]))
        return relax.op.matmul(emit(relax.op.reshape(moved, (8, 36))), emit(weight((36, 4))))

    mod, (layer,) = fused(keep_integer(module([((1, 6, 6, 8), "int16")], build)))
    assert not layer.reason
    assert operators(mod) == ["permute_dims", "reshape", "qnn.dense"]


def test_float_network_is_left_alone():
    before = module(
        [((1, 8, 6, 6), "float32")],
        lambda emit, x: relax.op.nn.conv2d(x, relax.const(np.ones((4, 8, 3, 3), "float32"))),
    )
    mod, (layer,) = fused(before)
    assert operators(mod) == ["nn.conv2d"]
    assert "comes from an input" in layer.reason
