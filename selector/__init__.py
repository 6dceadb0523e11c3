"""Quantized convolutions for Apache TVM, each with the faster of two exact integer lowerings.

Example::

    model = selector.load("net.onnx")
    compiled = selector.compile(model, target="native")
    outputs = compiled.run(x)
"""

from selector.graph.compile import CompiledModel, compile, explain, extract_workloads, load_compiled, stored_bytes
from selector.graph.frontend import ModelError, load
from selector.graph.pipeline import pipeline
from selector.policy import Decision, UnknownPolicy
from selector.target import UnknownTarget
from selector.workload import ConvWorkload

__all__ = [
    "CompiledModel",
    "ConvWorkload",
    "Decision",
    "ModelError",
    "UnknownPolicy",
    "UnknownTarget",
    "compile",
    "explain",
    "extract_workloads",
    "load",
    "load_compiled",
    "pipeline",
    "stored_bytes",
]
