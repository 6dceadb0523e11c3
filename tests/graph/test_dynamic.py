"""Dynamic quantization: integer kernels around a range that is known at run time only."""

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import selector
from selector.graph.compile import _session
from selector.graph.pipeline import quantized
from selector.runtime import ModelError
from selector.target import resolve
from tests.graph.modules import module, operators
from tests.graph.reference import expected


def model(nodes, shape, constants, out="y", domain=""):
    graph = helper.make_graph(
        nodes,
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13), *([helper.make_opsetid(domain, 1)] if domain else [])]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return made if domain else onnx.shape_inference.infer_shapes(made)


def node(op_type, inputs, outputs, **attributes):
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def layer(op_type, **attributes):
    """As onnxruntime's quantize_dynamic writes one."""
    return [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node(op_type, "q w z wz", "i", **attributes),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s ws", "sws"),
        node("Mul", "f sws", "y"),
    ]


def check(made, seed=0):
    shape = [dim.dim_value for dim in made.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(seed).normal(0.5, 2, shape).astype("float32")
    compiled = selector.compile(made, policy="int8", threads=1)
    (first,) = compiled.run(x)
    (second,) = selector.compile(made, policy="int16", threads=2).run(x)
    np.testing.assert_array_equal(first, second)
    (wanted,) = expected(made, x)
    np.testing.assert_allclose(first, wanted, rtol=1e-6, atol=0)
    assert [decision.lowering for decision in compiled.decisions] == ["int8"]


def weights(rng, shape, dtype):
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, dtype, endpoint=True)


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_convolutions(data):
    pick = lambda *values: data.draw(st.sampled_from(values))  # noqa: E731
    rng = np.random.default_rng(pick(0, 1, 2))
    groups, kernel, dtype = pick(1, 2, 4), pick(1, 2, 3), pick("int8", "uint8")
    w = weights(rng, (8, 4 // groups, kernel, kernel), dtype)
    attributes = {
        "pads": [pick(0, 1, 2) for _ in range(4)],
        "strides": [pick(1, 2), pick(1, 2)],
        "dilations": [pick(1, 2)] * 2,
        "group": groups,
    }
    zero = np.array(pick(0, 3, 100), dtype)
    nodes = layer("ConvInteger", **attributes)
    check(model(nodes, (pick(1, 2), 4, 7, 9), {"w": w, "ws": np.float32(0.01), "wz": zero}))


@pytest.mark.parametrize("shape", [(5, 24), (2, 5, 24), (1, 24)])
@pytest.mark.parametrize("per_channel", [False, True])
def test_products(shape, per_channel):
    w = weights(np.random.default_rng(0), (24, 10), "int8")
    size = (10,) if per_channel else ()
    zeros = np.arange(10, dtype="int8") if per_channel else np.int8(5)
    check(model(layer("MatMulInteger"), shape, {"w": w, "ws": np.full(size, 0.02, "float32"), "wz": zeros}))


@pytest.mark.parametrize("bias", [False, True])
def test_products_as_onnxruntime_fuses_them(bias):
    w = weights(np.random.default_rng(0), (24, 10), "uint8")
    constants = {"w": w, "ws": np.float32(0.02), "wz": np.uint8(120)}
    if bias:
        constants["b"] = np.arange(10, dtype="float32")
    rest = " b" if bias else ""
    fused = [node("DynamicQuantizeMatMul", "x w ws wz" + rest, "y", domain="com.microsoft")]
    check(model(fused, (5, 24), constants, domain="com.microsoft"))
    halves = [
        node("DynamicQuantizeLinear", "x", "q s z"),
        node("MatMulIntegerToFloat", "q w s ws z wz" + rest, "y", domain="com.microsoft"),
    ]
    check(model(halves, (5, 24), constants, domain="com.microsoft"))


def test_a_chain_stays_channels_last():
    first, second = layer("ConvInteger", pads=[1] * 4), layer("ConvInteger", pads=[1] * 4)
    for item in second:
        item.input[:] = [name if name in ("w", "ws", "wz") else f"{name}2" for name in item.input]
        item.output[:] = [f"{name}2" for name in item.output]
    w = weights(np.random.default_rng(0), (4, 4, 3, 3), "int8")
    nodes = [*first, node("Relu", "y", "x2"), *second]
    made = model(nodes, (1, 4, 6, 6), {"w": w, "ws": np.float32(0.01), "wz": np.int8(0)}, out="y2")
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6)).astype("float32")
    compiled = selector.compile(made, policy="int8", threads=1)
    np.testing.assert_allclose(compiled.run(x)[0], expected(made, x)[0], rtol=1e-5, atol=1e-5)
    assert [decision.lowering for decision in compiled.decisions] == ["int8", "int8"]
    assert operators(quantized(selector.load(made), _session(resolve("native"), "int8", 1))).count("permute_dims") == 2


def test_all_zeros_have_the_scale_one():
    from selector.graph.ops.dynamic import dynamic_quantize

    def build(emit, x):
        parts = emit(dynamic_quantize(x))
        return tuple(emit(parts[index]) for index in range(3))

    mod = module([((3, 5), "float32")], build)
    assert operators(mod) == ["qnn.dynamic_quantize"]
    values, scale, zero = selector.compile(mod, threads=1).run(np.zeros((3, 5), "float32"))
    assert (scale, zero, values.any()) == (1, 0, False)


def test_weights_computed_at_run_time_are_refused():
    nodes = [node("DynamicQuantizeLinear", "x", "q s z"), node("ConvInteger", "q q", "i"), node("Cast", "i", "y", to=1)]
    with pytest.raises(ModelError, match="ConvInteger 'i': its weights are computed at run time"):
        selector.load(model(nodes, (4, 4, 1, 1), {}))
