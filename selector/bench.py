"""Comparing run times on a noisy machine: contenders take turns in one process, and ratios are taken round by round.

Nothing here knows what is timed; networks come in through ``selector.networks``, kernels through their own callers.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

MIN_ROUNDS = 15
MAX_ROUNDS = 200


@dataclass(frozen=True, slots=True)
class Contender:
    """One thing to time: ``call`` does the work once."""

    name: str
    call: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of one call, one sample a round, in the order of the rounds."""

    name: str
    samples_ms: tuple[float, ...] = field(repr=False)

    @property
    def median_ms(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.samples_ms)

    @property
    def iqr_ms(self) -> tuple[float, float]:
        """Lower and upper quartile."""
        return quantile(self.samples_ms, 0.25), quantile(self.samples_ms, 0.75)


class Interval(NamedTuple):
    """A median, and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """All timings of one run of ``interleave``."""

    timings: tuple[Timing, ...]

    @property
    def rounds(self) -> int:
        """Samples of each contender."""
        return len(self.timings[0].samples_ms)

    def timing(self, name: str) -> Timing:
        """The timing of a contender.  KeyError if there is none of that name."""
        for timing in self.timings:
            if timing.name == name:
                return timing
        raise KeyError(name)

    def ratio(self, name: str, reference: str) -> Interval:
        """Time of ``name`` over time of ``reference``, both taken in the same round; below 1 ``name`` is faster."""
        pairs = zip(self.timing(name).samples_ms, self.timing(reference).samples_ms, strict=True)
        return median_interval([mine / other for mine, other in pairs])

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON: milliseconds, and every ratio against every contender."""
        names = [timing.name for timing in self.timings]
        return {
            "rounds": self.rounds,
            "contenders": [
                {
                    "name": timing.name,
                    "median_ms": timing.median_ms,
                    "iqr_ms": list(timing.iqr_ms),
                    "samples_ms": list(timing.samples_ms),
                    "ratio": {name: self.ratio(timing.name, name)._asdict() for name in names},
                }
                for timing in self.timings
            ],
        }


def interleave(
    contenders: Sequence[Contender],
    *,
    rounds: int | None = None,
    max_seconds: float = 30.0,
    precision: float = 0.02,
    sample_ms: float = 10.0,
    progress: Callable[[float], None] | None = None,
) -> Comparison:
    """Time the contenders in turns: A B C, then C B A, and so on.

    Each sample follows an untimed call, so that caches and thread pools are in the contender's own state, and is the
    mean of as many calls as fill ``sample_ms``.  With ``rounds`` None, rounds are added until the median ratio of every
    contender to the first is known to ``precision`` (half the 95 % interval, relative), at least MIN_ROUNDS of them,
    and until MAX_ROUNDS or ``max_seconds`` at the latest.  ``progress`` gets the fraction done, 0 to 1.

    Raises ValueError without contenders, for two of one name, or for fewer than one round.
    """
    names = [contender.name for contender in contenders]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"contenders need distinct names, got {names}")
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    calls = {contender.name: _calls_per_sample(contender, sample_ms) for contender in contenders}
    samples: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for done in range(1, (rounds or MAX_ROUNDS) + 1):
        for contender in contenders if done % 2 else reversed(contenders):
            samples[contender.name].append(_sample_ms(contender.call, calls[contender.name]))
        comparison = Comparison(tuple(Timing(name, tuple(samples[name])) for name in names))
        elapsed = time.perf_counter() - started
        if progress:
            progress(done / rounds if rounds else min(1.0, max(elapsed / max_seconds, done / MAX_ROUNDS)))
        if rounds is None and (elapsed > max_seconds or (done >= MIN_ROUNDS and _settled(comparison, precision))):
            break
    return comparison


def quantile(values: Sequence[float], fraction: float) -> float:
    """Quantile of the values, linear between neighbours."""
    ordered = sorted(values)
    position = fraction * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median_interval(values: Sequence[float]) -> Interval:
    """Median of the values and its confidence interval (order statistics; all of the range for fewer than 6 values)."""
    ordered = sorted(values)
    low = max(0, math.floor(len(ordered) / 2 - 0.98 * math.sqrt(len(ordered))))
    return Interval(statistics.median(ordered), ordered[low], ordered[-1 - low])


def _settled(comparison: Comparison, precision: float) -> bool:
    first = comparison.timings[0].name
    ratios = [comparison.ratio(timing.name, first) for timing in comparison.timings[1:]]
    return all(ratio.high - ratio.low <= 2 * precision * ratio.median for ratio in ratios)


def _calls_per_sample(contender: Contender, sample_ms: float) -> int:
    contender.call()
    once = min(_sample_ms(contender.call, 1) for _ in range(2))
    return max(1, min(1000, math.ceil(sample_ms / max(once, 1e-3))))


def _sample_ms(call: Callable[[], object], number: int) -> float:
    call()
    start = time.perf_counter_ns()
    for _ in range(number):
        call()
    return (time.perf_counter_ns() - start) / 1e6 / number
