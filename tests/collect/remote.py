"""Tasks for devices behind a link, some of which go wrong; imported by worker processes."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
from collections.abc import Callable, Iterator
from unittest import mock

from tvm import rpc, tirx
from tvm.rpc.tracker import Tracker
from tvm.script import tirx as T

from selector import lowering
from selector.collect import runner, worker
from selector.collect.link import Link, tracked
from selector.collect.protocol import Rules
from selector.collect.record import Measurement
from selector.collect.rpc import RpcDevice
from selector.collect.serve import prepare_server
from selector.collect.worker import Task
from selector.lowering import Kernel
from selector.workload import ConvWorkload

QUICK = Rules(sample_us=20, min_rounds=3, min_seconds=0, max_seconds=0, cold_rounds=1)
HERE = "127.0.0.1"
_ENDS = {5: "abort", 6: "pause"}  # output channels -> function of the C library that the kernel calls instead

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


@contextlib.contextmanager
def tracking() -> Iterator[Tracker]:
    """A tracker."""
    port = free_port()
    with started(Tracker(HERE, port, port + 1, silent=True)) as running:
        yield running


@contextlib.contextmanager
def served(
    key: str, tracker: Tracker | None = None, prepare: Callable[[], None] = prepare_server
) -> Iterator[rpc.Server]:
    """A server as a supervised one is, without a supervisor."""
    port = free_port()
    address = None if tracker is None else (HERE, tracker.port)
    running = rpc.Server(HERE, port, port + 1, key=key, tracker_addr=address, silent=True, server_init_callback=prepare)
    with started(running):
        yield running


def registered(link: Link) -> int:
    """Devices that the tracker knows."""
    return sum(device.key == link.key for device in tracked(link.host, link.port)[0])


def wait_until(condition: Callable[[], bool]) -> None:
    """Fails if it takes minutes."""
    until = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < until, "what was waited for did not come about"
        time.sleep(0.05)


def stop(server: rpc.Server | Tracker) -> None:
    """Kill a server's process, which may be dead already, and wait for its end, longer than TVM does."""
    if server.proc is not None:
        process = server.proc._proc
        server.proc.kill()
        server.proc = None
        process.wait(60)


def task(size: int, *links: Link, target: str = "x86-64", ends: str = "") -> Task:
    """A small task; ``size`` tells them apart; ``ends``: "abort" or "pause", with ``end_or_measure``."""
    channels = next((channels for channels, name in _ENDS.items() if name == ends), 8)
    workload = ConvWorkload(1, size, size, 8, channels, 1, 1)
    return Task(workload, target, target, ("net",), links)


def meet_and_measure(task: Task) -> Measurement:
    """Measure, but before the first time hold a device until the other worker holds one as well."""
    assert worker._state is not None
    settings = worker._state[1]
    if not _met:
        with RpcDevice(task.links, settings.folder).timing(1):
            (settings.folder / f"{time.monotonic_ns()}.met").touch()
            until = time.monotonic() + 300
            while len(list(settings.folder.glob("*.met"))) < 2:
                if time.monotonic() > until:
                    raise RuntimeError("there is no other device")
                time.sleep(0.01)
        _met.append(True)
    return worker.measure_task(task)


def end_or_measure(task: Task) -> Measurement:
    """Measure; kernels of tasks that say so end the process which runs them, or never return."""
    with mock.patch.object(runner, "build", _build):
        return worker.measure_task(task)


def _build(workload: ConvWorkload, constants: object, target: object, name: str) -> Kernel:
    kernel = lowering.build(workload, constants, target, name)
    if workload.out_channels not in _ENDS:
        return kernel
    body = tirx.Evaluate(T.call_extern("int32", _ENDS[workload.out_channels]))
    return dataclasses.replace(kernel, func=kernel.func.with_body(body))
