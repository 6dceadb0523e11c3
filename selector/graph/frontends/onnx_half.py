"""Quantized networks of 16-bit floats, computed in float32: the same 8-bit tensors, fewer roundings between them."""

from __future__ import annotations

import numpy as np
import onnx

from selector.graph.frontends.onnx_graph import OnnxGraph, attribute, make, operand, set_attributes

_FLOAT, _HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
_TYPES = ("to", "dtype", "output_dtype", "precision")  # attributes that name an element type


def widen_half(graph: OnnxGraph) -> bool:
    """Turn a network in which scales are float16 into one of float32; whether it was one.

    Its inputs and outputs stay what they are.  A network with subgraphs is left alone, as is one without scales.
    """
    scales = [operand(node, 1) for node in graph.nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    inside = any(item.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for item in _attributes(graph))
    if inside or not any(graph.dtype(name) == np.float16 for name in scales):
        return False
    halves = {name for name in (*graph.inputs, *graph.outputs) if graph.dtype(name) == np.float16}
    graph.constants = {
        name: value.astype("float32") if value.dtype == np.float16 else value for name, value in graph.constants.items()
    }
    for node in graph.nodes:
        changed = {name: _FLOAT for name in _TYPES if attribute(node, name) == _HALF}
        fill = attribute(node, "value") if node.op_type == "ConstantOfShape" else None
        if fill is not None and fill.data_type == _HALF:
            wide = onnx.numpy_helper.to_array(fill).astype("float32")
            changed["value"] = onnx.numpy_helper.from_array(wide)
        set_attributes(node, **changed)
    for name in halves.intersection(graph.inputs):
        wide_name = graph.fresh(name)
        graph.rename(name, wide_name)
        graph.nodes.insert(0, make("Cast", [name], wide_name, to=_FLOAT))
    for name in halves.intersection(graph.outputs):
        if name in graph.inputs:
            continue
        inner = graph.fresh(name)
        for node in graph.nodes:
            node.output[:] = [inner if output == name else output for output in node.output]
        graph.rename(name, inner)
        graph.nodes.append(make("Cast", [inner], name, to=_HALF))
    return True


def _attributes(graph: OnnxGraph) -> list[onnx.AttributeProto]:
    return [item for node in graph.nodes for item in node.attribute]
