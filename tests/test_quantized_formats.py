"""Networks in other formats compute what the original computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from selector.quantized_formats import FORMATS, FormatError, convert, in_format
from tests.models import GraphBuilder, qdq_block_model, qdq_conv_model, random_inputs, reference

NETWORK = Path(__file__).parents[1] / "datasets" / "networks" / "shufflenet_v2_x0_5.u8u8.onnx"


def dequantized(model: onnx.ModelProto) -> dict[str, list[np.ndarray]]:
    """Values, scale and zero point of every constant that the model dequantizes, by the output's name."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {
        node.output[0]: [constants[name] for name in node.input]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
    }


def weights(model: onnx.ModelProto) -> dict[str, list[np.ndarray]]:
    """The 8-bit ones of ``dequantized``."""
    return {name: parts for name, parts in dequantized(model).items() if parts[0].dtype.itemsize == 1}


def activation_dtypes(model: onnx.ModelProto) -> set[str]:
    """Types of the zero points of all quantize nodes."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return {str(constants[node.input[2]].dtype) for node in model.graph.node if node.op_type == "QuantizeLinear"}


@pytest.mark.parametrize("target", ["u8s8", "s8s8", "u8u8"])
@pytest.mark.parametrize("source", [("uint8", "int8"), ("int8", "int8"), ("uint8", "uint8")], ids="-".join)
def test_moving_zero_points_changes_no_output(source: tuple[str, str], target: str) -> None:
    model = qdq_block_model(dtype=source[0], weight_dtype=source[1])
    converted = convert(model, target)
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(converted, strict_mode=True))
    assert activation_dtypes(converted) == {FORMATS[target].data}
    assert {str(parts[0].dtype) for parts in weights(converted).values()} == {FORMATS[target].weight}
    feed = random_inputs(model)
    np.testing.assert_array_equal(reference(converted, feed)[0], reference(model, feed)[0])


@pytest.mark.parametrize("target", ["u16s8", "s16s8"])
@pytest.mark.parametrize("source", ["uint8", "int8"])
def test_16_bits_have_256_steps_for_one(source: str, target: str) -> None:
    model = qdq_conv_model(data_dtype=source, float_io=True)
    converted = convert(model, target)
    assert activation_dtypes(converted) == {FORMATS[target].data}
    feed = random_inputs(model)
    ours, theirs = reference(converted, feed)[0], reference(model, feed)[0]
    assert len(np.unique(ours)) > 2 * len(np.unique(theirs))
    assert np.abs(ours - theirs).mean() < 0.05 * np.abs(theirs).mean()


@pytest.mark.parametrize("per_channel", [False, True])
def test_weights_that_do_not_fit_are_quantized_again(per_channel: bool) -> None:
    model = qdq_conv_model(data_dtype="uint8", weight_dtype="int8", per_channel=per_channel, float_io=True)
    converted = convert(model, "u8s8-7bit")
    before, after = weights(model), weights(converted)
    for name, (values, scale, zero_point) in after.items():
        assert (values.min(), values.max()) >= (-64, 60)
        assert values.max() <= 63
        assert not zero_point.any()
        old_values, old_scale, _ = before[name]
        shape = (-1, 1, 1, 1) if per_channel else ()
        error = values * scale.reshape(shape) - old_values * old_scale.reshape(shape)
        assert np.all(np.abs(error) <= 0.501 * scale.reshape(shape))
        biases = [parts for parts in dequantized(converted).values() if parts[0].dtype == np.int32]
        np.testing.assert_allclose(biases[0][1], np.float32(0.02) * scale, rtol=1e-6)
    feed = random_inputs(model)
    ours, theirs = reference(converted, feed)[0], reference(model, feed)[0]
    assert np.abs(ours - theirs).mean() < 0.05 * np.abs(theirs).mean()


def test_off_centre_uint8_weights_fit_int8_after_quantizing_again() -> None:
    model = qdq_conv_model(weight_dtype="uint8", weight_zero_point=97, float_io=True)
    ((values, scale, zero_point),) = weights(convert(model, "s8s8")).values()
    ((old_values, old_scale, _),) = weights(model).values()
    assert (values.dtype, zero_point) == (np.int8, 0)
    real = (old_values.astype(np.int32) - 97) * old_scale
    assert np.abs(values * scale - real).max() <= 0.501 * scale
    assert np.abs(values).max() == 127


def test_what_is_in_the_format_stays() -> None:
    model = qdq_conv_model(weight_dtype="uint8", weight_zero_point=97, float_io=True)
    assert convert(model, "u8u8") == model


def test_8bit_inputs_and_outputs_change_type() -> None:
    model = qdq_conv_model(data_dtype="int8")
    converted = convert(model, "u8s8")
    assert {item.type.tensor_type.elem_type for item in (*converted.graph.input, *converted.graph.output)} == {
        onnx.TensorProto.UINT8
    }
    feed = random_inputs(model)
    shifted = {name: (value.astype(np.int32) + 128).astype(np.uint8) for name, value in feed.items()}
    ours, theirs = reference(converted, shifted)[0], reference(model, feed)[0]
    np.testing.assert_array_equal(ours.astype(np.int32) - 128, theirs)


def test_a_network_of_the_repository() -> None:
    model = onnx.load(NETWORK)
    for target, rule in FORMATS.items():
        converted = convert(model, target)
        assert activation_dtypes(converted) == {rule.data}
        for values, _, _ in weights(converted).values():
            assert str(values.dtype) == rule.weight
            assert rule.low <= values.min()
            assert values.max() <= rule.high
    feed = random_inputs(model)
    expected, again = reference(model, feed)[0], reference(convert(model, "u8s8-7bit"), feed)[0]
    assert np.corrcoef(again.ravel(), expected.ravel())[0, 1] > 0.97


def quantized_relu() -> onnx.ModelProto:
    b = GraphBuilder()
    x = b.quantize(b.input("x", (1, 4)), 0.1, 0, "int8")
    return b.model({b.dequantize(b.node("Relu", [x]), 0.1, 0, "int8"): "float32"})


def without_zero_point() -> onnx.ModelProto:
    b = GraphBuilder()
    x = b.node("QuantizeLinear", [b.input("x", (1, 4)), b.const(np.float32(0.1))])
    return b.model({x: "uint8"})


@pytest.mark.parametrize(
    ("model", "format", "message"),
    [
        (quantized_relu(), "u8s8", r"\(Relu\) computes with quantized values"),
        (without_zero_point(), "s8s8", "has no zero point"),
        (qdq_conv_model(), "u4u4", "unknown format 'u4u4': give one of u8s8"),
    ],
)
def test_refusals(model: onnx.ModelProto, format: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        convert(model, format)


def test_in_format_is_a_file_for_a_while(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(qdq_conv_model(), path)
    with in_format(path, None) as same:
        assert same == path
    with in_format(path, "s8s8") as other:
        assert activation_dtypes(onnx.load(other)) == {"int8"}
    assert not other.exists()
    path.write_bytes(b"\xff" * 9)
    with pytest.raises(FormatError, match="is not an ONNX model"), in_format(path, "s8s8"):
        pass
