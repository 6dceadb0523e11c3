"""Where the time of a compiled network goes, kernel by kernel."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from selector.policy import Decision

# TVM adds digits to equal names
_CONVOLUTION = re.compile(r"qconv2d_(?P<kind>\w+?)_(?P<lowering>int8|int16)__(?P<form>\w*?(?:_int8|_int16|\D))\d*$")
_NOTHING = "vm.builtin.null_value"  # an instruction that does nothing: what it takes is the cost of looking
_MACHINE = "vm."  # instructions of the virtual machine itself


@dataclass(frozen=True, slots=True)
class KernelTime:
    """One quantized layer, or all calls of one other kernel."""

    name: str  # of the layer in the network; of the kernel where it is none
    microseconds: float  # median over the runs, all calls together
    share: float  # of the time in kernels
    calls: int = 1
    lowering: str | None = None  # "int8" or "int16"; None: no quantized layer
    form: str | None = None  # template and dot instruction
    shape: str | None = None
    gmacs: float | None = None  # 10^9 multiplications a second


@dataclass(frozen=True, slots=True)
class Profile:
    """Times of one network: its quantized layers in order, then the other kernels, the longest first."""

    kernels: tuple[KernelTime, ...]
    total_us: float  # a whole run without looking, median
    rounds: int

    @property
    def kernels_us(self) -> float:
        """Time in kernels."""
        return sum(kernel.microseconds for kernel in self.kernels)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "rounds": self.rounds,
            "total_us": self.total_us,
            "kernels_us": self.kernels_us,
            "kernels": [asdict(kernel) for kernel in self.kernels],
        }


def profile(
    plain: Any, watched: Any, function: str, inputs: Sequence[Any], decisions: Sequence[Decision], rounds: int
) -> Profile:
    """Time every kernel that ``function`` of the virtual machine ``watched`` calls, and all of it in ``plain``.

    Two machines of one executable, which take turns: an instrument cannot be removed.  ``decisions``: the function's,
    in graph order, which is the order of the calls.
    """
    names: list[str] = []
    samples: list[list[float]] = []
    calls: list[tuple[str, float]] = []
    started = 0

    def instrument(_func: Any, name: str, before: bool, _result: Any, *_args: Any) -> None:
        nonlocal started
        if before:
            started = time.perf_counter_ns()
        else:
            calls.append((str(name), (time.perf_counter_ns() - started) / 1e3))

    watched.set_instrument(instrument)
    mains = plain[function], watched[function]
    totals = []
    for main in mains:
        main(*inputs)
    for _ in range(rounds):
        calls.clear()
        start = time.perf_counter_ns()
        mains[0](*inputs)
        totals.append((time.perf_counter_ns() - start) / 1e3)
        mains[1](*inputs)
        names = [name for name, _ in calls]
        samples.append([microseconds for _, microseconds in calls])
    medians = [statistics.median(column) for column in zip(*samples, strict=True)]
    looking = min((us for name, us in zip(names, medians, strict=True) if name == _NOTHING), default=0.0)
    kernels = [
        (name, max(us - looking, 0.0)) for name, us in zip(names, medians, strict=True) if not name.startswith(_MACHINE)
    ]
    return Profile(tuple(_named(kernels, decisions)), statistics.median(totals), rounds)


def _named(kernels: Sequence[tuple[str, float]], decisions: Sequence[Decision]) -> list[KernelTime]:
    """Kernels with the layers they belong to; the other ones grouped by name."""
    layers = [decision for decision in decisions if decision.lowering != "tvm" and decision.workload is not None]
    total = sum(us for _, us in kernels) or 1.0
    found: list[KernelTime] = []
    others: dict[str, list[float]] = {}
    for name, us in kernels:
        match = _CONVOLUTION.match(name)
        if match is None:
            others.setdefault(re.sub(r"\d+(?=_|$)", "", name), []).append(us)
            continue
        decision = layers[len(found)]
        assert decision.lowering == match["lowering"], f"{decision.layer} is {decision.lowering}, but {name} ran"
        assert decision.workload is not None
        found.append(
            KernelTime(
                name=decision.layer,
                microseconds=us,
                share=us / total,
                lowering=decision.lowering,
                form=match["form"],
                shape=decision.workload.describe(),
                gmacs=decision.workload.macs() / us / 1e3 if us else None,
            )
        )
    rest = [KernelTime(name, sum(times), sum(times) / total, len(times)) for name, times in others.items()]
    return found + sorted(rest, key=lambda kernel: -kernel.microseconds)
