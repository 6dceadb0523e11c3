"""Small QDQ models in ONNX, built node by node, and onnxruntime as the float reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 9
IR_VERSION_OF_16BIT = 10
ELEM_TYPES = {
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "uint16": TensorProto.UINT16,
    "int16": TensorProto.INT16,
}


class GraphBuilder:
    """Collects nodes and initializers; every method returns the name of its result."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def fresh(self, hint: str) -> str:
        """A name no other value has."""
        self._count += 1
        return f"{hint}_{self._count}"

    def const(self, value: np.ndarray | np.generic, hint: str = "const") -> str:
        """An initializer."""
        name = self.fresh(hint)
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def input(self, name: str, shape: Sequence[int | str], dtype: str = "float32") -> str:
        """A graph input."""
        self.inputs.append(helper.make_tensor_value_info(name, ELEM_TYPES[dtype], shape))
        return name

    def node(self, op: str, inputs: Sequence[str], name: str = "", outputs: int = 1, **attrs: Any) -> Any:
        """A node; the name of its output, or a list of names if it has several."""
        results = [self.fresh(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), results, name=name or results[0], **attrs))
        return results[0] if outputs == 1 else results

    def quantize(self, x: str, scale: float, zero_point: int, dtype: str = "uint8") -> str:
        """QuantizeLinear, per tensor."""
        return self.node(
            "QuantizeLinear", [x, self.const(np.float32(scale)), self.const(np.dtype(dtype).type(zero_point))]
        )

    def dequantize(self, x: str, scale: float, zero_point: int, dtype: str = "uint8") -> str:
        """DequantizeLinear, per tensor."""
        return self.node(
            "DequantizeLinear", [x, self.const(np.float32(scale)), self.const(np.dtype(dtype).type(zero_point))]
        )

    def qdq(self, x: str, scale: float, zero_point: int, dtype: str = "uint8") -> str:
        """Quantize and dequantize, as exporters put it after every operator."""
        return self.dequantize(self.quantize(x, scale, zero_point, dtype), scale, zero_point, dtype)

    def weight(
        self,
        shape: Sequence[int],
        *,
        dtype: str = "int8",
        scale: float | np.ndarray = 0.02,
        zero_point: int | np.ndarray = 0,
        axis: int = 0,
        bits: int = 8,
    ) -> str:
        """A dequantized random weight; arrays of scales or zero points run along ``axis``."""
        info = np.iinfo(dtype)
        low, high = (info.min, info.max) if bits == 8 else (info.min // 2, info.max // 2)
        values = self.rng.integers(low, high + 1, shape).astype(dtype)
        scales, zeros = np.asarray(scale, "float32"), np.asarray(zero_point, dtype)
        if scales.ndim or zeros.ndim:
            scales = np.broadcast_to(scales, (shape[axis],)).copy()
            zeros = np.broadcast_to(zeros, (shape[axis],)).copy()
            attrs: dict[str, Any] = {"axis": axis}
        else:
            attrs = {}
        return self.node("DequantizeLinear", [self.const(values), self.const(scales), self.const(zeros)], **attrs)

    def int32_bias(self, channels: int, scale: float | np.ndarray, bound: int = 2000) -> str:
        """A dequantized int32 bias of ``channels`` values below ``bound``."""
        values = self.rng.integers(-bound, bound + 1, channels).astype("int32")
        scales = np.asarray(scale, "float32")
        attrs = {"axis": 0} if scales.ndim else {}
        return self.node(
            "DequantizeLinear",
            [self.const(values), self.const(scales), self.const(np.zeros(scales.shape, "int32"))],
            **attrs,
        )

    def model(self, outputs: dict[str, str], opset: int = OPSET) -> onnx.ModelProto:
        """The finished model; ``outputs`` maps value names to dtypes.  Operator set 21 quantizes to 16 bits."""
        infos = [helper.make_tensor_value_info(name, ELEM_TYPES[dtype], None) for name, dtype in outputs.items()]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        model.ir_version = IR_VERSION if opset == OPSET else IR_VERSION_OF_16BIT
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        return model


def qdq_conv_model(
    *,
    batch: int = 1,
    in_channels: int = 8,
    height: int = 7,
    width: int = 6,
    out_channels: int = 12,
    kernel: tuple[int, int] = (3, 3),
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (1, 1, 1, 1),
    dilations: tuple[int, int] = (1, 1),
    groups: int = 1,
    data_dtype: str = "uint8",
    weight_dtype: str = "int8",
    out_dtype: str | None = None,
    data_scale: float = 0.02,
    data_zero_point: int | None = None,
    per_channel: bool = False,
    weight_zero_point: int | Sequence[int] = 0,
    weight_bits: int = 8,
    bias: str | None = "int32",
    activation: str | None = None,
    quantize_output: bool = True,
    float_io: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """One QDQ convolution, NCHW: ``x`` quantized (N,C,H,W) to quantized or float32 output.

    ``bias`` is None, ``"int32"`` (scale of the accumulator) or ``"float"``; ``activation`` None, ``"relu"`` or
    ``"clip"``; ``pads`` are top, left, bottom, right; ``float_io`` puts the quantize and dequantize of input and output
    into the graph.
    """
    b = GraphBuilder(seed)
    out_dtype = out_dtype or data_dtype
    if data_zero_point is None:
        data_zero_point = 117 if data_dtype == "uint8" else -11
    shape = (batch, in_channels, height, width)
    x = b.input("x", shape, "float32" if float_io else data_dtype)
    if float_io:
        x = b.quantize(x, data_scale, data_zero_point, data_dtype)
    weight_scale: float | np.ndarray = 0.01
    if per_channel:
        weight_scale = b.rng.uniform(0.005, 0.02, out_channels).astype("float32")
    zero_point = weight_zero_point if isinstance(weight_zero_point, int) else np.asarray(weight_zero_point)
    data = b.dequantize(x, data_scale, data_zero_point, data_dtype)
    weight = b.weight(
        (out_channels, in_channels // groups, *kernel),
        dtype=weight_dtype,
        scale=weight_scale,
        zero_point=zero_point,
        bits=weight_bits,
    )
    inputs = [data, weight]
    if bias == "int32":
        scale = np.float32(data_scale) * np.asarray(weight_scale, "float32")
        inputs.append(b.int32_bias(out_channels, scale))
    elif bias == "float":
        inputs.append(b.const(b.rng.normal(0, 0.5, out_channels).astype("float32")))
    y = b.node(
        "Conv",
        inputs,
        name="conv",
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
        group=groups,
        kernel_shape=list(kernel),
    )
    if activation == "relu":
        y = b.node("Relu", [y])
    elif activation == "clip":
        y = b.node("Clip", [y, b.const(np.float32(-0.7)), b.const(np.float32(1.3))])
    if not quantize_output:
        return b.model({y: "float32"})
    # a scale that spreads random accumulators over the whole range without clipping most of them
    taps = kernel[0] * kernel[1] * in_channels // groups
    out_scale = float(data_scale * 0.01 * 73 * 73 * np.sqrt(taps) / 60)
    out_zero_point = 121 if out_dtype == "uint8" else -7
    y = b.quantize(y, out_scale, out_zero_point, out_dtype)
    if float_io:
        return b.model({b.dequantize(y, out_scale, out_zero_point, out_dtype): "float32"})
    return b.model({y: out_dtype})


def qdq_dense_model(
    *,
    rows: int = 3,
    in_features: int = 20,
    out_features: int = 10,
    op: str = "Gemm",
    data_dtype: str = "uint8",
    weight_dtype: str = "int8",
    bias: bool = True,
    per_channel: bool = False,
    weight_zero_point: int = 0,
    quantize_output: bool = True,
    seed: int = 0,
) -> onnx.ModelProto:
    """One QDQ Gemm (weights (O,I), transposed) or MatMul (weights (I,O))."""
    b = GraphBuilder(seed)
    zero_point = 117 if data_dtype == "uint8" else -11
    x = b.input("x", (rows, in_features), data_dtype)
    data = b.dequantize(x, 0.02, zero_point, data_dtype)
    gemm = op == "Gemm"
    scale: float | np.ndarray = b.rng.uniform(0.005, 0.02, out_features).astype("float32") if per_channel else 0.01
    weight = b.weight(
        (out_features, in_features) if gemm else (in_features, out_features),
        dtype=weight_dtype,
        scale=scale,
        zero_point=weight_zero_point,
        axis=0 if gemm else 1,
    )
    inputs = [data, weight]
    bias_name = b.int32_bias(out_features, np.float32(0.02) * np.asarray(scale, "float32")) if bias else None
    if gemm:
        y = b.node("Gemm", inputs + ([bias_name] if bias_name else []), name="fc", transB=1)
    else:
        y = b.node("MatMul", inputs, name="fc")
        if bias_name:
            y = b.node("Add", [y, bias_name])
    if not quantize_output:
        return b.model({y: "float32"})
    y = b.quantize(y, 0.08 * float(np.sqrt(in_features)) / 4, zero_point, data_dtype)
    return b.model({y: data_dtype})


def qdq_block_model(*, dtype: str = "uint8", weight_dtype: str = "int8", seed: int = 0) -> onnx.ModelProto:
    """A small network with every pattern: residual add, concat, pools, channel shuffle, dense; float in and out."""
    b = GraphBuilder(seed)
    zero = 120 if dtype == "uint8" else -8
    low = 0 if dtype == "uint8" else -128
    weight_zero = 0 if weight_dtype == "int8" else 128

    def conv(
        x: str, cin: int, cout: int, k: int, name: str, *, groups: int = 1, stride: int = 1, s: float = 0.05
    ) -> str:
        w = b.weight((cout, cin // groups, k, k), dtype=weight_dtype, scale=0.004, zero_point=weight_zero)
        bias = b.int32_bias(cout, np.float32(0.05) * np.float32(0.004))
        y = b.node("Conv", [x, w, bias], name=name, pads=[k // 2] * 4, strides=[stride] * 2, group=groups)
        return b.qdq(y, s, zero, dtype)

    x = b.input("x", (1, 3, 16, 16))
    x = b.qdq(x, 0.05, zero, dtype)
    x = conv(x, 3, 16, 3, "stem", stride=2)
    x = b.qdq(b.node("MaxPool", [x], kernel_shape=[3, 3], strides=[1, 1], pads=[1, 1, 1, 1]), 0.05, zero, dtype)
    branch = conv(x, 16, 16, 3, "depthwise", groups=16)
    branch = conv(branch, 16, 16, 1, "pointwise")
    x = b.qdq(b.node("Relu", [b.node("Add", [x, branch])]), 0.05, low, dtype)
    left, right = conv(x, 16, 8, 1, "left"), conv(x, 16, 8, 3, "right", s=0.06)
    x = b.qdq(b.node("Concat", [left, right], axis=1), 0.05, zero, dtype)
    x = b.qdq(b.node("Reshape", [x, b.const(np.array([1, 2, 8, 8, 8]))]), 0.05, zero, dtype)
    x = b.qdq(b.node("Transpose", [x], perm=[0, 2, 1, 3, 4]), 0.05, zero, dtype)
    x = b.qdq(b.node("Reshape", [x, b.const(np.array([1, 16, 8, 8]))]), 0.05, zero, dtype)
    first, second = b.node("Split", [x, b.const(np.array([8, 8]))], outputs=2, axis=1)
    first, second = b.qdq(first, 0.05, zero, dtype), b.qdq(second, 0.05, zero, dtype)
    second = conv(second, 8, 8, 3, "tail")
    x = b.qdq(b.node("Concat", [first, second], axis=1), 0.05, zero, dtype)
    x = b.qdq(b.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2]), 0.05, zero, dtype)
    x = b.qdq(b.node("GlobalAveragePool", [x]), 0.02, zero, dtype)
    x = b.qdq(b.node("Flatten", [x], axis=1), 0.02, zero, dtype)
    w = b.weight((10, 16), dtype=weight_dtype, scale=0.004, zero_point=weight_zero)
    x = b.node("Gemm", [x, w, b.int32_bias(10, np.float32(0.02) * np.float32(0.004))], name="fc", transB=1)
    return b.model({b.qdq(x, 0.03, zero, dtype): "float32"})


def random_inputs(model: onnx.ModelProto, seed: int = 1) -> dict[str, np.ndarray]:
    """Random values for every input of ``model``: normal floats, integers over the whole range."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in model.graph.input:
        tensor = info.type.tensor_type
        shape = [dim.dim_value for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if np.issubdtype(dtype, np.integer):
            limits = np.iinfo(dtype)
            feeds[info.name] = rng.integers(limits.min, limits.max + 1, shape).astype(dtype)
        else:
            feeds[info.name] = rng.normal(0, 1, shape).astype(dtype)
    return feeds


def reference(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of onnxruntime with graph optimisations disabled, i.e. of the float QDQ graph itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feeds)]
