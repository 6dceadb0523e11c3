"""Rewriting an ONNX network into the few forms that TVM's importer gets right and the passes know.

Every step keeps what the network computes.  Constants are computed, operators that do nothing go, and what exporters
write in many ways is written in one: explicit padding, two-dimensional convolutions, plain products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from selector.graph.frontends.onnx_graph import OnnxGraph, attribute, make, node_name, operand, set_attributes
from selector.graph.frontends.onnx_half import widen_half
from selector.graph.frontends.onnx_qoperator import rewrite_qoperators
from selector.graph.frontends.onnx_rewrites import convolve_by_phases, pad_by_gathering, resize_by_gathering
from selector.graph.frontends.onnx_volumes import convolve_slices
from selector.runtime import ModelError

_LARGEST = 1 << 24  # elements of a constant that is computed here; larger ones are left to the network
_SCALED = ("QuantizeLinear", "DequantizeLinear")
_ARITHMETIC = {"Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "PRelu", "BatchNormalization"}
_PADDED = ("Conv", "ConvInteger", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_OPTIONAL_OUTPUTS = ("Dropout", "BatchNormalization", "MaxPool", "LayerNormalization")
_SIZES = ("kernel_shape", "strides", "dilations")  # attributes with a number for each spatial axis
_DEQUANTIZE_SINCE = 19  # the first version of ONNX's implementation; 8-bit numbers mean the same in older ones
_ROUNDS = 8  # shapes make constants, which make shapes


def prepare(model: onnx.ModelProto, where: str) -> OnnxGraph:
    """The network of a model, sorted, with inferred types, in the forms that are known.

    Raises ModelError, which names the node, for what cannot be computed.
    """
    graph = OnnxGraph(model)
    graph.sort(where)
    _fold(graph)  # scales may be nodes
    rewrite_qoperators(graph, where)
    for _ in range(_ROUNDS):
        _infer(graph, where)
        if not (_fold(graph) | _unfuse_products(graph)):
            break
        graph.sort(where)
    _widen_small_integers(graph)
    _check_quantization(graph, where)
    if widen_half(graph):
        _infer(graph, where)
    graph.sort(where)
    written = [node.SerializeToString() for node in graph.nodes]
    for step in _STEPS:
        step(graph)
        graph.sort(where)
        before, written = written, [node.SerializeToString() for node in graph.nodes]
        if written != before:  # inferring copies all weights
            _infer(graph, where)
    return graph


def _infer(graph: OnnxGraph, where: str) -> None:
    try:
        graph.infer()
    except Exception as error:  # onnx raises several kinds, some of them C++'s
        raise ModelError(f"{where} is no valid ONNX network: {str(error).strip().splitlines()[-1][:200]}") from None


def _fold(graph: OnnxGraph) -> bool:
    """Compute nodes whose inputs are constants, or that only ask for a known shape; whether there were any.

    DequantizeLinear stays: layers read its integers.
    """
    kept, found = [], False
    for node in graph.nodes:
        values = None if node.op_type == "DequantizeLinear" else _values(graph, node)
        if values is None:
            kept.append(node)
        else:
            found = True
            graph.constants |= dict(zip(node.output, values, strict=False))
    graph.nodes = kept
    return found


def _dequantize_constants(graph: OnnxGraph) -> None:
    """8-bit constants that arithmetic reads, and no layer, as the floats that they are."""
    readers = graph.readers()
    kept = []
    for node in graph.nodes:
        value = graph.constants.get(operand(node, 0))
        narrow = node.op_type == "DequantizeLinear" and value is not None and value.dtype.itemsize == 1
        reading = {reader.op_type for reader in readers.get(node.output[0], [])}
        values = _evaluated(graph, node) if narrow and reading and reading <= _ARITHMETIC else None
        if values is None or node.output[0] in graph.outputs:
            kept.append(node)
        else:
            graph.constants[node.output[0]] = values[0]
    graph.nodes = kept


def _values(graph: OnnxGraph, node: onnx.NodeProto) -> list[np.ndarray] | None:
    """Outputs of a node that is constant; None if it is not."""
    if node.op_type == "Constant":
        return _evaluated(graph, node)
    if node.op_type == "Shape" and (shape := graph.shape(node.input[0])) is not None:
        start, end = attribute(node, "start", 0), attribute(node, "end", len(shape))
        return [np.array(shape[start:end], np.int64)]
    if node.op_type == "Size" and (shape := graph.shape(node.input[0])) is not None:
        return [np.array(math.prod(shape), np.int64)]
    names = [name for name in node.input if name]
    if not names or any(name not in graph.constants for name in names) or "Random" in node.op_type:
        return None
    sizes = [math.prod(shape) for name in node.output if (shape := graph.shape(name)) is not None]
    return None if max(sizes, default=0) > _LARGEST else _evaluated(graph, node)


def _evaluated(graph: OnnxGraph, node: onnx.NodeProto) -> list[np.ndarray] | None:
    """What ONNX's reference implementation makes of a node; None where it has none or fails."""
    feeds = {name: graph.constants[name] for name in node.input if name}
    inputs = [onnx.helper.make_tensor_value_info(name, _kind(value), value.shape) for name, value in feeds.items()]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    version = [onnx.helper.make_opsetid("", _DEQUANTIZE_SINCE)] if node.op_type == "DequantizeLinear" else None
    alone = onnx.helper.make_model(
        onnx.helper.make_graph([node], "constant", inputs, outputs), opset_imports=version or graph.model.opset_import
    )
    try:
        with np.errstate(all="ignore"):
            values = [np.asarray(value) for value in ReferenceEvaluator(alone).run(None, feeds)]
    except Exception:  # whatever its implementations raise: the network computes it then, or says what is wrong
        return None
    if len(values) != len([name for name in node.output if name]):
        return None
    found = iter(values)
    return [next(found) if name else np.zeros(0) for name in node.output]


