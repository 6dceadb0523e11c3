"""Networks that torch exported, by TVM's importer: every tensor of it is checked against torch's own metadata.

Networks that ``convert_pt2e`` made and ``torch.export`` exported again have ``quantized_decomposed`` operators around
float ones.  They become ``relax.quantize`` and ``relax.dequantize``, which the passes fuse.  A quantize of constants
is computed here, by torch.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tvm
from torch.fx import Node
from torch.fx.node import map_arg
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from selector import quiet
from selector.graph.frontends import OWN_LINES, Imported
from selector.graph.ir import dtype_of, static_shape
from selector.runtime import ModelError
from selector.wording import last_line

# What becomes one anchor each, when torch has decomposed the network.
_ANCHORS = frozenset("convolution.default addmm.default mm.default bmm.default baddbmm.default".split())
# What gives elements of its data and no others.
_MOVING = frozenset(
    "view.default permute.default clone.default slice.Tensor squeeze.dims unsqueeze.default "
    "max_pool2d_with_indices.default getitem".split()
)
_DYNAMIC = "choose_qparams"  # begins the names of operators that choose a scale at run time


def convert(program: Any) -> Imported:
    """The network of a ``torch.export.ExportedProgram``.

    A layer has the name of its torch module, or of its node where it is in none.  Raises ModelError.
    """
    module, names, problem = _converted(program)
    if module is None:
        raise ModelError(problem)
    return Imported(module, names, [str(name) for name in program.graph_signature.user_outputs])


def _converted(program: Any) -> tuple[tvm.IRModule | None, list[str], str]:
    """The module and the names; None, and what is wrong, where there is none.

    TVM writes to standard error when an unfinished module goes, which an exception would keep: none leaves this.
    """
    importer = None
    with warnings.catch_warnings(), quiet.without_lines(*OWN_LINES):
        warnings.simplefilter("ignore")
        try:
            program = program.run_decompositions()
            _check_program(program)
            importer = _Importer(program)
            return importer.module(), importer.names, ""
        except ModelError as error:
            problem = str(error)
        except Exception as error:  # the importer raises whatever its converters raise
            at = "" if importer is None else f" on {importer.at}"
            problem = f"tvm's torch importer fails{at}: {last_line(error)}"
        importer = None
        gc.collect()  # what is left of the importer goes now, and says so where nobody reads
    return None, [], problem


def _check_program(program: Any) -> None:
    """Raises ModelError for shapes that are not fixed, and for networks that keep a state."""
    inputs = set(program.graph_signature.user_inputs)
    for node in program.graph.find_nodes(op="placeholder"):
        shape = tuple(getattr(node.meta.get("val"), "shape", ()))
        if node.name in inputs and not all(isinstance(size, int) for size in shape):
            text = ", ".join(map(str, shape))
            raise ModelError(
                f"input '{node.name}' has the shape ({text}); Selector compiles for fixed shapes: export the network "
                "without dynamic_shapes"
            )
    signature = program.graph_signature
    changed = [*signature.buffers_to_mutate.values(), *signature.user_inputs_to_mutate.values()]
    if changed:
        raise ModelError(
            f"the network changes '{changed[0]}' as it runs, which a compiled network cannot: export it in eval mode"
        )


class _Importer(ExportedProgramImporter):
    """TVM's importer, each node checked, with converters of ``quantized_decomposed`` operators."""

    def __init__(self, program: Any) -> None:
        super().__init__()
        self.program = program
        self.at = "its inputs"  # what is converted
        self.names: list[str] = []  # of the anchors
        self.values = dict(_parameters(program))  # of nodes that depend on parameters alone, as far as needed
        self.constants = set(self.values)  # all such nodes
        self.quantized: dict[Node, tuple[Any, ...]] = {}  # operands of the quantize whose results a node dequantizes

    def module(self) -> tvm.IRModule:
        """The network as a Relax module.  Raises ModelError."""
        targets = [node.target.__name__ for node in self.program.graph.nodes if node.op == "call_function"]
        if any(name.startswith(_DYNAMIC) for name in targets):
            raise ModelError(
                "the network chooses scales as it runs (dynamic quantization), which Selector has no kernels for: "
                "quantize its activations statically"
            )
        unknown = sorted(set(targets) - set(self.convert_map))
        if unknown:
            raise ModelError(f"TVM has no converter for torch's {', '.join(unknown)}")
        return self.from_exported_program(self.program, False, False, False, None)

    def create_convert_map(self) -> dict[str, Callable[[Node], Any]]:
        """TVM's converters and those of quantized operators, each followed by a check."""
        own: dict[str, Callable[[Node], Any]] = {
            "quantize_per_channel.default": self._quantize,
            "dequantize_per_channel.default": self._dequantize,
        }
        for overload in ("default", "tensor", "tensor2"):
            own[f"quantize_per_tensor.{overload}"] = self._quantize
            own[f"dequantize_per_tensor.{overload}"] = self._dequantize
        converters = {**super().create_convert_map(), **own}
        return {name: partial(self._checked, converter) for name, converter in converters.items()}

    def _checked(self, converter: Callable[[Node], Any], node: Node) -> Any:
        """What a converter makes of a node.  Raises ModelError where torch gives it another shape or type."""
        target = node.target.__name__
        self.at = f"node '{node.name}' ({target})"
        found = converter(node)
        wanted = node.meta.get("val")
        if hasattr(wanted, "dtype"):  # a tensor; parts of a tuple are nodes of their own
            shape, dtype = tuple(wanted.shape), str(wanted.dtype).removeprefix("torch.")
            if static_shape(found) != shape:
                raise ModelError(
                    f"tvm's torch importer fails on {self.at}: it has the shape {static_shape(found)}, not {shape}"
                )
            if dtype_of(found) != dtype:
                raise ModelError(f"tvm's torch importer fails on {self.at}: it is {dtype_of(found)}, not {dtype}")
        if target in _ANCHORS:
            self.names.append(_layer_name(node))
        if target in _MOVING and node.args[0] in self.quantized:
            self.quantized[node] = self.quantized[node.args[0]]
        if node.all_input_nodes and self.constants.issuperset(node.all_input_nodes):
            self.constants.add(node)
        return found

    def _quantize(self, node: Node) -> Any:
        """``relax.quantize``; constants where its data are."""
        if self.constants.issuperset(node.all_input_nodes):
            return relax.const(self._value(node).numpy())
        data = self.env[node.args[0]]
        scale, zero_point, axis, low, high, dtype = self._operands(node)
        info = np.iinfo(dtype)
        narrow = (low > info.min or high < info.max) and self.quantized.get(node.args[0]) != node.args[1:]
        if narrow and axis is None:  # before the quantize, where a layer takes it for its activation
            bounds = [(bound - int(zero_point)) * float(scale) for bound in (low, high)]
            data = self.block_builder.emit(relax.op.clip(data, *bounds))
        made = relax.op.quantize(data, relax.const(scale), relax.const(zero_point), _axis(axis), dtype)
        made = self.block_builder.emit(made)
        if narrow and axis is not None:
            made = self.block_builder.emit(relax.op.clip(made, low, high))
        return made

    def _dequantize(self, node: Node) -> Any:
        source, *operands = node.args
        if getattr(source.target, "__name__", "").startswith("quantize_") and list(source.args[1:]) == operands:
            self.quantized[node] = source.args[1:]
        data = self.env[source]
        scale, zero_point, axis, *_ = self._operands(node)
        made = relax.op.dequantize(data, relax.const(scale), relax.const(zero_point), _axis(axis))
        return self.block_builder.emit(made)

    def _operands(self, node: Node) -> tuple[np.ndarray, np.ndarray, int | None, int, int, str]:
        """Scale (float32), zero point (of the 8-bit type), axis (None: per tensor), least and largest value, type.

        Both are 0-dimensional for the whole tensor, (C,) for the C channels of the axis.  Raises ModelError.
        """
        _, *given = node.args
        per_channel = node.target.__name__.split(".")[0].endswith("per_channel")
        scale, zero_point, low, high = (self._known(given[place]) for place in (0, 1, -3, -2))
        dtype = str(given[-1]).removeprefix("torch.")
        shape = (-1,) if per_channel else ()
        scale = scale.astype("float32").reshape(shape)
        zero_point = np.broadcast_to(zero_point, scale.shape)
        narrowed = zero_point.astype(dtype)
        if (narrowed != zero_point).any():
            raise ModelError(
                f"{self.at} has zero points from {zero_point.min()} to {zero_point.max()}, which {dtype} has not"
            )
        return scale, narrowed, int(given[2]) if per_channel else None, int(low), int(high), dtype

    def _known(self, given: Any) -> np.ndarray:
        """The value of an operand, zero where there is none.  Raises ModelError for one that is no constant."""
        if not isinstance(given, Node):
            return np.asarray(0 if given is None else given)
        if given not in self.constants:
            raise ModelError(
                f"{self.at} takes '{given.name}' from data, Selector takes constant scales and zero points"
            )
        return np.asarray(self._value(given).numpy())

    def _value(self, node: Node) -> Any:
        """The torch tensor of a constant node."""
        if node not in self.values:
            args, kwargs = map_arg((node.args, node.kwargs), self._value)
            self.values[node] = node.target(*args, **kwargs)
        return self.values[node]


def _parameters(program: Any) -> Any:
    """Placeholders and tensors of parameters, buffers and constants."""
    targets = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    for node in program.graph.find_nodes(op="placeholder"):
        target = targets[node.name]
        value = program.state_dict.get(target, program.constants.get(target))
        if value is not None:
            yield node, value.detach()


def _layer_name(node: Node) -> str:
    """The path of the innermost module that a node comes from, or its own name."""
    modules = list((node.meta.get("nn_module_stack") or {}).values())
    return (modules[-1][0] if modules else "") or str(node.name)


def _axis(axis: int | None) -> int:
    """The axis as ``relax.quantize`` takes it, which wants one for whole tensors too."""
    return -1 if axis is None else axis
