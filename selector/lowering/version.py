"""The number of the kernels, and the hash of one kernel's code that guards it."""

from __future__ import annotations

import hashlib

from selector.lowering.kernel import Kernel

# Raise it when a change makes other code of a kernel: ``tests/golden`` holds hashes and says when.  Rows of a dataset
# have the number that they were measured with; ``selector collect renumber`` carries over those whose code is the same.
KERNEL_VERSION = 1


def code_hash(kernel: Kernel) -> str:
    """16 hex digits over the TIR of one kernel and the shapes and dtypes of its constants, not their values.

    Equal in every process and on every machine for the same kernel and version of TVM, unlike TVM's structural hash.
    """
    digest = hashlib.sha256(kernel.func.script().encode())
    for constant in kernel.constants:
        digest.update(f"\0{constant.dtype}{constant.shape}".encode())
    return digest.hexdigest()[:16]