def _kind(value: np.ndarray) -> int:
    return onnx.helper.np_dtype_to_tensor_dtype(value.dtype)


def _widen_small_integers(graph: OnnxGraph) -> None:
    """Constants of 2 and 4 bits that are dequantized, as bytes: the same numbers in a type that kernels know."""
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear" or node.input[0] not in graph.constants:
            continue
        for index in (0, 2):
            name = operand(node, index)
            dtype = str(graph.constants[name].dtype) if name in graph.constants else ""
            if dtype in ("int4", "int2", "uint4", "uint2"):
                wide = graph.constants[name].astype("uint8" if dtype.startswith("u") else "int8")
                node.input[index] = graph.constant(wide, name)


def _check_quantization(graph: OnnxGraph, where: str) -> None:
    """Raises ModelError for scales and zero points that mean nothing; names the node."""
    for node in graph.nodes:
        if node.op_type not in _SCALED:
            continue
        what = f"{where}: {node.op_type} '{node_name(node)}'"
        scale, zero = graph.constants.get(operand(node, 1)), graph.constants.get(operand(node, 2))
        if scale is None:
            continue
        if not np.isfinite(scale.astype("float64")).all() or (scale <= 0).any():
            bad = scale.reshape(-1)[~(np.isfinite(scale.astype("float64")) & (scale > 0)).reshape(-1)][0]
            raise ModelError(f"{what} has the scale {bad}: scales have to be positive and finite")
        if zero is not None and zero.shape != scale.shape and zero.size != scale.size:
            raise ModelError(f"{what} has scales of shape {scale.shape} and zero points of shape {zero.shape}")
        stored = graph.dtype(node.input[0]) if node.op_type == "DequantizeLinear" else graph.dtype(node.output[0])
        if stored is not None and not np.issubdtype(stored, np.integer):
            raise ModelError(
                f"{what} quantizes to {stored}: Selector knows integers of 8, 16 and 32 bits, and weights of 2 and 4"
            )
        if zero is not None and stored is not None and zero.dtype != stored:
            raise ModelError(f"{what} has a zero point of {zero.dtype} for data of {stored}")
        shape = graph.shape(node.input[0])
        if attribute(node, "block_size", 0):
            raise ModelError(
                f"{what} quantizes in blocks of {attribute(node, 'block_size')}: Selector knows one scale "
                "a tensor or channel"
            )
        if scale.size > 1 and shape is not None:
            axis = attribute(node, "axis", 1)
            if not -len(shape) <= axis < len(shape) or scale.ndim != 1 or scale.size != shape[axis]:
                raise ModelError(f"{what} has {scale.size} scales along axis {axis} of a tensor of shape {shape}")


