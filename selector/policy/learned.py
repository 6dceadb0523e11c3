"""Policy ``learned``: trees trained on measurements, and the analytic model wherever they cannot know."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selector import features
from selector.policy import release, roofline
from selector.policy.base import Decision, rates_of
from selector.policy.release import Release, ReleaseError
from selector.policy.rule import Rule
from selector.target import TargetProfile
from selector.workload import ConvWorkload

_MOVERS = 3


class ModelWarning(UserWarning):
    """The released model cannot be used, or is out of date; the message says why and what follows."""


class Learned:
    """``folder``: a released model; None: the champion.  It is read when the first decision is asked for."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def decide(self, workload: ConvWorkload, target: TargetProfile) -> Decision:
        """One layer's decision; a network is decided faster by ``decide_all``."""
        return self.decide_all([workload], target)[0]

    def decide_all(self, workloads: Sequence[ConvWorkload], target: TargetProfile) -> list[Decision]:
        """The decisions of a whole network, from one prediction.

        Where the model has not seen the like of a layer, or is not sure, the decision is the roofline's; without a
        usable model, all are the rule's, after a ModelWarning.  Source and reason of a decision say so.
        """
        try:
            model = _load(self.folder or release.champion())
        except ReleaseError as error:
            warnings.warn(f"policy 'learned' decides by the rule: {error}", ModelWarning, stacklevel=2)
            ruled = (Rule().decide(workload, target) for workload in workloads)
            return [replace(item, reason=f"learned → rule: {error}; {item.reason}") for item in ruled]
        if model.stale:
            warnings.warn(model.stale, ModelWarning, stacklevel=2)
        rows, which = features.distinct(workloads, target)
        decisions = _decide(model, rows, target)
        return [decisions[row] for row in which]


def _decide(model: Release, rows: np.ndarray, target: TargetProfile) -> list[Decision]:
    """One decision for each row of features."""
    if release.instruction_set(target) not in model.instruction_sets:
        seen = f"no CPU with the instructions of {target.name} was trained on"
        return [_by_roofline(row, target, seen) for row in rows]
    mean, spread, changes = model.explain(rows)
    rates = rates_of(target)
    doubts = zip(_out_of_range(model, rows), _unsure(model, mean, spread), strict=True)
    return [
        _by_roofline(row, target, strange or unsure or "")
        if strange or unsure
        else _predicted(float(ratio), float(deviation), moved, rates)
        for row, ratio, deviation, moved, (strange, unsure) in zip(
            rows, mean, spread, _movers(changes), doubts, strict=True
        )
    ]


def _movers(changes: np.ndarray) -> list[tuple[tuple[str, float], ...]]:
    """The features that changed a prediction most, row by row."""
    strongest = np.argsort(-np.abs(changes), axis=1, kind="stable")[:, :_MOVERS]
    rows = zip(strongest.tolist(), np.take_along_axis(changes, strongest, axis=1).tolist(), strict=True)
    return [tuple((features.NAMES[i], change) for i, change in zip(*row, strict=True) if change) for row in rows]


def _predicted(ratio: float, deviation: float, movers: tuple[tuple[str, float], ...], rates: str) -> Decision:
    slower = "int16" if ratio > 0 else "int8"
    return Decision(
        "int8" if ratio > 0 else "int16",
        source="learned",
        reason=f"{slower} predicted to take {2 ** abs(ratio):.2f} times as long, from {rates} rates",
        log2_ratio=ratio,
        uncertainty=deviation,
        movers=movers,
        rates=rates,
    )


def _by_roofline(row: np.ndarray, target: TargetProfile, why: str) -> Decision:
    decision = roofline.decision(row, target)
    return replace(decision, reason=f"learned → roofline: {why}; {decision.reason}")


def _unsure(model: Release, mean: np.ndarray, spread: np.ndarray) -> list[str | None]:
    """Why a prediction is too close to call; None: it is not."""
    return [
        f"too close to call, predicted int16 ÷ int8 {2**ratio:.2f}" if unsure else None
        for ratio, unsure in zip(mean, model.thresholds.unsure(mean, spread), strict=True)
    ]


def _out_of_range(model: Release, rows: np.ndarray) -> list[str | None]:
    """The feature that is furthest outside of what the model has seen; None: none is.

    Features that no split looks at do not count: they cannot change the prediction.
    """
    used = list(model.forest.used)
    low, high = np.array([model.ranges[features.NAMES[column]] for column in used]).reshape(-1, 2).T
    values = rows[:, used]
    outside, beyond = model.thresholds.outside(values, low, high)
    found: list[str | None] = [None] * len(rows)
    for index in np.flatnonzero(outside):
        worst = int(np.argmax(beyond[index]))
        feature, value = features.TABLE[used[worst]], values[index, worst]
        side, limit = ("above", high[worst]) if value > high[worst] else ("below", low[worst])
        shown = _shown(feature, value), _shown(feature, limit)
        found[index] = f"{feature.name} {shown[0]} {side} the training range {shown[1]}"
    return found


def _shown(feature: features.Feature, value: float) -> str:
    """A value in its own unit, logarithms undone."""
    unit = feature.unit
    if unit.startswith("log2"):
        value, unit = 2**value, unit.removeprefix("log2").removeprefix(" of").strip()
    text = f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
    return text if unit in ("", "share", "0 or 1", "0 to 3", "count") else f"{text} {unit}"


def _load(folder: Path) -> Release:
    """The model, read again only after its manifest has changed."""
    try:
        stamp = (folder / "manifest.json").stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _loaded(folder, stamp)


@functools.lru_cache(maxsize=4)
def _loaded(folder: Path, stamp: int) -> Release:
    return release.load(folder)
