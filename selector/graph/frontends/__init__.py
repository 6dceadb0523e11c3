"""Loading models: whatever a user has, as a Relax module with static shapes."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tvm
from tvm import relax

from selector.graph.fuse import LAYER_NAMES, anchors, numbered
from selector.graph.ir import static_shape
from selector.runtime import ModelError

if TYPE_CHECKING:
    import onnx

# ONNX operators of the QOperator format, and the float operators that QDQ has in their place
_QOPERATORS = ("QLinear", "ConvInteger", "MatMulInteger", "QGemm", "QAttention", "QEmbed", "DynamicQuantizeMatMul")
_ONNX_ANCHORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_TO_QDQ = "onnxruntime.quantization.quantize_static(..., quant_format=QuantFormat.QDQ)"
_FIX_SHAPE = "python -m onnxruntime.tools.make_dynamic_shape_fixed"


def load(model: Any) -> tvm.IRModule:
    """A Relax module for a path (``.onnx``, ``.tflite``), ONNX bytes or ModelProto, torch ExportedProgram, or IRModule.

    An IRModule is returned as it is.  Layers keep the names of the ONNX nodes.  Raises ModelError.
    """
    if isinstance(model, tvm.IRModule):
        _check_module(model)
        return model
    if isinstance(model, str | os.PathLike):
        return _load_path(Path(model))
    if isinstance(model, bytes | bytearray):
        return _load_onnx(_parse_onnx(bytes(model), "the given bytes"), "the given bytes")
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if kind.startswith("onnx.") and kind.endswith(".ModelProto"):
        return _load_onnx(model, "the given ModelProto")
    if kind.startswith("torch.export.") and kind.endswith(".ExportedProgram"):
        return _load_torch(model)
    raise ModelError(
        f"a model is a path to .onnx or .tflite, ONNX bytes, an onnx ModelProto, a torch ExportedProgram or a tvm "
        f"IRModule, got {kind}"
    )


def _check_module(module: tvm.IRModule) -> None:
    mains = [func for gvar, func in module.functions.items() if gvar.name_hint == "main"]
    if not mains or not isinstance(mains[0], relax.Function):
        raise ModelError("an IRModule needs a Relax function 'main'")
    for param in mains[0].params:
        shape = static_shape(param)
        if shape is None:
            raise ModelError(
                f"input '{param.name}' of the IRModule is not a tensor of fixed shape ({param.ty}); "
                "fix symbolic dimensions with relax.transform.BindSymbolicVars"
            )
        if 0 in shape:
            raise ModelError(f"input '{param.name}' of the IRModule has a zero-sized dimension {shape}")


def _load_path(path: Path) -> tvm.IRModule:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix == ".tflite":
        return _load_tflite(data, str(path))
    return _load_onnx(_parse_onnx(data, str(path)), str(path), path.parent)


def _parse_onnx(data: bytes, where: str) -> onnx.ModelProto:
    """The protobuf in ``data``, checked to be a whole ONNX model."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        message = f"{where} is not an ONNX model or is truncated: its {len(data)} bytes do not parse"
        raise ModelError(message) from error
    if not model.HasField("graph") or not model.opset_import:
        raise ModelError(f"{where} is not an ONNX model or is truncated: it has no graph or no operator set")
    return model


def _load_onnx(model: onnx.ModelProto, where: str, folder: Path | None = None) -> tvm.IRModule:
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    if folder is not None:
        try:
            onnx.external_data_helper.load_external_data_for_model(model, str(folder))
        except (OSError, onnx.checker.ValidationError) as error:
            raise ModelError(f"{where} keeps tensors in files that cannot be read: {_last_line(error)}") from error
    _check_complete(model, where)
    _check_operators(model, where)
    _check_shapes(model, where)
    try:
        with warnings.catch_warnings():
            # the importer only warns of what the checker finds and then fails somewhere, or not at all
            warnings.simplefilter("ignore")
            module = from_onnx(model)
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(f"tvm's ONNX importer fails on {where}: {_last_line(error)}") from error
    return _named(module, _onnx_names(model))


