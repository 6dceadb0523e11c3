"""Timing one network compiled in several ways, and in other runtimes, against each other."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tvm

import selector
from selector.bench import Comparison, Contender, interleave
from selector.graph.variants import inputs_of
from selector.peers import Runner, litert, onnxruntime, require_runnable, tvm_default
from selector.profiling import Profile
from selector.target import TargetLike
from selector.tensors import random_inputs


@dataclass(frozen=True, slots=True)
class NetworkComparison:
    """Run times of one network, and how its contenders came to be."""

    comparison: Comparison
    build_seconds: Mapping[str, float]  # compiling or loading, by contender
    largest_difference: Mapping[str, float]  # of any output to the first contender's, in the output's own unit
    profiles: Mapping[str, Profile] = field(default_factory=dict)  # of Selector's contenders, if asked for

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        result = self.comparison.to_dict()
        for row in result["contenders"]:
            row["build_seconds"] = self.build_seconds[row["name"]]
            row["largest_difference"] = self.largest_difference[row["name"]]
            if row["name"] in self.profiles:
                row["profile"] = self.profiles[row["name"]].to_dict()
        return result


PEERS: dict[str, Callable[[Path, tvm.IRModule, TargetLike, int], Runner]] = {
    "tvm": lambda path, module, target, threads: tvm_default(module, target),
    "onnxruntime": lambda path, module, target, threads: onnxruntime(path, threads=threads),
    "litert": lambda path, module, target, threads: litert(path, threads=threads),
}


def compare_network(
    path: Path,
    *,
    policies: Sequence[str],
    against: Sequence[str] = (),
    target: TargetLike = "native",
    threads: int = 1,
    rounds: int | None = None,
    max_seconds: float = 30.0,
    seed: int = 0,
    profile: bool = False,
    library: Callable[[str], selector.CompiledModel] | None = None,
    stage: Callable[[str], None] = lambda _: None,
    progress: Callable[[float], None] | None = None,
) -> NetworkComparison:
    """Build the network under each policy and in each peer (a key of PEERS), then time them in turns.

    Peers come first, so the first of them is what differences are taken to.  ``profile``: also time the kernels of the
    compiled ones, after the comparison.  ``library``: gives the compiled network for a policy, of which the network in
    these shapes is a variant; None: it is compiled alone.  Call ``threads.share_process(threads)`` before.  ``stage``
    is told what is being built, ``progress`` the fraction of the timing done.

    Every runtime keeps its defaults, ONNX Runtime's threads that spin for work included: that is what its users get.
    Spinning threads take a core from whoever runs next, for a moment; the order of the turns is therefore reversed
    every round, and each sample follows an untimed call.

    Raises what ``selector.load`` and ``selector.compile`` raise, PeerUnavailable for a peer that is not installed or a
    target that does not run here, and ValueError as ``interleave`` does.
    """
    require_runnable(target)
    module = selector.load(path)
    compiled: dict[str, selector.CompiledModel] = {}

    def build_network(name: str, policy: str) -> Runner:
        if library is None:
            compiled[name] = selector.compile(module, target=target, policy=policy, threads=threads)
        else:
            compiled[name] = library(policy)
        return lambda feed: compiled[name].run(*feed)

    builders: dict[str, Callable[[], Runner]] = {
        name: functools.partial(PEERS[name], path, module, target, threads) for name in against
    }
    for policy in policies:
        name = f"selector {policy}"
        builders[name] = functools.partial(build_network, name, policy)
    feed = random_inputs(inputs_of(module), seed)
    runners: dict[str, Runner] = {}
    seconds: dict[str, float] = {}
    for name, build in builders.items():
        stage(f"building {name}")
        start = time.perf_counter()
        runners[name] = build()
        seconds[name] = time.perf_counter() - start
    outputs = {name: runner(feed) for name, runner in runners.items()}
    first = next(iter(outputs.values()))
    stage("timing")
    comparison = interleave(
        [Contender(name, functools.partial(runner, feed)) for name, runner in runners.items()],
        rounds=rounds,
        max_seconds=max_seconds,
        progress=progress,
    )
    profiles = {}
    for name, network in compiled.items() if profile else ():
        stage(f"profiling {name}")
        profiles[name] = network.profile(*feed)
    differences = {name: _largest(mine, first) for name, mine in outputs.items()}
    return NetworkComparison(comparison, seconds, differences, profiles)


def _largest(mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    pairs = zip(mine, theirs, strict=True)
    return max(float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0)) for a, b in pairs)
