"""A run outlives its workers, and a second run goes on where the first was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from selector.collect.campaign import Event, Progress, Settings, collect
from selector.collect.journal import StoreFull
from selector.collect.link import Link
from selector.collect.record import Measurement
from selector.collect.store import read
from tests.collect.misbehaving import (
    ALLOCATES,
    CRASHES,
    EXITS,
    GONE,
    GOOD,
    HANGS,
    NOISY,
    NOISY_ONCE,
    RAISES,
    lose_device,
    misbehave,
    task,
)
from tests.collect.rows import Rows

ROOT = Path(__file__).parents[2]


def test_what_goes_wrong_costs_one_row_each() -> None:
    """Crashed and hanging workers are replaced; noisy pairs are timed again after all others."""
    rows, events = Rows(), list[Event]()
    order = (CRASHES, NOISY_ONCE, RAISES, NOISY, HANGS, ALLOCATES, EXITS, GOOD)
    settings = Settings(workers=2, stage_seconds=1.0, memory_bytes=2 << 30)
    progress = collect([task(behaviour) for behaviour in order], rows, settings, events.append, measure=misbehave)
    found = {row.workload.out_channels: row for row in rows}
    assert len(rows) == len(found) == len(order)
    errors = {behaviour: row.error for behaviour, row in found.items() if row.status == "error"}
    assert errors == {
        CRASHES: "the process was killed by SIGSEGV",
        EXITS: "the process ended with exit code 3",
        HANGS: "building or timing took longer than 1 s",
        RAISES: "ValueError: what went wrong",
        ALLOCATES: errors[ALLOCATES],
    }
    assert "Unable to allocate 8.00 GiB" in errors[ALLOCATES]
    assert {row.status for behaviour, row in found.items() if behaviour not in errors} == {"ok", "noisy"}
    assert (found[NOISY].status, found[NOISY].attempts) == ("noisy", 3)
    assert (found[NOISY_ONCE].status, found[NOISY_ONCE].attempts) == ("ok", 2)
    assert {row.networks for row in rows} == {("net",)}
    assert len({row.run for row in rows}) == 1

    assert (progress.done, progress.total, progress.errors, progress.noisy, progress.retries) == (8, 8, 5, 1, 3)
    assert progress.int8_wins == {"1x1": (3, 3)}
    assert Counter(event.kind for event in events) == {"started": 1, "row": 3, "error": 5, "retry": 3, "finished": 1}
    assert events[0].to_dict()["total"] == 8
    retry = next(event.to_dict() for event in events if event.kind == "retry")
    assert (retry["event"], retry["status"], retry["log2_ratio"]) == ("retry", "noisy", 0.5)
    assert events[-1].to_dict()["rows_per_minute"] > 0


def test_a_device_that_goes_while_others_stay() -> None:
    """Its tasks become errors at the end, unless there is a noisy measurement."""
    rows = Rows()
    going, staying = (Link("nowhere", 1, key, wait_seconds=0) for key in ("going", "staying"))
    tasks = [replace(task(behaviour), links=(going,)) for behaviour in (NOISY, GONE)]
    tasks += [replace(task(GOOD, size), links=(staying,)) for size in (1, 2)]
    progress = collect(tasks, rows, Settings(workers=1), measure=lose_device)
    assert (progress.done, progress.retries) == (4, 1)
    found = {row.workload.out_channels: row for row in rows}
    assert [found[behaviour].status for behaviour in (GOOD, NOISY, GONE)] == ["ok", "noisy", "error"]
    assert found[NOISY].attempts == 1
    assert (found[GONE].error, found[GONE].host.device) == ("no device any more", "going")


@pytest.mark.parametrize("error", [StoreFull("no space left"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
def test_ends_early(error: BaseException) -> None:
    class Full(Rows):
        def add(self, measurement: Measurement) -> None:
            if self:
                raise error
            super().add(measurement)

    rows, tasks = Full(), [task(GOOD, size) for size in range(1, 30)]
    if isinstance(error, StoreFull):
        with pytest.raises(StoreFull):
            collect(tasks, rows, Settings(workers=1), measure=misbehave)
    else:
        progress = collect(tasks, rows, Settings(workers=1), measure=misbehave)
        assert (progress.interrupted, progress.done) == (True, 1)
    assert len(rows) == 1
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


def test_goes_on_after_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.collect.misbehaving", str(tmp_path), "12"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("row"):
                break
        workers = psutil.Process(first.pid).children()
        first.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert workers
    assert not alive

    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
    left = int(second.stdout.split()[1])
    assert 0 < left < 12
    assert second.stdout.count("row ") == left
    assert len(read(tmp_path)) == len(set(read(tmp_path)["key"])) == 12


def test_nothing_to_do() -> None:
    assert collect([], Rows()).done == 0


def test_progress() -> None:
    progress = Progress(total=4, started=time.monotonic() - 60)
    assert progress.remaining_seconds is None
    progress.done = 2
    assert progress.rows_per_minute == pytest.approx(2, rel=0.1)
    assert progress.remaining_seconds == pytest.approx(60, rel=0.1)
