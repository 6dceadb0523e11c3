"""Timing kernels on other machines over TVM's RPC: built and linked here, uploaded and timed there.

A session with a device lasts as long as one pair is timed.  A kernel that never returns is stopped by the server, which
knows how long a session may last, and where the device itself hangs, by a deadline on this side.
"""

from __future__ import annotations

import fcntl
import functools
import gc
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import rpc
from tvm.error import RPCSessionTimeoutError

from selector.collect.device import EvaluatedKernel, flush_bytes, reference_kernel
from selector.collect.gates import deadline, locked
from selector.collect.link import DeviceLost, Lease, Link, connect, count, lease, unknown_host
from selector.collect.protocol import TimedKernel
from selector.collect.record import Host
from selector.cross import find_linker
from selector.lowering import Kernel
from selector.lowering.pipeline import compile_kernel
from selector.target import TargetLike, TargetProfile, architecture, host_architecture
from selector.wording import counted
from selector.workload import ConvWorkload

FACTS = "selector.device.facts"  # global function of `selector device serve`: what is known about the CPU, in JSON

_CLEANUP_SECONDS = 10.0  # in which a server ends a session that took too long, before this process gives up itself


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of devices before anything is timed on them."""

    devices: int
    threads: int  # that a kernel can run on
    target: TargetLike | None  # None: the device cannot tell its CPU
    host: Host


class RpcDevice:
    """The devices behind links, one at a time; one process uses it.

    ``links``: several devices at one tracker, all able to run the same code, or one server.  A session ends after
    ``stage_seconds``, on the device's side and on this one.  ``busy_seconds``: longest time to wait for devices that
    others use.  ``folder`` holds a lock between the processes that share a single server.
    """

    def __init__(
        self, links: Sequence[Link], folder: Path, stage_seconds: float = 60.0, busy_seconds: float = 240.0
    ) -> None:
        self._links = tuple(links)
        self._lock = folder / "server.lock"
        self._stage_seconds = stage_seconds
        self._busy_seconds = busy_seconds
        self._session: rpc.RPCSession | None = None
        self._uploaded: dict[_RemoteKernel, EvaluatedKernel] = {}
        self._host = unknown_host(*self._links)
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
        with nullcontext() if self._links[0].tracker else locked(self._lock, fcntl.LOCK_EX):
            leased = lease(self._links, self._busy_seconds)
            with deadline(self._stage_seconds + _CLEANUP_SECONDS):
                session = connect(leased, self._stage_seconds)
                try:
                    with _clear_errors(session, leased, self._stage_seconds):
                        self._host, self._load = _describe(session, leased.link)
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
        library = _library(compile_kernel(kernel, target.tvm_target()), target, self._links[0].linker)
        size = workload.batch * workload.out_height * workload.out_width * workload.out_channels
        arrays = [array.reshape(-1) for array in (data, *kernel.constants)]
        return _RemoteKernel(self, kernel.name, library, arrays, (size, workload.out_dtype), flush_bytes(target))

    def reference(self, target: TargetProfile) -> TimedKernel:
        """A fixed kernel of around 0.3 ms that touches registers only: shows whether the clock or the load changed."""
        name, library, words = _reference_library(target, self._links[0].linker)
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
        self.library = library
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
        session.upload(bytearray(self.library), file)
        module, cpu = session.load_module(file), session.cpu()
        tensors = [tvm.runtime.tensor(array, cpu) for array in self._arrays]
        if self._out is not None:
            size, dtype = self._out
            tensors.append(tvm.runtime.empty((size,), dtype, cpu))
        return EvaluatedKernel(module, self._name, tensors, cpu=cpu, flush_bytes=self._flush)


def inspect(link: Link) -> Inspected:
    """Ask one of the devices what it is.  Raises NoDevice, DeviceLost, TimeoutError."""
    devices = count(link)
    leased = lease([link], link.wait_seconds)
    session = connect(leased, link.wait_seconds)
    with _clear_errors(session, leased, link.wait_seconds):
        host, _ = _describe(session, link)
        return Inspected(devices, host.cores, None if link.emulated else _own_target(session), host)


def why_not_run(link: Link, target: TargetProfile) -> str:
    """Why a device that does not tell its CPU cannot run kernels for a target; empty: it ran one.

    Raises NoDevice, TimeoutError, LinkerNotFound, LinkFailed.
    """
    name, library, words = _reference_library(target, link.linker)
    leased = lease([link], link.wait_seconds)
    session = connect(leased, link.wait_seconds)
    try:
        with _clear_errors(session, leased, link.wait_seconds):
            session.upload(bytearray(library), "probe.so")
            session.load_module("probe.so")[name](tvm.runtime.tensor(words, session.cpu()))
    except DeviceLost:
        return "crashed when it ran one"
    except TimeoutError:
        raise
    except Exception as error:  # whatever its dynamic linker says about a library for another architecture
        return f"does not load them: {str(error).strip().splitlines()[-1]}"
    return ""


@contextmanager
def _clear_errors(session: rpc.RPCSession, leased: Lease, seconds: float) -> Iterator[None]:
    try:
        yield
    except RPCSessionTimeoutError:
        raise TimeoutError(f"timing took longer than {seconds:g} s on the device {leased}") from None
    except Exception as error:
        try:
            session.get_function("runtime.NumThreads")()
        except RuntimeError:
            raise DeviceLost(f"the connection to the device {leased} broke: it crashed, or was switched off") from error
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
    arch = architecture(triple)
    return target if arch == host_architecture() else target | {"mtriple": f"{arch}-linux-gnu"}


def _use_threads(session: rpc.RPCSession, threads: int) -> None:
    session.get_function("runtime.config_threadpool")(1, threads)
    given = _call(session, "runtime.NumThreads")
    if given != threads:
        raise RuntimeError(
            f"kernels run on {counted(given, 'thread')} there, not {threads}: start the server with "
            "`selector device serve`, or with TVM_NUM_THREADS set"
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
