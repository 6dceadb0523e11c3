"""Facts about constant weights: what they prove about the intermediates of a kernel.

The int8 lowering stores weights as signed bytes ``w' = Qw - c_o``; these facts are about ``w'`` in the order in which
the kernels multiply.  They are part of a workload, so that the instruction a kernel will use can be told from it alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MAX_MAGNITUDE = 255  # of an 8-bit weight less its zero point


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """Bounds of one convolution's weights; the names are those of ``ConvWorkload``."""

    weight_bound: int  # max |w'|
    pair_bound: int  # max over two neighbours of the sum of the weights of one sign: pmaddubsw adds two products
    quad_bound: int  # the same over two pairs, whose sums are added before they are widened
    channel_bound: int  # max over output channels of sum |Qw - zp_w|: bounds |accumulator|
    term2: bool  # whether zp_w - c_o is not zero somewhere


def signed_offset(weight: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """c_o, (O,) int64: brings each output channel's weights (O, …) into int8, without Term2 if possible.

    Subtracting the zero point itself removes Term2; where the result would not fit, uint8 weights are shifted by 128
    and int8 weights are left alone, or one less than that where it avoids -128, which no sign trick can negate.
    """
    wide = weight.astype(np.int64).reshape(len(weight), -1)
    low, high = wide.min(axis=1), wide.max(axis=1)
    shift = 128 if weight.dtype == np.uint8 else 0
    avoids_lowest = (low - shift == -128) & (high - shift < 127)
    fits = (low - zero_point >= -128) & (high - zero_point <= 127)
    return np.where(fits, zero_point.astype(np.int64), shift - avoids_lowest)


def is_merged(groups: int, dilation_width: int) -> bool:
    """Whether a row of the kernel is one contiguous stretch of memory: columns and channels in one run."""
    return groups == 1 and dilation_width == 1


def reduction_runs(weight: np.ndarray, *, merged: bool) -> np.ndarray:
    """Weights (O, KH, KW, C) as (O, runs, length): the order in which the reduction walks through memory.

    ``merged``: a row of the kernel is one run over KW*C consecutive elements; else every tap is a run of its own.
    """
    out_channels, kernel_height, kernel_width, channels = weight.shape
    if merged:
        return weight.reshape(out_channels, kernel_height, kernel_width * channels)
    return weight.reshape(out_channels, kernel_height * kernel_width, channels)


def weight_facts(weight: np.ndarray, zero_point: np.ndarray, *, groups: int, dilation_width: int) -> WeightFacts:
    """Facts of weights (O, KH, KW, C/groups) uint8 or int8 with zero points (O,).

    ``pmaddubsw`` adds the products of two neighbours in int16: with data 0..255 the sum stays within
    ``255 * max(sum of positive weights, -sum of negative weights)`` of the pair, which fits if that sum is at most 128.
    Depthwise kernels multiply neighbouring kernel rows together, all others neighbours along (KW, C/groups).
    """
    wide = weight.astype(np.int16)
    offset = signed_offset(weight, zero_point)
    signed = wide - offset.astype(np.int16).reshape(-1, 1, 1, 1)
    centred = wide - zero_point.astype(np.int16).reshape(-1, 1, 1, 1)
    if groups > 1 and weight.shape[3] == 1:
        pair = _one_signed(signed[:, :-1], signed[:, 1:]) if weight.shape[1] > 1 else 0
        quad = 2 * pair  # never used: no kernel adds two pairs of rows
    else:
        runs = reduction_runs(signed, merged=is_merged(groups, dilation_width))
        padded = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % 8)))
        grouped = padded.reshape(*padded.shape[:2], -1, 2, 2, 2)  # two vectors of two pairs of two
        pair = _one_signed(grouped[..., 0], grouped[..., 1])
        quad = _one_signed(*(grouped[..., i, :, j] for i in (0, 1) for j in (0, 1)))
    largest = int(np.abs(signed).max())
    return WeightFacts(
        weight_bound=largest,
        pair_bound=max(pair, largest),
        quad_bound=max(quad, largest),
        channel_bound=int(np.abs(centred).reshape(len(weight), -1).sum(axis=1, dtype=np.int64).max()),
        term2=bool((zero_point != offset).any()),
    )


def _one_signed(*terms: np.ndarray) -> int:
    """Largest sum of the positive terms or of the negative ones, over all positions."""
    zero = np.int16(0)
    return max(int(sum(np.maximum(sign * term, zero) for term in terms).max()) for sign in (np.int16(1), np.int16(-1)))
