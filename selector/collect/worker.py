"""What runs in the processes of a collection: measuring one task after another, and dying alone."""

from __future__ import annotations

import fcntl
import os
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from selector.collect.device import Device, LocalDevice
from selector.collect.gates import Gates
from selector.collect.link import DeviceLost, Link, NoDevice
from selector.collect.processes import die_with_parent
from selector.collect.protocol import Rules
from selector.collect.record import Measurement
from selector.collect.rpc import RpcDevice
from selector.collect.runner import About, failed, measure
from selector.target import TargetLike, profile
from selector.threads import host_cores, share_process
from selector.workload import ConvWorkload


@dataclass(frozen=True, slots=True)
class Task:
    """One workload to measure on one target."""

    workload: ConvWorkload
    target: TargetLike  # as tvm takes it
    target_name: str  # as it is written into the row
    networks: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()  # to the devices that it can be timed on, all at one tracker; none: this machine
    attempt: int = 1
    lost: bool = False  # a device or a worker died with it before


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What is the same for all tasks of a run."""

    folder: Path  # of the locks
    rules: Rules
    run: str  # identifies the run
    stage_seconds: float = 60.0  # longest time that building a pair may take, and timing it
    memory_bytes: int = 4 << 30  # on top of what TVM itself needs
    debug: bool = False  # let what native code prints through
    remote: bool = False  # all tasks have links
    busy_seconds: float = 240.0  # longest time to wait for a device that others use


_state: tuple[Device | None, WorkerSettings] | None = None
_held: list[IO[bytes]] = []  # files whose locks last as long as the process


def start(settings: WorkerSettings) -> None:
    """Prepare this process: a core of its own where it times kernels, limits, silence."""
    global _state
    die_with_parent()
    if not settings.debug:
        _silence()
    share_process(host_cores())
    device = None if settings.remote else _this_machine(settings)
    _limit_memory(settings.memory_bytes)
    _state = device, settings


def measure_task(task: Task) -> Measurement:
    """Measure one task; what it raises becomes a row with status "error", except for NoDevice and DeviceLost."""
    if _state is None:
        raise RuntimeError("start() has to run first in a worker process")
    local, settings = _state
    device = local or RpcDevice(task.links, settings.folder, settings.stage_seconds, settings.busy_seconds)
    name, about = task.target_name, About(task.networks, task.attempt, settings.run)
    rules = settings.rules.for_attempt(task.attempt)
    try:
        target = profile(task.target, measured_on=device.host.cpu)  # as data sets describe their rows
        return measure(task.workload, target, device, target_name=name, rules=rules, about=about)
    except (NoDevice, DeviceLost):
        raise
    except Exception as error:
        return failed(task.workload, name, device.host, describe_error(error), about)


def _this_machine(settings: WorkerSettings) -> Device:
    gates = Gates(settings.folder, settings.stage_seconds)
    device = LocalDevice(gates, _claim_core(settings.folder), urgent=True)
    device.reference(profile())  # takes a while, and memory
    return device


def describe_error(error: BaseException) -> str:
    """One line: the type, and the last line of the message, where TVM says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _claim_core(folder: Path) -> int | None:
    """A CPU that no other live worker has; None if there are more workers than CPUs, or none can be chosen."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    for core in sorted(os.sched_getaffinity(0)):
        file = (folder / f"core-{core}.lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            _held.append(file)
            return core
    return None


def _limit_memory(extra: int) -> None:
    """Make allocations fail that would take much more than this process has now; and leave no core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux
        return
    limit = pages * resource.getpagesize() + extra
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _silence() -> None:
    """Native code prints stack traces when it crashes, in the middle of the supervisor's output."""
    sink = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(sink, descriptor)
    os.close(sink)
