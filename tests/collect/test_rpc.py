"""Devices that come, crash and go: real servers and a tracker on this machine."""

from __future__ import annotations

import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tvm.rpc.tracker import Tracker

from selector.collect import store
from selector.collect.campaign import CollectionStopped, Event, Settings, collect
from selector.collect.host import describe_host
from selector.collect.link import Link, NoDevice, answers, count, lease, tracked, unknown_host
from selector.collect.record import DatasetError, measurement_key
from selector.collect.rpc import RpcDevice, inspect
from selector.collect.runner import measure
from selector.collect.synthetic import synthesize
from selector.learn import dataset
from selector.lowering import build
from selector.target import profile
from tests.collect.remote import (
    HERE,
    QUICK,
    end_or_measure,
    free_port,
    meet_and_measure,
    registered,
    served,
    stop,
    task,
    tracking,
    wait_until,
)
from tests.collect.rows import Rows


@pytest.fixture(scope="module")
def tracker() -> Iterator[Tracker]:
    with tracking() as running:
        yield running


def test_two_devices_at_once_and_one_that_goes(tracker: Tracker, tmp_path: Path) -> None:
    """Rows have the form of local ones; those of emulated devices say so, and training does not get them."""
    links = [Link(HERE, tracker.port, f"{name}@emulated", wait_seconds=120) for name in ("one", "two")]
    with (
        served(links[0].key, tracker) as going,
        served(links[1].key, tracker),
        store.Store.open(tmp_path / "rows") as rows,
    ):
        wait_until(lambda: registered(links[0]) == registered(links[1]) == 1)
        assert count(links[0]) == 1
        assert [load.devices for load in tracked(HERE, tracker.port)[1]] == [1, 1]

        def listen(event: Event) -> None:
            if event.kind == "row" and event.progress.done == 2:
                stop(going)

        tasks = [task(size, *links) for size in range(3, 9)]
        settings = Settings(QUICK, workers=2, attempts=1)
        progress = collect(tasks, rows, settings, listen, measure=meet_and_measure)
        assert (progress.done, progress.errors) == (6, 0)
        assert rows.finished() == {measurement_key(item.workload, "x86-64") for item in tasks}

    local = measure(tasks[0].workload, profile("x86-64"), rules=QUICK)
    assert {row.host.device for row in store.measurements(tmp_path / "rows")} <= {link.key for link in links}
    for row in store.measurements(tmp_path / "rows"):
        assert row.status in ("ok", "noisy"), row.error
        assert row.host.emulated
        here = describe_host()
        assert (row.host.cpu, row.host.flags, row.host.kernels) == (here.cpu, here.flags, here.kernels)
        assert (row.networks, row.target, row.int8.kernel) == (("net",), "x86-64", local.int8.kernel)
        assert len(row.int8.warm_us) == len(row.int16.warm_us) >= QUICK.min_rounds
        assert min(*row.int8.warm_us, *row.int16.cold_us, *row.reference_us, row.seconds, row.timestamp) > 0
        assert row.log2_low <= row.log2_ratio <= row.log2_high
        assert (row.int8.code == local.int8.code) == (row.workload == local.workload)
    with pytest.raises(DatasetError, match="was emulated"):
        dataset.load([tmp_path / "rows"])


def test_the_only_device_goes(tracker: Tracker) -> None:
    """The run stops; what was measured is kept, and the next run measures the rest."""
    link = Link(HERE, tracker.port, "single", wait_seconds=1)
    rows = Rows()
    with served(link.key, tracker) as going:
        wait_until(lambda: registered(link) == 1)
        settings = Settings(QUICK, workers=1, attempts=1)
        tasks = [task(size, link) for size in (3, 4, 5)]
        with pytest.raises(CollectionStopped, match=r"no device is registered as 'single' .* goes on there"):
            collect(tasks, rows, settings, lambda event: event.row and stop(going))
    assert 1 <= len(rows) < 3
    assert {row.status for row in rows} <= {"ok", "noisy"}


