"""ONNX networks, by TVM's importer: every tensor that comes out of it is checked against ONNX's own inference."""

from __future__ import annotations

import contextlib
import gc
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tvm
from google.protobuf.message import DecodeError
from onnx import helper
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter

from selector import quiet
from selector.graph.frontends import OWN_LINES, Imported
from selector.graph.frontends.onnx_dynamic import conv_integer, matmul_integer
from selector.graph.frontends.onnx_graph import OnnxGraph, node_name
from selector.graph.frontends.onnx_prepare import prepare
from selector.graph.frontends.shapes import Shapes, fix_shapes
from selector.graph.ir import constant, dtype_of, static_shape
from selector.graph.ops.dynamic import dynamic_quantize
from selector.runtime import ModelError
from selector.wording import last_line

_ANCHORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def parse(data: bytes, where: str) -> onnx.ModelProto:
    """The protobuf in ``data``, checked to be a whole ONNX model.  Raises ModelError."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        message = f"{where} is not an ONNX model or is truncated: its {len(data)} bytes do not parse"
        raise ModelError(message) from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{where} is not an ONNX model or is truncated: it has no graph or no operator set")
    if not all(isinstance(text, str) for text in _texts(model.graph)):
        raise ModelError(f"{where} is not an ONNX model or is damaged: a name in it is no text")
    return model


def _texts(graph: onnx.GraphProto) -> Iterator[Any]:
    """Names in a graph: protobuf gives bytes for those that are not UTF-8."""
    for node in graph.node:
        yield from (node.op_type, node.name, node.domain, *node.input, *node.output)
        yield from (item.name for item in node.attribute)
    for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        yield info.name
    for info in (*graph.input, *graph.output):
        yield from (dim.dim_param for dim in info.type.tensor_type.shape.dim)


def convert(
    model: onnx.ModelProto,
    where: str,
    folder: Path | None = None,
    *,
    shapes: Shapes | None = None,
    batch: int | None = None,
) -> Imported:
    """The network of a model.

    ``folder``: where tensors lie that the model keeps in files of their own.  ``shapes`` and ``batch`` as in
    ``fix_shapes``.  Raises ModelError.
    """
    model = fix_shapes(model, where, shapes, batch)
    if folder is not None:
        try:
            onnx.external_data_helper.load_external_data_for_model(model, str(folder))
        except (OSError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{where} keeps tensors in files that cannot be read: {last_line(error)}") from error
    if not model.graph.output:
        raise ModelError(f"{where} is truncated or broken: its graph has no output")
    graph, module, problem = _converted(model, where)
    if module is None:
        raise ModelError(problem)
    return Imported(module, [node_name(node) for node in graph.nodes if node.op_type in _ANCHORS], graph.outputs)


def _converted(model: onnx.ModelProto, where: str) -> tuple[OnnxGraph, tvm.IRModule | None, str]:
    """The prepared graph and its module; None, and what is wrong, where there is none.

    TVM writes to standard error when an unfinished module goes, which an exception would keep: none leaves this.
    """
    graph, importer = OnnxGraph(onnx.ModelProto()), None
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet.without_lines(*OWN_LINES):
        warnings.simplefilter("ignore")
        try:
            graph = prepare(model, where)
            importer = _Importer(graph, where)
            return graph, importer.from_onnx(graph.to_model().graph, graph.opset), ""
        except ModelError as error:
            problem = str(error) if importer is None else f"{where}: {importer.at}: {error}"
        except Exception as error:  # whatever converters raise
            at = "" if importer is None else f", {importer.at}"
            problem = f"tvm's ONNX importer fails on {where}{at}: {last_line(error)}"
        importer = None
        gc.collect()  # what is left of the importer goes now, and says so where nobody reads
    return graph, None, problem


class _Importer(ONNXGraphImporter):
    """TVM's importer, one node at a time."""

    def __init__(self, graph: OnnxGraph, where: str) -> None:
        super().__init__({}, "float32")
        self.graph, self.where = graph, where
        self.at = "its inputs"  # what is converted
        self.node = ""  # its name

    def _check_for_unsupported_ops(self, graph: onnx.GraphProto) -> None:
        super()._check_for_unsupported_ops(onnx.GraphProto(node=[n for n in graph.node if n.op_type not in _OWN]))

    def _construct_nodes(self, graph: onnx.GraphProto) -> None:
        for node in graph.node:
            self.node = node_name(node)
            self.at = f"{node.op_type} '{self.node}'"
            super()._construct_nodes(onnx.GraphProto(node=[node]))
            for name in node.output:
                if name:
                    self._check(name)

    def _convert_operator(self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int) -> Any:
        """TVM's converter, unless there is one here that gives the passes less to undo."""
        own = _OWN.get(op_name)
        found = None if own is None else own(self, op_name, list(inputs), attrs)
        return super()._convert_operator(op_name, inputs, attrs, opset) if found is None else self.bb.normalize(found)

    def _dynamic(self, op_name: str, inputs: list[Any], attrs: dict[str, Any]) -> Any:
        if op_name == "DynamicQuantizeLinear":
            return dynamic_quantize(inputs[0])
        if op_name == "ConvInteger":
            return conv_integer(self.bb.emit, inputs, attrs, self.node)
        return matmul_integer(self.bb.emit, inputs, self.node)

    def _extreme(self, op_name: str, inputs: list[Any], _attrs: dict[str, Any]) -> Any:
        """Two at a time; TVM stacks them all first."""
        found, *others = inputs
        for other in others:
            found = self.bb.normalize((relax.op.maximum if op_name == "Max" else relax.op.minimum)(found, other))
        return found

    def _gather(self, _op_name: str, inputs: list[Any], attrs: dict[str, Any]) -> Any:
        """With constant indices, those from the end counted here; TVM computes at run time which they are."""
        indices, shape = constant(inputs[1]), static_shape(inputs[0])
        if indices is None or not shape:
            return None
        axis = int(attrs.get("axis", 0)) % len(shape)
        if indices.size and not -shape[axis] <= indices.min() <= indices.max() < shape[axis]:
            raise ValueError(f"its indices reach outside of the {shape[axis]} elements along axis {axis}")
        taken = relax.const(np.where(indices < 0, indices + shape[axis], indices).astype("int64"))
        return relax.op.take(inputs[0], taken, axis, mode="clip")

    def _check(self, name: str) -> None:
        """Raises ModelError where a tensor has another shape or type than ONNX says."""
        expr = self._nodes.get(name)
        wanted = self.graph.shape(name)
        kind, _ = self.graph.types.get(name, (0, None))
        if expr is None or not isinstance(getattr(expr, "ty", None), relax.TensorType):
            return
        found, dtype = static_shape(expr), dtype_of(expr)
        if wanted is not None and found != wanted:
            raise ModelError(f"TVM's importer gives '{name}' the shape {found}, not {wanted}")
        if kind and dtype is not None and dtype != str(helper.tensor_dtype_to_np_dtype(kind)):
            wanted_type = helper.tensor_dtype_to_np_dtype(kind)
            raise ModelError(f"TVM's importer makes '{name}' {dtype}, not {wanted_type}")


_OWN: dict[str, Callable[[_Importer, str, list[Any], dict[str, Any]], Any]] = {
    "Gather": _Importer._gather,
    "Max": _Importer._extreme,
    "Min": _Importer._extreme,
    "DynamicQuantizeLinear": _Importer._dynamic,
    "ConvInteger": _Importer._dynamic,
    "MatMulInteger": _Importer._dynamic,
}
