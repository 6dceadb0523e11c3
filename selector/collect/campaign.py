"""A collection run: hands tasks to worker processes, and outlives whatever happens to them."""

from __future__ import annotations

import multiprocessing
import signal
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from pebble import ProcessExpired, ProcessPool

from selector.collect import worker
from selector.collect.host import describe_host
from selector.collect.link import DeviceLost, Link, NoDevice, unknown_host
from selector.collect.protocol import Rules
from selector.collect.record import Measurement
from selector.collect.runner import About, failed
from selector.collect.worker import Task, WorkerSettings
from selector.threads import host_cores
from selector.workload import ConvWorkload

_TASKS_OF_A_PROCESS = 1000  # then it is replaced, so that what leaks in it is returned
_USELESS_POOLS = 3  # in a row that finished no task: then the run is given up
EventKind = Literal["started", "row", "retry", "error", "finished"]


class CollectionStopped(RuntimeError):
    """Workers or devices do not answer any more; what was measured is stored."""


class Sink(Protocol):
    """Where finished rows go: ``selector.collect.store.Store``."""

    def add(self, measurement: Measurement) -> None:
        """Keep a row; it is durable when this returns."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is carried out."""

    rules: Rules = field(default_factory=Rules)
    workers: int | None = None  # processes; None: one for each CPU
    attempts: int = 3  # to time a pair before its row is marked "noisy"
    stage_seconds: float = 60.0  # longest time that building a pair may take, and timing it
    memory_bytes: int = 4 << 30  # of a worker, on top of what TVM itself needs
    debug: bool = False


