"""One collection on devices of two architectures: an emulated Arm board, which disappears, and this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from selector.collect import store
from selector.collect.campaign import Event, Settings, collect
from selector.collect.link import Link
from selector.collect.pairs import pairs
from selector.collect.record import measurement_key
from selector.collect.rpc import why_not_run
from selector.cross import LinkerNotFound, find_linker
from selector.target import profile
from tests.collect.board import prepare_board
from tests.collect.remote import HERE, QUICK, registered, served, stop, task, tracking, wait_until
from tests.graph.emulated import Unavailable

ARM, X86 = "cortex-a72", "x86-64"


@pytest.fixture(scope="module")
def prepare() -> Callable[[], None]:
    try:
        find_linker(ARM)
        return prepare_board(ARM)
    except (LinkerNotFound, Unavailable) as error:
        pytest.skip(str(error))


def test_a_board_that_disappears(prepare: Callable[[], None], tmp_path: Path) -> None:
    """Its remaining tasks become rows that say so; the other device's are measured, and only they are trained on."""
    with tracking() as tracker:
        arm = Link(HERE, tracker.port, "pi4@emulated", wait_seconds=2)
        x86 = Link(HERE, tracker.port, "server", wait_seconds=120)
        tasks = [task(size, *links, target=name) for size in (3, 4, 5) for name, *links in ((ARM, arm), (X86, x86))]
        with served(arm.key, tracker, prepare) as board, served(x86.key, tracker):
            wait_until(lambda: registered(arm) == registered(x86) == 1)
            assert "does not load them" in why_not_run(x86, profile(ARM))
            assert why_not_run(arm, profile(ARM)) == ""

            def listen(event: Event) -> None:
                if event.kind == "row" and event.row.target == ARM:
                    stop(board)

            with store.Store.open(tmp_path / "rows") as rows:
                progress = collect(tasks, rows, Settings(QUICK, workers=2, attempts=1), listen)
    assert progress.done == progress.total == len(tasks)

    measured = store.measurements(tmp_path / "rows")
    assert {row.key for row in measured} == {measurement_key(item.workload, item.target_name) for item in tasks}
    for row in measured:
        here = row.target == X86
        assert (row.host.device, row.host.emulated) == ((x86 if here else arm).key, not here)
        if row.status == "error":
            assert row.target == ARM
            assert row.error.startswith(f"no device is registered as {arm} (registered keys: server), for 2 s")
        else:
            assert len(row.int8.warm_us) == len(row.int16.warm_us) >= QUICK.min_rounds
            assert min(*row.int8.warm_us, *row.int16.cold_us, *row.reference_us, row.seconds, row.timestamp) > 0
            assert row.log2_low <= row.log2_ratio <= row.log2_high
    emulated = [row.status for row in measured if row.target == ARM]
    assert 1 <= emulated.count("error") < len(emulated)

    timed_well = [row.key for row in measured if row.target == X86 and row.status == "ok"]  # not all, on a busy machine
    assert pairs(store.read(tmp_path / "rows"))["key"].to_list() == sorted(timed_well)
