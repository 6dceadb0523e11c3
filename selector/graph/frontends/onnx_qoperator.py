"""Operators that compute on 8-bit tensors, written as QDQ: dequantize -> operator -> quantize.

QLinearConv, QLinearMatMul, QGemm and their like, of ONNX itself and of ONNX Runtime's ``com.microsoft``
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "QOperator").  What follows the
import finds one form only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx

from selector.graph.frontends.onnx_graph import OnnxGraph, attribute, make, node_name, operand
from selector.runtime import ModelError

# Operators with these beginnings compute on integers in a form that is not known here.
_OTHERS = ("QLinear", "QGemm", "QAttention", "QEmbed", "DynamicQuantizeLSTM", "QMoE")
_TO_QDQ = "onnxruntime.quantization.quantize_static(..., quant_format=QuantFormat.QDQ)"
_OWN = ("channels_last", "opset")  # attributes that only the QOperator has
_ONE_OPERAND = {
    "QLinearAveragePool": "AveragePool",
    "QLinearGlobalAveragePool": "GlobalAveragePool",
    "QLinearLeakyRelu": "LeakyRelu",
    "QLinearSigmoid": "Sigmoid",
    "QLinearSoftmax": "Softmax",
}
_TWO_OPERANDS = {"QLinearAdd": "Add", "QLinearMul": "Mul"}
_SOFTMAX_OF_ONE_AXIS = 13  # the operator set since which Softmax does not flatten


def rewrite_qoperators(graph: OnnxGraph, where: str) -> None:
    """Replace every such node.  Raises ModelError, which names the node, for one that is not known."""
    for node in list(graph.nodes):
        rewrite = _REWRITES.get(node.op_type)
        if rewrite is not None:
            if attribute(node, "channels_last", 0):
                raise ModelError(f"{where}: {node.op_type} '{node_name(node)}' has channels last; export it without")
            rewrite(_Node(graph, node, where))
        elif node.op_type.startswith(_OTHERS):
            raise ModelError(
                f"{where}: Selector does not know {node.op_type} (node '{node_name(node)}'); "
                f"quantize the network statically as QDQ instead, e.g. with {_TO_QDQ}"
            )


class _Node:
    """The nodes that stand for one QOperator."""

    def __init__(self, graph: OnnxGraph, node: onnx.NodeProto, where: str) -> None:
        self.graph, self.node, self.where = graph, node, where
        self.made: list[onnx.NodeProto] = []

    def emit(self, op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        """A new node; the name of its output."""
        output = output or self.graph.fresh(self.node.output[0])
        self.made.append(make(op_type, inputs, output, f"{output}_node", **attributes))
        return output

    def dequantize(self, first: int, axis: int | None = None) -> str:
        """The operand whose integers, scale and zero point are the inputs from ``first`` on.

        ``axis`` is that of a scale for each channel.
        """
        data, scale, zero = (operand(self.node, first + index) for index in range(3))
        attributes: dict[str, Any] = {"axis": axis} if axis is not None and self._constant(scale).size > 1 else {}
        return self.emit("DequantizeLinear", [data, scale, zero] if zero else [data, scale], **attributes)

    def bias(self, index: int, data_scale: int, weight_scale: int, factor: float = 1) -> str:
        """An int32 bias, whose scale is the product of the two that are these inputs; empty where there is none."""
        if not operand(self.node, index):
            return ""
        data, weight = (self._constant(operand(self.node, place)) for place in (data_scale, weight_scale))
        scales = (data.reshape(-1)[:1] * weight * np.float32(factor)).astype("float32")
        attributes: dict[str, Any] = {"axis": 0} if scales.size > 1 else {}
        scale = self.graph.constant(scales if attributes else scales.reshape(()), "bias_scale")
        return self.emit("DequantizeLinear", [operand(self.node, index), scale], **attributes)

    def finish(self, op_type: str, inputs: list[str], first: int, **attributes: Any) -> None:
        """The float operator under the node's name, quantized by the scale and zero point from ``first`` on."""
        kept = [item for item in self.node.attribute if item.name not in (*_OWN, *attributes)]
        scale, zero = operand(self.node, first), operand(self.node, first + 1)
        output = self.graph.fresh(self.node.output[0]) if scale else self.node.output[0]
        while inputs and not inputs[-1]:
            inputs.pop()
        made = make(op_type, inputs, output, node_name(self.node), **attributes)
        made.attribute.extend(kept)
        self.made.append(made)
        if scale:
            self.emit("QuantizeLinear", [output, scale, zero] if zero else [output, scale], self.node.output[0])
        self.graph.replace(self.node, self.made)

    def _constant(self, name: str) -> np.ndarray:
        value = self.graph.constants.get(name)
        if value is None:
            what = f"{self.node.op_type} '{node_name(self.node)}'"
            raise ModelError(f"{self.where}: {what} has a scale that is computed at run time: '{name}'")
        return value


