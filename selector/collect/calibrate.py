"""Calibration: what this machine does for a target, measured in seconds.

Everything is timed in turns, over many short samples.  A rate is the one that a twentieth of the samples exceed: other
processes and the hypervisor only ever slow a sample down, and a single lucky one says nothing.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import tvm
from tvm import tirx

from selector import cpuinfo
from selector.bench import Comparison, Contender, interleave, quantile
from selector.collect.row_kernels import compile_peak, pointwise, usable_rows
from selector.lowering.dot import Dot
from selector.lowering.peak import peak_macs
from selector.lowering.pipeline import NAME, compile_kernel
from selector.lowering.tir import Expr, Registers, T, const, function, load, loop, store
from selector.profiles import Rates, StoredProfile, three_digits
from selector.target import (
    NotMeasurable,
    TargetLike,
    TargetProfile,
    host_caches,
    host_cores,
    profile,
    why_not_here,
)

FASTER = 0.05  # share of the samples that is faster than the rate taken
_PEAK_MACS = 4_000_000  # of one call of a peak loop: around 50 us
_READ_BYTES = 4 << 20  # read by one call at least, and ...
_READ_PASSES = 8  # ... how often, at least, what a cache holds: the first pass fetches it from where it was evicted to
_CHAINS = 8  # independent sums: enough loads in flight, and no addition waits for another
_CHANNELS = (64, 320)  # two sizes of one convolution; the difference is all inner loop
_LEVELS = ("l1", "l2", "l3", "dram", "dram_all")


def calibrate(
    target: TargetLike = "native", *, max_seconds: float = 20.0, progress: Callable[[float], None] | None = None
) -> StoredProfile:
    """Measure the dot rows, their inner loops and the reading of every level of memory; dated today, kind "measured".

    Takes a few seconds more than ``max_seconds``: building comes first.  ``progress`` gets the fraction done, 0 to 1.
    ``share_process(host_cores())`` has to be called before the first parallel kernel of the process.

    Raises NotMeasurable for a target whose kernels this machine cannot run.
    """
    wanted = profile(target)
    check_runs_here(wanted)
    l1, l2, l3 = host_caches()  # whatever the target is: what is measured is this machine
    wanted = replace(wanted, l1_bytes=l1, l2_bytes=l2, l3_bytes=l3)
    rows = usable_rows(wanted)
    sizes = _read_sizes(wanted)
    readers = {level: _reader(level, size, wanted) for level, size in sizes.items()}
    contenders = [Contender(f"read {level}", call) for level, (call, _) in readers.items()]
    for row in rows:
        contenders.append(Contender(f"peak {row.name}", _peak(row, wanted)))
        contenders += [Contender(f"conv{c} {row.name}", _pointwise(row, c, wanted)) for c in _CHANNELS]
    comparison = interleave(contenders, max_seconds=max_seconds, precision=0.0, sample_ms=0.5, progress=progress)
    speeds = {level: readers[level][1] / _seconds(comparison, f"read {level}") / 1e9 for level in readers}
    speeds.setdefault("l3", speeds["dram"])
    rates = Rates(
        kind="measured",
        source=cpuinfo.model(),
        dots=tuple((row.name, three_digits(_peak_rate(row, comparison))) for row in rows),
        loops=tuple((row.name, three_digits(_loop_rate(row, comparison, wanted))) for row in rows),
        **{f"{level}_gbs": three_digits(speeds[level]) for level in _LEVELS},
    )
    return StoredProfile(
        name=wanted.name,
        arch=wanted.arch,
        features=wanted.features,
        vector_bits=wanted.vector_bits,
        cores=host_cores(),
        l1_bytes=wanted.l1_bytes,
        l2_bytes=wanted.l2_bytes,
        l3_bytes=wanted.l3_bytes,
        rates=rates,
        date=datetime.date.today().isoformat(),
        note=f"selector targets calibrate: {comparison.rounds} interleaved samples of each rate, of which "
        f"{FASTER:.0%} are faster",
    )


def check_runs_here(target: TargetProfile) -> None:
    """Raises NotMeasurable for a target whose kernels this machine cannot run."""
    reason = why_not_here(target)
    if reason:
        raise NotMeasurable(
            f"calibrating runs kernels, but this machine {reason}: calibrate on a {target.name}, or describe it from "
            f"LLVM's models: selector targets describe {target.name}"
        )


def read_function(words: int, lanes: int, repeats: int, tasks: int) -> tirx.PrimFunc:
    """``read(words, sums)``: sum of the int32 ``words`` (``words``,), read ``repeats`` times by vectors of ``lanes``.

    ``tasks`` equal parts are read in parallel; ``sums`` (``tasks * lanes``,) int32 receives their sums.
    """
    part = words // tasks
    block = lanes * _CHAINS

    def body(data: Expr, sums: Expr) -> None:
        def task(t: Expr) -> None:
            acc = Registers(_CHAINS, "int32", lanes)
            for i in range(_CHAINS):
                acc[i] = const(0, "int32", lanes)
            start = T.Bind(t * part)

            def step(k: Expr) -> None:
                for i in range(_CHAINS):
                    acc[i] = acc[i] + load(data, start + k * block + i * lanes, lanes)

            loop(repeats, lambda _: loop(part // block, step))
            total = acc[0]
            for i in range(1, _CHAINS):
                total = total + acc[i]
            store(sums, t * lanes, total, lanes)

        loop(tasks, task, parallel=tasks > 1)

    return function("read", [("words", words, "int32"), ("sums", tasks * lanes, "int32")], body)


def _read_sizes(target: TargetProfile) -> dict[str, int]:
    """Bytes of the buffer that stands for each level: half of a cache, several times the largest one.

    The last cache is often shared with strangers, and larger than what the tables of pages are cached for: its buffer
    is eight times the cache below it, the size of a layer's weights.
    """
    caches = {"l1": target.l1_bytes, "l2": target.l2_bytes, "l3": target.l3_bytes}
    memory = min(max(128 << 20, 4 * max(caches.values())), 1 << 30)
    sizes = {level: size // 2 for level, size in caches.items() if size}
    if "l3" in sizes:
        sizes["l3"] = min(sizes["l3"], 8 * target.l2_bytes)
    return sizes | {"dram": memory, "dram_all": memory}


def _reader(level: str, size: int, target: TargetProfile) -> tuple[Callable[[], object], int]:
    """A call that reads a buffer of about ``size`` bytes, and the bytes that it reads in all."""
    lanes = target.vector_bits // 32
    tasks = host_cores() if level == "dram_all" else 1
    unit = lanes * _CHAINS * tasks
    words = max(1, size // 4 // unit) * unit
    passes = _READ_PASSES if level.startswith("l") else 1
    repeats = max(passes, math.ceil(_READ_BYTES / (4 * words)))
    func = read_function(words, lanes, repeats, tasks)
    read = tvm.compile(tvm.IRModule({"read": func}), target=target.tvm_target(), tir_pipeline=NAME)["read"]
    data = tvm.runtime.tensor(np.ones(words, np.int32))  # written: untouched pages all are one page of zeros
    sums = tvm.runtime.tensor(np.zeros(tasks * lanes, np.int32))
    return lambda: read(data, sums), 4 * words * repeats


def _peak(row: Dot, target: TargetProfile) -> Callable[[], object]:
    module, name = compile_peak(row, _iterations(row), target)
    words = tvm.runtime.tensor(np.arange(64, dtype=np.int32))
    peak = module[name]
    return lambda: peak(words)


def _iterations(row: Dot) -> int:
    return max(1, _PEAK_MACS // peak_macs(row, 1))


def _peak_rate(row: Dot, comparison: Comparison) -> float:
    return peak_macs(row, _iterations(row)) / _seconds(comparison, f"peak {row.name}") / 1e9


def _pointwise(row: Dot, in_channels: int, target: TargetProfile) -> Callable[[], object]:
    kernel, work = pointwise(row, in_channels, target)
    convolve = compile_kernel(kernel, target.tvm_target())[kernel.name]
    data = np.ones(work.data_bytes(), work.data_dtype)
    arguments = [tvm.runtime.tensor(array.reshape(-1)) for array in (data, *kernel.constants)]
    out = tvm.runtime.empty((work.out_bytes() // 4,), "int32")
    return lambda: convolve(*arguments, out)


def _loop_rate(row: Dot, comparison: Comparison, target: TargetProfile) -> float:
    """Rate of what the larger convolution does more than the smaller one; never above the peak."""
    seconds, macs = zip(
        *[(_seconds(comparison, f"conv{c} {row.name}"), pointwise(row, c, target)[1].macs()) for c in _CHANNELS],
        strict=True,
    )
    more = seconds[1] - seconds[0]
    peak = _peak_rate(row, comparison)
    return peak if more <= 0 else min(peak, (macs[1] - macs[0]) / more / 1e9)


def _seconds(comparison: Comparison, name: str) -> float:
    return quantile(comparison.timing(name).samples_ms, FASTER) / 1e3
