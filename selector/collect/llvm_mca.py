"""Throughput of loops from LLVM's scheduling models: assembly in, multiply-accumulates a cycle out.

``llvm-mca`` simulates a CPU's ports and latencies with every load a hit in L1.  It knows nothing of branches, caches or
frequencies.
"""

from __future__ import annotations

import functools
import math
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ITERATIONS = (100, 300)  # the difference is the steady state
_SECONDS = 60

# Instructions that multiply, in groups; the first group that a loop has is the one that counts, because the others only
# add up its products.  x86: mnemonic and bits of an element; a register has as many products as elements.
_X86_PRODUCTS = (
    (("vpdpbusd", 8),),
    (("pmaddubsw", 8),),
    (("pmaddwd", 16), ("vpdpwssd", 16)),  # LLVM fuses pmaddwd with its addition where the CPU has vpdpwssd
)
_X86_BITS = {"x": 128, "y": 256, "z": 512}
_ARM_PRODUCTS = (  # pattern and products of a lane of the result
    ((r"(?:[su]|us)mmla", 8),),
    ((r"(?:[su]|us|su)dot", 4),),
    ((r"[su]ml[as]l2?|[su]mull2?|ml[as]|mul", 1),),
)
# What LLVM's models get wrong, as measured on the CPUs themselves.
#
# A broadcast of four or eight bytes from memory is made by the load unit, of Intel's cores and AMD's alike; the models
# of Zen charge a shuffle as well.  On a Zen 3, two vpshufb and two vpbroadcastd from memory take one cycle, as do two
# vpshufb alone.
_BROADCAST = re.compile(r"v(?:p?broadcast(?:[dq]|s[sd]))\s+(\S*\(\S*\)), (%[xyz]mm\d+)$")
# Vector instructions that a core does in a cycle, where a model has every pipe busy in each of them.  A Zen 3 has four
# pipes; loops that multiply and accumulate in registers do 3.05 (pmaddwd), 2.9 (pmaddubsw) and 2.85 (psign, quad).
_SUSTAINED = {"znver3": 2.9}
_VECTOR = re.compile(r"(?!v?mov|vp?broadcast)[a-z]\w*\s.*%[xyz]mm\d+$")  # neither loads nor copies, which renaming does

_COPY = re.compile(r"(?:v?mov(?:dqa|dqu|ap[sd]|up[sd])\w*\s+%[xyz]mm\d+, %|f?mov\s+[dv]\d+[.\w]*, [dv]\d)")
_JUMP = re.compile(r"\s+(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\s+(?:\S+,\s*)*(\.LBB\w+)")


class ModelUnavailable(ValueError):
    """A CPU cannot be modelled here; the message says what is missing and what to do."""


@dataclass(frozen=True, slots=True)
class Mca:
    """The tool, and how to call it for one CPU."""

    path: str
    version: str
    triple: str
    cpu: str  # whose scheduling model
    features: tuple[str, ...] = ()  # LLVM features that the loops need and the modelled CPU may lack

    def cycles(self, loop: list[str]) -> float:
        """Cycles of one iteration in the steady state.  Raises ModelUnavailable for an instruction without a model."""
        first, second = (self._total_cycles(loop, iterations) for iterations in _ITERATIONS)
        simulated = (second - first) / (_ITERATIONS[1] - _ITERATIONS[0])
        vector = sum(_VECTOR.match(line) is not None for line in loop)
        return max(simulated, vector / _SUSTAINED.get(self.cpu, math.inf))

    def check(self) -> None:
        """Raises ModelUnavailable if the tool does not know the CPU."""
        self._total_cycles(["nop"], 1)

    def _total_cycles(self, loop: list[str], iterations: int) -> int:
        command = [self.path, f"-mtriple={self.triple}", f"-mcpu={self.cpu}", f"-iterations={iterations}"]
        command += ["-instruction-info=0", "-resource-pressure=0"]
        command += ["-mattr=" + ",".join(f"+{feature}" for feature in self.features)] if self.features else []
        text = "\n".join(_BROADCAST.sub(r"vmovups \1, \2", line) for line in loop) + "\n"
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ModelUnavailable(f"{self.path} cannot be run: {error}") from None
        if "is not a recognized processor" in done.stderr:
            raise ModelUnavailable(
                f"llvm-mca {self.version} does not know '{self.cpu}': install a newer LLVM, or give the name of a "
                "similar CPU with --like"
            )
        found = re.search(r"^Total Cycles:\s+(\d+)", done.stdout, re.MULTILINE)
        if done.returncode or found is None:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or ["no cycles in its output"]
            raise ModelUnavailable(f"llvm-mca {self.version} cannot model '{self.cpu}': {errors[0].strip()}")
        return int(found[1])


