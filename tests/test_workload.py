"""The workload record: geometry, derived numbers, what it refuses, and its trip through JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from selector.lowering.reference import accumulate
from selector.workload import ConvConstants, ConvWorkload, UnsupportedWorkload

PLAIN = ConvWorkload(1, 56, 56, 64, 128, 3, 3, padding=(1, 1, 1, 1), out_dtype="uint8")


@pytest.mark.parametrize(
    ("change", "height", "width"),
    [
        ({}, 56, 56),
        ({"stride": (2, 3)}, 28, 19),
        ({"padding": (0, 0, 0, 0)}, 54, 54),
        ({"padding": (2, 0, 1, 1)}, 57, 55),
        ({"dilation": (2, 3)}, 54, 52),
        ({"kernel_height": 1, "kernel_width": 1, "stride": (2, 2), "padding": (0, 0, 0, 0)}, 28, 28),
        ({"kernel_height": 58, "kernel_width": 58}, 1, 1),
    ],
)
def test_output_size(change: dict[str, object], height: int, width: int) -> None:
    work = replace(PLAIN, **change)  # type: ignore[arg-type]
    assert (work.out_height, work.out_width) == (height, width)


def test_macs_and_bytes() -> None:
    assert PLAIN.macs() == 56 * 56 * 128 * 3 * 3 * 64
    assert PLAIN.data_bytes() == 56 * 56 * 64
    assert PLAIN.weight_bytes() == 128 * 9 * 64
    assert PLAIN.out_bytes() == 56 * 56 * 128
    assert replace(PLAIN, out_dtype="int32").out_bytes() == 4 * PLAIN.out_bytes()
    grouped = replace(PLAIN, groups=4, batch=2)
    assert (grouped.group_in_channels, grouped.group_out_channels) == (16, 32)
    assert grouped.macs() == 2 * PLAIN.macs() // 4


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "dense"),
        ({"in_channels": 3}, "first"),
        ({"in_channels": 4, "kernel_height": 1, "kernel_width": 1}, "first"),
        ({"in_channels": 5, "kernel_height": 1, "kernel_width": 1}, "1x1"),
        ({"kernel_height": 1}, "dense"),
        ({"groups": 64}, "depthwise"),
        ({"groups": 32}, "grouped"),
    ],
)
def test_kind(change: dict[str, object], kind: str) -> None:
    assert replace(PLAIN, **change).kind == kind  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"in_width": -1}, "in_width must be at least 1"),
        ({"groups": 0}, "groups must divide"),
        ({"groups": 5}, "groups must divide both channel counts, got groups=5"),
        ({"stride": (0, 1)}, "stride and dilation must be at least 1"),
        ({"dilation": (1, 0)}, "stride and dilation must be at least 1"),
        ({"padding": (0, -1, 0, 0)}, "padding at least 0"),
        ({"kernel_height": 59}, "the kernel 59x3 is larger than the padded input 56x56"),
    ],
)
def test_refusals(change: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedWorkload, match=message):
        replace(PLAIN, **change)  # type: ignore[arg-type]


def test_json_round_trip() -> None:
    work = replace(PLAIN, stride=(1, 2), weight_zero_point=None, data_dtype="int8", pair_bound=77)
    assert ConvWorkload.from_dict(json.loads(json.dumps(work.to_dict()))) == work
    assert hash(work) == hash(ConvWorkload.from_dict(work.to_dict()))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "1x56x56x64 -> 128, 3x3 s1"),
        ({"stride": (2, 1)}, "1x56x56x64 -> 128, 3x3 s2x1"),
        ({"dilation": (1, 2), "groups": 4}, "1x56x56x64 -> 128, 3x3 s1 d1x2 g4"),
    ],
)
def test_describe(change: dict[str, object], text: str) -> None:
    assert replace(PLAIN, **change).describe() == text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data_dtype", "zero_point", "largest"),
    [("uint8", 0, 255), ("uint8", 200, 200), ("int8", 0, 128), ("int8", -9, 136)],
)
def test_accumulator_bound(data_dtype: str, zero_point: int, largest: int) -> None:
    work = replace(PLAIN, data_dtype=data_dtype, data_zero_point=zero_point, channel_bound=10)  # type: ignore[arg-type]
    assert work.accumulator_bound() == 10 * largest


def test_reference_on_numbers_done_by_hand() -> None:
    """A 2×2 kernel over a 2×3 image, padding on the right, zero points 1 and 2."""
    work = ConvWorkload(1, 2, 3, 1, 1, 2, 2, padding=(0, 0, 0, 1), data_zero_point=1, weight_zero_point=2)
    constants = ConvConstants(np.array([3, 2, 1, 5], np.int8).reshape(1, 2, 2, 1), np.array([2], np.int32))
    data = np.array([[1, 2, 3], [4, 5, 6]], np.uint8).reshape(1, 2, 3, 1)
    # data less zero point: 0 1 2 / 3 4 5, padded with 0; weights less zero point: 1 0 / -1 3
    np.testing.assert_array_equal(accumulate(work, constants, data).reshape(-1), [0 - 3 + 12, 1 - 4 + 15, 2 - 5])
