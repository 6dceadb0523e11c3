"""Networks that torch exported, by TVM's importer."""

from __future__ import annotations

from typing import Any

import tvm
from tvm.relax.frontend.torch import from_exported_program

from selector.graph.frontends import last_line
from selector.runtime import ModelError


def convert(program: Any) -> tvm.IRModule:
    """The network of a ``torch.export.ExportedProgram``.  Raises ModelError."""
    quantized = [
        str(node.target) for node in program.graph.nodes if str(node.target).startswith("quantized_decomposed.")
    ]
    if quantized:
        raise ModelError(
            f"tvm's torch importer has no {quantized[0]}; export the quantized network to ONNX in QDQ format instead"
        )
    try:
        return from_exported_program(program)
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(f"tvm's torch importer fails: {last_line(error)}") from error
