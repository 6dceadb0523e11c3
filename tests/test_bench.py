"""The order of the samples and the arithmetic of the ratios; no test here asserts a time."""

from __future__ import annotations

import itertools

import pytest

from selector import bench
from selector.bench import Comparison, Contender, Timing, interleave


def test_rounds_alternate_direction() -> None:
    calls: list[str] = []
    contenders = [Contender(name, lambda name=name: calls.append(name)) for name in "abc"]
    fractions: list[float] = []
    result = interleave(contenders, rounds=3, sample_ms=0.0, progress=fractions.append)
    assert result.rounds == 3
    turns = "".join(name for name, _ in itertools.groupby(calls))
    assert turns == "abc" + "abc" + "ba" + "bc"  # calibration, then three rounds; neighbours of one name fall together
    assert fractions == pytest.approx([1 / 3, 2 / 3, 1])


def test_every_sample_follows_an_untimed_call() -> None:
    calls: list[str] = []
    interleave([Contender("a", lambda: calls.append("a"))], rounds=2, sample_ms=0.0)
    calibration = 1 + 2 * 2
    assert len(calls) == calibration + 2 * 2


def test_stops_when_time_is_up() -> None:
    assert interleave([Contender("a", int), Contender("b", int)], max_seconds=0.0, sample_ms=0.0).rounds == 1


def test_stops_when_the_ratio_is_known() -> None:
    result = interleave([Contender("a", int), Contender("b", int)], precision=1e9, sample_ms=0.0)
    assert result.rounds == bench.MIN_ROUNDS


def test_ratio_is_the_median_of_pairs() -> None:
    """The machine slows down twofold halfway: the ratio of each pair does not notice."""
    a = Timing("a", (1.0, 1.0, 1.1, 2.0, 2.0))
    b = Timing("b", (2.0, 2.0, 2.2, 4.0, 4.0))
    ratio = Comparison((a, b)).ratio("b", "a")
    assert ratio.median == pytest.approx(2.0)
    assert ratio.low <= ratio.median <= ratio.high
    assert Comparison((a, b)).ratio("a", "a").median == 1.0


def test_quartiles() -> None:
    timing = Timing("a", (4.0, 1.0, 3.0, 2.0))
    assert timing.median_ms == 2.5
    assert timing.iqr_ms == (1.75, 3.25)
    assert bench.quantile([7.0], 0.25) == 7.0


def test_to_dict_has_every_pair() -> None:
    rows = Comparison((Timing("a", (1.0,)), Timing("b", (3.0,)))).to_dict()["contenders"]
    assert rows[1]["ratio"]["a"]["median"] == 3.0
    assert rows[0]["ratio"]["b"]["median"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("names", [(), ("a", "a")])
def test_names_must_be_distinct(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="distinct names"):
        interleave([Contender(name, int) for name in names])


def test_rounds_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        interleave([Contender("a", int)], rounds=0)


def test_unknown_contender() -> None:
    with pytest.raises(KeyError, match="z"):
        Comparison((Timing("a", (1.0,)),)).timing("z")
