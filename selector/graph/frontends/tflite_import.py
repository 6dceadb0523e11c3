"""TFLite networks, by TVM's importer: every tensor that comes out of it is checked against the file's own shapes.

TVM's converters take quantized operators in part, and some of these are wrong: AVERAGE_POOL_2D and MEAN divide integers
and cut off the rest, FULLY_CONNECTED does not flatten its data.  All but the layers are converted as float operators
between a dequantize and a quantize; the integer passes make 8-bit kernels of them.
"""

from __future__ import annotations

import contextlib
import gc
import io
import warnings
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import tflite
import tvm
from tvm import relax
from tvm.relax.frontend.tflite import from_tflite, tflite_frontend
from tvm.relax.frontend.tflite.tflite_flexbuffer import FlexBufferDecoder
from tvm.relax.frontend.tflite.tflite_frontend import TensorWrapper

from selector import quiet
from selector.graph.frontends import OWN_LINES, Imported
from selector.graph.frontends.tflite_layers import Layers, real_values
from selector.graph.ir import dtype_of, static_shape
from selector.runtime import ModelError
from selector.wording import last_line

# Converted as quantized operators: layers, and what changes the quantization itself or moves what is stored.
_WEIGHTED = frozenset("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED".split())
_OWN_WAY = _WEIGHTED | frozenset(
    "TRANSPOSE_CONV BATCH_MATMUL QUANTIZE DEQUANTIZE GATHER_ND ARG_MAX ARG_MIN SHAPE".split()
)
_STATEFUL = frozenset(
    "LSTM BIDIRECTIONAL_SEQUENCE_LSTM UNIDIRECTIONAL_SEQUENCE_LSTM RNN BIDIRECTIONAL_SEQUENCE_RNN "
    "UNIDIRECTIONAL_SEQUENCE_RNN SVDF VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE CALL_ONCE".split()
)


def convert(data: bytes, where: str) -> Imported:
    """The network in the bytes of a file.  Raises ModelError."""
    if data[4:8] != b"TFL3":
        raise ModelError(f"{where} is not a TFLite model")
    at: list[str] = []  # operators that were begun

    def converter(*args: Any) -> _Converter:
        made = _Converter(*args)
        made.at = at
        return made

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), quiet.without_lines(*OWN_LINES):
        warnings.simplefilter("ignore")
        try:
            model = tflite.Model.GetRootAsModel(data, 0)
            return Imported(from_tflite(model, op_converter=converter), outputs=_output_names(model))
        except ModelError as error:
            problem = f"{where}: {error}"
        except Exception as error:  # the importer raises whatever its converters raise
            place = f", operator {at[-1]}" if at else ""
            problem = f"tvm's TFLite importer fails on {where}{place}: {last_line(error)}"
        gc.collect()  # converters refer to themselves: what is left of them goes now, and says so where nobody reads
    raise ModelError(problem)


def _output_names(model: Any) -> list[str]:
    graph = model.Subgraphs(0)
    return [graph.Tensors(graph.Outputs(index)).Name().decode() for index in range(graph.OutputsLength())]


class _Options(FlexBufferDecoder):
    """Options of a custom operator, with TFLite's defaults for those of its SSD post-processing."""

    def decode(self) -> dict[str, Any]:
        """The options by name."""
        return {"detections_per_class": 100, "use_regular_nms": False} | super().decode()


