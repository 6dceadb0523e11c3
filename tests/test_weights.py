"""Facts about weights against brute force over pairs and quads of products."""

from __future__ import annotations

import numpy as np
import pytest

from selector.weights import reduction_runs, signed_offset, weight_facts


def offset_of(weight: list[int], dtype: str, zero_point: int) -> int:
    return int(signed_offset(np.array(weight, dtype).reshape(1, 1, 1, -1), np.array([zero_point]))[0])


@pytest.mark.parametrize(
    ("weight", "dtype", "zero_point", "offset"),
    [
        ([1, 200], "uint8", 128, 128),  # the zero point itself: no Term2
        ([20, 255], "uint8", 140, 140),
        ([100, 255], "uint8", 127, 128),  # 128 would not fit
        ([-128, 127], "int8", 0, 0),
        ([-20, 90], "int8", -30, -30),
        ([-20, 110], "int8", -30, 0),
        ([0, 200], "uint8", 60, 127),  # 128 would fit, and leave a -128
        ([-128, 100], "int8", -30, -1),
    ],
)
def test_signed_offset(weight: list[int], dtype: str, zero_point: int, offset: int) -> None:
    assert offset_of(weight, dtype, zero_point) == offset


def test_signed_offset_always_fits_int8() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("uint8", "int8"):
        info = np.iinfo(dtype)
        for _ in range(200):
            low, high = np.sort(rng.integers(info.min, info.max + 1, 2))
            zero_point = int(rng.integers(info.min, info.max + 1))
            offset = offset_of([low, high], dtype, zero_point)
            assert low - offset >= -128
            assert high - offset <= 127


def extremes(weights: np.ndarray) -> int:
    """Largest |sum of products| with data 0..255, over 255."""
    return max(int(np.maximum(weights, 0).sum()), int(np.maximum(-weights, 0).sum()))


def test_bounds_of_a_dense_convolution() -> None:
    weight = np.random.default_rng(1).integers(-128, 128, (3, 2, 2, 5)).astype(np.int8)
    facts = weight_facts(weight, np.zeros(3, np.int32), groups=1, dilation_width=1)
    runs = [np.pad(run, (0, 6)).astype(int) for channel in weight.reshape(3, 2, 10) for run in channel]
    pairs = [extremes(run[i : i + 2]) for run in runs for i in range(0, 16, 2)]
    quads = [extremes(run[[i, i + 1, i + 4, i + 5]]) for run in runs for start in (0, 8) for i in (start, start + 2)]
    assert facts.pair_bound == max(pairs)
    assert facts.quad_bound == max(quads)
    assert facts.weight_bound == np.abs(weight.astype(int)).max()
    assert facts.channel_bound == np.abs(weight.astype(int)).reshape(3, -1).sum(axis=1).max()
    assert not facts.term2


def test_depthwise_pairs_are_neighbouring_rows() -> None:
    weight = np.array([[100, 1], [28, 2], [101, 3]], np.int8).reshape(1, 3, 2, 1).repeat(8, axis=0)
    facts = weight_facts(weight, np.zeros(8, np.int32), groups=8, dilation_width=1)
    assert facts.pair_bound == 129
    assert facts.quad_bound > 128


def test_different_signs_do_not_add_up() -> None:
    weight = np.array([100, -100, 90, -90], np.int8).reshape(1, 1, 1, 4)
    facts = weight_facts(weight, np.zeros(1, np.int32), groups=1, dilation_width=1)
    assert (facts.pair_bound, facts.quad_bound) == (100, 100)


def test_dilated_columns_are_runs_of_their_own() -> None:
    weight = np.array([100, 29], np.int8).reshape(1, 1, 2, 1)
    zero = np.zeros(1, np.int32)
    assert weight_facts(weight, zero, groups=1, dilation_width=1).pair_bound == 129
    assert weight_facts(weight, zero, groups=1, dilation_width=2).pair_bound == 100
    assert reduction_runs(weight, merged=True).shape == (1, 1, 2)
    assert reduction_runs(weight, merged=False).shape == (1, 2, 1)


def test_zero_points() -> None:
    weight = np.array([0, 255, 130, 140], np.uint8).reshape(2, 1, 1, 2)
    facts = weight_facts(weight, np.array([100, 135], np.int32), groups=1, dilation_width=1)
    assert facts.term2  # 0 and 255 less 100 do not fit
    assert facts.channel_bound == 100 + 155
    assert facts.weight_bound == 128
