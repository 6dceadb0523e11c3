"""Metrics on constructed numbers."""

from __future__ import annotations

import numpy as np
import pytest

from selector.learn import metrics

RATIO = np.array([1.0, -1.0, 0.0, 2.0])  # int16 takes 2, 0.5, 1, 4 times as long
INT8 = np.zeros(4, bool)


def test_efficiency_counts_only_time_lost() -> None:
    np.testing.assert_array_equal(metrics.efficiency(RATIO, INT8), [1, 0.5, 1, 1])
    np.testing.assert_array_equal(metrics.efficiency(RATIO, ~INT8), [0.5, 1, 1, 0.25])


def test_oracle_loses_nothing() -> None:
    best = metrics.score(RATIO, RATIO < 0)
    assert (best.mean, best.worst, best.regret_worst, best.agreement) == (1, 1, 0, 1)


def test_score() -> None:
    result = metrics.score(RATIO, INT8)
    assert result.rows == 4
    assert result.mean == pytest.approx(3.5 / 4)
    assert result.worst == 0.5
    assert result.regret_worst == 1.0  # twice the time
    assert result.regret_mean == 0.25
    assert result.agreement == 0.75
    assert result.p5 < result.p10 < 1


def test_score_needs_rows() -> None:
    with pytest.raises(ValueError, match="no rows"):
        metrics.score(RATIO[:0], INT8[:0])


def test_scores_by_label() -> None:
    scores = metrics.scores_by(RATIO, INT8, ["b", "a", "a", "b"])
    assert list(scores) == ["a", "b"]
    assert (scores["a"].mean, scores["b"].mean) == (0.75, 1.0)


def test_gap_closed_is_between_the_best_baseline_and_the_oracle() -> None:
    oracle, int8, int16 = (metrics.score(RATIO, chosen) for chosen in (RATIO < 0, INT8, ~INT8))
    baselines = {"int8": int8, "int16": int16}
    assert metrics.gap_closed(oracle, baselines) == 1
    assert metrics.gap_closed(int8, baselines) == 0
    assert metrics.gap_closed(int16, baselines) < 0
    assert metrics.gap_closed(oracle, {"perfect": oracle}) == 1


def test_time_ratio_weighs_rows_by_their_time() -> None:
    microseconds = np.array([1.0, 100.0, 1.0, 1.0])
    assert metrics.time_ratio(microseconds, RATIO, INT8) == pytest.approx(103 / 53)
    assert metrics.time_ratio(microseconds, RATIO, RATIO < 0) == 1
