"""TFLite networks, by TVM's importer."""

from __future__ import annotations

import tvm

from selector.graph.frontends import last_line
from selector.runtime import ModelError


def convert(data: bytes, where: str) -> tvm.IRModule:
    """The network in the bytes of a file.  Raises ModelError."""
    try:
        import tflite
    except ImportError as error:
        raise ModelError(f"{where}: reading TFLite needs the package 'tflite' (pip install tflite)") from error
    from tvm.relax.frontend.tflite import from_tflite

    if data[4:8] != b"TFL3":
        raise ModelError(f"{where} is not a TFLite model")
    try:
        return from_tflite(tflite.Model.GetRootAsModel(data, 0))
    except Exception as error:  # the importer raises whatever its converters raise
        raise ModelError(f"tvm's TFLite importer fails on {where}: {last_line(error)}") from error
