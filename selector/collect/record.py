"""One measurement: a workload on a target, both lowerings timed against each other."""

from __future__ import annotations

import hashlib
import json
import statistics
import uuid
from dataclasses import dataclass, field
from typing import Literal

from selector.workload import ConvWorkload

SCHEMA_VERSION = 2
LOCAL = "local"  # the device that is this machine

Status = Literal["ok", "noisy", "error"]  # noisy: the interval of the ratio stayed wider than asked for


class DatasetError(ValueError):
    """A dataset cannot be read or written as asked for; the message says which file or folder and what to do."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Timings of one lowering, in microseconds of one call; one sample a round, in the order of the rounds."""

    kernel: str  # global symbol: says template and dot instruction
    code: str  # hash of the TIR that was compiled
    calls: int  # calls of which each warm sample is the mean
    warm_us: tuple[float, ...]  # caches in the state that the kernel's own calls leave
    cold_us: tuple[float, ...]  # caches emptied before each call

    @property
    def median_us(self) -> float:
        """Median over the rounds, warm."""
        return statistics.median(self.warm_us)


@dataclass(frozen=True, slots=True)
class Host:
    """Where and with what a measurement was made."""

    cpu: str  # model name as the operating system shows it
    flags: str  # instruction-set flags, in alphabetical order, separated by blanks
    cores: int
    governor: str  # CPU frequency governor; "unknown" where the system hides it
    tvm: str
    llvm: str
    kernels: int  # selector.lowering.version.KERNEL_VERSION
    device: str = LOCAL  # or the key of the RPC device
    emulated: bool = False  # true: times mean nothing, never used for training


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finished row: measured, or marked with what went wrong."""

    workload: ConvWorkload
    target: str  # as the user named it, e.g. "x86-64-v3"
    status: Status
    host: Host
    networks: tuple[str, ...] = ()  # published networks it occurs in; empty: drawn at random
    seed: int = 0  # of the synthesized constants and data
    error: str = ""  # one line; only where status is "error"
    int8: Samples | None = None  # None: not measured because of the error
    int16: Samples | None = None
    log2_ratio: float | None = None  # median over the rounds of log2(t_int16 / t_int8), warm; > 0: int8 is faster
    log2_low: float | None = None  # 95 % confidence interval of that median
    log2_high: float | None = None
    cold_log2_ratio: float | None = None
    reference_us: tuple[float, float] = (0.0, 0.0)  # a fixed kernel, right before and after the pair: drift
    load: float = 0.0  # 1-minute load average of the machine
    attempts: int = 1
    seconds: float = 0.0  # spent on this row, building included
    timestamp: float = 0.0  # seconds since 1970, UTC
    run: str = ""  # identifies the collection run
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def key(self) -> str:
        """What was measured, apart from when and how: equal for a repetition."""
        return measurement_key(self.workload, self.target)


def measurement_key(workload: ConvWorkload, target: str) -> str:
    """16 hex digits over a workload (its threads included) and the name of a target."""
    fields = json.dumps([workload.to_dict(), target], sort_keys=True)
    return hashlib.sha256(fields.encode()).hexdigest()[:16]
