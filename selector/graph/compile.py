"""From a model to something that runs: compile, explain, save, load."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector import elf, lowering, profiling, runtime
from selector import policy as policies
from selector.cross import Linker, find_linker
from selector.graph import checks, op
from selector.graph.frontends import last_line, load
from selector.graph.legalize import Session, qnn_calls
from selector.graph.pipeline import quantized, session_pipeline
from selector.policy import Decision, Policy
from selector.profiling import Profile
from selector.quiet import without_scope_warnings
from selector.runtime import ModelError, Network
from selector.target import TargetLike, resolve
from selector.target import profile as target_profile
from selector.tensors import TensorSpec
from selector.threads import host_cores, start_pool, use_threads
from selector.workload import ConvWorkload, UnsupportedWorkload

ModelLike = Any  # whatever selector.load takes


class CompiledModel(Network):
    """A compiled network, ready to run."""

    def __init__(
        self,
        executable: Any,
        decisions: Sequence[Decision],
        threads: int,
        inputs: Sequence[TensorSpec],
        target: TargetLike = "native",
    ) -> None:
        super().__init__(lambda: relax.VirtualMachine(executable, tvm.cpu()), threads, inputs)
        self.executable = executable  # relax.VirtualMachine(executable, tvm.cpu()) works
        self.decisions = list(decisions)
        self.target = target  # what it was compiled for, and runs on

    def profile(self, *inputs: np.ndarray, rounds: int = 20) -> Profile:
        """Time of every layer and kernel, medians over ``rounds`` runs; ``inputs`` as for ``run``.

        Raises what ``run`` raises, and ValueError for fewer than one round.
        """
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        tensors = self._staged.filled(inputs)
        use_threads(self.threads)
        watched = relax.VirtualMachine(self.executable, tvm.cpu())
        return profiling.profile(self.vm, watched, tensors, self.decisions, rounds)

    def save(self, path: str | os.PathLike[str], linker: str | Linker | None = None) -> None:
        """Write a shared library that ``load_compiled`` and TVM load; the file appears whole or not at all.

        ``linker`` makes it, e.g. ``"clang --target=aarch64-linux-gnu"``; None: the one that ``cross.find_linker`` finds
        for the target.
        Raises OSError if the file cannot be written, LinkerNotFound, and LinkFailed if it cannot be linked.
        """
        link = linker if isinstance(linker, Linker) else find_linker(self.target, linker)
        target = Path(path)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            partial = Path(folder) / f"partial{target.suffix or '.so'}"
            with without_scope_warnings():
                self.executable.export_library(str(partial), fcompile=link)
            elf.seal(partial)
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
    start_pool()
    passes = session_pipeline(resolved, session)
    try:
        executable = tvm.compile(module, target=resolved, relax_pipeline=passes, tir_pipeline=checks.NAME)
    except tvm.error.InternalError as error:  # a check of TVM's own, on a network that it imported
        raise ModelError(f"tvm cannot compile the network: {last_line(error)}") from error
    return CompiledModel(executable, session.decisions, session.threads, session.inputs, resolved)


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
    """Load what ``CompiledModel.save`` wrote.  To run it without TVM's compiler in the process: ``runtime.load``.

    Raises FileNotFoundError, and ModelError for a file that is no compiled network.
    """
    library, _, metadata = runtime.open_library(path)
    try:
        decisions = [Decision.from_dict(item) for item in metadata["decisions"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{path} has decisions of another version: compile the network again") from None
    return CompiledModel(library, decisions, int(metadata["threads"]), runtime.input_specs(metadata))


def _session(target: tvm.target.Target, policy: str | Policy | None, threads: int | None) -> Session:
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return Session(policies.resolve(policy), target_profile(target), threads or host_cores())