def _skip_what_does_nothing(graph: OnnxGraph) -> None:
    """Identity, Dropout while inferring, casts to the same type and padding by nothing."""
    outputs = set(graph.outputs)
    for node in list(graph.nodes):
        if not _does_nothing(graph, node) or node.output[0] in outputs or any(node.output[1:]):
            continue
        graph.rename(node.output[0], node.input[0])
        graph.nodes = [other for other in graph.nodes if other is not node]


def _does_nothing(graph: OnnxGraph, node: onnx.NodeProto) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        training = graph.constants.get(operand(node, 2))
        return not operand(node, 2) or (training is not None and not training.any())
    if node.op_type == "Cast":
        return graph.dtype(node.input[0]) is not None and graph.dtype(node.input[0]) == graph.dtype(node.output[0])
    if node.op_type == "Pad":
        pads = graph.constants.get(operand(node, 1))
        return pads is not None and not pads.any()
    return False


def _first_output_alone(graph: OnnxGraph) -> None:
    """Outputs that may be left out and that nothing reads, such as the mask of a Dropout, are not asked for."""
    readers, wanted = graph.readers(), set(graph.outputs)
    for node in graph.nodes:
        while (
            node.op_type in _OPTIONAL_OUTPUTS
            and len(node.output) > 1
            and node.output[-1] not in readers
            and node.output[-1] not in wanted
        ):
            node.output.pop()


