"""Linkers: what makes a shared library of compiled object files, for this machine or for another architecture."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvm.target import codegen

from selector.target import TargetLike, resolve

NATIVE = ("g++", "gcc", "clang++", "clang", "c++", "cc")  # tried in this order, as TVM does
_SECONDS = 60


class LinkerNotFound(ValueError):
    """There is no linker for the target; the message says what was looked for and what to install."""


class LinkFailed(RuntimeError):
    """The linker did not make a library; the message is its first line."""


@dataclass(frozen=True, slots=True)
class Linker:
    """A compiler driver that links for one triple; TVM's ``export_library`` takes it as ``fcompile``."""

    command: tuple[str, ...]  # e.g. ("clang", "--target=aarch64-linux-gnu")
    triple: str

    def __call__(self, output: str, objects: Sequence[str], **_: Any) -> None:
        """Link object files into the shared library ``output``.  Raises LinkFailed."""
        # LLVM's symbols can be as large as the weights; Apple's linker wants to be told that symbols come at run time
        options = ["-Wl,-s"] if "linux" in self.triple else []
        options += ["-undefined", "dynamic_lookup"] if "darwin" in self.triple else []
        error = _run([*self.command, "-shared", "-fPIC", *options, "-o", output, *objects])
        if error:
            raise LinkFailed(f"'{shlex.join(self.command)}' did not link for {self.triple}: {error}")

    def get_target_triple(self) -> str:
        """What TVM compiles the constants of a network without kernels for."""
        return self.triple


def find_linker(target: TargetLike = "native", command: str | None = None) -> Linker:
    """The linker for a target: ``command`` (split as a shell does), or the first usable one on the PATH.

    For this machine's architecture that is ``CXX``, ``CC`` or one of NATIVE; for another, the cross compilers as Debian
    names them (``aarch64-linux-gnu-g++``) or Clang, where it has the libraries to link with.
    Raises LinkerNotFound, and UnknownTarget for a target that is none.
    """
    triple = str(resolve(target).attrs.get("mtriple") or codegen.llvm_get_system_triple())
    if command is not None:
        words = tuple(shlex.split(command))
        if not words or shutil.which(words[0]) is None:
            raise LinkerNotFound(f"there is no linker '{command}': give a compiler on the PATH, or a path to one")
        return Linker(words, triple)
    if _system(triple) == _system(codegen.llvm_get_system_triple()):
        return Linker(_native(), triple)
    candidates = _candidates(triple)
    for words in candidates:
        if _links(words):
            return Linker(words, triple)
    names = ", ".join(f"'{shlex.join(words)}'" for words in candidates)
    raise LinkerNotFound(
        f"no linker for {triple}: looked for {names}; install one (Debian: apt-get install {_package(triple)}), "
        "or give another with --linker"
    )


def _native() -> tuple[str, ...]:
    chosen = os.environ.get("CXX") or os.environ.get("CC")
    if chosen:
        return tuple(shlex.split(chosen))
    for name in NATIVE:
        if shutil.which(name):
            return (name,)
    raise LinkerNotFound(
        f"writing a library needs a C++ compiler to link it: none of {', '.join(NATIVE)} is here; install one (Debian: "
        "apt-get install g++), or give another with --linker"
    )


def _system(triple: str) -> tuple[str, str]:
    """Architecture and operating system of a triple, the vendor left out."""
    arch, *rest = triple.split("-")
    return arch, next((part for part in rest if part.startswith(("linux", "darwin", "macos", "windows"))), "none")


def _gnu(triple: str) -> str:
    """The triple without its vendor, as cross compilers are called: aarch64-linux-gnu."""
    parts = triple.split("-")
    return "-".join([parts[0], *parts[2:]] if len(parts) == 4 else parts)


def _package(triple: str) -> str:
    return f"g++-{_gnu(triple).replace('_', '-')}"


def _candidates(triple: str) -> list[tuple[str, ...]]:
    prefixes = dict.fromkeys((_gnu(triple), triple))
    crosses = [(f"{prefix}-{driver}",) for prefix in prefixes for driver in ("g++", "gcc")]
    return [*crosses, ("clang", f"--target={triple}")]


def _links(command: tuple[str, ...]) -> bool:
    """Whether the command is there and links an empty library: Clang, and GCC without a C library, may be unable to."""
    if shutil.which(command[0]) is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder) / "empty.so")
        return not _run([*command, "-shared", "-fPIC", "-x", "assembler", os.devnull, "-o", output])


def _run(command: Sequence[str]) -> str:
    """The first line of a failed command's complaint; empty: it succeeded."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    return lines[0] if lines else f"exit code {done.returncode}"
