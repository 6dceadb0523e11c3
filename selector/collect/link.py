"""Where devices are: a tracker that lends them, or a single RPC server; and getting hold of one that is free.

TVM's client waits for ever for a server that is dead or whose machine hangs: everything here has a limit of its own.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import rpc
from tvm.rpc import base

from selector.collect.host import builder_facts
from selector.collect.record import Host

EMULATED = "@emulated"  # end of the key of a device whose times mean nothing

_ANSWER_SECONDS = 10.0  # a tracker or an idle server answers in milliseconds, an emulated one in a few seconds
_POLL_SECONDS = 0.5


class NoDevice(RuntimeError):
    """No device could be had; the message says where it was looked for, and what was found."""


class DeviceLost(RuntimeError):
    """The connection to a device broke while it was used: a kernel crashed it, or it was switched off."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where devices of one kind are found."""

    host: str
    port: int
    key: str  # that the devices registered; of a single server: the key it was started with, may be empty
    tracker: bool = True  # False: the address of a single server
    wait_seconds: float = 60.0  # longest time without any device, e.g. while one restarts
    linker: str | None = None  # C compiler that links for the devices; None: one on the PATH

    @property
    def emulated(self) -> bool:
        """Whether the times of these devices mean nothing."""
        return self.key.endswith(EMULATED)

    def __str__(self) -> str:
        kind = "tracker" if self.tracker else "server"
        return f"'{self.key}' at {kind} {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Lease:
    """A device that nobody else has now."""

    link: Link
    host: str
    port: int
    key: str  # that opens it once

    def __str__(self) -> str:
        return f"'{self.link.key}' at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Registered:
    """A device that a tracker knows."""

    key: str
    address: str


@dataclass(frozen=True, slots=True)
class Load:
    """Devices of one key of a tracker."""

    key: str
    devices: int
    free: int
    pending: int  # requests that wait for one


def unknown_host(*links: Link) -> Host:
    """What is written into a row when none of the devices was reached."""
    return Host(
        cpu="unknown",
        flags="",
        cores=0,
        governor="unknown",
        **builder_facts(),
        device=", ".join(link.key for link in links),
        emulated=all(link.emulated for link in links),
    )


def tracked(host: str, port: int) -> tuple[list[Registered], list[Load]]:
    """Devices of a tracker and their load, in the order of the keys.  Raises NoDevice where no tracker answers."""
    with contextlib.closing(_Tracker(host, port)) as tracker:
        servers, queues = tracker.summary()
    loads = []
    for key in sorted({server.key for server in servers} | set(queues)):
        queue = queues.get(key, {"free": 0, "pending": 0})
        loads.append(Load(key, sum(server.key == key for server in servers), queue["free"], queue["pending"]))
    return servers, [load for load in loads if load.devices or load.pending]


def answers(host: str, port: int, seconds: float = _ANSWER_SECONDS) -> bool:
    """Whether an RPC server is there and idle: it hangs up on whoever does not speak its protocol.

    TVM's server accepts connections even when the thread that would serve them is dead.
    """
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            connection.sendall(struct.pack("<i", ~base.RPC_MAGIC))
            return not connection.recv(1)
    except ConnectionResetError:
        return True
    except OSError:
        return False


