"""Tasks for devices behind a link, some of which go wrong; imported by worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Iterator
from unittest import mock

from tvm import rpc, tirx
from tvm.rpc.tracker import Tracker
from tvm.script import tirx as T

from selector import lowering
from selector.collect import runner, worker
from selector.collect.protocol import Rules
from selector.collect.record import Measurement
from selector.collect.worker import Task
from selector.lowering import Kernel
from selector.workload import ConvWorkload

QUICK = Rules(sample_us=20, min_rounds=3, min_seconds=0, max_seconds=0, cold_rounds=1)
HERE = "127.0.0.1"
_CRASHES = 5  # output channels

_met: list[bool] = []


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def started(server: rpc.Server | Tracker) -> Iterator[rpc.Server | Tracker]:
    """Stop a server at the end of the block."""
    try:
        yield server
    finally:
        stop(server)


def stop(server: rpc.Server | Tracker) -> None:
    """Kill a server's process, which may be dead already, and wait for its end, longer than TVM does."""
    if server.proc is not None:
        process = server.proc._proc
        server.proc.kill()
        server.proc = None
        process.wait(60)


def task(size: int, *, crashes: bool = False) -> Task:
    """A small task; ``size`` tells them apart."""
    return Task(ConvWorkload(1, size, size, 8, _CRASHES if crashes else 8, 1, 1), "x86-64", "x86-64", ("net",))


def meet_and_measure(task: Task) -> Measurement:
    """Measure, but before the first time hold a device until the other worker holds one as well."""
    assert worker._state is not None
    device, settings = worker._state
    if not _met:
        with device.timing(1):
            (settings.folder / f"{time.monotonic_ns()}.met").touch()
            until = time.monotonic() + 300
            while len(list(settings.folder.glob("*.met"))) < 2:
                if time.monotonic() > until:
                    raise RuntimeError("there is no other device")
                time.sleep(0.01)
        _met.append(True)
    return worker.measure_task(task)


def crash_or_measure(task: Task) -> Measurement:
    """Measure; kernels of tasks that crash end the process which runs them."""
    with mock.patch.object(runner, "build", _build):
        return worker.measure_task(task)


def _build(workload: ConvWorkload, constants: object, target: object, name: str) -> Kernel:
    kernel = lowering.build(workload, constants, target, name)
    if workload.out_channels != _CRASHES:
        return kernel
    abort = tirx.Evaluate(T.call_extern("int32", "abort"))
    return dataclasses.replace(kernel, func=kernel.func.with_body(abort))
