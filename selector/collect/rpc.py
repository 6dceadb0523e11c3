"""Timing kernels on other machines over TVM's RPC: built and linked here, uploaded and timed there.

A tracker lends the devices that registered a key with it, each to one client at a time; a single server is reached at
its own address.  A session with a device lasts as long as one pair is timed.  TVM's client waits for ever for a server
that is dead or whose machine hangs: everything here has a limit of its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import json
import platform
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import rpc
from tvm.error import RPCSessionTimeoutError
from tvm.rpc import base

from selector.collect.device import EvaluatedKernel, flush_bytes, reference_kernel
from selector.collect.gates import deadline, locked
from selector.collect.host import builder_facts
from selector.collect.protocol import TimedKernel
from selector.collect.record import Host
from selector.cross import find_linker
from selector.lowering import Kernel
from selector.lowering.pipeline import compile_kernel
from selector.target import TargetLike, TargetProfile
from selector.workload import ConvWorkload

EMULATED = "@emulated"  # end of the key of a device whose times mean nothing
FACTS = "selector.device.facts"  # global function of `selector device serve`: what is known about the CPU, in JSON

_ANSWER_SECONDS = 10.0  # a tracker or an idle server answers in milliseconds, an emulated one in a few seconds
_POLL_SECONDS = 0.5
_CLEANUP_SECONDS = 10.0  # in which a server ends a session that took too long, before this process gives up itself


class NoDevice(RuntimeError):
    """No device could be had; the message says where it was looked for, and what was found."""


class DeviceLost(RuntimeError):
    """The connection to a device broke while it was used: a kernel crashed it, or it was switched off."""


@dataclass(frozen=True, slots=True)
class Link:
    """Where devices are found."""

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


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of devices before anything is timed on them."""

    devices: int
    threads: int  # that a kernel can run on
    target: TargetLike | None  # None: the device cannot tell its CPU
    host: Host


class RpcDevice:
    """The devices behind a link, one at a time; one process uses it.

    A session ends after ``stage_seconds``, on the device's side and on this one.  ``busy_seconds``: longest time to
    wait for devices that others use.  ``folder`` holds a lock between the processes that share a single server.
    """

    def __init__(self, link: Link, folder: Path, stage_seconds: float = 60.0, busy_seconds: float = 240.0) -> None:
        self._link = link
        self._lock = folder / "server.lock"
        self._stage_seconds = stage_seconds
        self._busy_seconds = busy_seconds
        self._session: rpc.RPCSession | None = None
        self._uploaded: dict[_RemoteKernel, EvaluatedKernel] = {}
        self._host = unknown_host(link)
        self._load = 0.0

    @property
    def host(self) -> Host:
        """What is written into the rows: the device of the last session."""
        return self._host

    def load_average(self) -> float:
        """Of the device, during the last session; 0 where it does not tell."""
        return self._load

    def building(self) -> AbstractContextManager[None]:
        """Held while kernels are built."""
        return deadline(self._stage_seconds)

    @contextmanager
    def timing(self, threads: int) -> Iterator[None]:
        """Hold a session with a device.  Raises NoDevice; DeviceLost and TimeoutError in place of what they cause."""
        # a server serves one session and lets the next one wait where no limit reaches it
        with nullcontext() if self._link.tracker else locked(self._lock, fcntl.LOCK_EX):
            address = _lease(self._link, self._busy_seconds)
            with deadline(self._stage_seconds + _CLEANUP_SECONDS):
                session = _connect(address, self._stage_seconds)
                try:
                    with _clear_errors(session, self._link, self._stage_seconds):
                        self._host, self._load = _describe(session, self._link)
                        _use_threads(session, threads)
                        self._session = session
                        yield
                finally:  # the session ends with the last object of it
                    self._session = None
                    self._uploaded.clear()
                    del session
                    gc.collect()

    def load(self, kernel: Kernel, workload: ConvWorkload, target: TargetProfile, data: np.ndarray) -> TimedKernel:
        """Compile a kernel; it, its constants and the data (N, H, W, C) are uploaded when it is timed."""
        library = _library(compile_kernel(kernel, target.tvm_target()), target, self._link.linker)
        size = workload.batch * workload.out_height * workload.out_width * workload.out_channels
        arrays = [array.reshape(-1) for array in (data, *kernel.constants)]
        return _RemoteKernel(self, kernel.name, library, arrays, (size, workload.out_dtype), flush_bytes(target))

    def reference(self, target: TargetProfile) -> TimedKernel:
        """A fixed kernel of around 0.3 ms that touches registers only: shows whether the clock or the load changed."""
        name, library, words = _reference_library(target, self._link.linker)
        return _RemoteKernel(self, name, library, [words], None, flush_bytes(target))

    def uploaded(self, kernel: _RemoteKernel) -> EvaluatedKernel:
        """The kernel on the device of the session."""
        if self._session is None:
            raise RuntimeError("kernels are timed within timing() only")
        if kernel not in self._uploaded:
            self._uploaded[kernel] = kernel.upload(self._session, f"kernel{len(self._uploaded)}.so")
        return self._uploaded[kernel]