class _Tracker:
    """A connection to a tracker, in the protocol that ``tvm.rpc.tracker`` documents; TVM's client has no time limits.

    Raises NoDevice where no tracker answers.
    """

    def __init__(self, host: str, port: int) -> None:
        try:
            self._socket = socket.create_connection((host, port), timeout=_ANSWER_SECONDS)
        except OSError as error:
            raise NoDevice(f"cannot reach the RPC tracker {host}:{port}: {error.strerror or error}") from None
        try:
            self._socket.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
            magic = struct.unpack("<i", base.recvall(self._socket, 4))[0]
        except OSError:
            magic = None
        if magic != base.RPC_TRACKER_MAGIC:
            self.close()
            raise NoDevice(f"{host}:{port} is no RPC tracker (the address of a single server goes to --rpc-server)")

    def close(self) -> None:
        """Withdraw a request that was not answered."""
        self._socket.close()

    def summary(self) -> tuple[list[Registered], dict[str, dict[str, int]]]:
        """The devices, and {"free": …, "pending": …} of each key."""
        try:
            _, found = self._call([base.TrackerCode.SUMMARY], _ANSWER_SECONDS)
        except OSError as error:
            raise NoDevice(f"the RPC tracker does not answer: {error}") from None
        servers = [
            Registered(item["key"].removeprefix("server:"), ":".join(map(str, item["addr"])))
            for item in found["server_info"]
        ]
        return sorted(servers, key=lambda server: (server.key, server.address)), found["queue_info"]

    def request(self, key: str, seconds: float) -> tuple[str, int, str] | None:
        """Host, port and one-time key of a device, as soon as one is free; None: none was."""
        try:
            _, (host, port, match) = self._call([base.TrackerCode.REQUEST, key, "", 1], seconds)
        except TimeoutError:
            return None
        except OSError as error:
            raise NoDevice(f"the RPC tracker hung up: {error}") from None
        return host, port, match

    def _call(self, message: list[Any], seconds: float) -> Any:
        self._socket.settimeout(seconds)
        base.sendjson(self._socket, message)
        return base.recvjson(self._socket)


def count(link: Link) -> int:
    """Devices that have the link's key.  Raises NoDevice where there is none."""
    if not link.tracker:
        return 1
    return _loads([link])[link].devices


def lease(links: Sequence[Link], busy_seconds: float) -> Lease:
    """A device of one of the links, all at one tracker, that is free and answers.

    Raises NoDevice after the links' ``wait_seconds`` in which there was none, or ``busy_seconds`` in which others had
    them.
    """
    wait_seconds = max(link.wait_seconds for link in links)
    absent_until = time.monotonic() + wait_seconds
    busy_until = time.monotonic() + busy_seconds
    while True:
        try:
            found = _try_lease(links)
            if found is not None:
                return found
            absent_until = time.monotonic() + wait_seconds
            reason = f"no device {' or '.join(map(str, links))} was free for {busy_seconds:.0f} s"
        except NoDevice as error:
            reason = f"{error}, for {wait_seconds:.0f} s"
        if time.monotonic() > min(absent_until, busy_until):
            raise NoDevice(reason)
        time.sleep(_POLL_SECONDS)


def _try_lease(links: Sequence[Link]) -> Lease | None:
    """None: others have all devices.  Raises NoDevice."""
    link = links[0]
    if not link.tracker:
        if answers(link.host, link.port):
            return Lease(link, link.host, link.port, link.key)
        raise NoDevice(f"the RPC server {link.host}:{link.port} does not answer, or serves another client")
    loads = _loads(links)
    link = max(loads, key=lambda item: loads[item].free - loads[item].pending)
    with contextlib.closing(_Tracker(link.host, link.port)) as tracker:
        found = tracker.request(link.key, _ANSWER_SECONDS)
    if found is None:
        return None
    host, port, key = found
    if not answers(host, port):  # the tracker will not lend it before it registers again
        raise NoDevice(f"the device {host}:{port} does not answer")
    return Lease(link, host, port, key)


def _loads(links: Sequence[Link]) -> dict[Link, Load]:
    """Of those links that have devices at the tracker.  Raises NoDevice where none has any."""
    servers, loads = tracked(links[0].host, links[0].port)
    by_key = {load.key: load for load in loads if load.devices}
    found = {link: by_key[link.key] for link in links if link.key in by_key}
    if not found:
        known = ", ".join(sorted({server.key for server in servers})) or "none"
        raise NoDevice(f"no device is registered as {' or '.join(map(str, links))} (registered keys: {known})")
    return found


def connect(leased: Lease, seconds: float) -> rpc.RPCSession:
    """A session with a leased device, which ends it after so many seconds.

    Raises DeviceLost; for a single server, which does not take the key, NoDevice.
    """
    host, port, key = leased.host, leased.port, leased.key
    try:
        return rpc.connect(host, port, key, session_timeout=seconds)
    except RuntimeError as error:
        kind = DeviceLost if leased.link.tracker else NoDevice
        reason = str(error).strip().splitlines()[-1]
        raise kind(f"the RPC server {host}:{port} does not serve a client with the key '{key}': {reason}") from None
