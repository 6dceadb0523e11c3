"""TFLite networks of one operator, and what LiteRT's reference kernels make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

_TYPES = {"float32": 0, "int32": 2, "uint8": 3, "int64": 4, "int16": 7, "int8": 9}


@dataclass
class T:
    """A tensor of the network; with ``data`` a constant."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: float | np.ndarray | None = 0.05
    zero: int | None = 3  # None: the file gives scales alone
    data: np.ndarray | None = None
    axis: int = 0


def constant(data: np.ndarray, scale: float | np.ndarray | None = None, zero: int | None = 0, axis: int = 0) -> T:
    """A constant; without a scale it is not quantized."""
    return T(data.shape, str(data.dtype), scale, zero, data, axis)


def network(op: str, inputs: list[T], outputs: list[T], options: Any = None, version: int = 1) -> bytes:
    """A file of one operator, ``op`` and ``options`` as the schema names them."""
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT()]
    graph = schema.SubGraphT()
    graph.tensors = []
    for number, item in enumerate([*inputs, *outputs]):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = f"t{number}", list(item.shape), _TYPES[item.dtype]
        if item.data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(item.data.tobytes(), "uint8")
            model.buffers.append(buffer)
            tensor.buffer = len(model.buffers) - 1
        if item.scale is not None:
            params = schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(item.scale, "float32"))
            params.scale = scales.tolist()
            params.zeroPoint = None if item.zero is None else [item.zero] * len(scales)
            params.quantizedDimension = item.axis
            tensor.quantization = params
        graph.tensors.append(tensor)
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, op)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    model.operatorCodes = [code]
    operator = schema.OperatorT()
    operator.inputs = list(range(len(inputs)))
    operator.outputs = list(range(len(inputs), len(inputs) + len(outputs)))
    if options is not None:
        operator.builtinOptions = options
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
    graph.operators = [operator]
    graph.inputs = [number for number, item in enumerate(inputs) if item.data is None]
    graph.outputs = operator.outputs
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def average_pool() -> bytes:
    """A network of one average pool of 2×2, of (1, 6, 6, 4)."""
    options = schema.Pool2DOptionsT()
    options.padding, options.filterHeight, options.filterWidth, options.strideH, options.strideW = 1, 2, 2, 2, 2
    return network("AVERAGE_POOL_2D", [T((1, 6, 6, 4))], [T((1, 3, 3, 4))], options)


def expected(data: bytes, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Random inputs, and what LiteRT computes of them."""
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    interpreter.allocate_tensors()
    rng = np.random.default_rng(seed)
    feeds = []
    for item in interpreter.get_input_details():
        if item["dtype"] is np.float32:
            feeds.append(rng.standard_normal(item["shape"]).astype("float32"))
            interpreter.set_tensor(item["index"], feeds[-1])
            continue
        info = np.iinfo(item["dtype"])
        feeds.append(rng.integers(info.min, info.max + 1, item["shape"]).astype(item["dtype"]))
        interpreter.set_tensor(item["index"], feeds[-1])
    interpreter.invoke()
    return feeds, [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]
