"""Whole networks on AArch64 on a machine that is none: TVM's runtime for AArch64, run by QEMU's user emulation.

The runtime comes out of the wheels that a device installs; no Python runs under emulation.
"""

from __future__ import annotations

import fcntl
import functools
import importlib.metadata
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tvm_ffi.libinfo

from selector.data import cache_folder
from tests.lowering.emulate import CPUS

_COMPILERS = {".c": ("aarch64-linux-gnu-gcc",), ".cc": ("aarch64-linux-gnu-g++", "-std=c++17")}
_EMULATOR = "qemu-aarch64"
_SYSTEM = "/usr/aarch64-linux-gnu"  # where Debian's cross compiler keeps the C library
_PACKAGES = ("apache-tvm", "apache-tvm-ffi")
_LIBRARIES = ("libtvm_runtime.so", "libtvm_ffi.so")
_PLATFORM = "manylinux_2_28_aarch64"
_SECONDS = 600
_KINDS = "iuf"  # numpy kinds, at the place of their DLPack type code


class Unavailable(Exception):
    """What emulation needs is not here; the message says what."""


def run(library: Path, inputs: Sequence[np.ndarray], cpu: str, threads: int = 2) -> list[np.ndarray]:
    """Outputs of a compiled network on the LLVM cpu ``cpu``.  Raises Unavailable."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inputs").write_bytes(b"".join(map(_packed, inputs)))
        files = [library.resolve(), threads, folder / "inputs", folder / "outputs"]
        command = list(map(str, [*emulator(cpu), runner(), *files]))
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        assert done.returncode == 0, f"{library.name} under {_EMULATOR}: exit code {done.returncode}: {done.stderr}"
        return _unpacked((folder / "outputs").read_bytes())


def emulator(cpu: str) -> list[str]:
    """Command to put before a program for AArch64, so that it runs on the LLVM cpu ``cpu``."""
    return [_EMULATOR, "-cpu", CPUS[cpu], "-L", _SYSTEM]


def runner() -> Path:
    """The program that runs a network.  Raises Unavailable."""
    return build(Path(__file__).parent / "aarch64" / "run_network.c")


@functools.cache
def build(source: Path) -> Path:
    """A program in C or C++ that uses TVM's runtime, beside the libraries it needs.  Raises Unavailable."""
    compiler = _COMPILERS[source.suffix]
    missing = [tool for tool in (compiler[0], _EMULATOR) if shutil.which(tool) is None]
    if missing:
        raise Unavailable(f"{' and '.join(missing)} not found: apt-get install g++-aarch64-linux-gnu qemu-user")
    folder = _runtime()
    includes = {tvm_ffi.libinfo.find_include_path(), tvm_ffi.libinfo.find_dlpack_include_path()}
    program = folder / f"{source.stem}.{os.getpid()}"
    libraries = [f"-L{folder}", "-Wl,--no-as-needed", "-ltvm_runtime", "-ltvm_ffi", "-ldl", "-Wl,-rpath,$ORIGIN"]
    command = [*compiler, "-O1", *[f"-I{path}" for path in includes], "-o", str(program), str(source), *libraries]
    subprocess.run(command, check=True, timeout=_SECONDS)
    return program.rename(folder / source.stem)


def _runtime() -> Path:
    """Folder of TVM's runtime libraries for AArch64, kept between runs.  Raises Unavailable."""
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in _PACKAGES]
    folder = cache_folder() / "tests" / " ".join([_PLATFORM, *versions]).replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock, tempfile.TemporaryDirectory(dir=folder) as wheels:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in parallel processes
        if not all((folder / name).exists() for name in _LIBRARIES):
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            command = [*pip, "--platform", _PLATFORM, "--dest", wheels, *versions]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
            if done.returncode:
                raise Unavailable(f"cannot download {' and '.join(versions)} for {_PLATFORM}: {done.stderr.strip()}")
            for wheel in Path(wheels).glob("*.whl"):
                _extract(wheel, folder)
    return folder


def _extract(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            library = Path(name).name
            if library in _LIBRARIES:
                partial = folder / f"{library}.partial"
                partial.write_bytes(archive.read(name))
                partial.rename(folder / library)


def _packed(array: np.ndarray) -> bytes:
    """One record, as run_network.c reads it."""
    head = struct.pack("<iii", _KINDS.index(array.dtype.kind), array.dtype.itemsize * 8, array.ndim)
    return head + struct.pack(f"<{array.ndim}q", *array.shape) + array.tobytes()


def _unpacked(content: bytes) -> list[np.ndarray]:
    arrays, start = [], 0
    while start < len(content):
        kind, bits, ndim = struct.unpack_from("<iii", content, start)
        shape = struct.unpack_from(f"<{ndim}q", content, start + 12)
        array = np.ndarray(shape, f"{_KINDS[kind]}{bits // 8}", content, start + 12 + 8 * ndim)
        arrays.append(array)
        start += 12 + 8 * ndim + array.nbytes
    return arrays