class _RemoteKernel:
    """A kernel that goes to the device of a session at its first use there."""

    def __init__(
        self,
        device: RpcDevice,
        name: str,
        library: bytes,
        arrays: Sequence[np.ndarray],
        out: tuple[int, str] | None,  # elements and dtype
        flush: int,  # bytes that empty the caches
    ) -> None:
        self._device = device
        self._name = name
        self._library = library
        self._arrays = arrays
        self._out = out
        self._flush = flush

    def warm(self, calls: int) -> float:
        """Microseconds of one call: mean of ``calls`` calls that follow an untimed one."""
        return self._device.uploaded(self).warm(calls)

    def cold(self) -> float:
        """Microseconds of one call after the caches were emptied."""
        return self._device.uploaded(self).cold()

    def upload(self, session: rpc.RPCSession, file: str) -> EvaluatedKernel:
        """Bring everything to the device."""
        session.upload(bytearray(self._library), file)
        module, cpu = session.load_module(file), session.cpu()
        tensors = [tvm.runtime.tensor(array, cpu) for array in self._arrays]
        if self._out is not None:
            size, dtype = self._out
            tensors.append(tvm.runtime.empty((size,), dtype, cpu))
        return EvaluatedKernel(module, self._name, tensors, cpu, self._flush)


def inspect(link: Link) -> Inspected:
    """Ask one of the devices what it is.  Raises NoDevice."""
    count = _count(link)
    address = _lease(link, link.wait_seconds)
    session = _connect(address, link.wait_seconds)
    with _clear_errors(session, link, link.wait_seconds):
        host, _ = _describe(session, link)
        return Inspected(count, host.cores, None if link.emulated else _own_target(session), host)


def tracked(host: str, port: int) -> tuple[list[Registered], list[Load]]:
    """Devices of a tracker and their load, in the order of the keys.  Raises NoDevice where no tracker answers."""
    with contextlib.closing(_Tracker(host, port)) as tracker:
        servers, queues = tracker.summary()
    counts = {key: sum(server.key == key for server in servers) for key in sorted(queues)}
    loads = [Load(key, count, queues[key]["free"], queues[key]["pending"]) for key, count in counts.items()]
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


def unknown_host(link: Link) -> Host:
    """What is written into a row when no device was reached."""
    return Host(
        cpu="unknown",
        flags="",
        cores=0,
        governor="unknown",
        **builder_facts(),
        device=link.key,
        emulated=link.emulated,
    )


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
        _, found = self._call([base.TrackerCode.SUMMARY], _ANSWER_SECONDS)
        servers = [
            Registered(item["key"].removeprefix("server:"), ":".join(map(str, item["addr"])))
            for item in found["server_info"]
        ]
        return sorted(servers, key=lambda server: (server.key, server.address)), found["queue_info"]

    def request(self, key: str, seconds: float) -> tuple[str, int, str]:
        """Host, port and one-time key of a device, as soon as one is free.  Raises TimeoutError."""
        _, (host, port, match) = self._call([base.TrackerCode.REQUEST, key, "", 1], seconds)
        return host, port, match

    def _call(self, message: list[Any], seconds: float) -> Any:
        self._socket.settimeout(seconds)
        base.sendjson(self._socket, message)
        return base.recvjson(self._socket)


def _count(link: Link) -> int:
    """Devices that have the link's key.  Raises NoDevice where there is none."""
    if not link.tracker:
        return 1
    servers, _ = tracked(link.host, link.port)
    count = sum(server.key == link.key for server in servers)
    if not count:
        known = ", ".join(sorted({server.key for server in servers})) or "none"
        raise NoDevice(f"no device is registered as {link} (registered keys: {known})")
    return count


