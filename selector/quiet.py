"""Keeping TVM's native code from writing to standard error what nobody can use."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_SCOPE_WARNINGS = (b"Warning: Scope Saving:", b"Warning: Scope Loaded:")


@contextmanager
def without_scope_warnings() -> Iterator[None]:
    """Drop the line that TVM writes for every constant of a library it saves or loads.

    Whatever else is written to standard error meanwhile appears at the end of the block.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(saved, 2)
            os.close(saved)
            captured.seek(0)
            os.write(2, b"".join(line for line in captured if not line.rstrip().endswith(_SCOPE_WARNINGS)))
