"""Measurements made up for tests of the dataset."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from selector.collect.record import Host, Measurement, Samples
from selector.lowering.version import KERNEL_VERSION
from selector.workload import ConvWorkload

WORKLOAD = ConvWorkload(1, 8, 8, 16, 16, 3, 3, padding=(1, 1, 1, 1))
HOST = Host("a cpu", "avx avx2", 2, "performance", "0.27", "22", KERNEL_VERSION)
TARGET = "x86-64-v3"


class Rows(list[Measurement]):
    """A dataset in memory."""

    def add(self, measurement: Measurement) -> None:
        self.append(measurement)


def measured(log2_ratio: float = 0.5, *, channels: int = 16, **changes: Any) -> Measurement:
    """A good row: int8 takes 8 us, and samples and interval agree with the ratio."""
    slower = float(np.float32(8.0 * 2.0**log2_ratio))
    row = Measurement(
        workload=dataclasses.replace(WORKLOAD, in_channels=channels),
        target=TARGET,
        status="ok",
        host=HOST,
        int8=Samples("qconv2d_dense_int8__direct", "8" * 16, 10, (8.0, 8.0, 8.0), (16.0, 16.0)),
        int16=Samples("qconv2d_dense_int16__direct", "f" * 16, 10, (slower,) * 3, (20.0, 20.0)),
        log2_ratio=log2_ratio,
        log2_low=log2_ratio - 0.02,
        log2_high=log2_ratio + 0.02,
        cold_log2_ratio=0.25,
        reference_us=(5.0, 5.25),
        run="a run",
        timestamp=1.0,
    )
    return dataclasses.replace(row, **changes)


def failed(*, channels: int = 16, **changes: Any) -> Measurement:
    """A row whose kernel could not be built."""
    nothing = dict.fromkeys(("int8", "int16", "log2_ratio", "log2_low", "log2_high", "cold_log2_ratio"))
    return dataclasses.replace(measured(channels=channels, status="error", error="it broke"), **{**nothing, **changes})
