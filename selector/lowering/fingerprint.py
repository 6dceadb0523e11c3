"""Hashes that change when the code that kernels compile to changes, or can change."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import tvm

from selector.lowering.kernel import Kernel


@functools.cache
def kernel_fingerprint() -> str:
    """16 hex digits over TVM's version and the sources that make kernels."""
    package = Path(__file__).parent
    sources = [*package.glob("*.py"), package.parent / "weights.py", package.parent / "workload.py"]
    digest = hashlib.sha256(tvm.__version__.encode())
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code_hash(kernel: Kernel) -> str:
    """16 hex digits over the TIR of one kernel and the shapes and dtypes of its constants, not their values.

    Equal in every process and on every machine for the same kernel and version of TVM, unlike TVM's structural hash.
    """
    digest = hashlib.sha256(kernel.func.script().encode())
    for constant in kernel.constants:
        digest.update(f"\0{constant.dtype}{constant.shape}".encode())
    return digest.hexdigest()[:16]
