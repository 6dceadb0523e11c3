"""Where and with what measurements are made."""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen

from selector.collect.record import Host
from selector.lowering.fingerprint import kernel_fingerprint
from selector.threads import host_cores


@functools.cache
def describe_host() -> Host:
    """This machine and the software that measures on it."""
    return Host(**cpu_facts(), **builder_facts())


def cpu_facts() -> dict[str, Any]:
    """Fields of ``Host`` that tell about this machine."""
    cpuinfo = _cpuinfo()
    return {
        "cpu": cpuinfo.get("model name") or platform.processor() or platform.machine(),
        "flags": " ".join(sorted((cpuinfo.get("flags") or cpuinfo.get("Features") or "").split())),
        "cores": host_cores(),
        "governor": _governor(),
    }


def builder_facts() -> dict[str, Any]:
    """Fields of ``Host`` that tell about the software that builds kernels."""
    return {
        "tvm": tvm.__version__,
        "llvm": str(codegen.llvm_version_major()),
        "fingerprint": kernel_fingerprint(),
    }


def load_average() -> float:
    """1-minute load average; 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _cpuinfo() -> dict[str, str]:
    """Fields of the first CPU, as Linux shows them; empty elsewhere."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = text.split("\n\n", maxsplit=1)[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:  # virtual machines hide it
        return "unknown"
