"""The trees decide on every x86-64 CPU that LLVM knows, at every number of threads."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest

import selector
from selector.policy import resolve
from selector.target import profile
from selector.workload import ConvWorkload

NETWORK = Path(__file__).parents[2] / "datasets/networks/mobilenet_v2.s8s8.onnx"
THREADS = (1, 2, 4, 8, 16)
CPUS = """
    nehalem westmere sandybridge ivybridge haswell broadwell skylake skylake-avx512 cannonlake cascadelake cooperlake
    icelake-client icelake-server tigerlake rocketlake alderlake raptorlake meteorlake arrowlake lunarlake pantherlake
    sapphirerapids emeraldrapids graniterapids silvermont tremont gracemont sierraforest clearwaterforest bdver4
    znver1 znver2 znver3 znver4 znver5 x86-64 x86-64-v2 x86-64-v3 x86-64-v4
""".split()


@functools.cache
def layers() -> tuple[ConvWorkload, ...]:
    """Of MobileNetV2, on one thread."""
    return tuple(selector.extract_workloads(NETWORK, threads=1))


@pytest.mark.parametrize("cpu", CPUS)
def test_the_trees_decide(cpu: str) -> None:
    """Where they do not, a dot row that was never trained on is the reason."""
    for threads in THREADS:
        works = [replace(work, threads=threads) for work in layers()]
        decisions = resolve("learned").decide_all(works, profile(cpu))  # type: ignore[attr-defined]
        others = [item for item in decisions if item.source != "learned"]
        assert all("was never trained on" in item.fallback for item in others)
        assert len(others) <= 0.05 * len(decisions), others[0].fallback
