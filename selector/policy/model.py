"""The model of policy ``learned``: boosted trees, and how far they are followed.

The compiler, training and evaluation use this one implementation, so that what is evaluated is what is shipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from msgspec import Meta

from selector.features import NAMES, RATIO, TABLE, Feature, Layers
from selector.policy.forest import Forest
from selector.target import TargetProfile

MARGIN = 0.5  # a feature may lie outside of its trained range by this share of the range
_LIMIT = 2.0  # log2: beyond it the analytic model is wrong rather than the ratio as large

# The features that say what is computed.  Far outside of their trained ranges a prediction is an extrapolation; all
# others are functions of a CPU and its threads, beyond whose ranges trees answer as at the end of them.
BOUNDED = tuple(feature.name for feature in TABLE if feature.bounded)
LEAST_TRUST = 0.1  # in the trees, on CPUs that did not measure, where nothing says that they deserve more


_Log2 = Annotated[float, Meta(ge=-100, le=100)]


@dataclass(frozen=True, slots=True)
class Intervals:
    """Where 80 % of the measured ratios lie around a prediction, by its size, as held-out rows had it.

    Linear between the points of ``at``, constant beyond.
    """

    at: tuple[_Log2, ...]  # |predicted log2 ratio|, rising
    nearer: tuple[_Log2, ...]  # how much nearer to zero the far end lies, in log2, at each of these
    further: tuple[_Log2, ...]  # how much further from zero the other end lies

    def __post_init__(self) -> None:
        if not len(self.at) == len(self.nearer) == len(self.further) > 0:
            raise ValueError("both ends of an interval are given at the same points, one or more")
        if any(low > high for low, high in itertools.pairwise(self.at)):
            raise ValueError("the points of an interval have to rise")

    def around(self, ratio: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Low and high end for predictions (rows,), each (rows,) float64."""
        size, positive = np.abs(ratio), ratio >= 0
        nearer, further = (np.interp(size, self.at, ends) for ends in (self.nearer, self.further))
        return ratio - np.where(positive, nearer, further), ratio + np.where(positive, further, nearer)


@dataclass(frozen=True)
class Judgement:
    """What the model says of layers, and who decides; arrays have a row for each."""

    ratio: np.ndarray  # (rows,) float64, predicted log2(t_int16 / t_int8): below zero int16 is chosen
    low: np.ndarray  # (rows,) float64, the 80 % interval around it; nan where the roofline decides
    high: np.ndarray
    fallback: tuple[str, ...]  # why the roofline decides; empty: the trees do
    trust: np.ndarray  # (rows,) float64, share of the trees' correction of the roofline that counts; 1: known CPU

    @staticmethod
    def join(parts: Sequence[Judgement]) -> Judgement:
        """The rows of several, one after the other."""
        ratio, low, high, trust = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("ratio", "low", "high", "trust")
        )
        return Judgement(ratio, low, high, tuple(why for part in parts for why in part.fallback), trust)

    def take(self, rows: np.ndarray) -> Judgement:
        """The rows with these indices."""
        fallback = tuple(self.fallback[row] for row in rows)
        return Judgement(self.ratio[rows], self.low[rows], self.high[rows], fallback, self.trust[rows])

    @property
    def int16(self) -> np.ndarray:
        """The choice, (rows,) bool."""
        chosen: np.ndarray = self.ratio < 0
        return chosen


