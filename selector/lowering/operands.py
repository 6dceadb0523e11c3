"""Operands as a kernel multiplies them, and the terms that make up for the change.

With stored data ``x' = Qa + a`` and stored weights ``w' = Qw - c_o`` (``a`` a constant, ``c_o`` one for each output
channel), zero points move along, ``zp' = zp_a + a`` and ``zw' = zp_w - c_o``, and the accumulator is the same:

    acc = sum (x' - zp')(w' - zw') = [sum x' w'] - zw' [sum x'] - zp' [sum w'] + K zp' zw'
              Term1                   Term1            Term2         Term3          Term4

Term3 and Term4 are constants and go into the bias; Term2 is needed only where ``zw'`` is not zero.  The int16 lowering
is the case ``a = -zp_a, c_o = zp_w``: no terms are left.  Of 16-bit data, less a zero point, int16 is too small: ``a``
is 0 for int16 and -32768 for uint16, so that Term3 stays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selector.workload import ConvConstants, ConvWorkload


@dataclass(frozen=True)
class Operands:
    """Data form, weights and bias of one convolution in the form that a dot instruction wants."""

    data_dtype: str  # dtype of x'
    data_offset: int  # a
    data_zero_point: int  # zp', the value of padding
    weight: np.ndarray  # (O, KH, KW, C/groups) w', int8 or int16
    weight_zero_point: np.ndarray  # (O,) int32 zw'
    bias: np.ndarray  # (O,) int32: the bias with Term3 and Term4 in it, modulo 2**32
    high_bias: np.ndarray | None = None  # (O,) int32: of a split accumulator, whose bias is 65536 * high_bias + bias

    @property
    def has_term2(self) -> bool:
        """Whether the sum of the data under each output pixel is needed."""
        return bool(self.weight_zero_point.any())


def make_operands(
    workload: ConvWorkload,
    constants: ConvConstants,
    *,
    data_dtype: str,
    data_offset: int,
    weight_dtype: str,
    weight_offset: np.ndarray,
) -> Operands:
    """Apply ``data_offset`` (a) and ``weight_offset`` (c_o, (O,) int) and fold Term3 and Term4 into the bias."""
    weight = constants.weight.astype(np.int64) - weight_offset.reshape(-1, 1, 1, 1)
    limits = np.iinfo(weight_dtype)
    assert limits.min <= weight.min() and weight.max() <= limits.max, "weights do not fit the form chosen for them"
    zero_point = constants.weight_zero_point.astype(np.int64) - weight_offset
    data_zero_point = workload.data_zero_point + data_offset
    taps = weight[0].size
    bias = np.zeros(workload.out_channels, np.int64) if constants.bias is None else constants.bias.astype(np.int64)
    bias = bias - data_zero_point * weight.sum(axis=(1, 2, 3)) + taps * data_zero_point * zero_point
    high, low = halves(bias) if workload.is_split else (None, wrap_int32(bias))
    return Operands(
        data_dtype=data_dtype,
        data_offset=data_offset,
        data_zero_point=data_zero_point,
        weight=weight.astype(weight_dtype),
        weight_zero_point=zero_point.astype(np.int32),
        bias=low,
        high_bias=high,
    )


def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 values as (high, low) int32: ``values == 65536 * high + low``, ``0 <= low < 65536``."""
    return (values >> 16).astype(np.int32), (values & 0xFFFF).astype(np.int32)


def wrap_int32(values: np.ndarray) -> np.ndarray:
    """int64 values modulo 2**32, as int32."""
    return (values & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
