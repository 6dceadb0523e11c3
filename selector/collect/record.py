"""One measurement: a workload on a target, both lowerings timed against each other."""

from __future__ import annotations

import hashlib
import json
import statistics
import uuid
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from msgspec import Meta

from selector.schema import Count, Natural, Positive
from selector.workload import ConvWorkload

SCHEMA_VERSION = 2
LOCAL = "local"  # the device that is this machine

# Fields of ConvWorkload that a key is made of.  One that is added later joins it where it is not at its default: rows
# that were measured before keep their keys.
_KEY_FIELDS = frozenset(
    "batch in_height in_width in_channels out_channels kernel_height kernel_width stride padding dilation groups "
    "data_dtype weight_dtype out_dtype data_zero_point weight_zero_point weight_bound pair_bound quad_bound "
    "channel_bound term2 threads".split()
)
_DEFAULTS = {item.name: item.default for item in fields(ConvWorkload)}

_Amount = Annotated[float, Meta(ge=0, le=1e12)]
_Log2 = Annotated[float, Meta(ge=-64, le=64)]
_Line = Annotated[str, Meta(pattern=r"^[^\x00-\x08\n-\x1f\x7f]{0,10000}\Z")]
_Name = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]{1,2000}\Z")]

Status = Literal["ok", "noisy", "error"]  # noisy: the interval of the ratio stayed wider than asked for


class DatasetError(ValueError):
    """A dataset cannot be read or written as asked for; the message says which file or folder and what to do."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Timings of one lowering, in microseconds of one call; one sample a round, in the order of the rounds."""

    kernel: _Name  # global symbol: says template and dot instruction
    code: _Name  # hash of the TIR that was compiled
    calls: Count  # calls of which each warm sample is the mean
    warm_us: Annotated[
        tuple[Positive, ...], Meta(min_length=1)
    ]  # caches in the state that the kernel's own calls leave
    cold_us: tuple[Positive, ...]  # caches emptied before each call

    @property
    def median_us(self) -> float:
        """Median over the rounds, warm."""
        return statistics.median(self.warm_us)


@dataclass(frozen=True, slots=True)
class Host:
    """Where and with what a measurement was made."""

    cpu: _Line  # model name as the operating system shows it
    flags: _Line  # instruction-set flags, in alphabetical order, separated by blanks
    cores: Natural
    governor: _Line  # CPU frequency governor; "unknown" where the system hides it
    tvm: _Line
    llvm: _Line
    kernels: Natural  # selector.lowering.version.KERNEL_VERSION
    device: _Line = LOCAL  # or the key of the RPC device
    emulated: bool = False  # true: times mean nothing, never used for training


@dataclass(frozen=True, slots=True)
class Measurement:
    """A finished row: measured, or marked with what went wrong."""

    workload: ConvWorkload
    target: _Name  # as the user named it, e.g. "x86-64-v3"
    status: Status
    host: Host
    networks: tuple[_Name, ...] = ()  # published networks it occurs in; empty: drawn at random
    seed: int = 0  # of the synthesized constants and data
    error: _Line = ""  # one line; only where status is "error"
    int8: Samples | None = None  # None: not measured because of the error
    int16: Samples | None = None
    log2_ratio: _Log2 | None = None  # median over the rounds of log2(t_int16 / t_int8), warm; > 0: int8 is faster
    log2_low: _Log2 | None = None  # 95 % confidence interval of that median
    log2_high: _Log2 | None = None
    cold_log2_ratio: _Log2 | None = None
    reference_us: tuple[_Amount, _Amount] = (0.0, 0.0)  # a fixed kernel, right before and after the pair: drift
    load: _Amount = 0.0  # 1-minute load average of the machine
    attempts: Natural = 1
    seconds: _Amount = 0.0  # spent on this row, building included
    timestamp: _Amount = 0.0  # seconds since 1970, UTC
    run: _Line = ""  # identifies the collection run
    id: _Name = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def key(self) -> str:
        """What was measured, apart from when and how: equal for a repetition."""
        return measurement_key(self.workload, self.target)


def measurement_key(workload: ConvWorkload, target: str) -> str:
    """16 hex digits over a workload (its threads included) and the name of a target."""
    facts = {
        name: value for name, value in workload.to_dict().items() if name in _KEY_FIELDS or value != _DEFAULTS[name]
    }
    return hashlib.sha256(json.dumps([facts, target], sort_keys=True).encode()).hexdigest()[:16]
