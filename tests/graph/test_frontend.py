"""Loading: every way in, and one line for everything that cannot be used."""

import sys

import numpy as np
import onnx
import pytest
from onnx import helper
from tvm import relax, tirx

import selector
from selector.graph import frontends
from selector.graph.passes.fuse import LAYER_NAMES
from tests.graph.modules import module, operators
from tests.models import GraphBuilder, qdq_block_model, qdq_conv_model, random_inputs


def test_path_bytes_and_proto_are_the_same(tmp_path):
    model = qdq_conv_model()
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    for given in (path, str(path), path.read_bytes(), model):
        assert operators(selector.load(given))[-1] == "quantize"


def test_module_is_returned_as_it_is():
    mod = module([((2, 2), "float32")], lambda emit, x: relax.op.nn.relu(x))
    assert selector.load(mod) is mod


@pytest.mark.parametrize(("shape", "text"), [((None, 2), "fixed shape"), ((0, 2), "zero-sized")])
def test_modules_need_fixed_shapes(shape, text):
    sizes = [tirx.Var("n", "int64") if size is None else size for size in shape]
    mod = module([(sizes, "float32")], lambda emit, x: relax.op.nn.relu(x))
    with pytest.raises(selector.ModelError, match=text):
        selector.load(mod)
    del mod["main"]
    with pytest.raises(selector.ModelError, match="function 'main'"):
        selector.load(mod)


def test_layers_have_the_names_of_the_nodes():
    names = selector.load(qdq_block_model())["main"].attrs[LAYER_NAMES]
    assert list(names) == ["stem", "depthwise", "pointwise", "left", "right", "tail", "fc"]


def test_names_are_made_unique():
    model = qdq_block_model()
    for node in model.graph.node:
        if node.op_type == "Conv":
            node.name = "conv"
    layers = [decision.layer for decision in selector.explain(model)]
    assert layers == ["conv", "conv:2", "conv:3", "conv:4", "conv:5", "conv:6", "fc"]


def test_float_only_network_says_that_nothing_is_quantized():
    b = GraphBuilder()
    x = b.input("x", (1, 3, 8, 8))
    model = b.model({b.node("Conv", [x, b.const(np.ones((4, 3, 3, 3), "float32"))], name="c"): "float32"})
    compiled = selector.compile(model, threads=1)
    (decision,) = compiled.decisions
    assert (decision.layer, decision.lowering, decision.workload) == ("c", "tvm", None)
    assert "not dequantized" in decision.reason
    assert compiled.run(*random_inputs(model).values())[0].shape == (1, 4, 6, 6)


def with_input_dim(value):
    model = qdq_conv_model()
    dim = model.graph.input[0].type.tensor_type.shape.dim[2]
    dim.ClearField("dim_value")
    if isinstance(value, str):
        dim.dim_param = value
    elif value is not None:
        dim.dim_value = value
    return model


def without_shape():
    model = qdq_conv_model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


def unknown_qoperator():
    model = qdq_conv_model()
    model.graph.node[2].op_type = "QLinearReduceMean"
    return model


def unknown_operator():
    model = qdq_conv_model()
    model.graph.node[2].op_type = "NoSuchOperator"
    return model


def missing_node():
    model = qdq_conv_model()
    del model.graph.node[0]
    return model


def missing_output():
    model = qdq_conv_model()
    del model.graph.node[-1]
    return model


BAD = {
    "named dimension": (lambda: with_input_dim("height"), "dimension 2 of input 'x' is dynamic ('height')"),
    "unnamed dimension": (lambda: with_input_dim(None), "dimension 2 of input 'x' is dynamic ('?')"),
    "how to fix it": (lambda: with_input_dim("height"), "add e.g. --shape x=1x"),
    "zero-sized dimension": (lambda: with_input_dim(0), "dimension 2 of input 'x' is zero"),
    "no shape": (without_shape, "input 'x' has no shape"),
    "unknown operator on integers": (unknown_qoperator, "Selector does not know QLinearReduceMean (node"),
    "how to quantize": (unknown_qoperator, "quant_format=QuantFormat.QDQ"),
    "unknown operator": (unknown_operator, "NoSuchOperator"),
    "missing node": (missing_node, "nothing defines"),
    "missing output": (missing_output, "nothing defines its output"),
    "truncated": (lambda: qdq_conv_model().SerializeToString()[:-40], "is truncated"),
    "text": (lambda: b"hello, this is not a model" * 20, "is not an ONNX model"),
    "nothing": (lambda: b"", "is not an ONNX model"),
    "missing file": (lambda: "/nonexistent/net.onnx", "cannot read /nonexistent/net.onnx"),
    "other object": (lambda: 3, "got builtins.int"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_get_one_line(name):
    make, text = BAD[name]
    with pytest.raises(selector.ModelError) as caught:
        selector.load(make())
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_truncation_of_a_file_is_noticed():
    data = qdq_conv_model().SerializeToString()
    for size in range(0, len(data), 7):
        with pytest.raises(selector.ModelError):
            selector.load(data[:size])


def test_tflite_needs_its_package(tmp_path, monkeypatch):
    path = tmp_path / "net.tflite"
    path.write_bytes(b"\x00" * 8)
    monkeypatch.setitem(sys.modules, "tflite", None)
    monkeypatch.delitem(sys.modules, "selector.graph.frontends.tflite_import", raising=False)
    monkeypatch.delattr(frontends, "tflite_import", raising=False)
    with pytest.raises(selector.ModelError, match=r"pip install 'tvm-selector\[tflite\]'"):
        selector.load(path)


def test_optional_inputs_and_initializer_inputs_are_fine():
    model = qdq_conv_model()
    # old exporters list initializers among the inputs
    tensor = model.graph.initializer[0]
    model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert operators(selector.load(model))[-1] == "quantize"
