"""The threads that kernels run on: TVM's runtime has a pool of workers for each thread that calls it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from selector.ffi import tvm_ffi

Result = TypeVar("Result")


class _Caller(threading.local):
    """What this module knows about the calling thread."""

    workers = 0  # what its pool was last told; 0: nothing yet
    forked = False  # whether its pool's workers stayed behind in a fork


_caller = _Caller()
_others: ThreadPoolExecutor | None = None  # threads that were started after the fork


def host_cores() -> int:
    """CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share_process(threads: int) -> None:
    """Set TVM's thread pool to ``threads`` and keep it from pinning threads, which would slow down every other runtime.

    Only the first parallel kernel of a process reads these settings: call it before.
    """
    os.environ["TVM_NUM_THREADS"] = str(threads)
    os.environ["TVM_BIND_THREADS"] = "0"


def start_pool() -> None:
    """Let TVM's pool have every core, and its workers run on any: half of the cores, each pinned, is the default.

    Both are read once.  Pinned workers of several pools, one for each thread that calls, would share a core.
    """
    os.environ.setdefault("TVM_NUM_THREADS", str(host_cores()))
    os.environ.setdefault("TVM_BIND_THREADS", "0")


def use_threads(threads: int) -> None:
    """Let kernels that this thread calls run on so many threads.  TVM's runtime has to be loaded."""
    if threads != _caller.workers:
        tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)
        _caller.workers = threads


def with_threads(threads: int, call: Callable[..., Result], *args: Any) -> Result:
    """``call(*args)`` with kernels on so many threads.

    In another thread where a fork has left this one's workers behind: they would be waited for, for ever.
    """
    if not _caller.forked:
        use_threads(threads)
        return call(*args)
    global _others
    if _others is None:
        _others = ThreadPoolExecutor(thread_name_prefix="selector")

    def there() -> Result:
        use_threads(threads)
        return call(*args)

    return _others.submit(there).result()


def _after_fork_in_child() -> None:
    global _others
    _others = None
    _caller.forked = _caller.forked or _caller.workers > 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
