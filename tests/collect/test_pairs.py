"""The one definition of the rows that count, and of what repetitions say together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import polars as pl
import pytest

from selector.collect.pairs import pairs, usable
from selector.collect.record import DatasetError, Measurement
from selector.collect.table import FACTS, to_table
from selector.lowering.version import KERNEL_VERSION
from tests.collect.rows import HOST, failed, measured


def frame(rows: Iterable[Measurement]) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(to_table(rows)))


def test_rows_that_count() -> None:
    rows = [
        measured(0.1, channels=1, id="good"),
        failed(channels=2, id="failed"),
        measured(channels=3, status="noisy", id="noisy"),
        measured(channels=4, id="emulated", host=dataclasses.replace(HOST, emulated=True)),
        measured(channels=5, id="older", host=dataclasses.replace(HOST, kernels=KERNEL_VERSION - 1)),
    ]
    assert usable(frame(rows))["id"].to_list() == ["good"]
    assert pairs(frame(rows))["id"].to_list() == ["good"]


def test_unknown_kernels_are_refused() -> None:
    rows = [measured(), measured(host=dataclasses.replace(HOST, kernels=KERNEL_VERSION + 1))]
    with pytest.raises(DatasetError, match=f"kernels {KERNEL_VERSION + 1} are unknown.* install a newer Selector"):
        usable(frame(rows))


def test_repetitions_become_one_row_as_wide_as_their_disagreement() -> None:
    rows = [
        measured(ratio, timestamp=time, networks=(name,))
        for time, (ratio, name) in enumerate([(0.1, "a"), (0.6, "b"), (0.2, "a")])
    ]
    for order in (rows, rows[::-1]):
        (found,) = pairs(frame(order)).iter_rows(named=True)
        assert (found["log2_ratio"], found["rows"], found["timestamp"]) == (0.2, 3, 2)
        assert found["width"] == pytest.approx(0.5)
        assert found["networks"] == ["a", "b"]
        assert found["int8_us"] == 8.0
    near = [measured(ratio, timestamp=ratio) for ratio in (0.1, 0.1001)]
    assert pairs(frame(near))["width"].item() == pytest.approx(0.04 / 2**0.5)


def test_no_network_and_no_timings() -> None:
    found = pairs(frame([measured()]).select(FACTS))
    assert found["networks"].to_list() == [[]]
    assert "int8_us" not in found.columns


def test_rows_of_another_cpu_are_no_repetitions() -> None:
    rows = [measured(0.1), measured(0.3, host=dataclasses.replace(HOST, cpu="another CPU"))]
    assert pairs(frame(rows)).select("cpu", "log2_ratio").rows() == [(HOST.cpu, 0.1), ("another CPU", 0.3)]


def test_nothing_counts() -> None:
    assert pairs(frame([failed()])).is_empty()
    assert pairs(frame([])).is_empty()
