"""An ONNX graph that can be rewritten: nodes in order, constants as arrays, shapes as inferred."""

from __future__ import annotations

import graphlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from selector.runtime import ModelError


def node_name(node: onnx.NodeProto) -> str:
    """What a node is called in messages: its name, else its first output."""
    return node.name or (node.output[0] if node.output else node.op_type)


class OnnxGraph:
    """The main graph of a model.  Names of tensors are unique in it, and so are those that ``fresh`` makes."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = [_copied(node) for node in model.graph.node]  # the model itself stays as it is
        self.constants: dict[str, np.ndarray] = {}  # initializers, and what was computed from them
        self.types: dict[str, tuple[int, tuple[int | None, ...] | None]] = {}  # tensor -> ONNX dtype, shape if known
        for tensor in model.graph.initializer:
            self.constants[tensor.name] = _array(tensor)
        self._count = 0

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs that are no constants."""
        return [info.name for info in self.model.graph.input if info.name not in self.constants]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [info.name for info in self.model.graph.output]

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return next((item.version for item in self.model.opset_import if item.domain in ("", "ai.onnx")), 1)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Static shape of a tensor; None where it is not known."""
        if name in self.constants:
            return self.constants[name].shape
        _, shape = self.types.get(name, (0, None))
        return None if shape is None or None in shape else shape  # type: ignore[return-value]

    def dtype(self, name: str) -> np.dtype[Any] | None:
        """Element type of a tensor; None where it is not known."""
        if name in self.constants:
            return self.constants[name].dtype
        kind, _ = self.types.get(name, (0, None))
        return helper.tensor_dtype_to_np_dtype(kind) if kind else None

    def producers(self) -> dict[str, onnx.NodeProto]:
        """The node that computes each tensor."""
        return {output: node for node in self.nodes for output in node.output if output}

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """The nodes that read each tensor, once for each place."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    def fresh(self, hint: str) -> str:
        """A name that no tensor has."""
        self._count += 1
        return f"{hint}__selector_{self._count}"

    def constant(self, value: np.ndarray, hint: str = "constant") -> str:
        """Name of a new constant."""
        name = self.fresh(hint)
        self.constants[name] = np.asarray(value)
        return name

    def variant(self, node: onnx.NodeProto, inputs: Mapping[int, np.ndarray]) -> onnx.NodeProto:
        """A copy of a node with a new output, and with new constants as the inputs of these numbers."""
        copy = _copied(node)
        copy.name, copy.output[0] = "", self.fresh(node.output[0])
        for index, value in inputs.items():
            copy.input[index] = self.constant(value, node.input[index])
        return copy

    def replace(self, old: onnx.NodeProto, new: Iterable[onnx.NodeProto]) -> None:
        """Put nodes in the place of one."""
        place = next(index for index, node in enumerate(self.nodes) if node is old)
        self.nodes[place : place + 1] = list(new)

    def rename(self, old: str, new: str) -> None:
        """Let everything that reads ``old`` read ``new``."""
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def sort(self, where: str) -> None:
        """Put the nodes in an order in which each reads what came before, and leave out those that nothing needs.

        Raises ModelError for a tensor that nothing defines, or that two nodes do, and for a cycle.
        """
        self._define_once(where)
        producers = self.producers()
        known = {*self.constants, *self.inputs, ""}
        depends: dict[int, set[int]] = {}
        index = {id(node): number for number, node in enumerate(self.nodes)}
        waiting = [producers[name] for name in self.outputs if name in producers]
        for name in self.outputs:
            if name not in producers and name not in known:
                raise ModelError(f"{where} is truncated or broken: nothing defines its output '{name}'")
        while waiting:
            node = waiting.pop()
            if index[id(node)] in depends:
                continue
            before = depends.setdefault(index[id(node)], set())
            for name in (*node.input, *_outer_names(node)):
                if name in producers:
                    before.add(index[id(producers[name])])
                    waiting.append(producers[name])
                elif name not in known and name in node.input:
                    raise ModelError(
                        f"{where} is truncated or broken: nothing defines '{name}', an input of '{node_name(node)}'"
                    )
        try:
            order = list(_in_order(depends))
        except graphlib.CycleError as error:
            names = [node_name(self.nodes[number]) for number in error.args[1][:3]]
            raise ModelError(f"{where} is broken: its nodes form a cycle through '{', '.join(names)}'") from None
        self.nodes = [self.nodes[number] for number in order]

    def infer(self) -> None:
        """Infer types of all tensors.  What cannot be inferred stays unknown."""
        inferred = onnx.shape_inference.infer_shapes(self.to_model(), data_prop=True)
        self.types = {
            info.name: (info.type.tensor_type.elem_type, _dims(info.type.tensor_type))
            for info in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input)
        }

    def to_model(self) -> onnx.ModelProto:
        """The graph as a model of its own."""
        made = onnx.ModelProto()
        made.CopyFrom(self._frame())
        used = {name for node in self.nodes for name in (*node.input, *_outer_names(node))} | set(self.outputs)
        made.graph.node.extend(self.nodes)
        made.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in self.constants.items()
            if name in used
        )
        return made

    def _frame(self) -> onnx.ModelProto:
        """The model without nodes, constants and inferred types."""
        made = onnx.ModelProto(ir_version=self.model.ir_version, producer_name=self.model.producer_name)
        made.opset_import.extend(self.model.opset_import)
        made.functions.extend(self.model.functions)
        made.graph.name = self.model.graph.name
        made.graph.input.extend(info for info in self.model.graph.input if info.name not in self.constants)
        made.graph.output.extend(self.model.graph.output)
        made.graph.sparse_initializer.extend(self.model.graph.sparse_initializer)
        return made

    def _define_once(self, where: str) -> None:
        seen = {*self.inputs}
        for node in self.nodes:
            for name in node.output:
                if name in seen or name in self.constants:
                    raise ModelError(f"{where} is broken: two nodes define '{name}', one of them '{node_name(node)}'")
                if name:
                    seen.add(name)
        doubled = sorted({name for name in self.outputs if self.outputs.count(name) > 1})
        if doubled:
            raise ModelError(f"{where} is broken: its output '{doubled[0]}' is listed twice")


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Value of an attribute, text as str."""
    for item in node.attribute:
        if item.name == name:
            value = helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def set_attributes(node: onnx.NodeProto, **values: Any) -> None:
    """Set attributes; None takes one away."""
    kept = [item for item in node.attribute if item.name not in values]
    added = [helper.make_attribute(name, value) for name, value in values.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend([*kept, *added])


def operand(node: onnx.NodeProto, index: int) -> str:
    """Name of an input, empty where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def make(op_type: str, inputs: Sequence[str], output: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node with one output."""
    return helper.make_node(op_type, list(inputs), [output], name=name, **attributes)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _array(tensor: onnx.TensorProto) -> np.ndarray:
    """Value of an initializer.  Raises ModelError where its bytes do not fit its shape."""
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"the constant '{tensor.name}' is damaged: {error}") from None


def _dims(tensor: onnx.TypeProto.Tensor) -> tuple[int | None, ...] | None:
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)


def _outer_names(node: onnx.NodeProto) -> Iterator[str]:
    """What the subgraphs of a node may read from outside."""
    for item in node.attribute:
        for graph in (item.g, *item.graphs) if item.type in (5, 10) else ():
            for inner in graph.node:
                yield from inner.input
                yield from _outer_names(inner)
            yield from (info.name for info in graph.output)


def _in_order(depends: dict[int, set[int]]) -> Iterator[int]:
    """The numbers in an order that keeps dependencies, else their own."""
    sorter = graphlib.TopologicalSorter(depends)
    sorter.prepare()
    ready: list[int] = []
    while sorter.is_active():
        for number in sorter.get_ready():
            heapq.heappush(ready, number)
        number = heapq.heappop(ready)
        yield number
        sorter.done(number)
