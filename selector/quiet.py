"""Keeping TVM's native code from writing to standard error what nobody can use."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

_LOCK = threading.RLock()
_SCOPE_WARNINGS = (b"Warning: Scope Saving:", b"Warning: Scope Loaded:")


def without_scope_warnings() -> AbstractContextManager[None]:
    """Drop the line that TVM writes for every constant of a library it saves or loads."""
    return without_lines(*_SCOPE_WARNINGS)


@contextmanager
def without_lines(*endings: bytes) -> Iterator[None]:
    """Drop lines of standard error that end so; all others appear at the end of the block.

    A process has one standard error: blocks of several threads take turns.
    """
    with _LOCK, tempfile.TemporaryFile() as captured:
        sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            os.write(2, b"".join(line for line in captured if not line.rstrip().endswith(endings)))
