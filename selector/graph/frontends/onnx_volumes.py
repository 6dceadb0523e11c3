"""Convolutions of volumes as convolutions of images.

The slices that a kernel's depth spans become channels:

    (N, C, D, H, W)  ->  (N·OD, KD·C, H, W)  ->  Conv  ->  (N, O, OD, OH, OW)

All but the convolution only moves data, which stays 8-bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from selector.graph.frontends.onnx_graph import OnnxGraph, attribute, make, node_name, operand

_STEPS_SINCE = 10  # the operator set since which Slice has steps
_PADS_SINCE = 11  # and since which the padding of a Pad is an input


def convolve_slices(graph: OnnxGraph) -> None:
    """Rewrite every Conv of volumes in one group, with constant weights."""
    producers = graph.producers()
    for node in list(graph.nodes):
        if node.op_type == "Conv" and graph.opset >= _STEPS_SINCE:
            _rewrite(graph, producers.get(operand(node, 1)), node)


def _rewrite(graph: OnnxGraph, source: onnx.NodeProto | None, node: onnx.NodeProto) -> None:
    """``source``: what computes the weight; None where that is a constant itself."""
    data, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    name = node.input[1] if source is None else source.input[0]
    weight = graph.constants.get(name)
    quantized = source is not None and source.op_type == "DequantizeLinear"
    if data is None or out is None or weight is None or len(data) != 5 or attribute(node, "group", 1) != 1:
        return
    if source is not None and (not quantized or not _by_output(graph, source)):
        return
    strides, dilations = (attribute(node, key) or [1] * 3 for key in ("strides", "dilations"))
    pads = attribute(node, "pads") or [0] * 6
    outputs, channels, depth = weight.shape[:3]
    flat = weight.transpose(0, 2, 1, 3, 4).reshape(outputs, depth * channels, *weight.shape[3:])
    nodes: list[onnx.NodeProto] = []

    def emit(op_type: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        nodes.append(make(op_type, inputs, output or graph.fresh(node.output[0]), **attributes))
        return str(nodes[-1].output[0])

    def numbers(*values: int) -> str:
        return graph.constant(np.array(values, np.int64))

    if source is None:
        weights = graph.constant(flat, name)
    else:
        nodes.append(graph.variant(source, {0: flat}))
        weights = nodes[-1].output[0]
    x = node.input[0]
    if pads[0] or pads[3]:
        around = (0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0)
        x = emit("Pad", [x, numbers(*around)]) if graph.opset >= _PADS_SINCE else emit("Pad", [x], pads=list(around))
    x = emit("Transpose", [x], perm=[0, 2, 1, 3, 4])
    starts = [tap * dilations[0] for tap in range(depth)]
    span = (out[2] - 1) * strides[0] + 1
    taps = [
        emit("Slice", [x, numbers(start), numbers(start + span), numbers(1), numbers(strides[0])]) for start in starts
    ]
    x = taps[0] if depth == 1 else emit("Concat", taps, axis=2)
    x = emit("Reshape", [x, numbers(data[0] * out[2], depth * channels, *data[3:])])
    geometry = {"strides": strides[1:], "dilations": dilations[1:], "pads": [*pads[1:3], *pads[4:6]]}
    y = graph.fresh(node.output[0])
    nodes.append(make("Conv", [x, weights, *list(node.input)[2:]], y, node_name(node), **geometry))
    y = emit("Reshape", [y, numbers(data[0], out[2], outputs, *out[3:])])
    emit("Transpose", [y], node.output[0], perm=[0, 2, 1, 3, 4])
    graph.replace(node, nodes)


def _by_output(graph: OnnxGraph, dequantize: onnx.NodeProto) -> bool:
    """Whether the scales of a weight are one, or one for each output channel."""
    scale = graph.constants.get(dequantize.input[1])
    return scale is not None and (scale.size == 1 or attribute(dequantize, "axis", 1) in (0, -5))
