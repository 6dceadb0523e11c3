"""What a compiled network is compared with, behind one call signature: TVM's pipeline, ONNX Runtime, LiteRT."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector.quiet import without_lines
from selector.target import TargetLike, profile, resolve, why_not_here

Arrays = Sequence[np.ndarray]
Runner = Callable[[Arrays], list[np.ndarray]]  # inputs in model order -> outputs in model order


_DELEGATE = b"Created TensorFlow Lite XNNPACK delegate for CPU."  # what LiteRT writes to standard error


class PeerUnavailable(ValueError):
    """The peer cannot run here; the message says what to install or change."""


def tvm_default(module: tvm.IRModule, target: TargetLike = "native") -> Runner:
    """The imported network compiled by TVM's default pipeline: float32 loops between quantize and dequantize."""
    machine = relax.VirtualMachine(tvm.compile(module, target=resolve(target)), tvm.cpu())

    def run(inputs: Arrays) -> list[np.ndarray]:
        result = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(array)) for array in inputs])
        return [tensor.numpy() for tensor in ([result] if isinstance(result, tvm.runtime.Tensor) else result)]

    return run


def onnxruntime(path: Path, *, threads: int, optimize: bool = True) -> Runner:
    """The network in ONNX Runtime's CPU provider.

    ``optimize=False`` computes the float graph between quantize and dequantize as it is written, which is a reference;
    with optimizations its 8-bit kernels are as fast as it can, and saturate on CPUs without VNNI.

    Raises PeerUnavailable without the package, and for a file that is no ONNX network.
    """
    _require_own("onnxruntime", path)
    try:
        import onnxruntime as ort
    except ImportError:
        raise PeerUnavailable("onnxruntime is not installed: pip install 'tvm-selector[bench]'") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    session: Any = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(inputs: Arrays) -> list[np.ndarray]:
        return list(session.run(None, dict(zip(names, inputs, strict=True))))

    return run


def litert(path: Path, *, threads: int, optimize: bool = True) -> Runner:
    """The network in LiteRT, the runtime of TFLite, with its fast kernels, or with its reference kernels.

    The fast ones round once, as Selector does; the others round every product twice, which later layers make tens of
    steps of.

    Raises PeerUnavailable without the package, and for a file that is no TFLite network.
    """
    _require_own("litert", path)
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise PeerUnavailable("LiteRT is not installed: pip install 'tvm-selector[tflite]'") from None
    kernels = OpResolverType.AUTO if optimize else OpResolverType.BUILTIN_REF
    with without_lines(_DELEGATE):
        interpreter: Any = Interpreter(str(path), num_threads=threads, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
    sources = [item["index"] for item in interpreter.get_input_details()]
    results = [item["index"] for item in interpreter.get_output_details()]

    def run(inputs: Arrays) -> list[np.ndarray]:
        for index, array in zip(sources, inputs, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in results]

    return run


_PACKAGES = {"onnxruntime": "onnxruntime", "litert": "ai_edge_litert"}


def own_runtime(path: Path) -> str:
    """The peer that reads files of this kind: "onnxruntime" or "litert"."""
    return "litert" if path.suffix == ".tflite" else "onnxruntime"


def installed(name: str) -> bool:
    """Whether the runtime can be a peer here."""
    return importlib.util.find_spec(_PACKAGES[name]) is not None


def reference(path: Path, *, threads: int) -> Runner:
    """The network in the runtime of its kind, as close to the file as that computes.  Raises PeerUnavailable."""
    if own_runtime(path) == "litert":
        return litert(path, threads=threads)
    return onnxruntime(path, threads=threads, optimize=False)


def second_opinion(path: Path, *, threads: int) -> Runner | None:
    """Other kernels of the reference's own runtime, where both are right; None where there are none.

    How far the two are apart tells what the rounding of single values may become in this network.
    """
    return litert(path, threads=threads, optimize=False) if own_runtime(path) == "litert" else None


def _require_own(name: str, path: Path) -> None:
    if name != own_runtime(path):
        raise PeerUnavailable(f"{name} does not read {path.name}: the peer that does is {own_runtime(path)}")


def require_runnable(target: TargetLike) -> None:
    """Raises PeerUnavailable if code for ``target`` does not run on this machine."""
    wanted = profile(target)
    reason = why_not_here(wanted)
    if reason:
        raise PeerUnavailable(f"code for '{wanted.name}' ({wanted.arch}) does not run here: this machine {reason}")
