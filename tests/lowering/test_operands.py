"""Terms: whatever is added to data and weights, the accumulator is the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from selector.lowering.operands import make_operands, wrap_int32
from selector.lowering.reference import accumulate
from selector.workload import ConvConstants, ConvWorkload
from tests.lowering.cases import make_case

WORK = ConvWorkload(1, 4, 5, 6, 3, 2, 3, padding=(1, 0, 0, 2), data_zero_point=77, weight_zero_point=None)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("data_offset", [0, -128, -77])
@pytest.mark.parametrize("weight_offset", [[0, 0, 0], [5, -9, 100]])
def test_terms_make_up_for_offsets(groups: int, data_offset: int, weight_offset: list[int]) -> None:
    case = make_case(replace(WORK, groups=groups), seed=groups)
    operands = make_operands(
        case.workload,
        case.constants,
        data_dtype="int16",
        data_offset=data_offset,
        weight_dtype="int16",
        weight_offset=np.array(weight_offset),
    )
    assert operands.data_zero_point == 77 + data_offset
    assert operands.has_term2 == bool((case.constants.weight_zero_point != weight_offset).any())
    # Term1 and the sum of the data, both by the definition without zero points over data that is padded with zp'
    top, left, bottom, right = case.workload.padding
    stored = case.data.astype(np.int64) + data_offset
    stored = np.pad(stored, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=operands.data_zero_point)
    plain = replace(
        case.workload,
        in_height=stored.shape[1],
        in_width=stored.shape[2],
        padding=(0, 0, 0, 0),
        data_zero_point=0,
    )
    zeros = np.zeros(3, np.int32)
    term1 = accumulate(plain, ConvConstants(operands.weight, zeros), stored)
    data_sum = accumulate(plain, ConvConstants(np.ones_like(operands.weight), zeros), stored)
    assert case.constants.bias is not None
    expected = accumulate(case.workload, case.constants, case.data) + case.constants.bias
    np.testing.assert_array_equal(term1 - operands.weight_zero_point * data_sum + operands.bias, expected)


def test_bias_wraps() -> None:
    values = np.array([0, (1 << 31) - 1, 1 << 31, -(1 << 31) - 1, 1 << 32])
    expected = [0, (1 << 31) - 1, -(1 << 31), (1 << 31) - 1, 0]
    np.testing.assert_array_equal(wrap_int32(values), np.array(expected, np.int32), strict=True)


def test_weights_have_to_fit() -> None:
    case = make_case(WORK)
    with pytest.raises(AssertionError, match="do not fit"):
        make_operands(
            case.workload,
            case.constants,
            data_dtype="uint8",
            data_offset=0,
            weight_dtype="int8",
            weight_offset=np.full(3, 200),
        )
