"""Operands as a kernel multiplies them, and the terms that make up for the change.

With stored data ``x' = Qa + a`` and stored weights ``w' = Qw - c_o`` (``a`` a constant, ``c_o`` one for each output
channel), zero points move along, ``zp' = zp_a + a`` and ``zw' = zp_w - c_o``, and the accumulator is the same:

    acc = sum (x' - zp')(w' - zw') = [sum x' w'] - zw' [sum x'] - zp' [sum w'] + K zp' zw'
              Term1                   Term1            Term2         Term3          Term4

Term3 and Term4 are constants and go into the bias; Term2 is needed only where ``zw'`` is not zero.  The int16 lowering
is the case ``a = -zp_a, c_o = zp_w``: no terms are left.
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

    @property
    def has_term2(self) -> bool:
        """Whether the sum of the data under each output pixel is needed."""
        return bool(self.weight_zero_point.any())


@dataclass(frozen=True, slots=True)
class WeightBounds:
    """What the constant weights prove about the intermediates of 8-bit dot products (see ``weight_bounds``)."""

    weight: int  # max |w|
    pair: int  # max over adjacent pairs of the sum of the products' weights that can have one sign
    quad: int  # the same over two pairs that are added before they are widened


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
    return Operands(
        data_dtype=data_dtype,
        data_offset=data_offset,
        data_zero_point=data_zero_point,
        weight=weight.astype(weight_dtype),
        weight_zero_point=zero_point.astype(np.int32),
        bias=wrap_int32(bias),
    )


def byte_weight_offset(constants: ConvConstants) -> np.ndarray:
    """c_o, (O,) int64, that brings each output channel's weights into int8, without Term2 and without -128 if possible.

    Subtracting the zero point itself removes Term2; where the result would not fit, uint8 weights are shifted by 128
    and int8 weights are left alone.
    """
    weight = constants.weight.astype(np.int64).reshape(len(constants.weight), -1)
    zero_point = constants.weight_zero_point.astype(np.int64)
    low, high = weight.min(axis=1) - zero_point, weight.max(axis=1) - zero_point
    fits = (low >= -128) & (high <= 127)
    shift = 128 if constants.weight.dtype == np.uint8 else 0
    return np.where(fits, zero_point, shift)


def reduction_runs(weight: np.ndarray, *, merged: bool) -> np.ndarray:
    """Weights (O, KH, KW, C) as (O, runs, length): the order in which the reduction walks through memory.

    ``merged``: a row of the kernel is one run over KW*C consecutive elements; else every tap is a run of its own.
    """
    out_channels, kernel_height, kernel_width, channels = weight.shape
    if merged:
        return weight.reshape(out_channels, kernel_height, kernel_width * channels)
    return weight.reshape(out_channels, kernel_height * kernel_width, channels)


def weight_bounds(runs: np.ndarray) -> WeightBounds:
    """Bounds of signed weights (O, runs, length) in reduction order.

    ``pmaddubsw`` adds the products of two neighbours in int16: with data 0..255 the sum stays within
    ``255 * max(sum of positive weights, -sum of negative weights)`` of the pair, which fits if that sum is at most 128.
    """
    padded = np.pad(runs.astype(np.int16), ((0, 0), (0, 0), (0, -runs.shape[2] % 8)))
    grouped = padded.reshape(*padded.shape[:2], -1, 2, 2, 2)  # two vectors of two pairs of two
    one_signed = [np.maximum(sign * grouped, 0) for sign in (1, -1)]
    pairs = [part[..., 0] + part[..., 1] for part in one_signed]
    pair = max(int(part.max()) for part in pairs)
    quad = max(int((part[..., 0, :] + part[..., 1, :]).max()) for part in pairs)
    return WeightBounds(weight=int(np.abs(padded).max()), pair=pair, quad=quad)


def wrap_int32(values: np.ndarray) -> np.ndarray:
    """int64 values modulo 2**32, as int32."""
    return (values & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
