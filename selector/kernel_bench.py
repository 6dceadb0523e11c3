"""Timing kernels: both lowerings of one convolution, the peaks of their instructions and another runtime, in turns."""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm

from selector.bench import Comparison, Contender, interleave
from selector.kernel_cases import KernelCase, random_data
from selector.kernel_peers import KernelPeer
from selector.lowering import LOWERINGS, Kernel, build, dot, pipeline
from selector.lowering.peak import peak_function, peak_macs
from selector.target import TargetLike, profile, resolve

_PEAK_MACS = 10_000_000  # of one call of a peak loop: around 100 us


class LoweringsDiffer(RuntimeError):
    """The two lowerings gave different outputs, which must never be."""


@dataclass(frozen=True, slots=True)
class LoweringTime:
    """One lowering's kernel of one convolution."""

    lowering: str
    template: str
    row: str  # dot instruction
    build_seconds: float  # from workload to machine code
    microseconds: float  # median of one call
    gmacs: float  # 10^9 multiply-accumulates a second
    peak_fraction: float  # of what the instruction does in registers, on as many threads; Winograd can exceed 1


@dataclass(frozen=True, slots=True)
class KernelResult:
    """Times of one convolution."""

    case: KernelCase
    lowerings: tuple[LoweringTime, ...]
    better: str  # the faster lowering
    int16_ratio: float  # time of int16 over time of int8, median of the rounds
    peer: str | None  # None: no other runtime was timed
    peer_us: float | None
    ratio: float | None  # time of the better lowering over the peer's, median of the rounds
    peer_differs: int | None  # steps of the output's quantization; large where ONNX Runtime saturates
    rounds: int

    def lowering(self, name: str) -> LoweringTime:
        """The times of one lowering."""
        return next(item for item in self.lowerings if item.lowering == name)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        work = self.case.workload
        return {
            "name": self.case.name,
            "count": self.case.count,
            "kind": work.kind,
            "shape": work.describe(),
            "dtypes": self.case.dtypes,
            "macs": work.macs(),
            "bytes": work.data_bytes() + work.weight_bytes() + work.out_bytes(),
            "better": self.better,
            "int16_ratio": self.int16_ratio,
            "peer": self.peer,
            "peer_us": self.peer_us,
            "ratio": self.ratio,
            "peer_differs": self.peer_differs,
            "rounds": self.rounds,
            "lowerings": {
                item.lowering: {name: getattr(item, name) for name in LoweringTime.__slots__ if name != "lowering"}
                for item in self.lowerings
            },
            "workload": work.to_dict(),
        }