def _convolution(node: _Node) -> None:
    data, weight = node.dequantize(0), node.dequantize(3, axis=0)
    node.finish("Conv", [data, weight, node.bias(8, 1, 4)], 6)


def _product(node: _Node) -> None:
    node.finish("MatMul", [node.dequantize(0), node.dequantize(3, axis=-1)], 6)


def _gemm(node: _Node) -> None:
    channels = 0 if attribute(node.node, "transB", 0) else 1
    data, weight = node.dequantize(0), node.dequantize(3, axis=channels)
    bias = node.bias(6, 1, 4, attribute(node.node, "alpha", 1.0))  # of the accumulator, which alpha scales
    node.finish("Gemm", [data, weight, bias], 7)


def _one_operand(node: _Node) -> None:
    name = _ONE_OPERAND[node.node.op_type]
    if name == "Softmax":
        versions = (node.graph.opset, attribute(node.node, "opset", node.graph.opset))
        if min(versions) < _SOFTMAX_OF_ONE_AXIS <= max(versions):
            what = f"QLinearSoftmax '{node_name(node.node)}'"
            raise ModelError(f"{node.where}: {what} is of operator set {versions[1]}, the network of {versions[0]}")
    node.finish(name, [node.dequantize(0)], 3)


def _two_operands(node: _Node) -> None:
    node.finish(_TWO_OPERANDS[node.node.op_type], [node.dequantize(0), node.dequantize(3)], 6)


def _concat(node: _Node) -> None:
    node.finish("Concat", [node.dequantize(first) for first in range(2, len(node.node.input), 3)], 0)


def _integers_to_float(node: _Node) -> None:
    data, weight, data_scale, weight_scale, data_zero, weight_zero, bias = (operand(node.node, i) for i in range(7))
    _scaled_product(node, [data, weight, data_zero, weight_zero], data_scale, weight_scale, bias)


def _dynamic_product(node: _Node) -> None:
    data, weight, weight_scale, weight_zero, bias = (operand(node.node, i) for i in range(5))
    names = [node.graph.fresh(node.node.output[0]) for _ in range(3)]
    node.made.append(onnx.helper.make_node("DynamicQuantizeLinear", [data], names))
    quantized, scale, zero = names
    _scaled_product(node, [quantized, weight, zero, weight_zero], scale, weight_scale, bias)


def _scaled_product(node: _Node, integers: list[str], data_scale: str, weight_scale: str, bias: str) -> None:
    """MatMulInteger in real units, with a bias."""
    while not integers[-1]:
        integers.pop()
    sums = node.emit("MatMulInteger", integers)
    scale = node.emit("Mul", [data_scale, weight_scale])
    real = [node.emit("Cast", [sums], to=onnx.TensorProto.FLOAT), scale]
    product = node.emit("Mul", real, "" if bias else node.node.output[0])
    if bias:
        node.emit("Add", [product, bias], node.node.output[0])
    node.graph.replace(node.node, node.made)


def _where(node: _Node) -> None:
    node.finish("Where", [operand(node.node, 0), node.dequantize(1), node.dequantize(4)], 7)


_REWRITES: dict[str, Callable[[_Node], None]] = {
    "QLinearConv": _convolution,
    "QLinearMatMul": _product,
    "QGemm": _gemm,
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
    "MatMulIntegerToFloat": _integers_to_float,
    "DynamicQuantizeMatMul": _dynamic_product,
    **dict.fromkeys(_ONE_OPERAND, _one_operand),
    **dict.fromkeys(_TWO_OPERANDS, _two_operands),
}
