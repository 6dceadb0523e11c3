"""Compiling kernels and running them in memory that shows every access out of bounds."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm

from selector import peers, target
from selector.lowering import Kernel, pipeline
from selector.lowering.reference import convolve
from selector.target import TargetProfile
from tests.lowering import emulate
from tests.lowering.cases import Case

os.environ.setdefault("TVM_NUM_THREADS", "2")  # so that parallel kernels have more than one worker

X86 = target.profile("native").arch == "x86_64"
PORTABLE = "portable"  # native code without the CPU's own dot instructions
EMULATED = tuple(emulate.CPUS)
LEVELS = ("native", *(("x86-64", "x86-64-v2", "x86-64-v3") if X86 else ()), PORTABLE)
FOREIGN = ("skylake-avx512", "cascadelake", "alderlake") if X86 else ()  # AVX-512BW, AVX-512 VNNI, AVX-VNNI
Call = tuple[str, Sequence[np.ndarray], np.ndarray]  # function, inputs, an array like the output
_LINE = 64  # bytes: what TVM aligns tensors to; reading the rest of a line cannot fault
_SENTINEL = 0xA5


def profile(name: str) -> TargetProfile:
    """Profile of an LLVM cpu name, of ``native``, or of PORTABLE."""
    if name != PORTABLE:
        return target.profile(name)
    return replace(target.profile("native"), arch="portable", features=frozenset(), vector_bits=128)


def cpu(name: str) -> tvm.target.Target:
    """The target that TVM compiles for."""
    return target.resolve("native" if name == PORTABLE else name)


def why_not_runnable(name: str) -> str | None:
    """Why code for the target can neither run nor be emulated here; None if it can."""
    if name in EMULATED:
        return emulate.why_not()
    try:
        peers.require_runnable(cpu(name))
    except peers.PeerUnavailable as error:
        return str(error)
    return None


HERE = tuple(name for name in (*LEVELS, *FOREIGN) if why_not_runnable(name) is None)  # run without an emulator


def require_runnable(name: str) -> None:
    """Skip the test if code for the target cannot run here."""
    reason = why_not_runnable(name)
    if reason:
        pytest.skip(reason)


def compile_kernels(kernels: Sequence[Kernel], target_name: str) -> Any:
    """One executable with the kernels as functions ``k0``, ``k1``, ..."""
    functions = {f"k{i}": kernel.func.with_attr("global_symbol", f"k{i}") for i, kernel in enumerate(kernels)}
    return tvm.compile(tvm.IRModule(functions), target=cpu(target_name), tir_pipeline=pipeline.NAME)


def assembly(executable: Any) -> str:
    """What LLVM made of it."""
    return str(executable.mod.inspect_source("asm"))


def run(executable: Any, index: int, kernel: Kernel, case: Case) -> np.ndarray:
    """Output (N, OH, OW, O) of function ``k<index>``; fails if it wrote next to its output."""
    return _call_here(executable, *_call(index, kernel, case))


def check(kernels: Sequence[Kernel], case: Case, target_name: str) -> None:
    """Compile and run kernels of one case, and compare each with the reference, bit for bit."""
    executable = compile_kernels(kernels, target_name)
    expected = convolve(case.workload, case.constants, case.data)
    for i, kernel in enumerate(kernels):
        found = run(executable, i, kernel, case)
        np.testing.assert_array_equal(found, expected, err_msg=f"{kernel.name} on {target_name}", strict=True)


def run_all(executable: Any, kernels: Sequence[Kernel], cases: Sequence[Case], target_name: str) -> list[np.ndarray]:
    """Outputs of all functions of ``compile_kernels``, one case each, emulated where the target is."""
    calls = [_call(i, *pair) for i, pair in enumerate(zip(kernels, cases, strict=True))]
    return call_all(executable, calls, target_name)


def call_all(executable: Any, calls: Sequence[Call], target_name: str) -> list[np.ndarray]:
    """Outputs of ``calls``, emulated where the target is."""
    if target_name in EMULATED:
        return emulate.run(executable, calls, target_name)
    return [_call_here(executable, *call) for call in calls]


def _call(index: int, kernel: Kernel, case: Case) -> Call:
    work = case.workload
    shape = (work.batch, work.out_height, work.out_width, work.out_channels)
    return f"k{index}", [case.data, *kernel.constants], np.empty(shape, work.out_dtype)


def _call_here(executable: Any, function: str, inputs: Sequence[np.ndarray], like: np.ndarray) -> np.ndarray:
    blocks = [_Guarded.of(array.reshape(-1)) for array in inputs]
    out = _Guarded(like.size, like.dtype)
    executable[function](*[tvm.runtime.from_dlpack(block.array) for block in (*blocks, out)])
    assert out.intact(), f"{function} wrote outside of its output"
    for block in blocks:
        assert block.intact()
    return out.array.reshape(like.shape).copy()


class _Guarded:
    """An array that ends (up to the cache line) at a page which must not be touched."""

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        nbytes = size * dtype.itemsize
        room = -(-nbytes // _LINE) * _LINE
        pages = -(-room // mmap.PAGESIZE)
        usable = pages * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, usable + mmap.PAGESIZE)
        everything = np.frombuffer(self._memory, np.uint8)
        if sys.platform == "linux":
            address = ctypes.c_void_p(everything.ctypes.data + usable)
            assert ctypes.CDLL(None).mprotect(address, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        start = usable - room
        everything[:usable] = _SENTINEL
        self._outside = (everything[:start], everything[start + nbytes : usable])
        self.array = everything[start : start + nbytes].view(dtype)

    @classmethod
    def of(cls, array: np.ndarray) -> _Guarded:
        """A guarded copy."""
        block = cls(array.size, array.dtype)
        block.array[:] = array
        return block

    def intact(self) -> bool:
        """Whether nothing was written beside the array."""
        return all((part == _SENTINEL).all() for part in self._outside)
