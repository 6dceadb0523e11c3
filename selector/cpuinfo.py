"""Instructions that this machine's CPU has according to Linux.  Needs nothing of TVM."""

from __future__ import annotations

import functools
import platform
from collections.abc import Iterable
from pathlib import Path

# LLVM feature -> the flag Linux shows for it
FLAGS = {
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "avx": "avx",
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512vnni": "avx512_vnni",
    "avxvnni": "avx_vnni",
    "neon": "asimd",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
}


@functools.cache
def flags() -> frozenset[str]:
    """CPU flags as Linux shows them; empty elsewhere, and under an emulator that shows the CPU it runs on."""
    field = "flags" if platform.machine() == "x86_64" else "Features"
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == field:
            return frozenset(value.split())
    return frozenset()


def lacking(features: Iterable[str]) -> list[str]:
    """Those of the LLVM features that this machine is known to lack, sorted."""
    known = flags()
    return sorted(name for name in features if known and name in FLAGS and FLAGS[name] not in known)
