"""Settings that every test needs before TVM starts, and the property tests' profile."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# TVM pins its threads, the main one included, to the first cores: parallel test workers would share one core.
os.environ.setdefault("TVM_BIND_THREADS", "0")
# Its workers wait in a loop for a millisecond before they sleep, which costs the other test workers a core.
os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "1")

# Compiling a kernel takes as long as it takes; a failure on a continuous integration machine must be repeatable.
settings.register_profile(
    "selector",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("selector")


def pytest_xdist_auto_num_workers() -> int:
    """Workers of ``-n auto``: one more than there are CPUs, since many tests wait for a process or a device."""
    from selector.threads import host_cores

    return host_cores() + 1
