"""What kernels are timed on: a protocol, and this machine."""

from __future__ import annotations

import functools
import itertools
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import numpy as np
import tvm
import tvm_ffi

from selector.collect.gates import Gates
from selector.collect.host import describe_host, load_average
from selector.collect.protocol import TimedKernel
from selector.collect.record import Host
from selector.lowering import Kernel, dot
from selector.lowering.peak import peak_function, peak_macs
from selector.lowering.pipeline import NAME as PIPELINE
from selector.lowering.pipeline import compile_kernel
from selector.target import TargetProfile, profile
from selector.threads import use_threads
from selector.workload import ConvWorkload

_REFERENCE_MACS = 20_000_000  # of one call of the reference kernel: around 0.3 ms
_FLUSH = "selector.collect.flush_caches"  # global function, run by TVM's evaluator before each timed call
_LARGEST_FLUSH_BYTES = 256 << 20
_MOST_PLACEMENTS, _PLACED_BYTES = 16, 64 << 20
_ZERO_TIMES = 100  # samples of zero seconds after which TVM's evaluator gives up; its own default


class Device(Protocol):
    """Somewhere kernels can be timed; one process uses it."""

    @property
    def host(self) -> Host:
        """What is written into the rows."""
        ...

    def load_average(self) -> float:
        """1-minute load average; 0 where it is not known."""
        ...

    def building(self) -> AbstractContextManager[None]:
        """Held while kernels are built."""
        ...

    def timing(self, threads: int) -> AbstractContextManager[None]:
        """Held while kernels that run on so many threads are timed."""
        ...

    def load(self, kernel: Kernel, workload: ConvWorkload, target: TargetProfile, data: np.ndarray) -> TimedKernel:
        """Compile a kernel and bring it, its constants and the data (N, H, W, C) to where they are timed."""
        ...

    def reference(self, target: TargetProfile) -> TimedKernel:
        """A fixed kernel of around 0.3 ms that touches registers only: shows whether the clock or the load changed.

        The device can execute the target's code.
        """
        ...


class LocalDevice:
    """This machine, in this process.

    ``gates`` keep other processes off while something is timed (None: there are none).  One-thread kernels are built
    and timed on ``core`` (None: wherever the scheduler puts them).  ``urgent``: other programs have to wait for the
    kernels while these are timed, where the operating system permits it (root, or CAP_SYS_NICE).
    """

    def __init__(self, gates: Gates | None = None, core: int | None = None, *, urgent: bool = False) -> None:
        self._gates = gates
        self._core = core
        self._urgent = urgent

    @property
    def host(self) -> Host:
        """What is written into the rows."""
        return describe_host()

    def load_average(self) -> float:
        """1-minute load average; 0 where the system has none."""
        return load_average()

    @contextmanager
    def building(self) -> Iterator[None]:
        """Held while kernels are built."""
        with self._gates.building() if self._gates else nullcontext(), _pinned(self._core):
            yield

    @contextmanager
    def timing(self, threads: int) -> Iterator[None]:
        """Held while kernels that run on so many threads are timed."""
        gate = self._gates.timing(threads) if self._gates else nullcontext()
        with gate, _real_time() if self._urgent else nullcontext():
            if threads == 1:
                with _pinned(self._core):
                    yield
            else:  # not pinned: the threads of TVM's pool inherit affinity and priority of the one that starts it
                use_threads(threads)
                yield

    def load(self, kernel: Kernel, workload: ConvWorkload, target: TargetProfile, data: np.ndarray) -> TimedKernel:
        """Compile a kernel and bring it, its constants and the data (N, H, W, C) to where they are timed."""
        module = compile_kernel(kernel, target.tvm_target()).jit()
        size = workload.batch * workload.out_height * workload.out_width * workload.out_channels
        inputs = [array.reshape(-1) for array in (data, *kernel.constants)]
        placements = [
            [*map(tvm.runtime.tensor, inputs), tvm.runtime.empty((size,), workload.out_dtype)]
            for _ in range(_placements(sum(array.nbytes for array in inputs) + size * 4))
        ]
        return EvaluatedKernel(module, kernel.name, *placements)

    def reference(self, target: TargetProfile) -> TimedKernel:
        """A fixed kernel of around 0.3 ms that touches registers only: the same one for all targets."""
        return _reference()


