"""What Linux says of this machine's CPU, its instructions above all.  Needs nothing of TVM."""

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
    "avx512cd": "avx512cd",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
    "avxvnni": "avx_vnni",
    "amx-tile": "amx_tile",
    "amx-int8": "amx_int8",
    "amx-bf16": "amx_bf16",
    "neon": "asimd",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
}


@functools.cache
def flags() -> frozenset[str]:
    """CPU flags as Linux shows them; empty elsewhere, and under an emulator that shows the CPU it runs on."""
    return frozenset(fields().get("flags" if platform.machine() == "x86_64" else "Features", "").split())


def model() -> str:
    """Name of the CPU as the operating system shows it, on x86 with its family and model numbers.

    Hypervisors shorten names: "AMD EPYC" may be any generation, and the numbers tell them apart.
    """
    known = fields()
    name = known.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{part} {known[key]}" for part, key in (("family", "cpu family"), ("model", "model")) if key in known]
    return f"{name} ({', '.join(numbers)})" if numbers else name


@functools.cache
def fields() -> dict[str, str]:
    """What Linux tells about the first CPU; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = text.split("\n\n", maxsplit=1)[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def lacking(features: Iterable[str]) -> list[str]:
    """Those of the LLVM features that this machine is known to lack, sorted."""
    known = flags()
    return sorted(name for name in features if known and name in FLAGS and FLAGS[name] not in known)
