"""From a model to something that runs: compile, explain, save, load."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.support import cc

from selector import lowering, profiling
from selector import policy as policies
from selector.graph import checks, op
from selector.graph.frontend import ModelError, load
from selector.graph.legalize import Session, TensorSpec, qnn_calls
from selector.graph.pipeline import METADATA, quantized, session_pipeline
from selector.graph.quiet import without_scope_warnings
from selector.graph.transfer import Inputs, to_numpy
from selector.policy import Decision, Policy
from selector.profiling import Profile
from selector.target import TargetLike, host_cores, resolve
from selector.target import profile as target_profile
from selector.workload import ConvWorkload, UnsupportedWorkload

ModelLike = Any  # whatever selector.load takes
_LINK_OPTIONS = ["-Wl,-s"] if sys.platform == "linux" else []  # LLVM's symbols can be as large as the weights
_pool_threads = 0  # what TVM's pool was last told; 0: nothing yet


class CompiledModel:
    """A compiled network, ready to run."""

    def __init__(
        self, executable: Any, decisions: Sequence[Decision], threads: int, inputs: Sequence[TensorSpec]
    ) -> None:
        self.executable = executable  # relax.VirtualMachine(executable, tvm.cpu()) works
        self.decisions = list(decisions)
        self.threads = threads
        self.inputs = list(inputs)  # in the order that run takes them

    @functools.cached_property
    def vm(self) -> Any:
        """TVM's virtual machine; made on first use, since what is compiled for another CPU cannot be loaded here."""
        return relax.VirtualMachine(self.executable, tvm.cpu())

    @functools.cached_property
    def _main(self) -> Any:
        return self.vm["main"]

    @functools.cached_property
    def _staged(self) -> Inputs:
        return Inputs(self.inputs)

    def run(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run the network once.  ``inputs`` in the model's order, with its shapes and dtypes; every output, in order.

        One call at a time: a network's memory is its own, so threads of a program need one each.
        Raises ValueError for a wrong number of inputs, shape or dtype.
        """
        tensors = self._staged.filled(inputs)
        _use_threads(self.threads)
        return to_numpy(self._main(*tensors))

    def profile(self, *inputs: np.ndarray, rounds: int = 20) -> Profile:
        """Time of every layer and kernel, medians over ``rounds`` runs; ``inputs`` as for ``run``.

        Raises what ``run`` raises, and ValueError for fewer than one round.
        """
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        tensors = self._staged.filled(inputs)
        _use_threads(self.threads)
        watched = relax.VirtualMachine(self.executable, tvm.cpu())
        return profiling.profile(self.vm, watched, tensors, self.decisions, rounds)

    def save(self, path: str | os.PathLike[str], compiler: str | None = None) -> None:
        """Write a shared library that ``load_compiled`` and TVM load; the file appears whole or not at all.

        ``compiler`` links it, e.g. ``"aarch64-linux-gnu-g++"`` for another architecture; None: the system's.
        Raises OSError if the file cannot be written, RuntimeError if it cannot be linked.
        """
        link = None if compiler is None else cc.cross_compiler(compiler)
        target = Path(path)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            partial = Path(folder) / f"partial{target.suffix or '.so'}"
            with without_scope_warnings():
                self.executable.export_library(str(partial), fcompile=link, options=_LINK_OPTIONS)
            os.replace(partial, target)


def compile(  # noqa: A001 - the name users look for, always called as selector.compile
    model: ModelLike,
    target: TargetLike = "native",
    policy: str | Policy | None = None,
    threads: int | None = None,
) -> CompiledModel:
    """Compile a model, or whatever ``load`` takes; ``policy`` chooses the lowering of every quantized convolution.

    ``threads``: CPU threads that the network runs on; None: all cores.
    Raises ModelError, UnknownTarget, UnknownPolicy, and ValueError for a number of threads that is not positive.
    """
    module = load(model)
    resolved = resolve(target)
    session = _session(resolved, policy, threads)
    _start_pool()
    passes = session_pipeline(resolved, session)
    executable = tvm.compile(module, target=resolved, relax_pipeline=passes, tir_pipeline=checks.NAME)
    return CompiledModel(executable, session.decisions, session.threads, session.inputs)


def explain(
    model: ModelLike, target: TargetLike = "native", policy: str | Policy | None = None, threads: int | None = None
) -> list[Decision]:
    """The decisions that ``compile`` would make, in graph order, without building anything.

    A layer that a lowering refuses at build time is the one difference.  Raises what ``compile`` raises.
    """
    session = _session(resolve(target), policy, threads)
    quantized(load(model), session)
    return session.decisions


def stored_bytes(
    model: ModelLike, target: TargetLike = "native", threads: int | None = None
) -> dict[str, dict[str, int]]:
    """Bytes that each layer's packed weights and other constants take under each lowering: layer -> lowering -> bytes.

    Packs them to know; layers that stay as TVM has them, or that a lowering refuses, are left out.  Raises what
    ``compile`` raises.
    """
    session = _session(resolve(target), "rule", threads)
    sizes: dict[str, dict[str, int]] = {}
    for call in qnn_calls(quantized(load(model), session)):
        try:
            workload, constants = op.describe(call, session.threads)
            kernels = {name: lowering.build(workload, constants, session.target, name) for name in lowering.LOWERINGS}
        except UnsupportedWorkload:
            continue
        sizes[str(call.attrs["layer"])] = {
            name: sum(array.nbytes for array in kernel.constants) for name, kernel in kernels.items()
        }
    return sizes


def extract_workloads(model: ModelLike, threads: int | None = None) -> list[ConvWorkload]:
    """Workload of every quantized convolution and dense layer, in graph order.  Raises ModelError."""
    decisions = explain(model, policy="rule", threads=threads)
    return [decision.workload for decision in decisions if decision.workload is not None]


def load_compiled(path: str | os.PathLike[str]) -> CompiledModel:
    """Load what ``CompiledModel.save`` wrote.

    Raises FileNotFoundError, and ModelError for a file that is no compiled network.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no such file: {source}")
    _start_pool()
    try:
        # an absolute path, because the loader looks a bare name up in the system's folders
        with without_scope_warnings():
            module = tvm.runtime.load_module(str(source.resolve()))
            metadata = json.loads(bytes(relax.VirtualMachine(module, tvm.cpu())[METADATA]().numpy()))
    except Exception as error:  # tvm raises several kinds for a malformed library
        raise ModelError(
            f"{source} is not a network compiled by Selector for this machine ({str(error).strip().splitlines()[-1]}); "
            "make one with 'selector compile net.onnx -o net.so'"
        ) from error
    decisions = [Decision.from_dict(item) for item in metadata["decisions"]]
    inputs = [TensorSpec(item["name"], tuple(item["shape"]), item["dtype"]) for item in metadata["inputs"]]
    return CompiledModel(module, decisions, int(metadata["threads"]), inputs)


def _session(target: tvm.target.Target, policy: str | Policy | None, threads: int | None) -> Session:
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return Session(policies.resolve(policy), target_profile(target), threads or host_cores())


def _start_pool() -> None:
    """Let TVM's pool have every core: its size is read once, and half of the cores is the default."""
    os.environ.setdefault("TVM_NUM_THREADS", str(host_cores()))


def _use_threads(threads: int) -> None:
    """Let kernels run on this many threads of TVM's pool, which all networks of the process share."""
    global _pool_threads
    if threads != _pool_threads:
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        _pool_threads = threads
