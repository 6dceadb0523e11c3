"""The same quantized ONNX network in other formats: other types of its activations, other 8-bit ones of its weights.

The format decides which instructions can run a network, in every runtime.  Comparing formats takes one network in each.

Activations keep their scales: from int8 to uint8 every zero point moves by 128, and the values with it.  In 16 bits a
step is a 256th of one, and the operators that quantize are ONNX Runtime's own.  Weights that fit the new type move
likewise, to its usual zero point; those that do not are quantized again, channel by channel, with the smallest scale
that fits.  Biases follow the scale of their weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from selector.graph.frontends.onnx_file import rewritten
from selector.runtime import ModelError

_8BIT = ("uint8", "int8")
_MICROSOFT = "com.microsoft"  # ONNX quantizes to 16 bits from operator set 21 on, ONNX Runtime in any
_BIASED = ("Conv", "ConvTranspose", "Gemm")  # operators whose inputs are data, weights and bias
# operators that may stand between quantize and dequantize: they move elements or compare them
_MOVING = frozenset(
    "Concat Expand Flatten Gather Identity MaxPool Reshape Slice Split Squeeze Transpose Unsqueeze".split()
)


class FormatError(ModelError):
    """The network cannot be brought into the format; one line says why."""


@dataclass(frozen=True, slots=True)
class Format:
    """Types of a quantized network."""

    data: str  # dtype of activations
    weight: str  # dtype of weights
    low: int  # lowest weight
    high: int  # highest weight
    zero_point: int  # of weights that are not in the format yet

    @property
    def has_16bit_data(self) -> bool:
        """Whether activations have 16 bits."""
        return np.dtype(self.data).itemsize == 2

    @property
    def largest(self) -> int:
        """Largest magnitude of a weight less its zero point, the same on both sides."""
        return min(self.high - self.zero_point, self.zero_point - self.low)


FORMATS = {
    "u8s8": Format("uint8", "int8", -128, 127, 0),
    "u8s8-7bit": Format("uint8", "int8", -64, 63, 0),  # what quantizers call a reduced range
    "s8s8": Format("int8", "int8", -128, 127, 0),
    "u8u8": Format("uint8", "uint8", 0, 255, 128),
    "u16s8": Format("uint16", "int8", -128, 127, 0),
    "s16s8": Format("int16", "int8", -128, 127, 0),
}


def convert(model: onnx.ModelProto, format: str) -> onnx.ModelProto:
    """A copy of a QDQ network in the format (a key of FORMATS); inputs and outputs that are 8-bit change type too.

    Raises FormatError for a format that is not known, and for a network that is not 8-bit QDQ with constant parameters
    or computes with quantized values.
    """
    if format not in FORMATS:
        raise FormatError(f"unknown format '{format}': give one of {', '.join(FORMATS)}")
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    _Converter(converted.graph, FORMATS[format]).run()
    if FORMATS[format].has_16bit_data and all(item.domain != _MICROSOFT for item in converted.opset_import):
        converted.opset_import.append(onnx.helper.make_opsetid(_MICROSOFT, 1))
    return converted


@contextmanager
def in_format(path: Path, format: str | None) -> Iterator[Path]:
    """Path of an ONNX network in the format, a file that is gone afterwards; None: the network's own path.

    Raises FormatError, and OSError if the network cannot be read.
    """
    if format is None:
        yield path
        return
    refusal = FormatError(f"{path} is not an ONNX model, and only those can be brought into another format")
    with rewritten(path, lambda model: convert(model, format), refusal) as made:
        yield made


class _Converter:
    """Rewrites one graph in place."""

    def __init__(self, graph: onnx.GraphProto, format: Format) -> None:
        self.graph = graph
        self.format = format
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.producers = {output: node for node in graph.node for output in node.output}

    def run(self) -> None:
        """Convert all weights, biases, activations and declared types."""
        self.check_integer_operators()
        for node in list(self.graph.node):
            if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
                if self.constant(node, 0).dtype.name in _8BIT:
                    self.convert_weight(node)
            elif node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                self.convert_activation(node)
        self.convert_declared_types()
        used = {name for node in self.graph.node for name in node.input} | {item.name for item in self.graph.output}
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def check_integer_operators(self) -> None:
        """Refuse arithmetic on quantized values: it would mean something else after the shift."""
        quantized = {item.name for item in self.graph.input if _declared_dtype(item) in _8BIT}
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear":
                quantized |= set(node.output)
            elif node.op_type != "DequantizeLinear" and quantized.intersection(node.input):
                if node.op_type not in _MOVING:
                    raise FormatError(f"{_name(node)} computes with quantized values; give a QDQ network")
                quantized |= set(node.output)

    def convert_activation(self, node: onnx.NodeProto) -> None:
        """Move the zero point of a quantize or dequantize of an activation; in 16 bits divide its steps too."""
        if len(node.input) < 3 or not node.input[2]:
            raise FormatError(f"{_name(node)} has no zero point; only networks that state theirs can be converted")
        zero_point = self.constant(node, 2)
        if zero_point.dtype.name not in _8BIT:
            raise FormatError(f"{_name(node)} is {zero_point.dtype.name}; only 8-bit networks can be converted")
        if zero_point.dtype.name == self.format.data:
            return
        level = zero_point.astype(np.int32) - np.iinfo(zero_point.dtype).min
        if self.format.has_16bit_data:
            level = level * 256
            self.set_constant(node, 1, self.constant(node, 1) / np.float32(256))
            node.domain = _MICROSOFT
        self.set_constant(node, 2, (level + np.iinfo(self.format.data).min).astype(self.format.data))

    def convert_weight(self, node: onnx.NodeProto) -> None:
        """Move or quantize again the constant of a dequantize, and the biases of the convolutions that use it."""
        weight, scale = self.constant(node, 0), self.constant(node, 1)
        stated = len(node.input) > 2 and node.input[2]
        zero_point = self.constant(node, 2) if stated else np.zeros_like(scale, weight.dtype)
        low, high = self.format.low, self.format.high
        if weight.dtype == self.format.weight and low <= weight.min() and weight.max() <= high:
            return
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        per_channel = [1] * weight.ndim
        if scale.size > 1:
            per_channel[axis] = scale.size
        real = weight.astype(np.int32) - zero_point.astype(np.int32).reshape(per_channel)
        factor = np.ones_like(scale)
        if real.min() + self.format.zero_point < low or real.max() + self.format.zero_point > high:
            others = tuple(index for index, extent in enumerate(per_channel) if extent == 1)
            magnitude = np.abs(real).max(axis=others).reshape(scale.shape)
            factor = np.maximum(magnitude / self.format.largest, 1).astype(scale.dtype)
        again = np.rint(real / factor.reshape(per_channel)).astype(np.int32) + self.format.zero_point
        self.set_constant(node, 0, again.astype(self.format.weight))
        self.set_constant(node, 1, scale * factor)
        self.set_constant(node, 2, np.full_like(scale, self.format.zero_point, self.format.weight))
        if np.any(factor != 1):
            self.scale_biases(node.output[0], factor)

    def scale_biases(self, weight: str, factor: np.ndarray) -> None:
        """Make the quantized biases beside a weight coarser by ``factor``."""
        users = [node for node in self.graph.node if node.op_type in _BIASED and node.input[1] == weight]
        for name in dict.fromkeys(user.input[2] for user in users if len(user.input) > 2):
            bias = self.producers.get(name)
            if bias is None or bias.op_type != "DequantizeLinear" or bias.input[0] not in self.constants:
                continue  # not quantized
            values, scale = self.constant(bias, 0), self.constant(bias, 1)
            if scale.size != factor.size:
                raise FormatError(f"{_name(bias)} has {scale.size} scales, its weight '{weight}' has {factor.size}")
            factor = factor.reshape(scale.shape)
            self.set_constant(bias, 0, np.rint(values / factor).astype(values.dtype))
            self.set_constant(bias, 1, scale * factor)

    def convert_declared_types(self) -> None:
        """Give every 8-bit tensor that the graph declares the type of the activations."""
        wanted = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(self.format.data))
        for item in (*self.graph.input, *self.graph.output, *self.graph.value_info):
            if _declared_dtype(item) in _8BIT:
                item.type.tensor_type.elem_type = wanted

    def constant(self, node: onnx.NodeProto, index: int) -> np.ndarray:
        """Value of a constant input.  Raises FormatError if it is computed."""
        name = node.input[index]
        if name not in self.constants:
            raise FormatError(f"input {index} of {_name(node)}, '{name}', is not an initializer")
        return numpy_helper.to_array(self.constants[name])

    def set_constant(self, node: onnx.NodeProto, index: int, value: np.ndarray) -> None:
        """Give a node a constant of its own: others may use the one it has."""
        name = f"{node.output[0]}:{('values', 'scale', 'zero_point')[index]}"
        tensor = numpy_helper.from_array(np.asarray(value), name)
        self.constants[name] = tensor
        self.graph.initializer.append(tensor)
        while len(node.input) <= index:
            node.input.append("")
        node.input[index] = name


def _declared_dtype(item: onnx.ValueInfoProto) -> str | None:
    """Element type of a declared tensor; None if it is not declared."""
    elem_type = item.type.tensor_type.elem_type
    return onnx.helper.tensor_dtype_to_np_dtype(elem_type).name if elem_type else None


def _name(node: onnx.NodeProto) -> str:
    return f"node '{node.name or node.output[0]}' ({node.op_type})"
