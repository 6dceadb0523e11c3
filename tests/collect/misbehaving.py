"""Tasks whose measurement goes wrong; imported by worker processes.  ``workload.out_channels`` says how."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from selector.collect import worker
from selector.collect.campaign import Event, Settings, collect
from selector.collect.device import LocalDevice
from selector.collect.host import describe_host
from selector.collect.link import NoDevice
from selector.collect.record import Measurement, measurement_key
from selector.collect.runner import About
from selector.collect.store import Store
from selector.collect.worker import Task
from selector.target import TargetProfile, profile
from selector.workload import ConvWorkload

GOOD, CRASHES, HANGS, ALLOCATES, RAISES, NOISY_ONCE, NOISY, EXITS, GONE = range(1, 10)


def task(behaviour: int, size: int = 4) -> Task:
    """A task; ``size`` tells several of one behaviour apart."""
    return Task(ConvWorkload(1, size, size, 8, behaviour, 1, 1), "x86-64", "x86-64", ("net",))


def misbehave(task: Task) -> Measurement:
    """What ``worker.measure_task`` does, with kernels that are not there."""
    with mock.patch.object(worker, "measure", _measure):
        return worker.measure_task(task)


def _measure(
    workload: ConvWorkload, _target: TargetProfile, device: LocalDevice, *, target_name: str, about: About, **_: Any
) -> Measurement:
    behaviour = workload.out_channels
    with device.building():
        if behaviour == CRASHES:
            ctypes.string_at(0)
        elif behaviour == HANGS:
            time.sleep(600)
        elif behaviour == ALLOCATES:
            np.empty(8 << 30, np.uint8)
        elif behaviour == RAISES:
            raise ValueError("first line\nwhat went wrong\n")
        elif behaviour == EXITS:
            os._exit(3)
    with device.timing(1):
        time.sleep(0.02)
    noisy = behaviour == NOISY or (behaviour == NOISY_ONCE and about.attempts == 1)
    return Measurement(
        workload,
        target_name,
        "noisy" if noisy else "ok",
        describe_host(),
        networks=about.networks,
        log2_ratio=0.5,
        attempts=about.attempts,
        timestamp=time.time(),
        run=about.run,
    )


def lose_device(task: Task) -> Measurement:
    """Good and noisy rows; but no device for what is timed again."""
    if task.workload.out_channels == GONE or task.attempt > 1:
        raise NoDevice("no device any more")
    about = About(task.networks, task.attempt)
    return _measure(task.workload, profile(task.target), LocalDevice(), target_name=task.target_name, about=about)


def main(folder: str, count: str) -> None:
    """Collect so many good tasks into a dataset, one event a line, as the command does."""
    with Store.open(Path(folder)) as store:
        finished = store.finished()
        tasks = [task(GOOD, size) for size in range(1, int(count) + 1)]
        left = [item for item in tasks if measurement_key(item.workload, item.target_name) not in finished]

        def listen(event: Event) -> None:
            print(event.kind, event.progress.total, flush=True)

        collect(left, store, Settings(workers=1), listen, measure=misbehave)


if __name__ == "__main__":
    main(*sys.argv[1:])
