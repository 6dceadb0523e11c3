"""Kernels for AArch64 on a machine that is none: cross-compiled, linked into one library, run by QEMU's user emulation.

Emulated times mean nothing; results do.  QEMU traps instructions that the CPU does not have.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi.libinfo

# LLVM's cpu name -> QEMU's; the last one stands for every CPU with i8mm, QEMU 7 knows no real one.
CPUS = {"cortex-a53": "cortex-a53", "cortex-a72": "cortex-a72", "neoverse-n1": "neoverse-n1", "neoverse-v1": "max"}

_COMPILER = "aarch64-linux-gnu-gcc"
_EMULATOR = "qemu-aarch64"
_SYSTEM = "/usr/aarch64-linux-gnu"  # where Debian's cross compiler keeps the C library
_SECONDS = 120
_CODES = {"i": 0, "u": 1, "f": 2}  # numpy kind -> DLPack type code


def why_not() -> str | None:
    """Why kernels for AArch64 cannot be emulated here; None if they can."""
    missing = [tool for tool in (_COMPILER, _EMULATOR) if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} not found: apt-get install g++-aarch64-linux-gnu qemu-user"
    return None


def run(executable: Any, calls: Sequence[tuple[str, Sequence[np.ndarray], np.ndarray]], cpu: str) -> list[np.ndarray]:
    """Outputs of ``calls``, (function, flat inputs, array like the output), in one process on the LLVM cpu ``cpu``.

    Fails if a call faults, or writes or reads beyond the cache line in which an array ends.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        executable.export_library(str(folder / "kernels.so"), fcompile=_link)
        with (folder / "cases").open("wb") as file:
            for function, inputs, output in calls:
                _write(file, function, [*inputs, output])
        command = [_EMULATOR, "-cpu", CPUS[cpu], "-L", _SYSTEM, str(_runner()), "./kernels.so", "cases", "outputs"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert done.returncode == 0, f"kernels for {cpu} under {_EMULATOR}: exit code {done.returncode}: {done.stderr}"
        content = (folder / "outputs").read_bytes()
    assert len(content) == sum(output.nbytes for _, _, output in calls)
    return list(_split(content, [output for _, _, output in calls]))


def _write(file: Any, function: str, arrays: Sequence[np.ndarray]) -> None:
    """One record, as run_cases.c reads it."""
    file.write(struct.pack("<i", len(function)) + function.encode() + struct.pack("<i", len(arrays)))
    for array in arrays:
        file.write(struct.pack("<iiq", _CODES[array.dtype.kind], array.dtype.itemsize * 8, array.size))
    for array in arrays[:-1]:
        file.write(np.ascontiguousarray(array).tobytes())


def _split(content: bytes, like: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    start = 0
    for array in like:
        yield np.frombuffer(content, array.dtype, array.size, start).reshape(array.shape)
        start += array.nbytes


def _link(output: str, objects: Sequence[str], **_: Any) -> None:
    _compile("-shared", "-o", output, *objects)


@functools.cache
def _runner() -> Path:
    """The program that calls the kernels; it goes when this process ends."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    source = Path(__file__).parent / "aarch64" / "run_cases.c"
    includes = {tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()}
    _compile("-O1", "-rdynamic", *[f"-I{path}" for path in includes], "-o", str(folder / "run"), str(source), "-ldl")
    return folder / "run"


def _compile(*arguments: str) -> None:
    done = subprocess.run([_COMPILER, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
