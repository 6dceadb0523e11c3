"""TFLite's layers that TVM's converters lack or get wrong, as float operators between a dequantize and a quantize."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tflite.ActivationFunctionType import ActivationFunctionType
from tflite.BatchMatMulOptions import BatchMatMulOptions
from tflite.Padding import Padding
from tflite.TransposeConvOptions import TransposeConvOptions
from tvm import relax
from tvm.relax.frontend.tflite.tflite_frontend import OperatorConverter, TensorWrapper

from selector.graph.frontends.phases import Axis, phase_weights
from selector.graph.ir import constant, dtype_of, static_shape
from selector.workload import INT32_MAX


class Layers(OperatorConverter):
    """Converters of layers, and what these ask."""

    def get_tensors(self, tensors_idx_list: Any) -> list[TensorWrapper]:
        """The tensors with their quantization: one that has scales alone has zero points of zero."""
        found = []
        for index in self._indices_or_empty(tensors_idx_list):
            if index < 0:
                found.append(TensorWrapper(index, 0, 0))
                continue
            tensor = self.subgraph.Tensors(index)
            found.append(TensorWrapper(index, tensor, self.model.Buffers(tensor.Buffer()), _quantization(tensor)))
        return found

    def dequantize(self, expr: Any, tensor: TensorWrapper) -> Any:
        """The float tensor.

        For a bias too whose file says that its one axis is the fourth, and for one of 64 bits, which Relax's operator
        does not take.
        """
        params = dict(tensor.qnn_params)
        expr = self.bb.normalize(expr)
        shape, value = static_shape(expr), constant(expr)
        if shape is not None and params["axis"] >= len(shape):
            params["axis"] = max(len(shape) - 1, 0)
        if dtype_of(expr) == "int64" and value is not None:
            if np.abs(value).max(initial=0) > INT32_MAX:
                return relax.const(real_values(value, params))
            expr = relax.const(value.astype("int32"))
        return relax.op.dequantize(expr, params["scale"], params["zero_point"], axis=params["axis"])

    def convert_qnn_fused_activation_function(
        self, expr: Any, fused_activation_fn: int, scale: float, zero_point: int, dtype: str
    ) -> Any:
        """``quantize(f(x))`` for ``f(quantize(x))``: the same for what clips, and one epilogue of the layer."""
        activated = self.convert_fused_activation_function(expr.args[0], fused_activation_fn)
        return tvm.ir.Call(expr.op, [activated, *expr.args[1:]], expr.attrs)

    def real(self, tensor: TensorWrapper) -> Any:
        """A tensor as float32: dequantized where it is quantized."""
        expr = self.get_tensor_expr(tensor)
        return self.dequantize(expr, tensor) if tensor.qnn_params else expr

    def is_constant(self, tensor: TensorWrapper) -> bool:
        """Whether the file holds the tensor's values."""
        return not self.has_expr(tensor.tensor_idx) and tensor.buffer.DataLength() > 0

    def output(self, expr: Any, tensor: TensorWrapper, activation: int = ActivationFunctionType.NONE) -> Any:
        """A float result with its activation, quantized where the file says so."""
        expr = self.convert_fused_activation_function(expr, activation)
        return self.quantize(expr, tensor) if tensor.qnn_params else expr

    def convert_transpose_conv(self, op: Any) -> Any:
        """As a convolution of phases; the integers are brought into their places."""
        _, weight, data, *biases = self.get_input_tensors(op)
        (out,) = self.get_output_tensors(op)
        options = TransposeConvOptions()
        options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        strides = (options.StrideH(), options.StrideW())
        (batch, *size, _), (_, *wanted, channels) = self._shape(data), self._shape(out)
        kernel = self._shape(weight)[1:3]
        if not self.is_constant(weight):
            raise NotImplementedError("its weights are no constants")
        axes = []
        for i in range(2):
            before = _padding_before(options.Padding(), wanted[i], kernel[i], strides[i])
            axis = Axis.of(size[i], wanted[i], kernel[i], strides[i], before)
            if axis is None:
                raise NotImplementedError(f"an output of {wanted[i]} leaves out data of {size[i]}")
            axes.append(axis)
        rows, columns = axes
        result = relax.op.nn.conv2d(
            self.real(data),
            self._phases(weight, rows, columns, as_integers=bool(data.qnn_params)),
            padding=(rows.before, columns.before, rows.after, columns.after),
            data_layout="NHWC",
            kernel_layout="OHWI",
        )
        if biases and biases[0].tensor_idx >= 0:
            result = relax.op.add(result, self._repeated(biases[0], math.prod(strides)))
        result = self.bb.normalize(self.output(result, out, options.FusedActivationFunction()))
        split = relax.op.reshape(result, (batch, rows.count, columns.count, *strides, channels))
        whole = (batch, rows.count * strides[0], columns.count * strides[1], channels)
        result = relax.op.reshape(relax.op.permute_dims(split, [0, 1, 3, 2, 4, 5]), whole)
        first = (rows.first, columns.first)
        if first == (0, 0) and list(whole[1:3]) == list(wanted):
            return result
        last = [start + extent for start, extent in zip(first, wanted, strict=True)]
        return relax.op.strided_slice(result, axes=[1, 2], begin=list(first), end=last)

    def _phases(self, tensor: TensorWrapper, rows: Axis, columns: Axis, *, as_integers: bool) -> Any:
        """Weights OHWI as those of all phases, channels of a phase next to each other."""
        values, params = self.get_tensor_value(tensor), tensor.qnn_params
        zero = np.zeros((), values.dtype)
        if params and as_integers:
            zero = params["zero_point"].value.numpy().astype(values.dtype)
        elif params:
            values = real_values(values, params)
            zero = zero.astype("float32")
        phases = rows.stride * columns.stride
        made = phase_weights(values.transpose(3, 0, 1, 2), zero, 1, rows, columns)
        made = made.reshape(-1, phases, *made.shape[1:]).swapaxes(0, 1).reshape(made.shape).transpose(0, 2, 3, 1)
        weight = relax.const(np.ascontiguousarray(made))
        if not (params and as_integers):
            return weight
        scale, zeros = (relax.const(_tiled(params[name], phases)) for name in ("scale", "zero_point"))
        return relax.op.dequantize(weight, scale, zeros, axis=0)

    def _repeated(self, tensor: TensorWrapper, phases: int) -> Any:
        """A bias for every phase."""
        values, params = np.tile(self.get_tensor_value(tensor), phases), tensor.qnn_params
        if not params:
            return relax.const(values)
        repeated = {name: relax.const(_tiled(params[name], phases)) for name in ("scale", "zero_point")}
        return self.dequantize(relax.const(values), TensorWrapper(-1, None, None, {**repeated, "axis": 0}))

    def convert_batch_matmul(self, op: Any) -> Any:
        """Products of the last two dimensions; a constant right side of one matrix is a dense layer's weight."""
        left, right = self.get_input_tensors(op)
        (out,) = self.get_output_tensors(op)
        options = BatchMatMulOptions()
        options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        x, y = self.real(left), self._right_side(right, as_integers=bool(left.qnn_params))
        if options.AdjX():
            x = _transposed(self.bb.normalize(x))
        if options.AdjY():
            y = _transposed(self.bb.normalize(y))
        found = self.bb.normalize(self.output(relax.op.matmul(x, y), out))
        wanted = self._shape(out)
        return found if static_shape(found) == wanted else relax.op.reshape(found, wanted)

    def _right_side(self, tensor: TensorWrapper, *, as_integers: bool) -> Any:
        """The right operand; batches of one matrix are that matrix."""
        if not self.is_constant(tensor):
            return self.real(tensor)
        values, params = self.get_tensor_value(tensor), tensor.qnn_params
        single = math.prod(values.shape[:-2]) == 1
        axis = 0 if not params else params["axis"] - (values.ndim - 2 if single else 0)
        if params and not as_integers:
            values = real_values(values, params)
        weight = relax.const(values.reshape(values.shape[-2:]) if single else values)
        if not (params and as_integers):
            return weight
        return relax.op.dequantize(weight, params["scale"], params["zero_point"], axis=max(axis, 0))

    def convert_quantize(self, op: Any) -> Any:
        """TVM's, and to 32 bits, which Relax's operator does not give; in float64, as int32 has more digits."""
        (data,), (out,) = self.get_input_tensors(op), self.get_output_tensors(op)
        if self.get_tensor_type_str(out.tensor.Type()) != "int32":
            return super().convert_quantize(op)
        value = relax.op.astype(self.get_tensor_expr(data), "float64")
        scale, zero = 1.0, 0.0
        if data.qnn_params:
            scale, zero = (float(data.qnn_params[name].value.numpy()) for name in ("scale", "zero_point"))
        ratio = scale / float(out.qnn_params["scale"].value.numpy())
        value = relax.op.multiply(relax.op.subtract(value, relax.const(zero, "float64")), relax.const(ratio, "float64"))
        level = relax.op.add(
            relax.op.round(value), relax.const(float(out.qnn_params["zero_point"].value.numpy()), "float64")
        )
        return relax.op.astype(relax.op.clip(level, -INT32_MAX - 1, INT32_MAX), "int32")

    def convert_gather_nd(self, op: Any) -> Any:
        """Elements or slices, moved as they are stored: the last axis of the indices says where."""
        data, indices = self.get_input_tensors(op)
        positions = relax.op.astype(self.get_tensor_expr(indices), "int64")
        return relax.op.gather_nd(self.get_tensor_expr(data), positions)

    def convert_resize_bilinear(self, op: Any) -> Any:
        """TVM's, and nothing where no size changes."""
        return self._unless_same_size(op, super().convert_resize_bilinear)

    def convert_resize_nearest_neighbor(self, op: Any) -> Any:
        """TVM's, and nothing where no size changes."""
        return self._unless_same_size(op, super().convert_resize_nearest_neighbor)

    def _unless_same_size(self, op: Any, convert: Callable[[Any], Any]) -> Any:
        (data, _), (out,) = self.get_input_tensors(op), self.get_output_tensors(op)
        return self.get_tensor_expr(data) if self._shape(data) == self._shape(out) else convert(op)

    def _shape(self, tensor: TensorWrapper) -> tuple[int, ...]:
        """The shape that the file gives."""
        return tuple(tensor.tensor.ShapeAsNumpy().tolist()) if tensor.tensor.ShapeLength() else ()


