"""Quantized convolutions for Apache TVM, each with the faster of two exact integer lowerings.

Example::

    model = selector.load("net.onnx")
    compiled = selector.compile(model, target="native")
    outputs = compiled.run(x)

Names are imported on first use, so that a process that only runs networks (``selector.runtime``) never loads TVM's
compiler.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from selector.graph.compile import CompiledModel, compile, explain, extract_workloads, load_compiled, stored_bytes
    from selector.graph.frontends import load
    from selector.graph.pipeline import pipeline
    from selector.policy import BadDecision, Decision, UnknownPolicy
    from selector.runtime import ModelError
    from selector.target import UnknownTarget
    from selector.target import resolve as resolve_target
    from selector.workload import ConvWorkload

_HOMES = {  # module, and the name there where it is another
    "BadDecision": "policy",
    "CompiledModel": "graph.compile",
    "ConvWorkload": "workload",
    "Decision": "policy",
    "ModelError": "runtime",
    "UnknownPolicy": "policy",
    "UnknownTarget": "target",
    "compile": "graph.compile",
    "explain": "graph.compile",
    "extract_workloads": "graph.compile",
    "load": "graph.frontends",
    "load_compiled": "graph.compile",
    "pipeline": "graph.pipeline",
    "resolve_target": "target:resolve",
    "stored_bytes": "graph.compile",
}

_DISTRIBUTIONS = ("tvm-selector", "tvm-selector-runtime")  # one of them brought the modules

__all__ = [
    "BadDecision",
    "CompiledModel",
    "ConvWorkload",
    "Decision",
    "ModelError",
    "UnknownPolicy",
    "UnknownTarget",
    "__version__",
    "compile",
    "explain",
    "extract_workloads",
    "load",
    "load_compiled",
    "pipeline",
    "resolve_target",
    "stored_bytes",
]


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        module, _, attribute = _HOMES[name].partition(":")
        value = getattr(importlib.import_module(f"selector.{module}"), attribute or name)
    else:
        raise AttributeError(f"module 'selector' has no attribute '{name}'")
    globals()[name] = value
    return value


def _version() -> str:
    """Version of the installed package; of a source tree that nobody installed it is not known."""
    from importlib import metadata

    for name in _DISTRIBUTIONS:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "0+unknown"


def __dir__() -> list[str]:
    return __all__
