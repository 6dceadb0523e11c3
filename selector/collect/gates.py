"""Who may use the machine while something is timed: locks between processes, and deadlines.

The locks are ``flock`` on files, which the kernel releases when a process dies, however it dies.
"""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path


class Gates:
    """Locks in ``folder``, which all processes of a run share.

    A process that is inside a gate for more than ``limit`` seconds is killed by SIGALRM, native code or not: a kernel
    that never returns holds up neither its own process nor those that wait for it.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self._timing = folder / "timing.lock"
        self._cores = folder / "cores.lock"
        self._limit = limit

    @contextmanager
    def building(self) -> Iterator[None]:
        """Held while a kernel is built: any number of processes at a time."""
        with locked(self._cores, fcntl.LOCK_SH), deadline(self._limit):
            yield

    @contextmanager
    def timing(self, threads: int) -> Iterator[None]:
        """Held while kernels are timed: one process at a time, and no other one builds if they use several threads.

        Builders hold no gate while they wait for this one, so they neither block it for ever nor each other.
        """
        others = locked(self._cores, fcntl.LOCK_EX) if threads > 1 else nullcontext()
        with locked(self._timing, fcntl.LOCK_EX), others, deadline(self._limit):
            yield


@contextmanager
def locked(path: Path, mode: int) -> Iterator[None]:
    """Hold ``fcntl.LOCK_SH`` or ``fcntl.LOCK_EX`` on a file, which is made if it is missing."""
    with path.open("ab") as file:
        fcntl.flock(file, mode)
        yield  # closing the file releases the lock


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Let SIGALRM kill the process if the block takes longer."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