def test_kernels_that_crash_or_hang_cost_a_row_each(tracker: Tracker) -> None:
    link = Link(HERE, tracker.port, "crashing", wait_seconds=300)
    rows = Rows()
    command = [sys.executable, "-c", "from selector.cli import app; app()", "device", "serve", "--host", HERE]
    command += ["--tracker", f"{HERE}:{tracker.port}", "--key", link.key, "--port", str(free_port())]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as supervisor:
        try:
            wait_until(lambda: registered(link) == 1)
            settings = Settings(QUICK, workers=1, attempts=1, stage_seconds=15)
            tasks = [task(3, link, ends="abort"), task(4, link, ends="pause"), task(5, link)]
            progress = collect(tasks, rows, settings, measure=end_or_measure)
            children = psutil.Process(supervisor.pid).children(recursive=True)
            supervisor.send_signal(signal.SIGTERM)
            _, log = supervisor.communicate(timeout=300)
        finally:
            supervisor.kill()
    assert supervisor.returncode == 0, log
    assert f"as '{link.key}'" in log.splitlines()[0]
    assert "restart 1 in 1 s: a kernel killed the server" in log
    psutil.wait_procs(children, timeout=60)
    assert not any(child.is_running() for child in children)

    assert (progress.done, progress.errors, progress.retries) == (3, 2, 1)
    found = {row.workload: row for row in rows}
    crashed, hung, measured = (found[item.workload] for item in tasks)
    assert measured.status in ("ok", "noisy")
    assert hung.error.startswith(f"TimeoutError: timing took longer than 15 s on the device 'crashing' at {HERE}:")
    assert crashed.error.startswith(f"the connection to the device 'crashing' at {HERE}:")
    assert crashed.host == unknown_host(link)


def test_a_single_server(tmp_path: Path) -> None:
    with served("board") as running:
        link = Link(HERE, running.port, "board", tracker=False, wait_seconds=5)
        found = inspect(link)
        assert profile(found.target) == profile("native")
        assert (found.devices, found.host.device, found.host.emulated) == (1, "board", False)
        assert found.threads >= 1
        row = measure(task(4).workload, profile("x86-64"), RpcDevice([link], tmp_path), rules=QUICK)
        assert (row.status in ("ok", "noisy"), row.host) == (True, found.host)
        with pytest.raises(NoDevice, match="does not serve a client with the key 'other'"):
            inspect(Link(HERE, running.port, "other", tracker=False, wait_seconds=5))


def test_a_server_that_is_dead_but_listens() -> None:
    with socket.socket() as dead:
        dead.bind((HERE, 0))
        dead.listen(1)
        port = int(dead.getsockname()[1])
        assert not answers(HERE, port, seconds=0.1)
    assert not answers(HERE, port, seconds=0.1)
    link = Link(HERE, port, "", tracker=False, wait_seconds=0)
    with pytest.raises(NoDevice, match=f"the RPC server {HERE}:{port} does not answer"):
        lease([link], busy_seconds=1)
    with pytest.raises(NoDevice, match=f"cannot reach the RPC tracker {HERE}:{port}: Connection refused"):
        tracked(HERE, port)


def test_no_tracker_but_something_else() -> None:
    with socket.socket() as other:
        other.bind((HERE, 0))
        other.listen(1)
        port = int(other.getsockname()[1])

        def hang_up() -> None:
            with other.accept()[0] as connection:
                connection.recv(4)
                connection.sendall(struct.pack("<i", 1))

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(NoDevice, match="is no RPC tracker"):
            tracked(HERE, port)
        thread.join()


def test_unknown_key(tracker: Tracker) -> None:
    with pytest.raises(NoDevice, match=r"no device is registered as 'none' at tracker .* \(registered keys: "):
        inspect(Link(HERE, tracker.port, "none"))


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason="no cross linker")
def test_links_for_another_architecture(tmp_path: Path) -> None:
    target, workload = profile("cortex-a72"), task(4).workload
    constants, data = synthesize(workload, 0)
    kernel = build(workload, constants, target, "int16")
    loaded = RpcDevice([Link("nowhere", 1, "pi")], tmp_path).load(kernel, workload, target, data)
    assert struct.unpack_from("<H", loaded.library, 18) == (183,)  # EM_AARCH64
    with pytest.raises(RuntimeError, match="within timing"):
        loaded.warm(1)