class _Converter(Layers):
    """TVM's converters, the quantized operators between a dequantize and a quantize."""

    at: list[str]
    _float = False  # whether the operator that is converted is to believe that its tensors are float

    def check_unsupported_ops(self) -> None:
        """Raises ModelError for operators that no converter takes, in one sentence."""
        names = [
            self.get_op_code_str(self.subgraph.Operators(index)) for index in range(self.subgraph.OperatorsLength())
        ]
        stateful = sorted(_STATEFUL.intersection(names))
        if stateful:
            raise ModelError(f"{', '.join(stateful)} keeps a state between runs, which a compiled network cannot")
        unknown = sorted(set(names) - set(self.convert_map))
        if unknown:
            raise ModelError(f"TVM has no converter for {', '.join(unknown)}")

    def convert_op_to_relax(self) -> None:
        """Convert all operators, each checked."""
        for index in range(self.subgraph.OperatorsLength()):
            op = self.subgraph.Operators(index)
            name = self.get_op_code_str(op)
            self.at.append(f"{index} ({name})")
            outputs = self.get_output_tensors(op)
            found = self._converted(name, op, outputs)
            if found is None:  # it was folded into others
                continue
            parts = [found] if len(outputs) == 1 else [found[place] for place in range(len(outputs))]
            for tensor, part in zip(outputs, parts, strict=True):
                part = self.bb.emit(part) if not isinstance(part, tvm.ir.Var) else part
                self._check(tensor, part)
                self.exp_tab.set_expr(tensor.tensor.Name().decode(), part)

    def _converted(self, name: str, op: Any, outputs: Sequence[TensorWrapper]) -> Any:
        inputs = self.get_input_tensors(op)
        quantized = any(tensor.qnn_params for tensor in (*inputs, *outputs))
        # Weights of float data, dequantized: TFLite's kernels quantize such data as they run.
        hybrid = name in _WEIGHTED and not inputs[0].qnn_params
        if not quantized or (name in _OWN_WAY and not hybrid):
            found = self.convert_map[name](op=op)
            return None if found is None else self._as_wide(self.bb.normalize(found), outputs[0])
        self._float = True
        try:
            found = self.convert_map[name](op=op)
        finally:
            self._float = False
        if found is None:
            return None
        found = self.bb.normalize(found)
        parts = [found] if len(outputs) == 1 else [self.bb.normalize(found[place]) for place in range(len(outputs))]
        parts = [self._quantized(part, tensor) for part, tensor in zip(parts, outputs, strict=True)]
        return parts[0] if len(outputs) == 1 else parts

    def _as_wide(self, part: Any, tensor: TensorWrapper) -> Any:
        """Indices, which TVM counts in int64, as the file has them."""
        wanted = self.get_tensor_type_str(tensor.tensor.Type())
        narrow = dtype_of(part) == "int64" and wanted == "int32"
        return self.bb.normalize(relax.op.astype(part, wanted)) if narrow else part

    def _quantized(self, part: Any, tensor: TensorWrapper) -> Any:
        wanted = self.get_tensor_type_str(tensor.tensor.Type())
        if tensor.qnn_params and dtype_of(part) == "float32" and wanted != "float32":
            return self.bb.normalize(self.quantize(part, tensor))
        return part

    def _check(self, tensor: TensorWrapper, part: Any) -> None:
        """Raises ModelError where a tensor has another shape or type than the file says."""
        wanted = self._shape(tensor)
        found, dtype = static_shape(part), dtype_of(part)
        name, at = tensor.tensor.Name().decode(), self.at[-1]
        if found is not None and found != wanted and tensor.tensor.ShapeLength():
            raise ModelError(
                f"operator {at} comes out of TVM's importer with the shape {found} of '{name}', not {wanted}"
            )
        kind = self.get_tensor_type_str(tensor.tensor.Type())
        if dtype is not None and dtype != kind:
            raise ModelError(f"operator {at} comes out of TVM's importer as {dtype}, not {kind}: '{name}'")

    # What the converters ask.

    def get_tensors(self, tensors_idx_list: Any) -> list[TensorWrapper]:
        """The tensors; without their quantization while float ones are wanted."""
        tensors = super().get_tensors(tensors_idx_list)
        if self._float:
            return [TensorWrapper(item.tensor_idx, item.tensor, item.buffer, None) for item in tensors]
        return tensors

    def is_quantized(self, op: Any) -> bool:
        """Whether the first tensor is quantized."""
        return not self._float and bool(super().is_quantized(op))

    def get_tensor_type_str(self, tensor_type: Any) -> str:
        """Name of a type; integers of activations are float while float ones are wanted."""
        name = str(super().get_tensor_type_str(tensor_type))
        return "float32" if self._float and name in ("int8", "uint8", "int16") else name

    def get_expr(self, input_tensor_idx: int) -> Any:
        """The expression of a tensor, dequantized while float ones are wanted."""
        expr = super().get_expr(input_tensor_idx)
        return self._dequantized(expr, input_tensor_idx) if self._float else expr

    def get_tensor_value(self, tensor_wrapper: TensorWrapper, is_sparse: bool = False) -> np.ndarray:
        """A constant, dequantized while float ones are wanted."""
        value = np.asarray(self._stored(tensor_wrapper, is_sparse))
        params = self._params(tensor_wrapper.tensor_idx) if self._float else None
        if params is None:
            return value
        return real_values(value, params)

    def _stored(self, tensor_wrapper: TensorWrapper, is_sparse: bool) -> np.ndarray:
        was, self._float = self._float, False
        try:
            return super().get_tensor_value(tensor_wrapper, is_sparse)
        finally:
            self._float = was

    def _params(self, index: int) -> Any:
        """The quantization of an 8- or 16-bit tensor; None for others."""
        (tensor,) = super().get_tensors([index])
        name = super().get_tensor_type_str(tensor.tensor.Type())
        return tensor.qnn_params if name in ("int8", "uint8", "int16") else None

    def _dequantized(self, expr: Any, index: int) -> Any:
        params = self._params(index)
        if params is None or dtype_of(expr) == "float32":
            return expr
        scale, zero, axis = params["scale"], params["zero_point"], params["axis"]
        return self.bb.emit(relax.op.dequantize(expr, scale, zero, axis=axis))

    def convert_reshape(self, op: Any) -> Any:
        """To the shape that the file gives the output, wherever it has that from; for SQUEEZE and EXPAND_DIMS too."""
        (output,) = self.get_output_tensors(op)
        data = self.get_tensor_expr(self.get_input_tensors(op)[0])
        return relax.op.reshape(data, self._shape(output))

    convert_squeeze = convert_reshape
    convert_expand_dims = convert_reshape

    def convert_detection_postprocess(self, op: Any) -> Any:
        """TVM's, with the options that a file may leave out as TFLite's own kernel has them."""
        with mock.patch.object(tflite_frontend, "FlexBufferDecoder", _Options):
            return super().convert_detection_postprocess(op)

    def convert_fully_connected(self, op: Any) -> Any:
        """TVM's, on data that is flattened to two dimensions where the file asks for that."""
        data, weight = self.get_input_tensors(op)[:2]
        expr = self.get_tensor_expr(data)
        shape, inputs = static_shape(expr), int(weight.tensor.ShapeAsNumpy()[1])
        (output,) = self.get_output_tensors(op)
        wanted = self._shape(output)
        if shape is None or (len(shape) == 2 and shape[1] == inputs):
            return super().convert_fully_connected(op)
        name = data.tensor.Name().decode()
        self.exp_tab.set_expr(name, self.bb.emit(relax.op.reshape(expr, (-1, inputs))), force_override=True)
        try:
            found = self.bb.normalize(super().convert_fully_connected(op))
        finally:
            self.exp_tab.set_expr(name, expr, force_override=True)
        return found if static_shape(found) == wanted else relax.op.reshape(found, wanted)
