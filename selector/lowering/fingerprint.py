"""A hash that changes when the code that kernels compile to can change."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import tvm


@functools.cache
def kernel_fingerprint() -> str:
    """16 hex digits over TVM's version and the sources that make kernels."""
    package = Path(__file__).parent
    sources = [*package.glob("*.py"), package.parent / "weights.py", package.parent / "workload.py"]
    digest = hashlib.sha256(tvm.__version__.encode())
    for path in sorted(sources):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