def find_mca(triple: str, cpu: str, features: tuple[str, ...] = (), path: Path | None = None) -> Mca:
    """The newest llvm-mca in the search path, or the one given, checked to know the CPU.  Raises ModelUnavailable."""
    if path is None:
        names = ["llvm-mca", *(f"llvm-mca-{version}" for version in range(14, 40))]
        found = [(name, _version(name)) for where in names if (name := shutil.which(where))]
    else:
        found = [(str(path), _version(str(path)))]
    known = [item for item in found if item[1]]
    if not known:
        where = "in the search path" if path is None else f"at {path}"
        raise ModelUnavailable(f"modelling needs llvm-mca, which is not {where}: install the package llvm")
    name, version = max(known, key=lambda item: tuple(map(int, item[1].split("."))))
    mca = Mca(name, version, triple, cpu, features)
    mca.check()
    return mca


def hottest_loop(assembly: str) -> tuple[list[str], int]:
    """The innermost loop with the most multiply-accumulates, and their number; raises ModelUnavailable without one."""
    found = [(body, _macs(body)) for body in innermost_loops(assembly)]
    loop, macs = max(found, key=lambda item: item[1], default=([], 0))
    if not macs:
        raise ModelUnavailable("the kernel has no loop whose products Selector can count")
    return loop, macs


def without_copies(loop: list[str]) -> list[str]:
    """The loop without copies of vector registers."""
    return [line for line in loop if not _COPY.match(line)]


def innermost_loops(assembly: str) -> list[list[str]]:
    """Bodies of loops without loops in them, instructions only; what jumps back comes last."""
    lines = assembly.splitlines()
    labels = {match[1]: i for i, line in enumerate(lines) if (match := re.match(r"(\.LBB\w+):", line))}
    bodies = []
    for i, line in enumerate(lines):
        jump = _JUMP.match(line)
        start = labels.get(jump[1], len(lines)) if jump else len(lines)
        body = lines[start + 1 : i + 1]
        if start < i and not any(label.startswith(".LBB") for label in body):
            bodies.append([text.strip() for text in body if re.match(r"\s+[a-z{]", text)])
    return bodies


def _macs(loop: list[str]) -> int:
    """Multiply-accumulates of one iteration."""
    for x86 in _X86_PRODUCTS:
        if macs := sum(_x86_products(text, *kind) for text in loop for kind in x86):
            return macs
    for arm in _ARM_PRODUCTS:
        if macs := sum(_arm_products(text, *kind) for text in loop for kind in arm):
            return macs
    return 0


def _x86_products(text: str, mnemonic: str, bits: int) -> int:
    match = re.match(rf"(?:{{\w+}}\s+)?v?{mnemonic}\s.*%([xyz])mm\d+$", text)
    return _X86_BITS[match[1]] // bits if match else 0


def _arm_products(text: str, pattern: str, each: int) -> int:
    match = re.match(rf"(?:{pattern})\s+v\d+\.(\d+)\w,", text)
    return int(match[1]) * each if match else 0


@functools.cache
def _version(path: str) -> str:
    """Version of an llvm-mca, e.g. "22.1.8"; empty: it is none."""
    try:
        text = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"LLVM version (\d+(?:\.\d+)*)", text)
    return found[1] if found else ""
