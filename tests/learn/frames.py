"""Measurements for the tests: real workloads, with times from a made-up machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars

from selector.collect.record import Host, Measurement, Samples
from selector.collect.synthetic import synthesize
from selector.collect.table import to_table
from selector.lowering import build
from selector.lowering.version import KERNEL_VERSION, code_hash
from selector.target import profile
from selector.workload import ConvWorkload

HOST = Host("Imaginary CPU", "avx2 sse4_2", 2, "performance", "0.27", "22", KERNEL_VERSION)
TARGETS = ("x86-64", "x86-64-v3")


def measurement(workload: ConvWorkload, target: str, log2_ratio: float, **changes: Any) -> Measurement:
    """A finished row; ``changes`` are fields of the record, or of its host."""
    microseconds = workload.macs() / 50e3
    made = Measurement(
        workload,
        target,
        "ok",
        replace(HOST, **{name: changes.pop(name) for name in ("cpu", "emulated", "kernels") if name in changes}),
        int8=Samples("int8", "a", 1, (microseconds,) * 3, ()),
        int16=Samples("int16", "b", 1, (microseconds * 2**log2_ratio,) * 3, ()),
        log2_ratio=log2_ratio,
        log2_low=log2_ratio - 0.01,
        log2_high=log2_ratio + 0.01,
        cold_log2_ratio=log2_ratio,
    )
    return replace(made, **changes)


def coded(row: Measurement) -> Measurement:
    """The row with the code of the kernels that it would be of, as if they had been timed."""
    constants, _ = synthesize(row.workload, row.seed)
    target = profile(row.target, row.host.cpu)
    int8, int16 = (code_hash(build(row.workload, constants, target, name)) for name in ("int8", "int16"))
    assert row.int8
    assert row.int16
    return replace(row, int8=replace(row.int8, code=int8), int16=replace(row.int16, code=int16))


def failed(workload: ConvWorkload, target: str) -> Measurement:
    """A row that could not be measured."""
    return Measurement(workload, target, "error", HOST, error="the kernel crashed")


def truth(workload: ConvWorkload, target: str) -> float:
    """log2(t_int16 / t_int8) on the made-up machine: Winograd pays with many channels, int8 needs wide vectors."""
    if workload.kernel_height == 3 and workload.stride == (1, 1):
        gain = 0.4 * np.log2(workload.in_channels / 128)
    else:
        gain = -0.15 - 0.1 * np.log2(workload.in_height / 8)
    return float((-0.3 if target == "x86-64" else 0.1) - gain)


def measurements(shapes: int = 60, seed: int = 0) -> list[Measurement]:
    """Random shapes with two data types on each target; every third shape occurs in one or two of three networks."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(shapes):
        kernel = int(rng.choice([1, 3]))
        side, stride = int(rng.choice([7, 14, 28, 56])), int(rng.choice([1, 2]))
        channels, outputs = (int(8 * rng.integers(1, 33)) for _ in range(2))
        networks = ("net_a", "net_b", "net_c")[number % 3 :][:2] if number % 4 == 0 else ()
        base = ConvWorkload(
            1, side, side, channels, outputs, kernel, kernel, (stride, stride), (kernel // 2,) * 4, out_dtype="uint8"
        )
        for workload in (base, replace(base, weight_bound=64, pair_bound=128, quad_bound=256)):
            for target in TARGETS:
                noise = float(rng.normal(0, 0.01))
                rows.append(measurement(workload, target, truth(workload, target) + noise, networks=networks))
    return rows


def frame(rows: list[Measurement]) -> polars.DataFrame:
    """As ``selector.collect.store.read`` gives them."""
    return polars.DataFrame(polars.from_arrow(to_table(rows)))
