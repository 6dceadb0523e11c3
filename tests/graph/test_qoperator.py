"""Networks in QOperator format compute what their QDQ form does, and what ONNX Runtime computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx.backend.test.case.node import collect_testcases
from onnx.numpy_helper import from_array

import selector
from selector.runtime import ModelError
from tests.graph.random_networks import network
from tests.graph.reference import feed

_FUSIONS = ["ConvActivationFusion", "ConvAddActivationFusion", "GemmActivationFusion"]  # these make float operators
SHAPE = (1, 4, 6, 6)


def as_qoperators(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The network as ONNX Runtime's optimizer writes it."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 4
    onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=_FUSIONS
    )
    return onnx.load(path)


@pytest.mark.parametrize("seed", range(16))
def test_random_networks_compute_the_same(seed: int, tmp_path: Path) -> None:
    model = network(seed)
    rewritten = as_qoperators(model, tmp_path / "network.onnx")
    x = feed(model, seed)
    wanted = selector.compile(model, policy="int8", threads=1).run(x)
    for found, expected in zip(selector.compile(rewritten, policy="int8", threads=1).run(x), wanted, strict=True):
        np.testing.assert_array_equal(found, expected)


class One:
    """A network of one QOperator between two 8-bit tensors."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(0)
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: object, dtype: str = "float32") -> str:
        """A new constant."""
        self.constants.append(from_array(np.asarray(value, dtype), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def scaled(self, scale: object, zero: int, dtype: str = "uint8") -> list[str]:
        """Scale and zero point."""
        return [self.constant(scale), self.constant(np.full(np.shape(scale), zero), dtype)]

    def weight(self, *shape: int) -> str:
        """Signed bytes."""
        return self.constant(self.rng.integers(-8, 9, shape), "int8")

    def model(self, op_type: str, inputs: list[str], domain: str = "com.microsoft", **attributes: object):
        """The network."""
        node = helper.make_node(op_type, inputs, ["y"], name="node", domain=domain, **attributes)
        graph = helper.make_graph(
            [node], "one", [helper.make_tensor_value_info("x", TensorProto.UINT8, SHAPE)],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, None)], self.constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def _convolution(one: One, groups: int) -> onnx.ModelProto:
    scales = 2.0 ** one.rng.integers(-5, -2, 8)
    bias = one.constant(one.rng.integers(-60, 61, 8), "int32")
    weight = one.weight(8, 4 // groups, 3, 3)
    inputs = ["x", *one.scaled(0.125, 100), weight, *one.scaled(scales, 0, "int8"), *one.scaled(0.5, 128), bias]
    return one.model("QLinearConv", inputs, "", pads=[1] * 4, group=groups)


def _of_one(op_type: str, scale: float, **attributes: object) -> Callable[[One], onnx.ModelProto]:
    return lambda one: one.model(op_type, ["x", *one.scaled(0.125, 100), *one.scaled(scale, 20)], **attributes)


def _of_two(op_type: str) -> Callable[[One], onnx.ModelProto]:
    def make(one: One) -> onnx.ModelProto:
        other = one.constant(one.rng.integers(0, 256, SHAPE), "uint8")
        inputs = ["x", *one.scaled(0.125, 100), other, *one.scaled(0.25, 3), *one.scaled(0.5, 128)]
        return one.model(op_type, inputs)

    return make


ONES: dict[str, Callable[[One], onnx.ModelProto]] = {
    "QLinearConv": lambda one: _convolution(one, 1),
    "QLinearConv in groups": lambda one: _convolution(one, 2),
    "QLinearMatMul": lambda one: one.model(
        "QLinearMatMul",
        ["x", *one.scaled(0.125, 100), one.weight(6, 5), *one.scaled(0.25, 0, "int8"), *one.scaled(0.5, 128)], "",
    ),
    "QLinearAdd": _of_two("QLinearAdd"),
    "QLinearMul": _of_two("QLinearMul"),
    "QLinearConcat": lambda one: one.model(
        "QLinearConcat", [*one.scaled(0.25, 128), "x", *one.scaled(0.125, 100), "x", *one.scaled(0.25, 9)], axis=1
    ),
    "QLinearWhere": lambda one: one.model(
        "QLinearWhere",
        [one.constant(one.rng.random(SHAPE) < 0.5, "bool"), "x", *one.scaled(0.125, 100),
         one.constant(one.rng.integers(0, 256, SHAPE), "uint8"), *one.scaled(0.25, 3), *one.scaled(0.25, 128)],
    ),
    "QLinearAveragePool": _of_one("QLinearAveragePool", 0.125, kernel_shape=[3, 3], pads=[1] * 4),
    "QLinearGlobalAveragePool": _of_one("QLinearGlobalAveragePool", 0.0625, channels_last=0),
    "QLinearLeakyRelu": _of_one("QLinearLeakyRelu", 0.125, alpha=0.25),
    "QLinearSigmoid": _of_one("QLinearSigmoid", 1 / 256),
    "QLinearSoftmax": _of_one("QLinearSoftmax", 1 / 256, axis=-1, opset=17),
}  # fmt: skip


@pytest.mark.parametrize("name", ONES)
def test_every_operator(name: str) -> None:
    """At most one step from ONNX Runtime, which rounds some of them another way."""
    model = ONES[name](One())
    x = np.random.default_rng(1).integers(0, 256, SHAPE).astype("uint8")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    wanted = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    expected = wanted.run(None, {"x": x})[0]
    int8, int16 = (selector.compile(model, policy=policy, threads=1) for policy in ("int8", "int16"))
    found = int8.run(x)[0]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert len(np.unique(expected)) > 2
    assert np.abs(found.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(found, int16.run(x)[0])
    assert [decision.lowering for decision in int8.decisions] == ["int8"] * len(int8.decisions)


def _gemm(one: One) -> onnx.ModelProto:
    bias = one.constant(one.rng.integers(-60, 61, 5), "int32")
    scales = 2.0 ** one.rng.integers(-5, -2, 5)
    rows, weight = one.constant([6, 24], "int64"), one.weight(5, 24)
    model = one.model(
        "QGemm", ["rows", *one.scaled(0.125, 100), weight, *one.scaled(scales, 0, "int8"), bias, *one.scaled(0.5, 128)],
        transB=1, alpha=0.5,
    )  # fmt: skip
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", rows], ["rows"]))
    return model


ONES["QGemm"] = _gemm


def _node_tests() -> dict[str, object]:
    """ONNX's own tests of these operators with 32-bit scales."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about tests of other operators
        cases = {case.name: case for case in collect_testcases(None)}
    return {name: cases[name] for name in cases if "qlinear" in name and "float16" not in name}


NODE_TESTS = _node_tests()


@pytest.mark.parametrize("name", NODE_TESTS)
def test_of_onnx(name: str) -> None:
    case = NODE_TESTS[name]
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    ((data, *parameters), expected) = case.data_sets[0]
    for info, value in zip(list(model.graph.input)[1:], parameters, strict=True):
        model.graph.input.remove(info)
        model.graph.initializer.append(from_array(np.asarray(value), info.name))
    for policy in ("int8", "int16"):
        np.testing.assert_array_equal(selector.compile(model, policy=policy, threads=1).run(data)[0], expected[0])


def test_channels_last_is_refused() -> None:
    one = One()
    model = _of_one("QLinearGlobalAveragePool", 0.125, channels_last=1)(one)
    with pytest.raises(ModelError, match="QLinearGlobalAveragePool 'node' has channels last"):
        selector.load(model)


def test_scale_computed_at_run_time_is_refused() -> None:
    model = _convolution(One(), 1)
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["float"], ["scale"], keepdims=0))
    model.graph.node.insert(0, helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT))
    model.graph.node[-1].input[1] = "scale"
    with pytest.raises(ModelError, match="QLinearConv 'node' has a scale that is computed at run time: 'scale'"):
        selector.load(model)