def _pad_explicitly(graph: OnnxGraph) -> None:
    """``auto_pad`` as the numbers that it stands for."""
    for node in graph.nodes:
        mode = attribute(node, "auto_pad", "NOTSET")
        if node.op_type not in _PADDED or mode == "NOTSET":
            continue
        shape = graph.shape(node.input[0])
        kernel = attribute(node, "kernel_shape") or (graph.shape(operand(node, 1)) or ())[2:]
        if mode == "VALID":
            set_attributes(node, auto_pad=None, pads=None)
            continue
        if shape is None or not kernel or node.op_type == "ConvTranspose":
            continue
        rank = len(kernel)
        strides, dilations = (attribute(node, name) or [1] * rank for name in ("strides", "dilations"))
        totals = [
            max((math.ceil(size / stride) - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
            for size, extent, stride, dilation in zip(shape[2:], kernel, strides, dilations, strict=True)
        ]
        first = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
        last = [total - before for total, before in zip(totals, first, strict=True)]
        set_attributes(node, auto_pad=None, pads=[*first, *last], ceil_mode=None)


def _unfuse_products(graph: OnnxGraph) -> bool:
    """FusedMatMul, as ONNX Runtime's optimizer writes it, in ONNX's own operators; whether there were any."""
    found = False
    for node in list(graph.nodes):
        shapes = [graph.shape(name) for name in node.input[:2]] if node.op_type == "FusedMatMul" else [None]
        if None in shapes or attribute(node, "transBatchA", 0) or attribute(node, "transBatchB", 0):
            continue
        found, nodes, factors = True, [], list(node.input)
        for index, shape in enumerate(shapes):
            rank = len(shape or ())
            if attribute(node, f"trans{'AB'[index]}", 0) and rank > 1:
                turned = graph.fresh(factors[index])
                nodes.append(make("Transpose", [factors[index]], turned, perm=[*range(rank - 2), rank - 1, rank - 2]))
                factors[index] = turned
        alpha = attribute(node, "alpha", 1.0)
        product = node.output[0] if alpha == 1 else graph.fresh(node.output[0])
        nodes.append(make("MatMul", factors, product, node_name(node)))
        if alpha != 1:
            nodes.append(make("Mul", [product, graph.constant(np.float32(alpha), "alpha")], node.output[0]))
        graph.replace(node, nodes)
    return found


def _multiply_plainly(graph: OnnxGraph) -> None:
    """The factors of a Gemm belong to the scales of its constants; a transposed operand is transposed before."""
    producers = graph.producers()
    for node in list(graph.nodes):
        if node.op_type != "Gemm":
            continue
        before = []
        if attribute(node, "transA", 0):
            turned = graph.fresh(node.input[0])
            before.append(make("Transpose", [node.input[0]], turned, perm=[1, 0]))
            node.input[0] = turned
            set_attributes(node, transA=None)
        for name, index in (("alpha", 1), ("beta", 2)):
            factor = attribute(node, name, 1.0)
            if factor != 1.0 and operand(node, index) and _scaled(graph, producers, node, index, factor):
                set_attributes(node, **{name: None})
        graph.replace(node, [*before, node])


def _scaled(
    graph: OnnxGraph, producers: dict[str, onnx.NodeProto], node: onnx.NodeProto, index: int, factor: float
) -> bool:
    """Whether an operand of a node is constant, or a dequantized one, and was multiplied by a positive factor."""
    name = node.input[index]
    if name in graph.constants:
        node.input[index] = graph.constant((graph.constants[name] * np.float32(factor)).astype("float32"), name)
        return True
    source = producers.get(name)
    if source is None or source.op_type != "DequantizeLinear" or factor <= 0 or source.input[1] not in graph.constants:
        return False
    scale = graph.constants[source.input[1]]
    again = graph.variant(source, {1: (scale * np.float32(factor)).astype(scale.dtype)})
    graph.replace(source, [source, again])
    node.input[index] = again.output[0]
    return True


def _convolve_in_two_dimensions(graph: OnnxGraph) -> None:
    """Convolutions and pools of one dimension, or of a depth of one in three, in two."""
    producers = graph.producers()
    for node in list(graph.nodes):
        data, weight = graph.shape(operand(node, 0)), _weight(graph, producers, node)
        if node.op_type != "Conv" or data is None or weight is None:
            continue
        pads, rank = attribute(node, "pads") or [0] * 2 * (len(data) - 2), len(data) - 2
        if rank == 1:
            changes = {name: [1, *values] if (values := attribute(node, name)) else None for name in _SIZES}
            _move(graph, node, "Unsqueeze", "Squeeze", 2, weight, {**changes, "pads": [0, pads[0], 0, pads[1]]})
        elif rank == 3 and data[2] == 1 and weight[2][2] == 1 and not pads[0] and not pads[3]:
            changes = {name: list(values[1:]) if (values := attribute(node, name)) else None for name in _SIZES}
            _move(graph, node, "Squeeze", "Unsqueeze", 2, weight, {**changes, "pads": [*pads[1:3], *pads[4:6]]})


_Weight = tuple[onnx.NodeProto | None, str, tuple[int, ...]]  # dequantize node, name of the constant, its shape


def _weight(graph: OnnxGraph, producers: dict[str, onnx.NodeProto], node: onnx.NodeProto) -> _Weight | None:
    """Where the constant weight of a layer is; None if it is none."""
    name = operand(node, 1)
    if name in graph.constants:
        return None, name, graph.constants[name].shape
    source = producers.get(name)
    if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in graph.constants:
        return None
    return source, source.input[0], graph.constants[source.input[0]].shape


def _move(
    graph: OnnxGraph,
    node: onnx.NodeProto,
    way_in: str,
    way_out: str,
    axis: int,
    weight: _Weight,
    changes: dict[str, list[int] | None],
) -> None:
    """Put a convolution between two operators that add and take away an axis."""
    source, name, shape = weight
    reshaped = (*shape[:axis], 1, *shape[axis:]) if way_in == "Unsqueeze" else (*shape[:axis], *shape[axis + 1 :])
    constant = graph.constants[name].reshape(reshaped)
    before, after, result = graph.fresh(node.input[0]), graph.fresh(node.output[0]), node.output[0]
    nodes = [_axes(graph, way_in, node.input[0], before, axis)]
    if source is None:
        node.input[1] = graph.constant(constant, name)
    else:
        again = graph.variant(source, {0: constant})
        node.input[1] = again.output[0]
        nodes.append(again)
    node.input[0], node.output[0] = before, after
    set_attributes(node, **changes)
    graph.replace(node, [*nodes, node, _axes(graph, way_out, after, result, axis)])


def _axes(graph: OnnxGraph, op_type: str, data: str, output: str, axis: int) -> onnx.NodeProto:
    """Squeeze or Unsqueeze of one axis; from operator set 13 on axes are an input."""
    if graph.opset < 13:
        return make(op_type, [data], output, axes=[axis])
    return make(op_type, [data, graph.constant(np.array([axis], np.int64), "axes")], output)


_STEPS: Sequence[Callable[[OnnxGraph], None]] = (
    _dequantize_constants,
    _first_output_alone,
    _skip_what_does_nothing,
    _pad_explicitly,
    _multiply_plainly,
    _convolve_in_two_dimensions,
    convolve_slices,
    convolve_by_phases,
    resize_by_gathering,
    pad_by_gathering,
)