def _check_complete(model: onnx.ModelProto, where: str) -> None:
    """A truncated file can parse; what it lacks is then read by some node or is an output."""
    graph = model.graph
    known = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    known |= {tensor.values.name for tensor in graph.sparse_initializer}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                raise ModelError(f"{where} is truncated or broken: nothing defines '{name}', an input of '{node.name}'")
        known |= set(node.output)
    if not graph.output:
        raise ModelError(f"{where} is truncated or broken: its graph has no output")
    for info in graph.output:
        if info.name not in known:
            raise ModelError(f"{where} is truncated or broken: nothing defines its output '{info.name}'")


def _check_operators(model: onnx.ModelProto, where: str) -> None:
    for node in model.graph.node:
        if node.op_type.startswith(_QOPERATORS):
            raise ModelError(
                f"{where} is in QOperator format: tvm has no {node.op_type} (node '{node.name}'); "
                f"export it in QDQ format instead, e.g. with {_TO_QDQ}"
            )


def _check_shapes(model: onnx.ModelProto, where: str) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    for info in model.graph.input:
        if info.name in constants:
            continue
        if not info.type.tensor_type.HasField("shape"):
            raise ModelError(f"{where}: input '{info.name}' has no shape; Selector compiles for fixed shapes")
        for index, dim in enumerate(info.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                name = dim.dim_param or "?"
                how = f"--input_name {info.name} --input_shape <numbers>"
                if dim.dim_param:
                    how = f"--dim_param {name} --dim_value 1"
                raise ModelError(
                    f"{where}: dimension {index} of input '{info.name}' is dynamic ('{name}'); Selector compiles for "
                    f"fixed shapes, fix it with: {_FIX_SHAPE} {how} in.onnx out.onnx"
                )
            if dim.dim_value == 0:
                raise ModelError(f"{where}: dimension {index} of input '{info.name}' is zero: nothing to compute")


def _onnx_names(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions and matrix products, in graph order; unnamed nodes go by their output."""
    return [node.name or node.output[0] for node in model.graph.node if node.op_type in _ONNX_ANCHORS]


def _load_tflite(data: bytes, where: str) -> tvm.IRModule:
    try:
        import tflite
    except ImportError as error:
        raise ModelError(f"{where}: reading TFLite needs the package 'tflite' (pip install tflite)") from error
    from tvm.relax.frontend.tflite import from_tflite

    if data[4:8] != b"TFL3":
        raise ModelError(f"{where} is not a TFLite model")
    try:
        module = from_tflite(tflite.Model.GetRootAsModel(data, 0))
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(f"tvm's TFLite importer fails on {where}: {_last_line(error)}") from error
    return _named(module, [])


def _load_torch(program: Any) -> tvm.IRModule:
    from tvm.relax.frontend.torch import from_exported_program

    quantized = [
        str(node.target) for node in program.graph.nodes if str(node.target).startswith("quantized_decomposed.")
    ]
    if quantized:
        raise ModelError(
            f"tvm's torch importer has no {quantized[0]}; export the quantized network to ONNX in QDQ format instead"
        )
    try:
        return _named(from_exported_program(program), [])
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(f"tvm's torch importer fails: {_last_line(error)}") from error


def _named(module: tvm.IRModule, names: list[str]) -> tvm.IRModule:
    """``module`` with the layers' names attached, made unique; numbered instead if they are not one for each layer."""
    (gvar, func), *_ = [(g, f) for g, f in module.functions.items() if isinstance(f, relax.Function)]
    kinds = anchors(func)
    if len(kinds) != len(names):
        names = numbered(kinds)
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    module.update_func(gvar, func.with_attr(LAYER_NAMES, unique))
    return module


def _last_line(error: Exception) -> str:
    """The line of an error that says what is wrong."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