class EvaluatedKernel:
    """Timed by TVM's evaluator where the module is, this process or an RPC session; adds next to nothing to a call.

    ``Module.time_evaluator`` computes statistics of its samples, which takes longer than many a kernel: this is what
    is beneath it.  ``placements``: the kernel's arguments, as often as there are copies of them in memory: samples take
    the next one in turn.  ``flush_bytes``: memory to copy in order to empty the caches of another machine; 0: of this.
    """

    def __init__(
        self,
        module: tvm.runtime.Module,
        name: str,
        *placements: list[tvm.runtime.Tensor],
        cpu: tvm.runtime.Device | None = None,
        flush_bytes: int = 0,
    ) -> None:
        self._module, self._name = module, name
        self._placements = itertools.cycle(placements)
        self._cpu = cpu or tvm.cpu()
        self._flush_bytes = flush_bytes
        self._evaluators: dict[tuple[int, bool], Callable[..., bytes]] = {}
        module.get_function(name)  # compiles to machine code, which is no part of what is timed

    def warm(self, calls: int) -> float:
        """Microseconds of one call: mean of ``calls`` calls that follow an untimed one."""
        return self._microseconds(calls, cold=False)

    def cold(self) -> float:
        """Microseconds of one call after the caches were emptied."""
        if not self._flush_bytes:
            _flush_buffer()
        return self._microseconds(1, cold=True)

    def _microseconds(self, calls: int, *, cold: bool) -> float:
        if (calls, cold) not in self._evaluators:
            evaluator = tvm_ffi.get_global_func("runtime.RPCTimeEvaluator")
            kind, index, repeats = self._cpu.dlpack_device_type(), self._cpu.index, 1
            copied, before = (self._flush_bytes, "" if self._flush_bytes else _FLUSH) if cold else (0, "")
            self._evaluators[calls, cold] = evaluator(
                self._module, self._name, kind, index, calls, repeats, 0, _ZERO_TIMES, 0, 1, copied, before
            )
        (seconds,) = struct.unpack("@d", self._evaluators[calls, cold](*next(self._placements)))
        return seconds * 1e6


def reference_kernel(target: TargetProfile) -> tuple[str, tvm.runtime.Executable, np.ndarray]:
    """Name, code and argument of a kernel of around 0.3 ms that touches registers only."""
    row = dot.candidates(target, "int16")[0]
    func = peak_function(row, _REFERENCE_MACS // peak_macs(row, 1))
    name = str(func.attrs["global_symbol"])
    executable = tvm.compile(tvm.IRModule({name: func}), target=target.tvm_target(), tir_pipeline=PIPELINE)
    return name, executable, np.arange(64, dtype=np.int32)


def flush_bytes(target: TargetProfile) -> int:
    """More memory than the caches hold."""
    return min(3 * max(target.l3_bytes, 4 * target.l2_bytes) // 2, _LARGEST_FLUSH_BYTES)


def _placements(size: int) -> int:
    """How many copies of arguments of so many bytes to time a kernel on.

    Which lines of a cache compete depends on where the memory happens to lie: a kernel that just fills one takes up to
    twice as long in one process as in the next.  Its time is the median over places.  What is far larger than a cache
    does not fit wherever it lies.
    """
    return max(1, min(_MOST_PLACEMENTS, _PLACED_BYTES // size))


@functools.cache
def _reference() -> EvaluatedKernel:
    name, executable, words = reference_kernel(profile("native"))
    return EvaluatedKernel(executable.jit(), name, [tvm.runtime.tensor(words)])


@functools.cache
def _flush_buffer() -> np.ndarray:
    return np.ones(flush_bytes(profile("native")) // 8, np.int64)


@tvm_ffi.register_global_func(_FLUSH, override=True)
def _flush_caches(*_arguments: object) -> None:
    _flush_buffer().sum()


@contextmanager
def _real_time() -> Iterator[None]:
    """Run the calling thread ahead of all ordinary ones, where that is permitted.

    A preempted sample is off by a time slice, several times what is measured, and niceness does not help against
    programs of other sessions.
    """
    try:
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except (AttributeError, PermissionError):
        yield
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


@contextmanager
def _pinned(core: int | None) -> Iterator[None]:
    """Keep the calling thread on one core, where the operating system can."""
    if core is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