def _lease(link: Link, busy_seconds: float) -> tuple[str, int, str]:
    """Host, port and key of a device that is free and answers.

    Raises NoDevice after ``link.wait_seconds`` in which there was none, or ``busy_seconds`` in which others had them.
    """
    absent_until = time.monotonic() + link.wait_seconds
    busy_until = time.monotonic() + busy_seconds
    while True:
        try:
            found = _try_lease(link)
            if found is not None:
                return found
            absent_until = time.monotonic() + link.wait_seconds
            reason = f"no device {link} was free for {busy_seconds:.0f} s"
        except NoDevice as error:
            reason = f"{error}, for {link.wait_seconds:.0f} s"
        if time.monotonic() > min(absent_until, busy_until):
            raise NoDevice(reason)
        time.sleep(_POLL_SECONDS)


def _try_lease(link: Link) -> tuple[str, int, str] | None:
    """None: others have all devices.  Raises NoDevice."""
    if not link.tracker:
        if answers(link.host, link.port):
            return link.host, link.port, link.key
        raise NoDevice(f"the RPC server {link.host}:{link.port} does not answer")
    _count(link)
    try:
        with contextlib.closing(_Tracker(link.host, link.port)) as tracker:
            host, port, key = tracker.request(link.key, _ANSWER_SECONDS)
    except TimeoutError:
        return None
    except OSError as error:
        raise NoDevice(f"the connection to the RPC tracker {link.host}:{link.port} broke: {error}") from None
    if not answers(host, port):  # the tracker does not lend it again before it has registered again
        raise NoDevice(f"the device {host}:{port} does not answer")
    return host, port, key


def _connect(address: tuple[str, int, str], seconds: float) -> rpc.RPCSession:
    host, port, key = address
    try:
        return rpc.connect(host, port, key, session_timeout=seconds)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise NoDevice(f"the RPC server {host}:{port} refuses the key '{key}': {reason}") from None


@contextmanager
def _clear_errors(session: rpc.RPCSession, link: Link, seconds: float) -> Iterator[None]:
    try:
        yield
    except RPCSessionTimeoutError:
        raise TimeoutError(f"timing took longer than {seconds:g} s on the device") from None
    except Exception as error:
        try:
            session.get_function("runtime.NumThreads")()
        except RuntimeError:
            raise DeviceLost(f"the connection to the device {link} broke: it crashed, or was switched off") from error
        raise


def _describe(session: rpc.RPCSession, link: Link) -> tuple[Host, float]:
    """The device, and its load average."""
    unknown = unknown_host(link)
    facts = _call(session, FACTS)
    if facts is None:  # TVM's own server; it knows LLVM's name of the CPU unless only the runtime is installed
        name = _call(session, "target.llvm_get_system_cpu")
        return replace(unknown, cpu=name or unknown.cpu, cores=_call(session, "runtime.NumThreads")), 0.0
    values: dict[str, Any] = json.loads(facts)
    return replace(unknown, **values["host"]), values["load"]


def _own_target(session: rpc.RPCSession) -> TargetLike | None:
    facts = _call(session, FACTS)
    if facts is not None:
        values: dict[str, Any] = json.loads(facts)
        target, triple = values["target"], values["triple"]
    else:
        name, triple = (_call(session, f"target.llvm_get_system_{what}") for what in ("cpu", "triple"))
        if not (name and triple):
            return None
        target = {"kind": "llvm", "mcpu": name}
    arch = triple.split("-")[0]
    return target if arch == platform.machine() else target | {"mtriple": f"{arch}-linux-gnu"}


def _use_threads(session: rpc.RPCSession, threads: int) -> None:
    session.get_function("runtime.config_threadpool")(1, threads)
    given = _call(session, "runtime.NumThreads")
    if given != threads:
        raise RuntimeError(
            f"kernels run on {given} threads there, not {threads}: start the server with `selector device serve`, "
            "or with TVM_NUM_THREADS set"
        )


def _call(session: rpc.RPCSession, function: str) -> Any:
    """What a global function of the device returns; None where it has no such function."""
    try:
        return session.get_function(function)()
    except AttributeError:
        return None


def _library(executable: tvm.runtime.Executable, target: TargetProfile, linker: str | None) -> bytes:
    """A shared library.  Raises LinkerNotFound, LinkFailed."""
    with tempfile.TemporaryDirectory(prefix="selector-link-") as folder:
        path = Path(folder) / "kernel.so"
        executable.export_library(str(path), fcompile=find_linker(target.tvm_target(), linker))
        return path.read_bytes()


@functools.lru_cache(maxsize=8)
def _reference_library(target: TargetProfile, linker: str | None) -> tuple[str, bytes, np.ndarray]:
    name, executable, words = reference_kernel(target)
    return name, _library(executable, target, linker), words
