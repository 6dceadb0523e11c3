"""Policy ``learned``: trees trained on measurements, and the analytic model wherever they cannot know."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from selector import features
from selector.features import Layers
from selector.policy import release, roofline
from selector.policy.base import Decision, rates_of
from selector.policy.model import Model
from selector.policy.release import Release, ReleaseError
from selector.policy.rule import Rule
from selector.target import TargetProfile
from selector.workload import ConvWorkload

NAME = "learned"

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

        Where the model has not seen the like of a layer the decision is the roofline's; without a usable model, all are
        the rule's, after a ModelWarning.  ``source``, ``reason`` and ``fallback`` of a decision say so.
        """
        try:
            released = _load(self.folder or release.champion())
        except ReleaseError as error:
            warnings.warn(f"policy 'learned' decides by the rule: {error}", ModelWarning, stacklevel=2)
            ruled = (Rule().decide(workload, target) for workload in workloads)
            why = f"no model: {error}"
            return [replace(item, reason=f"learned → rule: {error}; {item.reason}", fallback=why) for item in ruled]
        if released.stale:
            warnings.warn(released.stale, ModelWarning, stacklevel=2)
        layers = features.describe(workloads, target)
        decisions = _decide(released.model, layers, target)
        return [decisions[row] for row in layers.row_of]


def _decide(model: Model, layers: Layers, target: TargetProfile) -> list[Decision]:
    """One decision for each row of ``layers``."""
    judged = model.judge(layers, target)
    movers = _movers(model.changes(layers, target))
    return [
        _by_roofline(layers, row, target, why)
        if why
        else Decision(
            "int16" if judged.int16[row] else "int8",
            source=NAME,
            reason=_reason(float(judged.ratio[row]), float(judged.trust[row]), rates_of(target)),
            log2_ratio=float(judged.ratio[row]),
            interval=_interval(float(judged.low[row]), float(judged.high[row])),
            trust=float(judged.trust[row]),
            movers=movers[row],
            rates=rates_of(target),
        )
        for row, why in enumerate(judged.fallback)
    ]


def _reason(ratio: float, trust: float, rates: str) -> str:
    slower = "int8" if ratio < 0 else "int16"
    text = f"{slower} predicted to take {2 ** abs(ratio):.2f} times as long, from {rates} rates"
    return text if trust == 1 else f"{text}; no CPU like it was measured, so the trees count {trust:.0%}"


def _interval(low: float, high: float) -> tuple[float, float] | None:
    return None if np.isnan(low) else (low, high)


def _by_roofline(layers: Layers, row: int, target: TargetProfile, why: str) -> Decision:
    decision = roofline.decision(layers, row, target)
    return replace(decision, reason=f"learned → roofline: {why}; {decision.reason}", fallback=why)


def _movers(changes: np.ndarray) -> list[tuple[tuple[str, float], ...]]:
    """The features that changed a prediction most, row by row."""
    strongest = np.argsort(-np.abs(changes), axis=1, kind="stable")[:, :_MOVERS]
    rows = zip(strongest.tolist(), np.take_along_axis(changes, strongest, axis=1).tolist(), strict=True)
    return [tuple((features.NAMES[i], change) for i, change in zip(*row, strict=True) if change) for row in rows]


def _load(folder: Path) -> Release:
    """The model, read again only after its manifest has changed."""
    try:
        stamp = (folder / "manifest.json").stat().st_mtime_ns
    except (OSError, ValueError):  # a name that no file can have
        stamp = 0
    return _loaded(folder, stamp)


@functools.lru_cache(maxsize=4)
def _loaded(folder: Path, stamp: int) -> Release:
    return release.load(folder)
