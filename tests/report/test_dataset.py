"""How often each lowering wins, and what policies lose."""

from __future__ import annotations

import dataclasses

import polars as pl
import pytest

from selector.collect.table import to_table
from selector.report.dataset import policy_losses, wins
from tests.collect.rows import HOST, WORKLOAD, failed, measured

DEPTHWISE = dataclasses.replace(WORKLOAD, groups=16)
A72 = '{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}'
ROWS = [
    measured(1.0, channels=16),
    measured(2.0, channels=32),
    measured(-1.0, channels=48),
    measured(-1.0, workload=DEPTHWISE),
    measured(5.0, channels=64, status="noisy"),
    measured(5.0, channels=80, host=dataclasses.replace(HOST, emulated=True)),
    failed(channels=96),
    measured(-2.0, target=A72),
    measured(-1.0, target=A72, workload=DEPTHWISE),
]
FRAME = pl.DataFrame(pl.from_arrow(to_table(ROWS)))


def test_wins() -> None:
    dense = wins(FRAME).row(by_predicate=(pl.col("target") == "x86-64-v3") & (pl.col("kind") == "dense"), named=True)
    assert dense == {
        "target": "x86-64-v3",
        "kind": "dense",
        "pairs": 3,
        "int8_wins": pytest.approx(2 / 3),
        "int8_gain": pytest.approx(3.0),
        "int8_gain_p90": pytest.approx(3.8),
        "int16_gain": pytest.approx(2.0),
        "int16_gain_p90": pytest.approx(2.0),
    }
    depthwise = wins(FRAME).filter(pl.col("kind") == "depthwise")
    assert depthwise["int8_gain"].to_list() == [None, None]


def test_policy_losses() -> None:
    losses = {(row["target"], row["policy"]): row for row in policy_losses(FRAME).iter_rows(named=True)}
    assert len(losses) == 6
    int8 = losses["x86-64-v3", "int8"]
    assert (int8["rows"], int8["agreement"], int8["mean"], int8["worst"]) == (4, 0.5, 0.75, 0.5)
    assert (int8["regret_mean"], int8["regret_worst"]) == (0.5, 1.0)
    int16 = losses["x86-64-v3", "int16"]
    assert (int16["mean"], int16["worst"]) == (pytest.approx((0.5 + 0.25 + 1 + 1) / 4), 0.25)
    assert losses["x86-64-v3", "rule"] == int8 | {"policy": "rule"}
    assert losses[A72, "rule"]["agreement"] == 0.5  # int16 for the depthwise one alone
    assert losses[A72, "int16"]["mean"] == 1.0


def test_nothing_measured() -> None:
    frame = FRAME.filter(pl.col("status") != "ok")
    assert policy_losses(frame).is_empty()
    assert wins(frame).is_empty()