@dataclass(slots=True)
class Progress:
    """Where a run stands."""

    total: int  # tasks
    done: int = 0  # rows stored, whatever their status
    noisy: int = 0  # of those, with status "noisy"
    errors: int = 0  # of those, with status "error"
    retries: int = 0
    int8_wins: dict[str, tuple[int, int]] = field(default_factory=dict)  # kind -> pairs where int8 is faster, pairs
    started: float = field(default_factory=time.monotonic)
    interrupted: bool = False

    @property
    def seconds(self) -> float:
        """Since the start of the run."""
        return time.monotonic() - self.started

    @property
    def rows_per_minute(self) -> float:
        """Of the run so far, its start-up included."""
        return 60 * self.done / max(self.seconds, 1e-9)

    @property
    def remaining_seconds(self) -> float | None:
        """At the rate so far; None before the first row."""
        return (self.total - self.done) * self.seconds / self.done if self.done else None

    def count(self, row: Measurement) -> None:
        """Take a finished row into account."""
        self.done += 1
        self.noisy += row.status == "noisy"
        self.errors += row.status == "error"
        if row.log2_ratio is not None:
            wins, pairs = self.int8_wins.get(row.workload.kind, (0, 0))
            self.int8_wins[row.workload.kind] = (wins + (row.log2_ratio > 0), pairs + 1)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "total": self.total,
            "done": self.done,
            "noisy": self.noisy,
            "errors": self.errors,
            "retries": self.retries,
            "seconds": round(self.seconds, 3),
            "rows_per_minute": round(self.rows_per_minute, 1),
            "remaining_seconds": self.remaining_seconds,
            "int8_wins": {kind: {"int8": wins, "pairs": pairs} for kind, (wins, pairs) in self.int8_wins.items()},
        }


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened in a run."""

    kind: EventKind
    progress: Progress
    row: Measurement | None = None  # of "row", "retry" and "error"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        if self.row is None:
            more: dict[str, Any] = self.progress.to_dict()
            if self.kind == "finished":
                more["interrupted"] = self.progress.interrupted
        else:
            more = {"done": self.progress.done, "total": self.progress.total} | _row_dict(self.row)
        return {"event": self.kind} | more


def collect(
    tasks: Iterable[Task],
    sink: Sink,
    settings: Settings | None = None,
    listen: Callable[[Event], None] = lambda _: None,
    *,
    measure: Callable[[Task], Measurement] = worker.measure_task,
) -> Progress:
    """Measure all tasks in worker processes; every one becomes a row of ``sink``.

    A pair that is too noisy is put back and timed again later.  A worker that crashes, hangs or is killed costs its
    task a row with status "error".  Devices fail for reasons of their own: a pair during which one is lost is tried
    once more, on whichever is free.  Tasks that only devices which are gone could do wait until all others are done; if
    there is still none then, they become rows with status "error", or the "noisy" ones that they were.
    KeyboardInterrupt ends the run early: ``interrupted`` is set in the result.

    The tasks are all for this machine, or all for devices.  Raises what ``sink.add`` raises; and CollectionStopped,
    where every device is gone too, so that the same run can go on later.
    """
    settings = settings or Settings()
    waiting = deque(tasks)
    progress = Progress(len(waiting))
    listen(Event("started", progress))
    with tempfile.TemporaryDirectory(prefix="selector-collect-") as folder:
        try:
            _Run(waiting, sink, settings, listen, measure, progress, Path(folder)).work()
        except KeyboardInterrupt:
            progress.interrupted = True
    listen(Event("finished", progress))
    return progress


class _Run:
    def __init__(
        self,
        waiting: deque[Task],
        sink: Sink,
        settings: Settings,
        listen: Callable[[Event], None],
        measure: Callable[[Task], Measurement],
        progress: Progress,
        folder: Path,
    ) -> None:
        self._waiting = waiting
        self._postponed: list[Task] = []  # their devices are gone, and may come back
        self._links = {link for task in waiting for link in task.links}
        self._gone: dict[Link, NoDevice] = {}
        self._noisy: dict[tuple[ConvWorkload, str], Measurement] = {}  # of pairs that are to be timed again
        self._last_chance = False
        self._sink = sink
        self._settings = settings
        self._listen = listen
        self._measure = measure
        self._progress = progress
        self._run = uuid.uuid4().hex[:12]
        self._workers = settings.workers or host_cores()
        # Deadlines inside the worker come first: this is for what they do not cover, the queue for the gates included.
        self._patience = busy = 2 * (self._workers + 1) * settings.stage_seconds
        if self._links:
            self._patience = 2 * (busy + max(link.wait_seconds for link in self._links))
        self._worker_settings = WorkerSettings(
            folder,
            settings.rules,
            self._run,
            settings.stage_seconds,
            settings.memory_bytes,
            settings.debug,
            bool(self._links),
            busy,
        )

    def work(self) -> None:
        """Until nothing is left to do.  Raises CollectionStopped if fresh worker processes do not help any more."""
        useless = 0
        while self._waiting or self._postponed:
            if not self._waiting:
                self._waiting.extend(self._postponed)
                self._postponed.clear()
                self._gone.clear()
                self._last_chance = True
            before = self._progress.done, self._progress.retries
            try:
                self._work_in_pool()
            except BrokenProcessPool as error:
                useless = useless + 1 if before == (self._progress.done, self._progress.retries) else 0
                if useless == _USELESS_POOLS:
                    raise CollectionStopped(f"the worker processes do not work: {error} (--debug shows why)") from error
            except NoDevice as error:
                left = [*self._waiting, *self._postponed]
                lost = ", ".join(task.workload.describe() for task in left if task.lost)
                suspects = f"; a device was lost during {lost}" if lost else ""
                raise CollectionStopped(f"{error}{suspects}; the same command goes on there") from error

    def _work_in_pool(self) -> None:
        pool = ProcessPool(
            max_workers=min(self._workers, len(self._waiting)),
            max_tasks=_TASKS_OF_A_PROCESS,
            initializer=worker.start,
            initargs=(self._worker_settings,),
            context=multiprocessing.get_context("spawn"),
        )
        running: dict[Future[Measurement], Task] = {}
        try:
            while self._waiting or running:
                self._fill(pool, running)
                if not running:
                    break
                done, _ = wait(running, timeout=2 * self._patience, return_when=FIRST_COMPLETED)
                if not done:
                    raise BrokenProcessPool(f"no answer for {2 * self._patience:.0f} s")
                for future in done:
                    try:
                        row, lost = self._row(running[future], future)
                    except NoDevice as error:
                        self._miss(running[future], error)
                        del running[future]
                    else:
                        self._finish(running.pop(future), row, lost=lost)
        finally:
            self._waiting.extendleft(running.values())
            pool.stop()
            pool.join()

    def _fill(self, pool: ProcessPool, running: dict[Future[Measurement], Task]) -> None:
        """Keep a task in store for every worker, so that none has to wait."""
        while self._waiting and len(running) < 2 * self._workers:
            task = self._waiting[0]
            if task.links and self._gone.keys() >= set(task.links):
                self._miss(task, self._gone[task.links[0]])
            else:
                running[self._submit(pool, task)] = task
            self._waiting.popleft()

    def _miss(self, task: Task, error: NoDevice) -> None:
        """No device can take a task now.  Raises the error if the run has no other one."""
        self._gone |= dict.fromkeys(task.links, error)
        if self._gone.keys() >= self._links:
            raise error
        if self._last_chance:
            noisy = self._noisy.get((task.workload, task.target_name))
            self._finish(replace(task, attempt=self._settings.attempts), noisy or self._failed(task, str(error)))
        else:
            self._postponed.append(task)

    def _submit(self, pool: ProcessPool, task: Task) -> Future[Measurement]:
        try:
            return pool.schedule(self._measure, args=(task,), timeout=self._patience)
        except RuntimeError as error:  # the pool noticed before this thread did that its processes are dead
            raise BrokenProcessPool(str(error)) from error

    def _finish(self, task: Task, row: Measurement, *, lost: bool = False) -> None:
        again = None
        if row.status == "noisy" and task.attempt < self._settings.attempts:
            again = replace(task, attempt=task.attempt + 1)
            self._noisy[task.workload, task.target_name] = row
        elif lost and task.links and not task.lost:
            again = replace(task, lost=True)
        if again is not None:
            self._progress.retries += 1
            self._waiting.append(again)
            self._listen(Event("retry", self._progress, row))
            return
        self._sink.add(row)
        self._progress.count(row)
        self._listen(Event("error" if row.status == "error" else "row", self._progress, row))

    def _row(self, task: Task, future: Future[Measurement]) -> tuple[Measurement, bool]:
        """A row, and whether the worker or the device died; raises BrokenProcessPool, NoDevice."""
        lost = True
        try:
            return future.result(), False
        except ProcessExpired as error:
            reason = self._death(error.exitcode, task)
        except TimeoutError:
            reason = f"no answer for {self._patience:.0f} s"
        except DeviceLost as error:
            reason = str(error)
        except (BrokenProcessPool, NoDevice):
            raise
        except Exception as error:  # such as a row that cannot be sent
            reason, lost = worker.describe_error(error), False
        return self._failed(task, reason), lost

    def _failed(self, task: Task, reason: str) -> Measurement:
        host = unknown_host(*task.links) if task.links else describe_host()
        return failed(task.workload, task.target_name, host, reason, About(task.networks, task.attempt, self._run))

    def _death(self, exitcode: int, task: Task) -> str:
        if exitcode == -signal.SIGALRM:
            hangs = f", or the device {' or '.join(map(str, task.links))} hangs" if task.links else ""
            return f"building or timing took longer than {self._settings.stage_seconds:g} s{hangs}"
        if exitcode < 0:
            return f"the process was killed by {signal.Signals(-exitcode).name}"
        return f"the process ended with exit code {exitcode}"


def _row_dict(row: Measurement) -> dict[str, Any]:
    return {
        "key": row.key,
        "target": row.target,
        "shape": row.workload.describe(),
        "kind": row.workload.kind,
        "threads": row.workload.threads,
        "status": row.status,
        "log2_ratio": row.log2_ratio,
        "log2_low": row.log2_low,
        "log2_high": row.log2_high,
        "attempts": row.attempts,
        "seconds": round(row.seconds, 3),
        "error": row.error,
        "int8_us": row.int8 and row.int8.median_us,
        "int16_us": row.int16 and row.int16.median_us,
    }
