"""Policy ``measure``: what it keeps, what it answers, and where it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from selector import policy
from selector.collect import runner
from selector.collect.host import describe_host
from selector.collect.record import Measurement, Samples
from selector.policy.measured import Measured, NotMeasurable, cache_folder
from selector.target import profile
from selector.workload import ConvWorkload

WORKLOAD = ConvWorkload(1, 6, 6, 8, 8, 1, 1, out_dtype="uint8", term2=False)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[ConvWorkload]:
    """Workloads that were measured; int16 takes twice as long as int8."""
    asked: list[ConvWorkload] = []

    def measure(workload: ConvWorkload, *_args: object, **_options: object) -> Measurement:
        asked.append(workload)
        int8, int16 = (Samples(f"{us:.0f}", "", 1, (us,) * 3, (us,) * 3) for us in (1000.0, 2000.0))
        return Measurement(workload, "native", "ok", describe_host(), int8=int8, int16=int16, log2_ratio=1.0)

    monkeypatch.setattr(runner, "measure", measure)
    return asked


def test_takes_the_faster_and_remembers(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    cache = tmp_path / "new" / "measured.sqlite"
    first = Measured(cache).decide(WORKLOAD, profile())
    again = Measured(cache).decide(WORKLOAD, profile())
    assert first == again
    assert (first.lowering, first.source, first.log2_ratio) == ("int8", "measure", 1.0)
    assert first.reason == "measured int8 1000 us, int16 2000 us"
    assert timed == [WORKLOAD]


def test_another_workload_is_measured_anew(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    measured = Measured(tmp_path / "measured.sqlite")
    measured.decide(WORKLOAD, profile())
    measured.decide(ConvWorkload(1, 6, 6, 8, 16, 1, 1), profile())
    assert len(timed) == 2


def test_refuses_targets_of_other_machines(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    with pytest.raises(NotMeasurable, match="policy 'measure' runs the kernels it compares"):
        Measured(tmp_path / "measured.sqlite").decide(WORKLOAD, profile("cortex-a72"))
    assert not timed


def test_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    assert isinstance(policy.resolve("measure"), Measured)


def test_really_measures(tmp_path: Path) -> None:
    decision = Measured(tmp_path / "measured.sqlite", max_seconds=0.05).decide(WORKLOAD, profile())
    assert decision.lowering in ("int8", "int16")
    assert decision.log2_ratio is not None
    assert (decision.log2_ratio < 0) == (decision.lowering == "int16")
