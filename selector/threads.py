"""The threads of a process: TVM's runtime has one pool, which all networks share."""

from __future__ import annotations

import os

from selector.ffi import tvm_ffi

_pool_threads = 0  # what the pool was last told; 0: nothing yet


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
    """Let TVM's pool have every core: its size is read once, and half of the cores is the default."""
    os.environ.setdefault("TVM_NUM_THREADS", str(host_cores()))


def use_threads(threads: int) -> None:
    """Let kernels run on this many threads of the pool.  TVM's runtime has to be loaded."""
    global _pool_threads
    if threads != _pool_threads:
        tvm_ffi.get_global_func("runtime.config_threadpool")(1, threads)
        _pool_threads = threads