def real_values(values: np.ndarray, params: Any) -> np.ndarray:
    """Stored values dequantized, float32."""
    scale, zero = (params[name].value.numpy() for name in ("scale", "zero_point"))
    along = [-1 if axis == params["axis"] else 1 for axis in range(values.ndim)]
    scale, zero = (part.reshape(along) if part.size > 1 else part for part in (scale, zero))
    return ((values.astype("float64") - zero) * scale).astype("float32")


def _quantization(tensor: Any) -> dict[str, Any] | None:
    """Scale, zero point and axis of a tensor of the file; None if it is not quantized."""
    found = tensor.Quantization()
    if found is None or found.ScaleLength() == 0:
        return None
    scale: np.ndarray = found.ScaleAsNumpy()
    zero: np.ndarray = found.ZeroPointAsNumpy() if found.ZeroPointLength() else np.zeros(1, "int64")
    if scale.size == 1 or not zero.any():
        zero = zero[:1].reshape(())
    return {
        "scale": relax.const(scale.reshape(() if scale.size == 1 else -1).astype("float32")),
        "zero_point": relax.const(zero.astype("int32")),
        "axis": int(found.QuantizedDimension()),
    }


def _padding_before(padding: int, out: int, kernel: int, stride: int) -> int:
    """Outputs of a transposed convolution that TFLite leaves out at the front of one axis."""
    count = math.ceil((out if padding == Padding.SAME else out - kernel + 1) / stride)
    return max((count - 1) * stride + kernel - out, 0) // 2


def _tiled(part: Any, phases: int) -> np.ndarray:
    """Scales or zero points of the channels of every phase."""
    values = np.asarray(part.value.numpy())
    return np.tile(values, phases) if values.size > 1 else values


def _transposed(expr: Any) -> Any:
    rank = len(expr.ty.shape)
    return relax.op.permute_dims(expr, [*range(rank - 2), rank - 1, rank - 2])
