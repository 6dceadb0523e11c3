"""The order of the samples, when timing stops, and what counts as noisy, with kernels that only pretend to run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import pytest

from selector.bench import Interval
from selector.collect.protocol import PairTiming, Rules, time_pair


class Clock:
    """Seconds that pass only while a kernel runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class FakeKernel:
    """Takes ``us(number of the sample)`` a call, and writes down what was asked of it."""

    def __init__(self, name: str, clock: Clock, log: list[str], us: Callable[[int], float]) -> None:
        self._name, self._clock, self._log, self._us = name, clock, log, us
        self._samples = itertools.count()

    def warm(self, calls: int) -> float:
        self._log.append(f"{self._name}{calls}")
        us = self._us(next(self._samples))
        self._clock.now += (calls + 1) * us * 1e-6
        return us

    def cold(self) -> float:
        self._log.append(f"{self._name}cold")
        return 10 * self._us(0)


RULES = Rules(sample_us=1000, min_rounds=12, min_seconds=0, max_rounds=60, max_seconds=0.5)


def timed(
    first: Callable[[int], float],
    second: Callable[[int], float],
    rules: Rules = RULES,
    reference: Callable[[int], float] = lambda _: 300,
) -> tuple[PairTiming, list[str]]:
    clock, log = Clock(), list[str]()
    kernels = (FakeKernel(*about) for about in (("A", clock, log, first), ("B", clock, log, second)))
    return time_pair(*kernels, FakeKernel("R", clock, log, reference), rules, clock), log


def alternating(low: float, high: float) -> Callable[[int], float]:
    return lambda sample: (low, high)[sample // 2 % 2]


def test_order_of_samples() -> None:
    timing, log = timed(lambda _: 2000, lambda _: 3000)
    assert log[:3] == log[-3:] == ["R1"] * 3
    assert log[3:5] == ["A1", "B1"]  # how long a call takes; here longer than a sample
    assert log[5:-9] == ["A1", "B1", "B1", "A1"] * 6
    assert log[-9:-3] == ["Acold", "Bcold", "Bcold", "Acold", "Acold", "Bcold"]
    assert timing.warm_us == ((2000,) * 12, (3000,) * 12)
    assert timing.cold_us == ((20000,) * 3, (30000,) * 3)
    assert timing.ratio.median == timing.cold_ratio == pytest.approx(math.log2(1.5))
    assert (timing.noisy, timing.drift, timing.reference_us) == ("", 0.0, (300, 300))


def test_samples_are_filled_with_calls() -> None:
    timing, _ = timed(lambda _: 0.5, lambda _: 300)
    assert timing.calls == (2000, 4)


def test_stops_as_soon_as_the_ratio_is_known() -> None:
    timing, _ = timed(lambda _: 100, lambda _: 100)
    assert len(timing.warm_us[0]) == RULES.min_rounds
    slow, _ = timed(lambda _: 100, lambda _: 100, Rules(min_seconds=0.2, max_seconds=0.5))
    assert len(slow.warm_us[0]) > RULES.min_rounds  # the shortest time counts as well


def test_a_clear_winner_may_scatter_more() -> None:
    """The same scatter of +-0.1 in log2 is enough for a ratio of 8, and is not for a ratio of 1."""
    scatter = alternating(100 * 2**-0.1, 100 * 2**0.1)
    clear, _ = timed(scatter, lambda _: 800)
    close, _ = timed(scatter, lambda _: 100)
    assert clear.noisy == ""
    assert len(clear.warm_us[0]) == RULES.min_rounds
    assert close.noisy.startswith("log2 ratio ")
    assert len(close.warm_us[0]) == RULES.max_rounds


def test_stops_when_time_is_up() -> None:
    timing, _ = timed(alternating(20_000, 30_000), lambda _: 20_000)
    assert len(timing.warm_us[0]) == 6  # the fewest whose range is an interval of 95 % confidence
    assert timing.noisy


def test_drift_of_the_machine_is_noise() -> None:
    timing, _ = timed(lambda _: 100, lambda _: 300, reference=lambda sample: 300 if sample < 3 else 340)
    assert timing.drift == pytest.approx(340 / 300 - 1)
    assert timing.noisy == "the reference kernel drifted by 13%"
    assert timed(lambda _: 100, lambda _: 300, reference=lambda sample: 300 if sample < 3 else 320)[0].noisy == ""


def test_one_disturbed_sample_of_the_reference_is_no_drift() -> None:
    disturbed: Iterator[int] = iter([300, 4000, 300, 300, 300, 2000])
    assert timed(lambda _: 100, lambda _: 300, reference=lambda _: next(disturbed))[0].drift == 0


def test_settled_and_attempts() -> None:
    rules = Rules(width=0.02, relative_width=0.25, max_seconds=0.5)
    assert rules.settled(Interval(0.0, -0.01, 0.03))
    assert not rules.settled(Interval(0.0, -0.02, 0.04))
    assert rules.settled(Interval(-1.0, -1.25, -0.75))
    assert [rules.for_attempt(attempt).max_seconds for attempt in (1, 2, 3)] == [0.5, 1.0, 2.0]
