"""Serving this machine to collections elsewhere, and restarting TVM's RPC server whenever a kernel has killed it."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import psutil
import tvm_ffi
from tvm import rpc
from tvm.target import codegen

from selector.collect.host import cpu_facts, load_average
from selector.collect.link import answers
from selector.collect.processes import die_with_parent
from selector.collect.rpc import FACTS
from selector.target import resolve
from selector.threads import host_cores, share_process
from selector.wording import last_line

_POLL_SECONDS = 0.2
_LONGEST_PAUSE = 60.0  # seconds, between two restarts
_FAILED_CHECKS = 3  # in a row, after which an idle server counts as dead


class CannotServe(RuntimeError):
    """A server does not start; the message says why."""


@dataclass(frozen=True, slots=True)
class Served:
    """How this machine is served."""

    host: str = "127.0.0.1"  # interface to listen on; whoever reaches it can run code here
    port: int = 9090
    key: str = ""  # may be empty where there is no tracker
    tracker: tuple[str, int] | None = None
    address: str | None = None  # at which clients reach this machine; None: the one that the tracker sees
    check_seconds: float = 10.0  # between two checks whether an idle server answers
    pause_seconds: float = 1.0  # before the first restart; doubles while the server does not stay up for a minute


def supervise(served: Served, log: Callable[[str], None]) -> NoReturn:
    """Keep a server running until KeyboardInterrupt; ``log`` gets a line at the start and one for each restart.

    This process must have no other child processes.  Raises CannotServe if the first start fails.
    """
    share_process(host_cores())
    server = _start(served)
    log(f"serving {served.host}:{served.port}" + (f" as '{served.key}'" if served.key else ""))
    restarts, pause = 0, served.pause_seconds
    try:
        while True:
            started = time.monotonic()
            reason = "it did not start" if server is None else _watch(server, served)
            if time.monotonic() - started > _LONGEST_PAUSE:
                pause = served.pause_seconds
            restarts += 1
            log(f"restart {restarts} in {pause:g} s: {reason}")
            if server is not None:
                server.terminate()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            server = _restart(served)
    finally:
        if server is not None:
            server.terminate()


def check_port(host: str, port: int) -> None:
    """Raises CannotServe where nobody can listen on it."""
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise CannotServe(f"cannot listen on {host}:{port}: {error.strerror or error}") from error


def _start(served: Served) -> rpc.Server:
    check_port(served.host, served.port)
    try:
        return rpc.Server(
            served.host,
            served.port,
            served.port + 1,
            key=served.key,
            tracker_addr=served.tracker,
            custom_addr=served.address,
            silent=True,
            server_init_callback=prepare_server,
        )
    except Exception as error:  # whatever the server's process raised, and EOFError if it died
        raise CannotServe(f"cannot serve {served.host}:{served.port}: {last_line(error)}") from error


def _restart(served: Served) -> rpc.Server | None:
    try:
        return _start(served)
    except CannotServe:
        return None


def _watch(server: rpc.Server, served: Served) -> str:
    """Wait until the server has to be restarted, and tell why."""
    host = "127.0.0.1" if served.host in ("0.0.0.0", "") else served.host
    failed, next_check = 0, time.monotonic() + served.check_seconds
    while server.proc.is_alive():
        time.sleep(_POLL_SECONDS)
        if time.monotonic() < next_check:
            continue
        healthy = _in_session() or answers(host, served.port) or _in_session()
        failed = 0 if healthy else failed + 1
        if failed == _FAILED_CHECKS:
            return "the server did not answer"
        next_check = time.monotonic() + served.check_seconds
    return "a kernel killed the server"


def _in_session() -> bool:
    """Whether a client uses the server, which then answers to nobody else: sessions are processes below it."""
    return len(psutil.Process().children(recursive=True)) > 1


def prepare_server() -> None:
    """What the server's process does first.

    It ends when its only thread dies, which is what a session that was killed makes it do: TVM would leave a process
    that accepts connections and answers none.
    """
    die_with_parent()
    os.register_at_fork(after_in_child=die_with_parent)
    threading.excepthook = lambda _: os._exit(1)
    tvm_ffi.register_global_func(FACTS, _facts, override=True)


def _facts() -> str:
    """What ``selector.collect.rpc`` asks for."""
    return json.dumps(
        {
            "host": cpu_facts(),
            "load": load_average(),
            "target": json.loads(str(resolve("native"))),
            "triple": codegen.llvm_get_system_triple(),
        }
    )
