"""Where and with what measurements are made."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import tvm
from tvm.target import codegen

from selector import cpuinfo
from selector.collect.record import Host
from selector.lowering.version import KERNEL_VERSION
from selector.threads import host_cores


@functools.cache
def describe_host() -> Host:
    """This machine and the software that measures on it."""
    return Host(**cpu_facts(), **builder_facts())


def cpu_facts() -> dict[str, Any]:
    """Fields of ``Host`` that tell about this machine."""
    fields = cpuinfo.fields()
    return {
        "cpu": cpuinfo.model(),
        "flags": " ".join(sorted((fields.get("flags") or fields.get("Features") or "").split())),
        "cores": host_cores(),
        "governor": _governor(),
    }


def builder_facts() -> dict[str, Any]:
    """Fields of ``Host`` that tell about the software that builds kernels."""
    return {
        "tvm": tvm.__version__,
        "llvm": str(codegen.llvm_version_major()),
        "kernels": KERNEL_VERSION,
    }


def load_average() -> float:
    """1-minute load average; 0 where the system has none."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def _governor() -> str:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:  # virtual machines hide it
        return "unknown"
