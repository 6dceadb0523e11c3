"""Loading models: whatever a user has, as a Relax module with static shapes.

One module a format.  Each converts to Relax and names the layers; it is imported when such a model is given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import relax

from selector.graph.ir import static_shape
from selector.graph.passes.fuse import LAYER_NAMES, anchors, numbered
from selector.graph.variants import OUTPUT_NAMES
from selector.runtime import ModelError

OWN_LINES = (b"BlockBuilder destroyed with remaining blocks!",)  # what TVM writes when a converter of it fails


@dataclass(frozen=True)
class Imported:
    """What a frontend makes of a network."""

    module: tvm.IRModule
    layers: Sequence[str] = ()  # names of the anchors, in graph order; none where the format has none
    outputs: Sequence[str] = ()  # names of the outputs, in order


@dataclass(frozen=True)
class _Shapes:
    """The shapes that the user gives."""

    shapes: Mapping[str, Sequence[int]] | None
    batch: int | None

    def refuse(self, what: str) -> None:
        """Raises ModelError if any are given."""
        if self.shapes or self.batch is not None:
            raise ModelError(f"{what} has the shapes that it has; shapes and batch can be given for ONNX networks")


def load(model: Any, *, shapes: Mapping[str, Sequence[int]] | None = None, batch: int | None = None) -> tvm.IRModule:
    """A Relax module for a path (``.onnx``, ``.tflite``), ONNX bytes or ModelProto, torch ExportedProgram, or IRModule.

    ``shapes``: of the inputs by name, ``batch``: the first dimension of all others; for ONNX networks.  Without them
    shapes are those of the file, and a dynamic batch is 1, after a BatchWarning.

    An IRModule is returned as it is.  Layers keep the names of the ONNX nodes or torch modules.  Raises ModelError.
    """
    how = _Shapes(shapes, batch)
    if isinstance(model, str | os.PathLike):
        return _load_path(Path(model), how)
    if isinstance(model, bytes | bytearray):
        return _load_onnx(bytes(model), "the given bytes", how)
    kind = f"{type(model).__module__}.{type(model).__qualname__}"
    if kind.startswith("onnx.") and kind.endswith(".ModelProto"):
        from selector.graph.frontends import onnx_import

        return _named(onnx_import.convert(model, "the given ModelProto", shapes=shapes, batch=batch))
    how.refuse(f"a {kind}")
    if isinstance(model, tvm.IRModule):
        _check_module(model)
        return model
    if kind.startswith("torch.export.") and kind.endswith(".ExportedProgram"):
        from selector.graph.frontends import torch_import

        return _named(torch_import.convert(model))
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


def _load_path(path: Path, how: _Shapes) -> tvm.IRModule:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or error}") from error
    if path.suffix == ".tflite":
        how.refuse(str(path))
        try:
            from selector.graph.frontends import tflite_import
        except ImportError as error:
            text = f"{path}: reading TFLite needs the package 'tflite': pip install 'tvm-selector[tflite]'"
            raise ModelError(text) from error
        return _named(tflite_import.convert(data, str(path)))
    return _load_onnx(data, str(path), how, path.parent)


def _load_onnx(data: bytes, where: str, how: _Shapes, folder: Path | None = None) -> tvm.IRModule:
    from selector.graph.frontends import onnx_import

    model = onnx_import.parse(data, where)
    return _named(onnx_import.convert(model, where, folder, shapes=how.shapes, batch=how.batch))


def _named(imported: Imported) -> tvm.IRModule:
    """The module with its names attached; those of layers made unique, or numbers if they are not one for each."""
    module, names = imported.module, imported.layers
    (gvar, func), *_ = [(g, f) for g, f in module.functions.items() if isinstance(f, relax.Function)]
    kinds = anchors(func)
    if len(kinds) != len(names):
        names = numbered(kinds)
    seen: dict[str, int] = {}
    unique = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        unique.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    module.update_func(gvar, func.with_attrs({LAYER_NAMES: unique, OUTPUT_NAMES: list(imported.outputs)}))
    return module