def compare_kernels(
    case: KernelCase,
    *,
    target: TargetLike = "native",
    peer: KernelPeer | None = None,
    rounds: int | None = None,
    max_seconds: float = 2.0,
) -> KernelResult:
    """Build and time one convolution.  ``threads.share_process(threads)`` has to be called before the first one.

    Raises LoweringsDiffer, PeerUnavailable, and whatever building a kernel raises.
    """
    work = case.workload
    data = random_data(case)
    kernels: dict[str, Kernel] = {}
    seconds: dict[str, float] = {}
    outputs: dict[str, np.ndarray] = {}
    contenders: list[Contender] = []
    for name in LOWERINGS:
        start = time.perf_counter()
        kernels[name] = build(work, case.constants, profile(target), name)
        call, out = _bound(kernels[name], case, data, target)
        call()
        seconds[name] = time.perf_counter() - start
        outputs[name] = out.numpy()
        contenders.append(Contender(name, call))
    first, *others = outputs.values()
    if any(not np.array_equal(first, other) for other in others):
        raise LoweringsDiffer(f"the lowerings of {case.name} ({work.describe()}) give different outputs")
    differs = None
    if peer is not None:
        theirs = peer.kernel(case, data, target)
        contenders.append(Contender(peer.name, theirs.call))
        differs = None if theirs.output is None else _steps(case, first, theirs.output)
    rows = {kernel.row: _row(kernel.row) for kernel in kernels.values()}
    contenders += [Contender(f"peak {name}", peak(row, target)) for name, row in rows.items()]
    comparison = interleave(contenders, rounds=rounds, max_seconds=max_seconds, sample_ms=2.0, precision=0.03)
    times = tuple(_lowering_time(name, kernels[name], seconds[name], case, comparison) for name in LOWERINGS)
    int16_ratio = comparison.ratio("int16", "int8").median
    better = "int16" if int16_ratio < 1 else "int8"
    return KernelResult(
        case=case,
        lowerings=times,
        better=better,
        int16_ratio=int16_ratio,
        peer=peer.name if peer else None,
        peer_us=comparison.timing(peer.name).median_ms * 1e3 if peer else None,
        ratio=comparison.ratio(better, peer.name).median if peer else None,
        peer_differs=differs,
        rounds=comparison.rounds,
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Geometric mean of positive numbers."""
    return math.exp(statistics.fmean(map(math.log, values)))


def by_kind(results: Sequence[KernelResult]) -> dict[str, list[KernelResult]]:
    """Results under each kind of convolution, under ``3x3 stride 1`` and under ``all``."""
    groups: dict[str, list[KernelResult]] = {}
    for result in results:
        work = result.case.workload
        groups.setdefault(work.kind, []).append(result)
        if (work.kernel_height, work.kernel_width, work.stride, work.groups) == (3, 3, (1, 1), 1):
            groups.setdefault("3x3 stride 1", []).append(result)
    return dict(sorted(groups.items())) | {"all": list(results)}


@functools.cache
def peak(row: dot.Dot, target: TargetLike) -> Callable[[], object]:
    """A call of the peak loop of one instruction."""
    func = peak_function(row, _iterations(row))
    name = str(func.attrs["global_symbol"])
    loop = tvm.compile(tvm.IRModule({name: func}), target=resolve(target))[name]
    words = tvm.runtime.tensor(np.arange(64, dtype=np.int32))
    return lambda: loop(words)


def peak_gmacs(row: dot.Dot, milliseconds: float) -> float:
    """Rate of a peak loop that took this long."""
    return peak_macs(row, _iterations(row)) / milliseconds / 1e6


def _iterations(row: dot.Dot) -> int:
    return max(1, _PEAK_MACS // peak_macs(row, 1))


def _row(name: str) -> dot.Dot:
    return next(row for row in dot.DOTS if row.name == name)


def _bound(
    kernel: Kernel, case: KernelCase, data: np.ndarray, target: TargetLike
) -> tuple[Callable[[], object], tvm.runtime.Tensor]:
    """A call of the kernel without arguments, and the tensor it writes."""
    work = case.workload
    function = pipeline.compile_kernel(kernel, target)[kernel.name]
    size = work.batch * work.out_height * work.out_width * work.out_channels
    out = tvm.runtime.tensor(np.zeros(size, work.out_dtype))
    arguments = [tvm.runtime.tensor(array.reshape(-1)) for array in (data, *kernel.constants)]
    return lambda: function(*arguments, out), out


def _steps(case: KernelCase, ours: np.ndarray, theirs: np.ndarray) -> int | None:
    """Largest difference of 8-bit outputs, with the bounds that the peer's model lacks."""
    requantize = case.constants.requantize
    if requantize is None or case.workload.out_dtype not in ("uint8", "int8"):
        return None
    low = -128 if requantize.out_min is None else requantize.out_min
    high = 255 if requantize.out_max is None else requantize.out_max
    clipped = np.clip(theirs.astype(np.float64), low, high)
    return int(np.abs(ours.reshape(theirs.shape) - clipped).max())


def _lowering_time(
    name: str, kernel: Kernel, build_seconds: float, case: KernelCase, comparison: Comparison
) -> LoweringTime:
    milliseconds = comparison.timing(name).median_ms
    row = _row(kernel.row)
    loop = peak_macs(row, _iterations(row))
    relative = comparison.ratio(f"peak {kernel.row}", name).median * case.workload.macs() / loop
    return LoweringTime(
        lowering=name,
        template=kernel.template,
        row=kernel.row,
        build_seconds=build_seconds,
        microseconds=milliseconds * 1e3,
        gmacs=case.workload.macs() / milliseconds / 1e6,
        peak_fraction=relative / case.workload.threads,
    )
