"""``selector device`` and ``selector collect --rpc``: what they show and refuse."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from tvm.rpc.tracker import Tracker

from tests.cli.conftest import Run
from tests.collect.remote import HERE, free_port, started

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tracker() -> Iterator[str]:
    port = free_port()
    with started(Tracker(HERE, port, port + 1, silent=True)):
        yield f"{HERE}:{port}"


def test_a_tracker_without_devices(selector_command: Run, tracker: str) -> None:
    listed = selector_command("device", "list", "--tracker", tracker)
    assert (listed.code, listed.out) == (0, f"0 devices at {tracker}\n"), listed.err
    assert selector_command("device", "list", "--tracker", tracker, "--json").json() == {"devices": [], "keys": []}
    outcome = selector_command("collect", "--samples", 1, "--rpc", tracker, "--key", "pi4")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == f"error: no device is registered as 'pi4' at tracker {tracker} (registered keys: none)\n"


def test_no_tracker(selector_command: Run) -> None:
    address = f"{HERE}:{free_port()}"
    for command in (
        ["device", "list", "--tracker", address],
        ["collect", "--samples", 1, "--rpc", address, "--key", "a"],
    ):
        outcome = selector_command(*command)
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == f"error: cannot reach the RPC tracker {address}: Connection refused\n"


def test_a_port_that_is_taken(selector_command: Run) -> None:
    with socket.socket() as taken:
        taken.bind((HERE, 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        for command in ("serve", "tracker"):
            outcome = selector_command("device", command, "--host", HERE, "--port", port)
            expected = (1, "", f"error: cannot listen on {HERE}:{port}: Address already in use\n")
            assert (outcome.code, outcome.out, outcome.err) == expected


@pytest.mark.parametrize("command", ["serve", "tracker"])
def test_listens_to_this_machine_alone_unless_told_otherwise(command: str) -> None:
    started = [sys.executable, "-c", "from selector.cli import app; app()", "device", command]
    port = str(free_port())
    for options, host in ([], HERE), (["--host", "0.0.0.0"], "0.0.0.0"):
        with subprocess.Popen(
            [*started, "--port", port, *options], cwd=ROOT, stderr=subprocess.PIPE, text=True
        ) as running:
            assert running.stderr
            line = running.stderr.readline()
            if host != HERE:
                assert line == "warning: whoever reaches this machine at 0.0.0.0 can run code here as you\n"
                line = running.stderr.readline()
            assert line == f"{'serving' if command == 'serve' else 'tracking at'} {host}:{port}\n"
            listening = {entry.laddr.ip for entry in psutil.net_connections() if entry.laddr.port == int(port)}
            running.send_signal(signal.SIGTERM)
            assert running.wait(30) == 0
        assert listening == {host}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["collect", "--samples", 1, "--rpc", "host:9190"], "--rpc needs --key"),
        (["collect", "--samples", 1, "--key", "pi4"], "--key and --linker are for devices"),
        (["collect", "--samples", 1, "--rpc", "host", "--key", "pi4"], "--rpc takes HOST:PORT"),
        (["collect", "--samples", 1, "--rpc", "a:1", "--rpc-server", "b:1", "--key", "pi4"], "not both"),
        (["collect", "--samples", 1, "--rpc-server", "host:70000"], "--rpc-server takes HOST:PORT"),
        (["device", "list", "--tracker", ":9190"], "--tracker takes HOST:PORT"),
        (["device", "serve", "--key", "a:b"], "neither blanks nor colons"),
        (["device", "serve", "--tracker", "host:9190"], "--tracker needs --key"),
        (["device", "serve", "--tracker", "host:9190", "--key", "a"], "cannot reach 127.0.0.1: give --host"),
    ],
)
def test_refuses(selector_command: Run, arguments: list[object], message: str) -> None:
    selector_command(*arguments).assert_bad_input(message)
