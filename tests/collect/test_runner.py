"""One measurement on this machine: what the row says, and what is left as it was.  No test here asserts a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from selector.collect.device import LocalDevice
from selector.collect.gates import Gates
from selector.collect.host import describe_host
from selector.collect.protocol import Rules
from selector.collect.runner import About, failed, measure
from selector.target import profile
from selector.workload import ConvWorkload

WORKLOAD = ConvWorkload(1, 6, 6, 8, 8, 1, 1, out_dtype="uint8", term2=False)
QUICK = Rules(sample_us=20, min_rounds=3, min_seconds=0, max_seconds=0, cold_rounds=1)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row(tmp_path: Path, threads: int) -> None:
    cores = os.sched_getaffinity(0)
    priority = os.sched_getscheduler(0)
    device = LocalDevice(Gates(tmp_path, limit=60), core=min(cores), urgent=True)
    workload = ConvWorkload(1, 16, 16, 8, 32, 3, 3, out_dtype="uint8", term2=False, threads=threads)
    row = measure(workload, profile(), device, target_name="mine", rules=QUICK, about=About(("net",), 2, "run"))
    assert (row.workload, row.target, row.networks, row.attempts, row.run) == (workload, "mine", ("net",), 2, "run")
    assert row.status in ("ok", "noisy")
    assert row.host == describe_host()
    assert row.log2_low <= row.log2_ratio <= row.log2_high
    assert row.seconds > 0
    for name, samples in (("int8", row.int8), ("int16", row.int16)):
        assert samples.kernel.startswith(f"qconv2d_dense_{name}__")
        assert len(samples.code) == 16
        assert len(samples.warm_us) == len(row.int8.warm_us) >= QUICK.min_rounds
        assert len(samples.cold_us) == 1
        assert min(*samples.warm_us, *samples.cold_us, samples.calls) > 0
    assert min(row.reference_us) > 0
    assert os.sched_getaffinity(0) == cores
    assert os.sched_getscheduler(0) == priority


def test_the_same_code_has_the_same_hash() -> None:
    rows = [measure(WORKLOAD, profile(), rules=QUICK, seed=seed) for seed in (0, 1)]
    assert rows[0].int8.code == rows[1].int8.code != rows[0].int16.code
    assert rows[0].key == rows[1].key
    assert rows[0].id != rows[1].id
    assert (rows[0].target, rows[1].seed) == (profile().name, 1)


def test_row_of_a_failure() -> None:
    row = failed(WORKLOAD, "x86-64-v3", describe_host(), "no luck", About(attempts=3))
    assert (row.status, row.error, row.attempts, row.log2_ratio, row.int8) == ("error", "no luck", 3, None, None)


def test_host() -> None:
    host = describe_host()
    assert host.cpu
    assert host.flags.split() == sorted(host.flags.split())
    assert host.cores == len(os.sched_getaffinity(0))
    assert host.llvm.isdigit()
    assert (host.device, host.emulated) == ("local", False)


def test_gates(tmp_path: Path) -> None:
    """Builders keep off those that time kernels on several threads, and nobody else."""
    gates = Gates(tmp_path, limit=60)

    def locked(name: str, mode: int) -> bool:
        with (tmp_path / name).open("ab") as file:
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    with gates.building():
        assert locked("cores.lock", fcntl.LOCK_EX)
        assert not locked("cores.lock", fcntl.LOCK_SH)
        assert not locked("timing.lock", fcntl.LOCK_EX)
    with gates.timing(1):
        assert locked("timing.lock", fcntl.LOCK_EX)
        assert not locked("cores.lock", fcntl.LOCK_EX)
    with gates.timing(2):
        assert locked("timing.lock", fcntl.LOCK_EX)
        assert locked("cores.lock", fcntl.LOCK_SH)
    assert not locked("timing.lock", fcntl.LOCK_EX)
    assert not locked("cores.lock", fcntl.LOCK_EX)
