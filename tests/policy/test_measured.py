"""Policy ``measure``: what it keeps, what it answers, and where it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selector import policy
from selector.collect import protocol, runner
from selector.collect.host import describe_host
from selector.collect.journal import NAME, Journal
from selector.collect.record import DatasetError, Host, Measurement, Samples
from selector.collect.store import measurements, merge
from selector.collect.validate import validate
from selector.learn import dataset
from selector.policy.measured import Measured, NotMeasurable, cache_folder
from selector.target import profile
from selector.workload import ConvWorkload

WORKLOAD = ConvWorkload(1, 6, 6, 8, 8, 1, 1, out_dtype="uint8", channel_bound=512, term2=False)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[ConvWorkload]:
    """Workloads that were measured; int16 takes twice as long as int8."""
    asked: list[ConvWorkload] = []

    def measure(workload: ConvWorkload, _target: object, *, target_name: str, **_options: object) -> Measurement:
        asked.append(workload)
        int8, int16 = (Samples(f"{us:.0f}", "", 1, (us,) * 3, (us,) * 3) for us in (1000.0, 2000.0))
        return Measurement(workload, target_name, "ok", describe_host(), int8=int8, int16=int16, log2_ratio=1.0)

    monkeypatch.setattr(runner, "measure", measure)
    return asked


def test_takes_the_faster_and_remembers(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    folder = tmp_path / "new" / "measurements"
    first = Measured(folder).decide(WORKLOAD, profile())
    again = Measured(folder).decide(WORKLOAD, profile())
    assert first == again
    assert (first.lowering, first.source, first.log2_ratio) == ("int8", "measure", 1.0)
    assert first.reason == "measured int8 1000 us, int16 2000 us"
    assert timed == [WORKLOAD]


def test_a_noisy_row_is_measured_again(
    tmp_path: Path, timed: list[ConvWorkload], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = runner.measure
    asked: list[tuple[int, float]] = []

    def noisy(*arguments: Any, **options: Any) -> Measurement:
        asked.append((options["about"].attempts, options["rules"].max_seconds))
        return replace(measure(*arguments, **options), status="noisy")

    monkeypatch.setattr(runner, "measure", noisy)
    Measured(tmp_path, max_seconds=1.0).decide(WORKLOAD, profile())
    assert asked == [(1, 1.0), (2, 2.0)]
    assert [row.status for row in measurements(tmp_path)] == ["noisy"]


@pytest.mark.parametrize("changes", [{"out_channels": 16}, {"threads": 2}])
def test_another_workload_is_measured_anew(tmp_path: Path, timed: list[ConvWorkload], changes: dict[str, int]) -> None:
    for workload in (WORKLOAD, replace(WORKLOAD, **changes)):
        Measured(tmp_path).decide(workload, profile())
    assert timed == [WORKLOAD, replace(WORKLOAD, **changes)]


def test_equal_kernels_are_measured_once(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    for bound in (500, 512):
        Measured(tmp_path).decide(replace(WORKLOAD, channel_bound=bound), profile())
    assert timed == [WORKLOAD]


@pytest.mark.parametrize(
    "other",
    [lambda host: replace(host, cpu="another"), lambda host: replace(host, kernels=host.kernels - 1)],
    ids=["machine", "kernels"],
)
def test_rows_of_elsewhere_do_not_count(
    tmp_path: Path, timed: list[ConvWorkload], other: Callable[[Host], Host]
) -> None:
    row = Measured(tmp_path).row(WORKLOAD, profile())
    with Journal(tmp_path) as journal:
        journal.remove([row.id])
        journal.add(replace(row, host=other(row.host)))
    Measured(tmp_path).decide(WORKLOAD, profile())
    assert len(timed) == 2


def test_targets_are_named_so_that_others_can_build_for_them(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    fewer = profile({"kind": "llvm", "mcpu": "x86-64-v2", "mattr": ["-ssse3", "-sse4.1", "-sse4.2"]})
    rows = [Measured(tmp_path).row(WORKLOAD, target) for target in (profile(), profile("x86-64-v2"), fewer)]
    assert [row.target for row in rows] == [profile().name, "x86-64-v2", fewer.spec]
    assert profile(fewer.spec) == fewer
    assert len(timed) == 3


def test_refuses_targets_of_other_machines(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    with pytest.raises(NotMeasurable, match="policy 'measure' runs the kernels it compares"):
        Measured(tmp_path / "rows").decide(WORKLOAD, profile("cortex-a72"))
    assert not timed
    assert not (tmp_path / "rows").exists()


def test_refuses_a_folder_that_is_none(tmp_path: Path, timed: list[ConvWorkload]) -> None:
    (tmp_path / NAME).write_bytes(b"no database" * 100)
    with pytest.raises(DatasetError, match=r"cannot write .*not a database"):
        Measured(tmp_path).decide(WORKLOAD, profile())
    assert not timed


def test_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SELECTOR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    measure = policy.resolve("measure")
    assert isinstance(measure, Measured)
    assert measure.folder == tmp_path / "measurements"


def test_really_measures_rows_that_training_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "_judged", lambda timing, _rules: timing)  # a busy machine leaves rows noisy
    measured = Measured(tmp_path / "mine", max_seconds=0.05)
    target = profile("x86-64") if profile().arch == "x86_64" else profile()
    decision = measured.decide(WORKLOAD, target)
    assert decision.log2_ratio is not None
    assert (decision.log2_ratio < 0) == (decision.lowering == "int16")
    found = validate(tmp_path / "mine", rebuild=1)
    assert (found.valid, found.files, found.rows, found.rebuilt) == (True, 0, 1, 1)
    assert merge([tmp_path / "mine"], tmp_path / "all").added == 1
    (row,) = measurements(tmp_path / "all")
    assert (row.workload, row.target, row.log2_ratio) == (WORKLOAD, target.name, decision.log2_ratio)
    assert row.run
    for folders in ([tmp_path / "mine"], [tmp_path / "all"]):
        rows = dataset.load(folders)
        assert (rows.workloads, rows.log2_ratio.tolist()) == ((WORKLOAD,), [decision.log2_ratio])


def test_needs_no_packages_of_collecting(tmp_path: Path) -> None:
    """A compiler without the extras ``collect`` and ``train`` measures too."""
    code = (
        "import sys\n"
        "for name in ('pyarrow', 'polars', 'pebble', 'psutil', 'tornado', 'cloudpickle'):\n"
        "    sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from selector.policy.measured import Measured\n"
        "from selector.target import profile\n"
        "from selector.workload import ConvWorkload\n"
        "policy = Measured(Path(sys.argv[1]), max_seconds=0)\n"
        "print(policy.decide(ConvWorkload(1, 4, 4, 8, 8, 1, 1, channel_bound=512), profile()).source)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("measure\n", "")
