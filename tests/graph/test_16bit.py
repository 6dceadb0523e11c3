"""16-bit activations with 8-bit weights: layers are in integers, and compute what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import selector
from selector.policy import Decision
from selector.target import TargetProfile
from selector.workload import ConvWorkload
from tests.graph.reference import compare
from tests.models import GraphBuilder

ZERO = {"uint16": 32768, "int16": 0}
STEP = 8 / 65536


class Maker(GraphBuilder):
    """A builder whose activations are of one 16-bit dtype."""

    def __init__(self, dtype: str) -> None:
        super().__init__()
        self.dtype = dtype

    def act(self, x: str, step: float = STEP, *, relu: bool = False) -> str:
        """Quantized and dequantized."""
        zero = int(np.iinfo(self.dtype).min) if relu else ZERO[self.dtype]
        return self.qdq(x, step, zero, self.dtype)

    def conv(
        self, x: str, cin: int, cout: int, k: int, *, groups: int = 1, stride: int = 1, weight: str = "int8"
    ) -> str:
        """A convolution of unit gain with a bias, quantized."""
        scale = float(1 / (73 * np.sqrt(k * k * cin // groups)))
        w = self.weight(
            (cout, cin // groups, k, k), dtype=weight, scale=scale, zero_point=0 if weight == "int8" else 131
        )
        bias = self.int32_bias(cout, np.float32(STEP) * np.float32(scale), bound=1 << 20)
        y = self.node("Conv", [x, w, bias], pads=[k // 2] * 4, strides=[stride] * 2, group=groups)
        return self.act(self.node("Relu", [y]), relu=True) if groups > 1 else self.act(y)


def inverted_bottleneck(b: Maker, x: str) -> tuple[str, int]:
    """1×1, depthwise, 1×1 and a residual."""
    y = b.conv(b.conv(x, 8, 24, 1), 24, 24, 3, groups=24)
    return b.act(b.node("Add", [b.conv(y, 24, 8, 1), x])), 8


def residual_block(b: Maker, x: str) -> tuple[str, int]:
    """Two 3×3, the first of stride 2, beside a 1×1; uint8 weights with a zero point."""
    y = b.conv(b.conv(x, 8, 40, 3, stride=2, weight="uint8"), 40, 40, 3, weight="uint8")
    return b.act(b.node("Add", [y, b.conv(x, 8, 40, 1, stride=2)])), 40


def wide_block(b: Maker, x: str) -> tuple[str, int]:
    """3×3 of 150 channels, whose accumulator 32 bits do not hold."""
    return b.conv(b.conv(x, 8, 150, 1), 150, 16, 3), 16


def head(b: Maker, x: str, channels: int) -> str:
    """Pooling, flattening and a MatMul."""
    y = b.act(b.node("GlobalAveragePool", [b.act(b.node("MaxPool", [x], kernel_shape=[2, 2]))]))
    y = b.node("Flatten", [y])
    return b.act(b.node("MatMul", [y, b.weight((channels, 10), scale=0.003, axis=1)]))


def gemm(b: Maker, x: str, channels: int) -> str:
    """A Gemm with a bias over all pixels."""
    y = b.node("Reshape", [x, b.const(np.array([-1, channels]))])
    scale = np.float32(0.004)
    bias = b.int32_bias(6, np.float32(STEP) * scale)
    return b.act(b.node("Gemm", [y, b.weight((6, channels), scale=float(scale)), bias], transB=1))


BODIES = {"inverted bottleneck": inverted_bottleneck, "residual": residual_block, "wide": wide_block}
ENDS = {"head": head, "gemm": gemm, "none": lambda b, x, channels: x}
NETWORKS = [("inverted bottleneck", "head"), ("residual", "gemm"), ("wide", "none")]


def network(dtype: str, body: str, end: str, *, microsoft: bool = False) -> onnx.ModelProto:
    """A network of operator set 21, or of 17 with ``com.microsoft``'s quantize and dequantize."""
    b = Maker(dtype)
    x = b.act(b.input("x", (1, 8, 9, 7)))
    y, channels = BODIES[body](b, x)
    y = ENDS[end](b, y, channels)
    if not microsoft:
        return b.model({y: "float32"}, opset=21)
    for node in b.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.domain = "com.microsoft"
    outputs = [helper.make_tensor_value_info(y, onnx.TensorProto.FLOAT, None)]
    graph = helper.make_graph(b.nodes, "graph", b.inputs, outputs, b.initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    )
    model.ir_version = 9
    return model


@pytest.mark.parametrize("microsoft", [False, True], ids=["opset 21", "com.microsoft"])
@pytest.mark.parametrize("dtype", ["uint16", "int16"])
@pytest.mark.parametrize(("body", "end"), NETWORKS)
def test_as_onnxruntime(dtype: str, body: str, end: str, microsoft: bool) -> None:
    decisions = compare(network(dtype, body, end, microsoft=microsoft))
    assert {decision.lowering for decision in decisions} == {"int16"}
    split = [decision.layer for decision in decisions if decision.workload and decision.workload.is_split]
    assert bool(split) == (body == "wide")


class Unasked:
    """A policy that is not to be asked."""

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        raise AssertionError(f"asked about {workload}")


@pytest.mark.parametrize(
    "policy",
    ["learned", "rule", "int8", "measure", Unasked()],
    ids=lambda policy: policy if isinstance(policy, str) else "own",
)
def test_policies_are_not_asked(policy: object) -> None:
    decisions = selector.explain(network("uint16", "inverted bottleneck", "none"), policy=policy, threads=1)
    for decision in decisions:
        assert decision.lowering == "int16"
        assert decision.reason == "its data is uint16, and the int8 lowering takes 8-bit data only"


def test_accumulator_of_more_than_40_bits_stays_float() -> None:
    b = Maker("uint16")
    x = b.qdq(b.input("x", (1, 40000)), STEP, 0, "uint16")
    w = b.const(np.full((40000, 2), 255, "uint8"))
    weight = b.node("DequantizeLinear", [w, b.const(np.float32(0.001)), b.const(np.uint8(0))])
    (decision,) = selector.explain(b.model({b.node("MatMul", [x, weight]): "float32"}, opset=21))
    assert decision.lowering == "tvm"
    assert "more than 40 bits hold" in decision.reason