@dataclass(frozen=True)
class Model:
    """Trees over the features of ``selector.features.TABLE``, and what they were trained on."""

    forest: Forest = field(repr=False)
    prior: float  # share of the analytic model's answer that the trees add to
    dots: frozenset[str]  # names of the dot rows that were trained on
    cpus: frozenset[str]  # model names of the CPUs that measured
    ranges: Mapping[str, tuple[float, float]]  # of the features BOUNDED, in training
    trust: Mapping[str, float]  # on other CPUs the share of the trees' correction of the roofline that counts, by form
    known: Intervals | None = None  # on CPUs that measured; None: not known
    unknown: Intervals | None = None  # on others

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The trees' log2(t_int16 / t_int8), (rows,) float64, of features (rows, features)."""
        return self.forest.predict(x) + prior(x, self.prior)

    def changes(self, layers: Layers, target: TargetProfile) -> np.ndarray:
        """What each feature added to the prediction of ``judge``, (rows, features) float64; see ``Forest.explain``."""
        trust = self.trusted(layers, target)
        changes = self.forest.explain(layers.x) * trust[:, None]
        changes[:, RATIO] += prior(layers.x, self.prior) * trust + (1 - trust) * layers.roofline
        return changes

    def trusted(self, layers: Layers, target: TargetProfile) -> np.ndarray:
        """Share of the trees' correction of the roofline that counts, (rows,) float64."""
        if self.knows(target):
            return np.ones(len(layers.forms))
        return np.array([self.trust.get(form, LEAST_TRUST) for form in layers.forms], float)

    def knows(self, target: TargetProfile) -> bool:
        """Whether the rates of the target were measured on a CPU that the model was trained on."""
        return target.rates is not None and target.rates.kind == "measured" and target.rates.source in self.cpus

    def judge(self, layers: Layers, target: TargetProfile) -> Judgement:
        """Follow the trees where they know the like of a layer, in part on other CPUs, else the analytic model."""
        trust, trees = self.trusted(layers, target), self.predict(layers.x)
        doubts = zip(self._untrained(layers), self._outside(layers), strict=True)
        fallback = tuple(untrained or outside for untrained, outside in doubts)
        falls_back = np.array([bool(reason) for reason in fallback], bool)
        ratio = np.where(falls_back, layers.roofline, trust * trees + (1 - trust) * layers.roofline)
        intervals = self.known if self.knows(target) else self.unknown
        ends = (np.full(len(ratio), np.nan),) * 2 if intervals is None else intervals.around(ratio)
        low, high = (np.where(falls_back, np.nan, end) for end in ends)
        return Judgement(ratio, low, high, fallback, trust)

    def _untrained(self, layers: Layers) -> list[str]:
        """The dot rows that a layer would use and no training row did; empty: none."""
        return [
            " and ".join(f"{name} was never trained on" for name in dict.fromkeys(names) if name not in self.dots)
            for names in layers.dots
        ]

    def _outside(self, layers: Layers) -> list[str]:
        """The feature that is furthest outside of what the model has seen; empty: none is by more than MARGIN.

        Features that no split looks at do not count: they cannot change the prediction.
        """
        used = [index for index in self.forest.used if NAMES[index] in self.ranges]
        found = [""] * len(layers.x)
        if not used:
            return found
        low, high = np.array([self.ranges[NAMES[index]] for index in used]).T
        values = layers.x[:, used]
        beyond = np.maximum(low - values, values - high) / np.where(high > low, high - low, 1.0)
        for row in np.flatnonzero((beyond > MARGIN).any(axis=1)):
            worst = int(np.argmax(beyond[row]))
            feature, value = TABLE[used[worst]], values[row, worst]
            side, limit = ("above", high[worst]) if value > high[worst] else ("below", low[worst])
            shown = _shown(feature, value), _shown(feature, limit)
            found[row] = f"{feature.name} {shown[0]} is far {side} the training range {shown[1]}"
        return found


def prior(x: np.ndarray, share: float) -> np.ndarray:
    """What the trees add to: a share of log2(t_int16 / t_int8) by the analytic model, (rows,) float64.

    ``x``: features (rows, features).  Trees learn what it leaves, and where they have seen little it stays.
    """
    return np.clip(x[:, RATIO], -_LIMIT, _LIMIT) * share


def _shown(feature: Feature, value: float) -> str:
    """A value in its own unit, logarithms undone."""
    unit = feature.unit
    if unit.startswith("log2"):
        value, unit = 2**value, unit.removeprefix("log2").removeprefix(" of").strip()
    text = f"{value:.0f}" if value >= 1000 else f"{value:.4g}"
    return text if unit in ("", "share", "0 or 1", "0 to 3", "count") else f"{text} {unit}"
