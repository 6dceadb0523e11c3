"""From a model to something that runs: compile, explain, save, load."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from selector import elf, profiling, runtime
from selector import policy as policies
from selector.cross import Linker, find_linker
from selector.graph import checks, stored
from selector.graph.frontends import load
from selector.graph.legalize import Session
from selector.graph.pipeline import finished, legalized, quantized
from selector.graph.variants import check, function_name, inputs_of, merged
from selector.lowering.plan import library_bytes
from selector.network import Network, Variant
from selector.policy import Decision, Policy
from selector.policy.budget import SizeError
from selector.profiling import Profile
from selector.quiet import without_scope_warnings
from selector.runtime import ModelError
from selector.target import TargetLike, TargetProfile, resolve
from selector.target import profile as target_profile
from selector.threads import host_cores, start_pool, with_threads
from selector.wording import last_line
from selector.workload import ConvWorkload

ModelLike = Any  # whatever selector.load takes


@dataclass(frozen=True)
class _Source:
    """What a library without its weights is made of."""

    module: tvm.IRModule  # calls of kernels alone
    sessions: list[Session]
    target: tvm.target.Target


class CompiledModel(Network):
    """A compiled network, ready to run."""

    def __init__(
        self,
        executable: Any,
        decisions: Sequence[Decision],
        threads: int,
        variants: Sequence[Variant],
        target: TargetLike = "native",
        concurrency: int | None = None,
        *,
        source: _Source | None = None,
        max_bytes: int | None = None,
    ) -> None:
        super().__init__(lambda: relax.VirtualMachine(executable, tvm.cpu()), threads, variants, concurrency)
        self.executable = executable  # relax.VirtualMachine(executable, tvm.cpu()) works
        self.decisions = list(decisions)  # in graph order, those of the first variant first
        self.target = target  # what it was compiled for, and runs on
        self._max_bytes = max_bytes  # of a library; None: any number
        self._source = source  # of a library with lazy weights; None: the executable is the library

    def profile(self, *inputs: np.ndarray, rounds: int = 20) -> Profile:
        """Time of every layer and kernel, medians over ``rounds`` runs; ``inputs`` as for ``run``.

        Raises what ``run`` raises, and ValueError for fewer than one round.
        """
        if rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {rounds}")
        index = self.variant_for(inputs)
        decisions = [decision for decision in self.decisions if decision.variant == index]
        watched = self._start()
        name = self.variants[index].function
        with self._machines.borrow() as machine:
            tensors = machine.prepared(index)[1].filled(inputs)
            return with_threads(self.threads, profiling.profile, machine.vm, watched, name, tensors, decisions, rounds)

    def save(self, path: str | os.PathLike[str], linker: str | Linker | None = None) -> None:
        """Write a shared library that ``load_compiled`` and ``runtime.load`` load; it appears whole or not at all.

        ``linker`` makes it, e.g. ``"clang --target=aarch64-linux-gnu"``; None: the one that ``cross.find_linker`` finds
        for the target.
        Raises OSError if the file cannot be written, LinkerNotFound, and LinkFailed if it cannot be linked.  Raises
        SizeError if it is larger than it may be: code may turn out larger than it was taken to be.
        """
        link = linker if isinstance(linker, Linker) else find_linker(self.target, linker)
        target = Path(path)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
            partial = Path(folder) / f"partial{target.suffix or '.so'}"
            executable, sources = self._linkable(Path(folder), link.triple)
            with without_scope_warnings():
                executable.export_library(str(partial), fcompile=link, addons=sources)
            elf.seal(partial)
            size = partial.stat().st_size
            if self._max_bytes is not None and size > self._max_bytes:
                raise SizeError(f"the library is {size / 1e6:.2f} MB, more than {self._max_bytes / 1e6:.2f} MB")
            os.replace(partial, target)

    def _linkable(self, folder: Path, triple: str) -> tuple[Any, list[str]]:
        """The executable of the library, and what is linked with it, written into ``folder``."""
        source = self._source
        if source is None:
            return self.executable, []
        recipes = {key: recipe for session in source.sessions for key, recipe in session.recipes.items()}
        light = stored.lifted(source.module, recipes)
        mod = finished(light.module, source.sessions, source.target, light.weights)
        executable = stored.linked(mod, self.executable.mod.imports, light.makers, source.target)
        return executable, stored.section(light.arrays, folder, triple)


def compile(  # noqa: A001 - the name users look for, always called as selector.compile
    model: ModelLike | Sequence[ModelLike],
    target: TargetLike = "native",
    policy: str | Policy | None = None,
    threads: int | None = None,
    concurrency: int | None = None,
    *,
    lazy_weights: bool = True,
    max_bytes: int | None = None,
) -> CompiledModel:
    """Compile a model, or whatever ``load`` takes; ``policy`` chooses the lowering of every quantized convolution.

    A list is one network in several shapes, e.g. ``[load("net.onnx", batch=n) for n in (1, 4, 8)]``.  It becomes one
    library, which holds weights once, packed as suits the first shapes; ``run`` goes by the shapes of its inputs.

    ``threads``: CPU threads that the network runs on; None: all cores.  ``concurrency``: calls of ``run`` at once, from
    as many threads of the program; None: a CPU each.
    ``lazy_weights``: a saved library holds weights as small as they are, and those that kernels want in a larger form
    are made when it is loaded; False: it holds what kernels read, and is one that TVM runs without Selector.
    ``max_bytes``: of the library; lowerings that gain little time for many bytes are given up for it.
    Raises ModelError, UnknownTarget, UnknownPolicy, SizeError if it cannot be as small as that, and ValueError for a
    number that is not positive.
    """
    modules = _modules(model)
    resolved = resolve(target)
    first = _session(resolved, policy, threads, lazy_weights=lazy_weights, max_bytes=max_bytes)
    sessions = _sessions(len(modules), first)
    start_pool()

    @tvm.transform.module_pass(opt_level=0, name="selector.finished")
    def finish(mod: tvm.IRModule, _ctx: tvm.transform.PassContext) -> tvm.IRModule:
        return finished(mod, sessions, resolved)

    try:
        module = merged([legalized(*pair, resolved) for pair in zip(modules, sessions, strict=True)])
        executable = tvm.compile(module, target=resolved, relax_pipeline=finish, tir_pipeline=checks.NAME)
    except tvm.error.InternalError as error:  # a check of TVM's own, on a network that it imported
        raise ModelError(f"tvm cannot compile the network: {last_line(error)}") from error
    variants = [Variant(function_name(one.variant), tuple(one.inputs), tuple(one.outputs)) for one in sessions]
    source = _Source(module, sessions, resolved) if lazy_weights else None
    decisions = _decisions(sessions)
    return CompiledModel(
        executable, decisions, first.threads, variants, resolved, concurrency, source=source, max_bytes=max_bytes
    )


def explain(
    model: ModelLike | Sequence[ModelLike],
    target: TargetLike = "native",
    policy: str | Policy | None = None,
    threads: int | None = None,
    *,
    lazy_weights: bool = True,
    max_bytes: int | None = None,
) -> list[Decision]:
    """The decisions that ``compile`` would make, in graph order, without building anything.

    A layer that a lowering refuses at build time is the one difference.  Raises what ``compile`` raises.
    """
    modules = _modules(model)
    first = _session(resolve(target), policy, threads, lazy_weights=lazy_weights, max_bytes=max_bytes)
    sessions = _sessions(len(modules), first)
    for module, session in zip(modules, sessions, strict=True):
        quantized(module, session)
    return _decisions(sessions)


def stored_bytes(
    model: ModelLike, target: TargetLike = "native", threads: int | None = None, *, lazy_weights: bool = True
) -> dict[str, dict[str, int]]:
    """Bytes that each layer's weights take in a library under each lowering: layer -> lowering -> bytes.

    Layers that stay as TVM has them are left out, and lowerings that a layer does not take.  Raises what ``compile``
    raises.
    """
    resolved = resolve(target)
    decisions = explain(model, resolved, "rule", threads)
    return layer_bytes(decisions, target_profile(resolved), lazy_weights=lazy_weights)


def layer_bytes(
    decisions: Sequence[Decision], target: TargetProfile, *, lazy_weights: bool = True
) -> dict[str, dict[str, int]]:
    """As ``stored_bytes``, of the layers that were decided for; those of the first variant count for all."""
    return {
        item.layer: library_bytes(item.workload, target, lazy_weights=lazy_weights)
        for item in decisions
        if item.workload is not None and item.lowering != "tvm" and item.variant == 0
    }


def extract_workloads(model: ModelLike, threads: int | None = None) -> list[ConvWorkload]:
    """Workload of every quantized convolution and dense layer, in graph order.  Raises ModelError."""
    decisions = explain(model, policy="rule", threads=threads)
    return [decision.workload for decision in decisions if decision.workload is not None]


def load_compiled(path: str | os.PathLike[str], concurrency: int | None = None) -> CompiledModel:
    """Load what ``CompiledModel.save`` wrote.  To run it without TVM's compiler in the process: ``runtime.load``.

    Raises what ``runtime.load`` raises.
    """
    library = runtime.open_library(path)
    try:
        decisions = [Decision.from_dict(item) for item in library.metadata["decisions"]]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{path} has decisions of another version: compile the network again") from None
    functions = [variant.function for variant in library.variants]
    executable = stored.LoadedExecutable(library.module, functions, library.weights)
    return CompiledModel(executable, decisions, library.threads, library.variants, concurrency=concurrency)


def _modules(model: ModelLike | Sequence[ModelLike]) -> list[tvm.IRModule]:
    """The network in each of its shapes.  Raises ModelError."""
    if not isinstance(model, list | tuple):
        return [load(model)]
    modules = [load(one) for one in model]
    check([inputs_of(module) for module in modules])
    return modules


def _session(
    target: tvm.target.Target,
    policy: str | Policy | None,
    threads: int | None,
    *,
    lazy_weights: bool = True,
    max_bytes: int | None = None,
) -> Session:
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    profile = target_profile(target)
    cores = threads or host_cores()
    return Session(policies.resolve(policy), profile, cores, lazy_weights=lazy_weights, max_bytes=max_bytes)


def _sessions(variants: int, first: Session) -> list[Session]:
    """One for each variant; all but the first know the first."""
    first.variants = variants
    others = [
        Session(first.policy, first.target, first.threads, index, first=first, lazy_weights=first.lazy_weights)
        for index in range(1, variants)
    ]
    return [first, *others]


def _decisions(sessions: Sequence[Session]) -> list[Decision]:
    return [decision for session in sessions for decision in session.decisions]
