"""What a policy's choices cost, against the faster lowering of every row (the oracle)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Score:
    """Efficiency and regret over some rows; 1 and 0 are the oracle's."""

    rows: int
    mean: float  # of the efficiency: time of the faster lowering / time of the chosen one
    p10: float
    p5: float
    worst: float
    regret_mean: float  # of the regret: time of the chosen lowering / time of the faster one - 1
    regret_p90: float
    regret_worst: float
    agreement: float  # share of rows on which the faster lowering was chosen

    def to_dict(self) -> dict[str, float]:
        """Plain values, for JSON and MLflow."""
        return asdict(self)


def efficiency(log2_ratio: np.ndarray, int16: np.ndarray) -> np.ndarray:
    """Time of the faster lowering over time of the chosen one, (N,) float64 in (0, 1].

    ``log2_ratio``: (N,) measured log2(t_int16 / t_int8); ``int16``: (N,) bool, true where int16 was chosen.
    """
    lost = np.where(int16, log2_ratio, -np.asarray(log2_ratio, float))
    return np.exp2(-np.maximum(lost, 0.0))


def score(log2_ratio: np.ndarray, int16: np.ndarray) -> Score:
    """Score of choices, arguments as for ``efficiency``.  Raises ValueError for no rows."""
    if not len(log2_ratio):
        raise ValueError("no rows to score")
    values = efficiency(log2_ratio, int16)
    regret = 1 / values - 1
    return Score(
        rows=len(values),
        mean=float(values.mean()),
        p10=float(np.quantile(values, 0.10)),
        p5=float(np.quantile(values, 0.05)),
        worst=float(values.min()),
        regret_mean=float(regret.mean()),
        regret_p90=float(np.quantile(regret, 0.90)),
        regret_worst=float(regret.max()),
        agreement=float((values == 1.0).mean()),
    )


def scores_by(log2_ratio: np.ndarray, int16: np.ndarray, labels: Iterable[str]) -> dict[str, Score]:
    """Score of each group of rows with equal label, labels in alphabetical order."""
    names = np.asarray(list(labels))
    return {str(name): score(log2_ratio[names == name], int16[names == name]) for name in np.unique(names)}


def gap_closed(policy: Score, baselines: Mapping[str, Score]) -> float:
    """Share of the way from the best baseline's mean efficiency to the oracle's; below 0: worse than that baseline."""
    best = max(baseline.mean for baseline in baselines.values())
    return (policy.mean - best) / (1 - best) if best < 1 else float(policy.mean == 1)


def chance_corrected(log2_ratio: np.ndarray, int16: np.ndarray) -> float:
    """Mean efficiency on a scale where tossing a coin for every row is 0 and the oracle is 1; see ``efficiency``."""
    coin = float((1 + np.exp2(-np.abs(log2_ratio))).mean() / 2)
    mean = float(efficiency(log2_ratio, int16).mean())
    return (mean - coin) / (1 - coin) if coin < 1 else 1.0


def time_ratio(int8_us: np.ndarray, log2_ratio: np.ndarray, int16: np.ndarray) -> float:
    """Summed time of the chosen lowerings over that of the faster ones: what a network made of these rows loses."""
    int16_us = int8_us * np.exp2(log2_ratio)
    return float(np.where(int16, int16_us, int8_us).sum() / np.minimum(int8_us, int16_us).sum())
