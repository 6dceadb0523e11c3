"""Operators of ONNX in terms of others: what kernels do not know, and what TVM's importer gets wrong.

ConvTranspose  ->  Conv, whose channels are the phases of the output, then an interleaving of these
Resize         ->  Gather, or a weighted sum of two, where TVM would take other coordinates
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx

from selector.graph.frontends.onnx_graph import OnnxGraph, attribute, make, operand, set_attributes
from selector.graph.frontends.phases import Axis, for_phases, phase_weights

_NUMPY_MODES: dict[str, Literal["reflect", "edge", "wrap"]] = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


def convolve_by_phases(graph: OnnxGraph) -> None:
    """Every ConvTranspose with constant weights as a convolution (see ``phases``)."""
    for node in list(graph.nodes):
        if node.op_type == "ConvTranspose":
            _phases(graph, node)


def _phases(graph: OnnxGraph, node: onnx.NodeProto) -> None:
    producers = graph.producers()
    source = producers.get(operand(node, 1))
    quantized = source is not None and source.op_type == "DequantizeLinear"
    name = source.input[0] if quantized and source is not None else operand(node, 1)
    data, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    weight = graph.constants.get(name)
    if weight is None or data is None or out is None or len(data) != 4 or weight.ndim != 4:
        return
    if any(step != 1 for step in attribute(node, "dilations") or []):
        return
    bias = _bias(graph, producers, node)
    if bias is None:
        return
    groups, strides = attribute(node, "group", 1), tuple(attribute(node, "strides") or (1, 1))
    axes = [
        Axis.of(data[2 + i], out[2 + i], weight.shape[2 + i], strides[i], _padding_before(node, data, out, weight, i))
        for i in range(2)
    ]
    if any(axis is None for axis in axes):
        return
    rows, columns = (axis for axis in axes if axis is not None)
    phases = strides[0] * strides[1]
    channels = weight.shape[1] * groups
    zero = np.zeros((), weight.dtype)
    nodes: list[onnx.NodeProto] = []
    if quantized and source is not None:
        scale, zero = graph.constants.get(source.input[1]), graph.constants.get(operand(source, 2), zero)
        if scale is None or (scale.size > 1 and attribute(source, "axis", 1) % 4 != 1):
            return
        parts = {0: phase_weights(weight, zero, groups, rows, columns), 1: for_phases(scale, groups, phases)}
        if operand(source, 2):
            parts[2] = for_phases(zero, groups, phases)
        again = graph.variant(source, parts)
        set_attributes(again, axis=0)
        nodes.append(again)
        weights = again.output[0]
    else:
        weights = graph.constant(phase_weights(weight, zero, groups, rows, columns), name)
    made = graph.fresh(node.output[0])
    inputs = [node.input[0], weights]
    if operand(node, 2):
        nodes += _repeated_bias(graph, bias, phases, inputs)
    pads = [rows.before, columns.before, rows.after, columns.after]
    nodes.append(make("Conv", inputs, made, node.name, group=groups, pads=pads, kernel_shape=[rows.taps, columns.taps]))
    split = (data[0], channels, *strides, rows.count, columns.count)
    whole = (data[0], channels, rows.count * strides[0], columns.count * strides[1])
    crop = whole[2:] != out[2:]
    last = graph.fresh(node.output[0]) if crop else node.output[0]
    names = [graph.fresh(node.output[0]) for _ in range(2)]
    nodes += [
        make("Reshape", [made, graph.constant(np.array(split, np.int64))], names[0]),
        make("Transpose", [names[0]], names[1], perm=[0, 1, 4, 2, 5, 3]),
        make("Reshape", [names[1], graph.constant(np.array(whole, np.int64))], last),
    ]
    if crop:
        starts = np.array([rows.first, columns.first], np.int64)
        ends = starts + np.array(out[2:], np.int64)
        bounds = [graph.constant(value) for value in (starts, ends, np.array([2, 3], np.int64))]
        nodes.append(make("Slice", [last, *bounds], node.output[0]))
    graph.replace(node, nodes)


def _padding_before(
    node: onnx.NodeProto, data: tuple[int, ...], out: tuple[int, ...], weight: np.ndarray, axis: int
) -> int:
    """Outputs that are left out at the front of one axis, as ONNX defines it."""
    pads, mode = attribute(node, "pads"), attribute(node, "auto_pad", "NOTSET")
    if mode == "NOTSET" and not attribute(node, "output_shape"):
        return int(pads[axis]) if pads else 0
    stride = (attribute(node, "strides") or (1, 1))[axis]
    extra = (attribute(node, "output_padding") or (0, 0))[axis]
    total = stride * (data[2 + axis] - 1) + extra + weight.shape[2 + axis] - out[2 + axis]
    return max(total - total // 2 if mode != "SAME_UPPER" else total // 2, 0)


def _bias(
    graph: OnnxGraph, producers: dict[str, onnx.NodeProto], node: onnx.NodeProto
) -> onnx.NodeProto | np.ndarray | None:
    """The bias: an array, a node that dequantizes constants, an empty array without one; None for anything else."""
    name = operand(node, 2)
    if not name:
        return np.zeros(0, "float32")
    if name in graph.constants:
        return graph.constants[name]
    source = producers.get(name)
    constant = source is not None and source.op_type == "DequantizeLinear" and source.input[0] in graph.constants
    return source if constant else None


def _repeated_bias(
    graph: OnnxGraph, bias: onnx.NodeProto | np.ndarray, phases: int, inputs: list[str]
) -> list[onnx.NodeProto]:
    """Add the bias of every phase to ``inputs``; the nodes that it needs."""
    if isinstance(bias, np.ndarray):
        inputs.append(graph.constant(np.repeat(bias, phases), "bias"))
        return []
    values = {index: graph.constants[name] for index, name in enumerate(bias.input)}
    of_channels = {index: value.reshape(-1) for index, value in values.items() if index == 0 or value.size > 1}
    again = graph.variant(bias, {index: np.repeat(value, phases) for index, value in of_channels.items()})
    inputs.append(again.output[0])
    return [again]


def resize_by_gathering(graph: OnnxGraph) -> None:
    """Every Resize that TVM computes with other coordinates: it knows the two sizes alone, not the scales.

    See github.com/apache/tvm issue 19570.  Elsewhere TVM's own operator stays.
    """
    for node in list(graph.nodes):
        if node.op_type != "Resize" or _tvm_is_right(graph, node):
            continue
        data, out = graph.shape(node.input[0]), graph.shape(node.output[0])
        mode, where = attribute(node, "mode", "nearest"), _transformation(graph, node)
        plain = not attribute(node, "antialias", 0) and not attribute(node, "exclude_outside", 0)
        if data is None or out is None or mode not in ("nearest", "linear") or where not in _COORDINATES or not plain:
            continue
        scales = _scales(graph, node, data, out)
        # Where no size changes ONNX Runtime copies, whatever the scales are; so do we.
        changed = [axis for axis in range(len(data)) if data != out and (data[axis] != out[axis] or scales[axis] != 1)]
        nodes, name = [], node.input[0]
        for axis in changed:
            last = node.output[0] if axis == changed[-1] else graph.fresh(node.output[0])
            places = _coordinates(where, data[axis], out[axis], np.float32(scales[axis]))
            if mode == "nearest":
                nodes += _nearest(graph, name, last, axis, places, data[axis], _rounding(graph, node, scales[axis]))
            else:
                nodes += _linear(graph, name, last, axis, places, data[axis], len(data))
            name = last
        graph.replace(node, nodes or [make("Identity", [node.input[0]], node.output[0])])


def _tvm_is_right(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    data, out = graph.shape(node.input[0]), graph.shape(node.output[0])
    where = _transformation(graph, node)
    if data is None or out is None or len(data) != 4 or where == "half_pixel_symmetric" or graph.opset < 11:
        return False
    if where == "align_corners" and 1 in out[2:]:
        return False
    scales = _given_scales(graph, node)
    if scales is None or not scales.size or len(scales) != len(data):
        return operand(node, 3) != "" and not attribute(node, "axes")
    return all(float(scale) * size == wanted for scale, size, wanted in zip(scales, data, out, strict=True))


def _transformation(graph: OnnxGraph, node: onnx.NodeProto) -> str:
    """How outputs are placed in the data; before operator set 11 there was one way."""
    return str(attribute(node, "coordinate_transformation_mode", "half_pixel" if graph.opset >= 11 else "asymmetric"))


def _rounding(graph: OnnxGraph, node: onnx.NodeProto, scale: float) -> str:
    """Which element is the nearest; before operator set 11 the examples of ONNX round up where they shrink."""
    if graph.opset < 11:
        return "ceil" if scale < 1 else "floor"
    return str(attribute(node, "nearest_mode", "round_prefer_floor"))


def _given_scales(graph: OnnxGraph, node: onnx.NodeProto) -> np.ndarray | None:
    """The scales that a node has; None where it has sizes instead, or computes them."""
    listed = attribute(node, "scales")
    if listed is not None:
        return np.array(listed, "float32")
    return graph.constants.get(operand(node, 2 if graph.opset >= 11 else 1))


def _scales(graph: OnnxGraph, node: onnx.NodeProto, data: tuple[int, ...], out: tuple[int, ...]) -> list[float]:
    """The scale of every axis: as given, else by the sizes."""
    found = [wanted / size for size, wanted in zip(data, out, strict=True)]
    given = _given_scales(graph, node)
    if given is not None and given.size:
        for axis, scale in zip(attribute(node, "axes") or range(len(given)), given, strict=True):
            found[axis % len(data)] = float(scale)
    return found


def _coordinates(where: str, size: int, out: int, scale: np.float32) -> np.ndarray:
    """Where the outputs lie in the data, (out,) float32, as ONNX defines it."""
    x, half = np.arange(out, dtype="float32"), np.float32(0.5)
    if where == "asymmetric":
        return x / scale
    if where == "align_corners":
        return x * np.float32(size - 1) / np.float32(out - 1) if out > 1 else np.zeros(1, "float32")
    if where == "pytorch_half_pixel" and out == 1:
        return np.zeros(1, "float32")
    centred = (x + half) / scale - half
    if where == "half_pixel_symmetric":
        adjustment = np.float32(out) / (scale * np.float32(size))
        return np.float32(size / 2) * (1 - adjustment) + centred
    return centred


def _nearest(
    graph: OnnxGraph, data: str, output: str, axis: int, places: np.ndarray, size: int, rounding: str
) -> list[onnx.NodeProto]:
    half = np.float32(0.5)
    rounded = {
        "floor": np.floor(places),
        "ceil": np.ceil(places),
        "round_prefer_ceil": np.floor(places + half),
    }.get(rounding, np.ceil(places - half))
    index = np.clip(rounded, 0, size - 1).astype(np.int64)
    return [make("Gather", [data, graph.constant(index, "index")], output, axis=axis)]


def _linear(
    graph: OnnxGraph, data: str, output: str, axis: int, places: np.ndarray, size: int, rank: int
) -> list[onnx.NodeProto]:
    below = np.floor(places)
    share = (places - below).astype("float32").reshape([-1 if i == axis else 1 for i in range(rank)])
    nodes, parts = [], []
    for index, weight in ((below, 1 - share), (below + 1, share)):
        gathered, weighted = graph.fresh(output), graph.fresh(output)
        taken = graph.constant(np.clip(index, 0, size - 1).astype(np.int64), "index")
        nodes.append(make("Gather", [data, taken], gathered, axis=axis))
        nodes.append(make("Mul", [gathered, graph.constant(weight.astype("float32"), "weight")], weighted))
        parts.append(weighted)
    return [*nodes, make("Add", parts, output)]


def pad_by_gathering(graph: OnnxGraph) -> None:
    """Every Pad that reflects, repeats the edge or wraps around, by constant indices: it moves data and no more."""
    for node in list(graph.nodes):
        mode, shape = attribute(node, "mode", "constant"), graph.shape(operand(node, 0))
        pads = graph.constants.get(operand(node, 1))
        if node.op_type != "Pad" or mode not in _NUMPY_MODES or shape is None or pads is None or (pads < 0).any():
            continue
        axes = graph.constants.get(operand(node, 3), np.arange(len(shape))).tolist()
        changed = [
            (axis % len(shape), int(before), int(after))
            for axis, before, after in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
            if before or after
        ]
        nodes, name = [], node.input[0]
        for axis, before, after in changed:
            last = node.output[0] if axis == changed[-1][0] else graph.fresh(node.output[0])
            index = np.pad(np.arange(shape[axis], dtype=np.int64), (before, after), mode=_NUMPY_MODES[mode])
            nodes.append(make("Gather", [name, graph.constant(index, "index")], last, axis=axis))
            name = last
        graph.replace(node, nodes or [make("Identity", [node.input[0]], node.output[0])])
