"""How two kernels are timed against each other: in turns, in one process, until their ratio is known.

Nothing here knows what a kernel is or where it runs: ``TimedKernel`` is all that a device has to offer.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from selector.bench import Interval, median_interval

_FEWEST_ROUNDS = 6  # with fewer, not even the whole range of the ratios encloses their median with 95 % confidence
_MOST_CALLS = 100_000  # of one sample
_REFERENCE_SAMPLES = 3


class TimedKernel(Protocol):
    """A kernel with its arguments, on a device."""

    def warm(self, calls: int) -> float:
        """Microseconds of one call: mean of ``calls`` calls that follow an untimed one."""
        ...

    def cold(self) -> float:
        """Microseconds of one call after the caches were emptied."""
        ...


@dataclass(frozen=True, slots=True)
class Rules:
    """When a pair has been timed for long enough, and well enough.

    On a shared machine the ratio of two neighbouring samples scatters as much for samples of 2 ms as for those of
    0.1 ms: many short rounds tell more than few long ones.  But the scatter changes from one tenth of a second to the
    next, so that rounds of a shorter time agree better with each other than with the truth.
    """

    sample_us: float = 500.0  # a warm sample is the mean of as many calls as fill this
    min_rounds: int = 12
    min_seconds: float = 0.1
    max_rounds: int = 400
    max_seconds: float = 0.5  # for the warm rounds; after it no more than _FEWEST_ROUNDS are insisted on
    width: float = 0.02  # half the 95 % interval of log2(t_int16 / t_int8) that is asked for ...
    relative_width: float = 0.08  # ... or this share of |log2(t_int16 / t_int8)|, where that is more
    cold_rounds: int = 3
    max_drift: float = 0.1  # by which the reference kernel may have changed, relative

    def for_attempt(self, attempt: int) -> Rules:
        """Every further attempt may take twice as long."""
        return replace(self, max_seconds=self.max_seconds * 2 ** (attempt - 1))

    def settled(self, ratio: Interval) -> bool:
        """Whether a log2 ratio is known as well as asked for."""
        return (ratio.high - ratio.low) / 2 <= max(self.width, self.relative_width * abs(ratio.median))


@dataclass(frozen=True, slots=True)
class PairTiming:
    """Samples of two kernels, in microseconds of one call, one a round; and what follows from them."""

    calls: tuple[int, int]  # of which each warm sample is the mean
    warm_us: tuple[tuple[float, ...], tuple[float, ...]]
    cold_us: tuple[tuple[float, ...], tuple[float, ...]]
    ratio: Interval  # of log2(t_second / t_first), warm
    cold_ratio: float  # median of log2(t_second / t_first), cold
    reference_us: tuple[float, float]  # the reference kernel, right before and right after
    noisy: str = ""  # why the ratio is not to be relied on; empty: it is

    @property
    def drift(self) -> float:
        """By how much the slower of the two times of the reference is above the faster, relative."""
        return max(self.reference_us) / min(self.reference_us) - 1


def time_pair(
    first: TimedKernel,
    second: TimedKernel,
    reference: TimedKernel,
    rules: Rules | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> PairTiming:
    """Time two kernels in the order A B, B A, and so on; then the same with cold caches.

    Warm rounds are added until ``rules.settled``, at least ``min_rounds`` of them and for ``min_seconds``, and until
    ``max_rounds`` or ``max_seconds`` at the latest.  ``clock`` gives seconds.
    """
    rules = rules or Rules()
    kernels = (first, second)
    before = _reference_us(reference)
    calls = tuple(_calls_per_sample(kernel, rules.sample_us) for kernel in kernels)
    warm: tuple[list[float], list[float]] = ([], [])
    started = clock()
    while True:
        for index in _turns(len(warm[0])):
            warm[index].append(kernels[index].warm(calls[index]))
        rounds = len(warm[0])
        ratio = median_interval(_log2_ratios(warm))
        elapsed = clock() - started
        if rounds >= rules.max_rounds or (elapsed >= rules.max_seconds and rounds >= _FEWEST_ROUNDS):
            break
        if rounds >= rules.min_rounds and elapsed >= rules.min_seconds and rules.settled(ratio):
            break
    cold: tuple[list[float], list[float]] = ([], [])
    for done in range(rules.cold_rounds):
        for index in _turns(done):
            cold[index].append(kernels[index].cold())
    timing = PairTiming(
        calls=(calls[0], calls[1]),
        warm_us=(tuple(warm[0]), tuple(warm[1])),
        cold_us=(tuple(cold[0]), tuple(cold[1])),
        ratio=ratio,
        cold_ratio=statistics.median(_log2_ratios(cold)),
        reference_us=(before, _reference_us(reference)),
    )
    return _judged(timing, rules)


def _judged(timing: PairTiming, rules: Rules) -> PairTiming:
    if not rules.settled(timing.ratio):
        half = (timing.ratio.high - timing.ratio.low) / 2
        return replace(timing, noisy=f"log2 ratio {timing.ratio.median:.3f} known to {half:.3f} only")
    if timing.drift > rules.max_drift:
        return replace(timing, noisy=f"the reference kernel drifted by {timing.drift:.0%}")
    return timing


def _turns(done: int) -> tuple[int, int]:
    return (1, 0) if done % 2 else (0, 1)


def _log2_ratios(samples: tuple[Sequence[float], Sequence[float]]) -> list[float]:
    return [math.log2(second / first) for first, second in zip(*samples, strict=True)]


def _calls_per_sample(kernel: TimedKernel, sample_us: float) -> int:
    once = kernel.warm(1)
    if once < sample_us:  # worth a better look: a single call of a small kernel is mostly noise
        once = min(once, kernel.warm(max(1, min(10, int(sample_us / max(once, 1e-3))))))
    return max(1, min(_MOST_CALLS, math.ceil(sample_us / max(once, 1e-3))))


def _reference_us(reference: TimedKernel) -> float:
    return statistics.median(reference.warm(1) for _ in range(_REFERENCE_SAMPLES))
