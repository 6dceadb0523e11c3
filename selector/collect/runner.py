"""Building both lowerings of a workload and timing them against each other: one measurement."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from selector.collect.device import Device, LocalDevice
from selector.collect.host import load_average
from selector.collect.protocol import Rules, time_pair
from selector.collect.record import LOCAL, Host, Measurement, Samples
from selector.collect.synthetic import synthesize
from selector.lowering import build
from selector.lowering.version import code_hash
from selector.target import TargetProfile
from selector.workload import ConvWorkload

_PAIR = ("int8", "int16")


@dataclass(frozen=True, slots=True)
class About:
    """What a row says about where it comes from; fields as in ``Measurement``."""

    networks: tuple[str, ...] = ()
    attempts: int = 1
    run: str = ""


def measure(
    workload: ConvWorkload,
    target: TargetProfile,
    device: Device | None = None,
    *,
    target_name: str | None = None,
    rules: Rules | None = None,
    seed: int = 0,
    about: About | None = None,
) -> Measurement:
    """Build both lowerings and time them on a device (None: this process); status "ok" or "noisy".

    The device has to be able to execute the target's code.  ``target_name``: how the user named it (None: the name of
    the profile).  ``seed``: of the constants and data.  Raises what building or running a kernel raises.
    """
    device, about = device or LocalDevice(), about or About()
    watch = _Stopwatch()
    with device.building(), watch.running():
        constants, data = synthesize(workload, seed)
        kernels = [build(workload, constants, target, name) for name in _PAIR]
        first, second = (device.load(kernel, workload, target, data) for kernel in kernels)
        reference = device.reference(target)
    with device.timing(workload.threads), watch.running():
        timing = time_pair(first, second, reference, rules)
    samples = [
        Samples(kernel.name, code_hash(kernel), timing.calls[i], timing.warm_us[i], timing.cold_us[i])
        for i, kernel in enumerate(kernels)
    ]
    return Measurement(
        workload=workload,
        target=target_name or target.name,
        status="noisy" if timing.noisy else "ok",
        host=device.host,
        networks=about.networks,
        seed=seed,
        int8=samples[0],
        int16=samples[1],
        log2_ratio=timing.ratio.median,
        log2_low=timing.ratio.low,
        log2_high=timing.ratio.high,
        cold_log2_ratio=timing.cold_ratio,
        reference_us=timing.reference_us,
        load=device.load_average(),
        attempts=about.attempts,
        seconds=watch.seconds,
        timestamp=time.time(),
        run=about.run,
    )


def failed(
    workload: ConvWorkload,
    target_name: str,
    host: Host,
    error: str,
    about: About,
) -> Measurement:
    """The row of a workload that could not be measured; ``error`` says why in one line."""
    return Measurement(
        workload=workload,
        target=target_name,
        status="error",
        host=host,
        networks=about.networks,
        error=error,
        load=load_average() if host.device == LOCAL else 0.0,
        attempts=about.attempts,
        timestamp=time.time(),
        run=about.run,
    )


class _Stopwatch:
    """Seconds spent in the blocks, without those between them."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start
